"""The app that the peer's server runs while it is measured: the same small models as ours has. It runs in the peer's environment."""

from __future__ import annotations

import os
import shutil
import tempfile

import nibabel
import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random


def empty_file() -> str:
    """A place for a result, which the server deletes when it was sent."""
    handle, path = tempfile.mkstemp(suffix=".nii.gz")
    os.close(handle)
    return path


class Bone(InferTask):
    """Everything above 300 is bone."""

    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, {"bone": 1}, 3, "Threshold at 300 HU")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        image = nibabel.load(request["image"])
        mask = (np.asarray(image.dataobj) > 300).astype(np.uint8)
        path = empty_file()
        nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
        return path, {"label_names": {"bone": 1}, "latencies": {"total": 0.0}}


class Nothing(InferTask):
    """No work: a mask of one voxel, made once for each image and copied after that."""

    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, {"Toy": 1}, 3, "One voxel")
        self._made: dict[str, str] = {}

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        name = str(request["image"])
        if name not in self._made:
            image = nibabel.load(name)
            mask = np.zeros(image.shape, np.uint8)
            mask[tuple(n // 2 for n in mask.shape)] = 1
            self._made[name] = empty_file()
            nibabel.save(nibabel.Nifti1Image(mask, image.affine), self._made[name])
        path = empty_file()
        shutil.copyfile(self._made[name], path)
        return path, {"label_names": {"Toy": 1}, "latencies": {"total": 0.0}}


class Words(InferTask):
    """No work and no file."""

    def __init__(self) -> None:
        super().__init__(InferType.CLASSIFICATION, ["normal"], 3, "No file")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        return None, {"prediction": "normal"}


class MyApp(MONAILabelApp):
    """What the server looks for."""

    def __init__(self, app_dir, studies, conf) -> None:
        super().__init__(app_dir, studies, conf, name="bench", description="Measured", version="1.0", labels=["bone", "Toy"])

    def init_infers(self):
        return {"bone": Bone(), "nothing": Nothing(), "words": Words()}

    def init_strategies(self):
        return {"first": First(), "random": Random()}
