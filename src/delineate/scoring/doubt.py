"""How doubtful a trained model is of an image."""

from __future__ import annotations

from delineate.errors import ModelError
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob
from delineate.training import applying
from delineate.training.files import FOREST, read_forest


class Doubt:
    """The work ``doubt``: given ``{"image": PLACE, "model": NAME}``; answers ``{"model", "version", "value"}``."""

    time_limit = 1800.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Look at one image. Raises `ModelError` for one that cannot be read, and for a model of another kind."""
        model, folder = job.read.model(job.given["model"])
        if folder is None or not (folder / FOREST).is_file():
            raise ModelError(f"the model {model.name!r} does not say what it doubts", "Train one.", "start")
        image = job.read.image(Place.from_json(job.given["image"]))
        job.report(0.2, "looking at the voxels")
        value = applying.uncertainty(read_forest(folder / FOREST), image)
        return Done(values={"model": model.name, "version": int(model.version), "value": round(value, 6)})
