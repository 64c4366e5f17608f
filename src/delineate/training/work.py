"""Training as work in the background: references to images and labels go in, a model's new version comes out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import DelineateError, InputError, ModelError, StoreError
from delineate.orientation import is_same_place, reorientation
from delineate.protocols.reference import Place
from delineate.runners.work import Done, Publication, WorkJob, names_by_label, write_whole
from delineate.segmentation import Segmentation
from delineate.training.features import NAMES
from delineate.training.files import Reservoir, read_forest, write_forest
from delineate.training.forest import Forest
from delineate.training.sampling import Case, Samples
from delineate.training.trainer import Example, record, train
from delineate.training.trainers import FOREST
from delineate.training.working import SCALES, scale_of, spacing_for
from delineate.volume import Volume

_HOURS: Final = 3600.0
_GRID: Final = "grid.json"
_SOME: Final = 3  # images


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One labelled image of a training.

    id : the image's in its datastore; names, likely : of structures by label, as far as the label's file does not say, see
    `Segmentation.named`; annotated : first and last index of the stretches of slices that somebody looked at, along the slowest
    axis of the image's file; empty for all of them, None where nobody said.
    """

    id: str
    image: Place
    label: Place
    names: Mapping[int, str]
    annotated: tuple[tuple[int, int], ...] | None = None
    likely: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "image": self.image.to_json(),
            "label": self.label.to_json(),
            "names": {str(label): name for label, name in self.names.items()},
            "likely": {str(label): name for label, name in self.likely.items()},
            "annotated": None if self.annotated is None else [list(stretch) for stretch in self.annotated],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Labelled:
        """The inverse of `to_json`."""
        stretches = value["annotated"]
        return cls(
            id=value["id"],
            image=Place.from_json(value["image"]),
            label=Place.from_json(value["label"]),
            names=names_by_label(value["names"]),
            likely=names_by_label(value.get("likely", {})),
            annotated=None if stretches is None else tuple((first, last) for first, last in stretches),
        )

    @property
    def version(self) -> str:
        """Another one when anything changed that is learned from."""
        said = {**self.to_json(), "image": self.image.key, "label": self.label.key}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


class Train:
    """Learns from labelled images and publishes the model.

    `given`: ``model`` its name, ``description``, ``project`` whose labels are learned from, ``anew`` to forget what was seen,
    ``examples`` a list of `Labelled`.
    """

    time_limit = 24 * _HOURS
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Do it. Raises `ModelError`, of kind ``input`` where there is nothing to learn from."""
        examples = [Labelled.from_json(value) for value in job.given["examples"]]
        folder = _project(job)
        if job.given.get("anew"):
            shutil.rmtree(folder, ignore_errors=True)
        told = _Progress(job)
        try:
            spacing, scale = _grid(folder, examples, job)
            reservoir = _Seen(folder)
            asked = [_example(job, one) for one in examples]
            forest = train(asked, reservoir, spacing=spacing, scale=scale, report=told.report, log=job.log, threads=job.threads)
        except InputError as error:
            raise ModelError(error.message, error.advice, "input") from error
        path = job.folder / FOREST
        write_forest(path, forest)
        _require_use(read_forest(path), reservoir)
        return Done(values=_told_of(forest, job), model=_publication(job, forest, path))


class Weights:
    """Makes a model of a forest's file that somebody sent. `given`: ``model``, ``description``, ``file`` a place."""

    time_limit = 300.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Do it. Raises `ModelError` of kind ``input`` for a file that is no forest."""
        sent = job.read.path(Place.from_json(job.given["file"]))
        try:
            forest = read_forest(sent)
            forest.probabilities(np.zeros((1, len(NAMES)), np.float32), threads=1)
        except ModelError as error:
            said = f"the file holds no weights of this model: {error.message.replace(sent.name, 'it')}"
            raise ModelError(said, f"Send a {FOREST} as it was fetched.", "input") from None
        # Written anew: whoever fetches it gets what was understood of it, and nothing else.
        path = job.folder / FOREST
        write_forest(path, forest)
        return Done(values=_told_of(forest, job), model=_publication(job, forest, path))


class _Progress:
    """Passes progress on; each new message is a line of the log."""

    def __init__(self, job: WorkJob) -> None:
        self._job = job
        self._last = ""

    def report(self, fraction: float, message: str) -> None:
        if message != self._last:
            self._last = message
            self._job.log(f"{100 * fraction:.0f} %: {message}")
        self._job.report(fraction, message)


class _Seen(Reservoir):
    """Samples, of which it remembers the last that were wanted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.some: deque[Samples] = deque(maxlen=_SOME)

    def get(self, image: str, version: str) -> Samples | None:
        found = super().get(image, version)
        if found is not None:
            self.some.append(found)
        return found

    def put(self, image: str, version: str, samples: Samples) -> None:
        super().put(image, version, samples)
        self.some.append(samples)


