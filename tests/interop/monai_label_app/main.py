"""A small app for the MONAI Label server: models and a trainer that need no weights. It runs in the peer's environment."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

import nibabel
import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.transform.writer import PolygonWriter, write_itk


def empty_file(suffix: str = ".nii.gz") -> str:
    """A place for a result, which the server deletes when it was sent."""
    handle, path = tempfile.mkstemp(suffix=suffix)
    os.close(handle)
    return path


class Threshold(InferTask):
    """Everything above a value is bone."""

    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, {"bone": 1}, 3, "Threshold at 300 HU", {"threshold": 300.0})

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        if request.get("label"):  # a mask that was sent along comes back
            path = empty_file()
            shutil.copyfile(request["label"], path)
            return path, {"label_names": {"bone": 1}, "from": "label"}
        image = nibabel.load(request["image"])
        mask = (np.asarray(image.dataobj) > float(request.get("threshold", 300.0))).astype(np.uint8)
        suffix = request.get("result_extension") or ".nii.gz"
        path = empty_file(suffix)
        if suffix == ".nii.gz":
            nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
        else:
            write_itk(mask, path, image.affine, np.uint8, request.get("result_compress", True))
        return path, {"label_names": {"bone": 1}, "latencies": {"total": 0.0}}


class Classifier(InferTask):
    """An answer without a file."""

    def __init__(self) -> None:
        super().__init__(InferType.CLASSIFICATION, ["normal", "abnormal"], 3, "Classification")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        return None, {"prediction": [{"idx": 0, "label": "normal", "score": 0.9}]}


class Polygons(InferTask):
    """One polygon, whatever the slide."""

    def __init__(self) -> None:
        super().__init__(InferType.SEGMENTATION, {"cell": 1}, 2, "Canned polygons")

    def is_valid(self) -> bool:
        return True

    def __call__(self, request):
        square = [[1, 1], [10, 1], [10, 10], [1, 10]]
        found = {
            "location": [0, 0],
            "size": [64, 64],
            "elements": [{"label": "cell", "contours": [square]}],
            "labels": {"cell": (255, 0, 0)},
        }
        return PolygonWriter()({**request, "result": {"annotation": found, "latencies": {"total": 0.0}}, "latencies": {"total": 0.0}})


class Sleeper(TrainTask):
    """A training that waits for as many seconds as it is told."""

    def __init__(self) -> None:
        super().__init__("Sleeps")

    def config(self):
        return {"seconds": 1}

    def __call__(self, request, datastore):
        time.sleep(float(request.get("seconds", 1)))
        return {"epoch": 1, "pid": os.getpid()}


class MyApp(MONAILabelApp):
    """What the server looks for."""

    def __init__(self, app_dir, studies, conf) -> None:
        super().__init__(app_dir, studies, conf, name="interop", description="For tests", version="1.0", labels=["bone", "cell"])

    def init_infers(self):
        return {"threshold": Threshold(), "classifier": Classifier(), "polygons": Polygons()}

    def init_trainers(self):
        return {"sleeper": Sleeper()}

    def init_strategies(self):
        return {"first": First(), "random": Random()}
