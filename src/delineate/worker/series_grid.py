"""The work that reads the grid of a series: the server needs it for a label that is a bare array, and reads no DICOM itself."""

from __future__ import annotations

from delineate.protocols.dicom_request import DicomAsked
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob
from delineate.worker.referred import readable
from delineate.worker.series import read_image


class ReadGrid:
    """given : ``image`` (place). Answers ``grid`` (`Geometry.to_dict`), null for slices that are on none."""

    time_limit = 300.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Read. Raises `ModelError` of kind ``input``."""
        place = Place.from_json(job.given["image"])
        path = job.read.path(place)
        series = readable(place, lambda: read_image(path, DicomAsked(), job.folder, place.name), "Look at its files.").series
        grid = None if series is None else series.planes.geometry
        return Done(values={"grid": None if grid is None else grid.to_dict()})