def _project(job: WorkJob) -> Path:
    name = hashlib.sha256(f"{job.given['model']}\n{job.given['project']}".encode()).hexdigest()[:32]
    return job.kept / name


def _grid(folder: Path, examples: list[Labelled], job: WorkJob) -> tuple[float, str]:
    """Spacing and scale of the working grid: those of the first image that can be read, the same for all that come later."""
    path = folder / _GRID
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["scale"] in SCALES:
            return float(known["spacing"]), known["scale"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: found again
    for example in examples:
        try:
            image = job.read.image(example.image)
        except ModelError as error:
            job.log(f"{example.id} was left out: {error.sentence()}")
            continue
        spacing, scale = spacing_for(image), scale_of(image)
        write_whole(path, json.dumps({"spacing": spacing, "scale": scale}).encode())
        return spacing, scale
    raise InputError("none of the labelled images can be read", "Look at the log.")


def _example(job: WorkJob, one: Labelled) -> Example:
    def load() -> Case:
        try:
            return _case(job, one)
        except (ModelError, StoreError):
            raise
        except DelineateError as error:  # of another grid, of no structure: this image is left out, the others are not
            raise InputError(f"{one.id}: {error.message}", error.advice) from error

    return Example(image=one.id, version=one.version, load=load)


def _case(job: WorkJob, one: Labelled) -> Case:
    image = job.read.image(one.image)
    labels = _on_grid(job.read.segmentation(one.label).named(one.names, one.likely), image)
    return Case(image, labels, _looked_at(one, image))


def _on_grid(labels: Segmentation, image: Volume) -> Segmentation:
    """Labels whose voxels lie where the image's do, in whatever order of axes and as far as headers tell, on the image's grid."""
    if not is_same_place(image.geometry, labels.geometry):
        return labels
    turned = labels.mapped(reorientation(labels.geometry, image.geometry.axis_codes))
    return replace(turned, geometry=image.geometry)


def _looked_at(one: Labelled, image: Volume) -> np.ndarray | None:
    if one.annotated is None:
        return None
    planes = np.full(image.geometry.shape[0], not one.annotated)
    for first, last in one.annotated:
        planes[max(0, first) : last + 1] = True
    return planes[:, None, None]


def _require_use(forest: Forest, reservoir: _Seen) -> None:
    """The forest, read back from its file, finds something in an image that it learned from."""
    if not any((forest.probabilities(samples.rows, threads=1) > 0.5).any() for samples in reservoir.some):
        raise ModelError("what was learned finds nothing in the images that it was learned from", "Label more slices.", "output")


def _told_of(forest: Forest, job: WorkJob) -> dict[str, Any]:
    dice = {grown.name: None if grown.dice is None else round(grown.dice, 4) for grown in forest.structures}
    for name, value in dice.items():
        job.log(f"{name}: " + ("nothing was held back to judge by" if value is None else f"Dice {value:.3f} on what was held back"))
    known = [value for value in dice.values() if value is not None]
    return {"images": forest.images, "dice": dice, "best_metric": round(sum(known) / len(known), 4) if known else None}


def _publication(job: WorkJob, forest: Forest, path: Path) -> Publication:
    model = record(forest, job.given["model"], description=job.given.get("description", ""))
    dice = {grown.name: grown.dice for grown in forest.structures}
    return Publication(model=model, files={FOREST: path}, info={"images": forest.images, "dice": dice})
