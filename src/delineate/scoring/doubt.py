"""How doubtful a trained model is of images."""

from __future__ import annotations

from delineate.errors import ModelError
from delineate.runners.work import Done, WorkJob
from delineate.scoring.looks import each
from delineate.training import applying
from delineate.training.files import read_forest
from delineate.training.trainers import FOREST


class Doubt:
    """The work ``doubt``: given ``{"model": NAME, "images": […]}``; see `delineate.scoring.looks.each`.

    Answers ``model`` and ``version``, and a ``value`` from 0 to 1 for each image.
    """

    time_limit = 3600.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Look at images. Raises `ModelError` of kind ``start`` for a model that does not say what it doubts."""
        model, folder = job.read.model(job.given["model"])
        if folder is None or not (folder / FOREST).is_file() or not model.version.isdecimal():
            raise ModelError(f"the model {model.name!r} does not say what it doubts", "Train one.", "start")
        forest = read_forest(folder / FOREST)
        about = {"model": model.name, "version": int(model.version)}
        return each(job, lambda image: {"value": round(applying.uncertainty(forest, image), 6)}, about)
