"""The works that write a label as SEG and RTSTRUCT, and read one: in a worker, which has the reader and writer of DICOM."""

from __future__ import annotations

from typing import Final

from delineate import files, nifti
from delineate.dicom import rtstruct, seg
from delineate.dicom.header import read_header
from delineate.dicom.reader import read
from delineate.errors import DelineateError
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob, names_by_label, refused

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
        segmentation = label.named(names_by_label(given["names"]), names_by_label(given["likely"]))
        written = {}
        try:
            source = read(job.read.path(Place.from_json(given["series"])), notes=notes).series
            for kind, uid in given["uids"].items():
                path = written[FILES[kind]] = job.folder / FILES[kind]
                about = given["description"]
                if kind == "seg":
                    seg.write_seg(path, segmentation, source, seg.Options(description=about, uid=uid), notes)
                else:
                    rtstruct.write_rtstruct(
                        path, segmentation, source, rtstruct.Options(label="Delineate", description=about, uid=uid), notes
                    )
        except DelineateError as error:
            raise refused(error) from error
        for note in notes:
            job.log(note)
        return Done(values={"notes": notes}, files=written)


class ReadLabel:
    """given : ``series`` and ``label`` (places), the label SEG or RTSTRUCT. Answers ``notes``, ``names`` (label by name) of a label
    map, and the file: ``label.nii.gz``, or ``label.nrrd`` with all layers where structures overlap.
    """

    time_limit = 1800.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Read. Raises `ModelError` of kind ``input``."""
        notes: list[str] = []
        try:
            path = job.read.path(Place.from_json(job.given["label"]))
            source = read(job.read.path(Place.from_json(job.given["series"])), notes=notes).series
            is_contours = read_header(path, "the label").text("Modality") == "RTSTRUCT"
            found = (rtstruct.read_rtstruct if is_contours else seg.read_seg)(path, source, notes=notes)
            name = "label.nii.gz" if len(found.layers) == 1 else "label.nrrd"
            if len(found.layers) == 1:
                nifti.write_labels(job.folder / name, nifti.to_labels(found.layers[0]), found.geometry)
            else:
                files.write_segmentation(job.folder / name, found)
        except DelineateError as error:
            raise refused(error) from error
        for note in notes:
            job.log(note)
        return Done(values={"notes": notes, "names": {item.name: item.label for item in found}}, files={name: job.folder / name})
