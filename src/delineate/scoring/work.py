"""Labels of a datastore, scored in the background."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import DelineateError, ModelError
from delineate.protocols.reference import Place
from delineate.runners.work import Done, WorkJob, names_by_label, write_whole
from delineate.scoring.comparison import compare
from delineate.scoring.tolerance import TOLERANCE
from delineate.segmentation import Segmentation

VERSION: Final = 1
"""Of the numbers: what was computed by another one is computed again."""

_KEPT_FOR: Final = 30 * 86400.0  # s


class Score:
    """The work ``score``.

    Given ``{"method": "dice" | "sum", "tolerance": MM, "items": [{"image", "labels": [LABEL, …]}, …]}``, with LABEL ``{"tag",
    "version", "place": PLACE, "names", "likely"}`` (names by label, see `Segmentation.named`): of each image two for ``dice``, the
    person's first, and one for ``sum``. Answers ``{"method", "scores": [{"image", "tags", "versions", "score"}, …]}``, with
    ``failure`` instead of ``score`` where a label cannot be scored. What was computed before a stop, and of labels that did not
    change, is not computed again.
    """

    time_limit = 86400.0
    memory_mb = 0

    def run(self, job: WorkJob) -> Done:
        """Score all items."""
        method, items = str(job.given["method"]), job.given["items"]
        tolerance = float(job.given.get("tolerance", TOLERANCE))
        scores = []
        if not items:
            job.log("Nothing was scored: " + ("no image has labels of both tags." if method == "dice" else "there are no labels."))
        for number, item in enumerate(items):
            job.report(number / max(1, len(items)), f"label {number + 1} of {len(items)}")
            labels = item["labels"]
            found = _kept(job.kept, [VERSION, method, tolerance, labels], lambda labels=labels: _scored(job, method, labels, tolerance))  # type: ignore[misc]
            if "failure" in found:
                job.log(f"label {number + 1} of {len(items)} was left out: {found['failure']}")
            about = {name: [label[name] for label in labels] for name in ("tag", "version")}
            scores.append({"image": item["image"], "tags": about["tag"], "versions": about["version"], **found})
        _forget_old(job.kept)
        return Done(values={"method": method, "scores": scores})


def totals(segmentation: Segmentation) -> dict[str, Any]:
    """How much is labelled: ``sum`` voxels, on ``slices`` axial slices, ``voxels`` and ``volumes`` (ml) by structure."""
    voxels = {name: int(np.count_nonzero(segmentation.mask(name))) for name in segmentation.names}
    unit = float(np.prod(segmentation.geometry.spacing)) / 1000
    axis = 2 - segmentation.geometry.nearest_axes.index(2)  # of the arrays, along which slices follow each other
    labelled = np.zeros(segmentation.geometry.shape[axis], dtype=bool)
    for layer in segmentation.layers:
        labelled |= layer.any(axis=tuple(a for a in range(3) if a != axis))
    volumes = {name: round(count * unit, 4) for name, count in voxels.items()}
    return {"sum": sum(voxels.values()), "slices": int(labelled.sum()), "voxels": voxels, "volumes": volumes}


def agreement(drawn: Segmentation, predicted: Segmentation, tolerance: float) -> dict[str, Any]:
    """``dice``, the mean over all structures, None without any; ``structures`` as `StructureScore.to_json`."""
    scores = compare(drawn, predicted, tolerance=tolerance)
    mean = round(float(np.mean([score.dice for score in scores])), 4) if scores else None
    return {"dice": mean, "structures": [score.to_json() for score in scores]}


def _scored(job: WorkJob, method: str, labels: Sequence[Mapping[str, Any]], tolerance: float) -> dict[str, Any]:
    names = [names_by_label(label["names"]) for label in labels]
    likely = [names_by_label(label.get("likely", {})) for label in labels]
    try:
        read = [
            job.read.segmentation(Place.from_json(label["place"])).named(own, {**other, **guessed})
            for label, own, other, guessed in zip(labels, names, reversed(names), likely, strict=True)
        ]
        return {"score": agreement(read[0], read[1], tolerance) if method == "dice" else totals(read[0])}
    except ModelError as error:
        if error.kind != "input":
            raise
        return {"failure": error.sentence()}
    except DelineateError as error:
        return {"failure": error.sentence()}


def _kept(folder: Path, key: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was computed for a key; failures are tried again."""
    path = folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
        path.touch()
        return found
    except (OSError, ValueError):
        pass
    found = compute()
    if "score" in found:
        write_whole(path, json.dumps(found, allow_nan=False).encode())
    return found


def _forget_old(folder: Path) -> None:
    before = time.time() - _KEPT_FOR
    for path in folder.glob("*.json"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
