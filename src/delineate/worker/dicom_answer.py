"""An answer in DICOM: RTSTRUCT and SEG of a task's structures, on the slices that its first image came from.

All UIDs in a file follow from the task's, and its times are the task's, so that a repeated try makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from delineate.dicom import rtstruct, seg
from delineate.dicom.stack import labels_on_planes
from delineate.dicom.uids import uid_of
from delineate.errors import GeometryError, ImageError, InputError, ModelError
from delineate.model import Model
from delineate.protocols.dicom_request import OUTPUTS, DicomAsked
from delineate.protocols.reference import MONAI_LABEL
from delineate.segmentation import Segmentation, Structure
from delineate.task import Task
from delineate.worker.answer import Layer

if TYPE_CHECKING:
    from delineate.dicom.source import Series


@dataclass(frozen=True, kw_only=True)
class DicomAnswer:
    """What the files of one answer have in common.

    asked : which files, and how; series : what they refer to
    """

    asked: DicomAsked
    series: Series
    model: Model
    task: Task

    def write(self, layers: Sequence[Layer], folder: Path, note: Callable[[str], None]) -> dict[str, Path]:
        """Write the files that are wanted: where each is, by `OUTPUTS`' keys.

        Parameters
        ----------
        layers : of the result
        folder : to write into
        note : gets sentences on what was changed or left out

        Raises
        ------
        ModelError
            Kind ``input``: the image is none that can be referred to; ``output``: structures that such a file cannot hold.
        """
        written: dict[str, Path] = {}
        try:
            segmentation = self._segmentation(layers)
            on_planes = labels_on_planes(self.series.planes, segmentation)
            for output in self.asked.output:
                notes: list[str] = []
                written[output] = path = folder / OUTPUTS[output]
                try:
                    self._write(output, path, on_planes, segmentation.structures, notes)
                except rtstruct.NothingToDrawError as error:
                    if self.task.protocol == MONAI_LABEL:  # whose answer is that one file
                        raise
                    del written[output]  # the label map, which is there too, says that nothing was found
                    notes = [f"{error.message}: left out"]
                for text in notes:
                    note(f"{path.name}: {text}")
        except (GeometryError, ImageError) as error:
            raise ModelError(f"the answer in DICOM cannot be made: {error.message}", error.advice, "input") from error
        except InputError as error:
            raise ModelError(f"the answer in DICOM cannot be made: {error.message}", error.advice, "output") from error
        return written

    def _write(
        self, output: str, path: Path, layers: Sequence[np.ndarray], structures: Sequence[Structure], notes: list[str]
    ) -> None:  # fmt: skip
        model, at, uid = self.model, datetime.fromtimestamp(int(self.task.created)), uid_of(self.task.uid, output)
        if output == "rtstruct":
            contours = rtstruct.Options(
                holes=self.asked.holes,  # type: ignore[arg-type]
                short_names=self.asked.short_names, description=model.name, at=at, uid=uid,
            )  # fmt: skip
            rtstruct.write_on_planes(path, layers, structures, self.series, contours, notes)
        else:
            segments = seg.Options(
                kind=self.asked.kind,  # type: ignore[arg-type]
                description=model.name, algorithm=model.name, version=model.version, at=at, uid=uid,
            )  # fmt: skip
            seg.write_on_planes(path, layers, structures, self.series, segments, notes)

    def _segmentation(self, layers: Sequence[Layer]) -> Segmentation:
        """The layers with the colours and codes that the model declares for its structures."""
        declared: Mapping[str, Structure] = {structure.name: structure for structure in self.model.structures}
        structures = []
        for index, (_, _, _, names) in enumerate(layers):
            for label, name in sorted(names.items()):
                known = declared.get(name)
                colour, code = (None, "") if known is None else (known.colour, known.code)
                structures.append(Structure(name, label, index, colour, code))
        return Segmentation(layers[0][2], tuple(layer[1] for layer in layers), tuple(structures))
