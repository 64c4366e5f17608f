"""The work that writes a label as SEG and RTSTRUCT: in a worker, which has the reader and writer of DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from delineate.dicom import rtstruct, seg
from delineate.dicom.reader import read
from delineate.errors import DelineateError, ModelError
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob

FILES: Final = {"seg": "seg.dcm", "rtstruct": "rtstruct.dcm"}
"""What is written, and how the file is called in the work's result."""


class WriteLabel:
    """given : ``series`` and ``label`` (places), ``names``, ``likely`` (by label, as text), ``uids`` (SOP Instance UID by kind),
    ``description``. Answers ``notes``.
    """

    time_limit = 1800.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Write. Raises `ModelError` of kind ``input``."""
        given = job.given
        notes: list[str] = []
        label = job.read.segmentation(Place.from_json(given["label"]))
        segmentation = label.named(_by_label(given["names"]), _by_label(given["likely"]))
        files = {}
        try:
            source = read(job.read.path(Place.from_json(given["series"]))).series
            for kind, uid in given["uids"].items():
                path = files[FILES[kind]] = job.folder / FILES[kind]
                if kind == "seg":
                    about = given["description"]
                    seg.write_seg(path, segmentation, source, seg.Options(description=about, uid=uid), notes)
                else:
                    rtstruct.write_rtstruct(path, segmentation, source, rtstruct.Options(description=given["description"], uid=uid), notes)
        except ModelError:
            raise
        except DelineateError as error:
            raise ModelError(error.message, error.advice, "input") from error
        for note in notes:
            job.log(note)
        return Done(values={"notes": notes}, files=files)


def _by_label(names: Mapping[str, Any]) -> dict[int, str]:
    return {int(label): str(name) for label, name in names.items()}
