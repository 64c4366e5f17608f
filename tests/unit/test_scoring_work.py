"""What the background computes of labels and images: names, totals, looks, and what is not computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.errors import ModelError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.protocols.reference import Place
from delineate.runners.work import WorkJob
from delineate.scoring.looks import COARSE, Describe, describe
from delineate.scoring.work import Score, totals
from delineate.segmentation import Segmentation, Structure
from delineate.testing.phantoms import chest_ct
from delineate.volume import Volume

GRID = Geometry((6, 5, 4), (1.0, 2.0, 5.0))
LABELS = np.zeros(GRID.shape, np.uint8)
LABELS[1, 1:3, 2:5], LABELS[3, 0, 0] = 1, 3


def nameless() -> Segmentation:
    return Segmentation(GRID, (LABELS,), (Structure("label_1", 1), Structure("label_3", 3)))


class Reader:
    def __init__(self, found: Any) -> None:
        self.found, self.count = found, 0

    def segmentation(self, place: Place) -> Segmentation:
        self.count += 1
        if place.name == "broken":
            raise ModelError("it cannot be read", kind="input")
        return self.found  # type: ignore[no-any-return]

    image = segmentation


def job(folder: Path, reader: Reader, given: dict[str, Any]) -> tuple[WorkJob, list[str]]:
    lines: list[str] = []
    fields: dict[str, Any] = {"given": given, "task": "1", "read": reader, "folder": folder, "kept": folder}
    return WorkJob(**fields, report=lambda fraction, message: None, log=lines.append), lines


def label(name: str = "l.nii.gz", tag: str = "final", version: int = 1) -> dict[str, Any]:
    return {"tag": tag, "version": version, "place": Place(path="/x", name=name).to_json(), "names": {"1": "Heart"}}


def test_labels_without_names_are_called_as_the_others_are(tmp_path: Path) -> None:
    reader = Reader(nameless())
    mine, other = label(), {**label(tag="original"), "names": {"1": "Lung", "3": "Spleen"}}
    work, _ = job(tmp_path, reader, {"method": "dice", "items": [{"image": "a", "labels": [mine, other]}]})
    scores = Score().run(work).values["scores"][0]["score"]["structures"]
    assert [score["name"] for score in scores] == ["Heart", "Spleen", "Lung"]
    # What models said of these very labels goes before what another label map says of its own.
    likely = {**label(version=2), "names": {}, "likely": {"1": "Lung", "3": "Liver"}}
    work, _ = job(tmp_path, reader, {"method": "dice", "items": [{"image": "a", "labels": [likely, other]}]})
    scores = Score().run(work).values["scores"][0]["score"]["structures"]
    assert [score["name"] for score in scores] == ["Lung", "Liver", "Spleen"]


@pytest.mark.parametrize("codes", ["LPS", "SAR"])
def test_totals_count_axial_slices_whatever_the_order_of_axes(codes: str) -> None:
    found = totals(nameless().mapped(reorientation(GRID, codes)))
    assert (found["sum"], found["slices"]) == (7, 2)
    assert found["voxels"] == {"label_1": 6, "label_3": 1}
    assert found["volumes"] == {"label_1": 0.06, "label_3": 0.01}


def test_what_did_not_change_is_not_computed_again(tmp_path: Path) -> None:
    reader = Reader(nameless())
    items = [{"image": "a", "labels": [label()]}, {"image": "b", "labels": [label("broken")]}]
    work, lines = job(tmp_path, reader, {"method": "sum", "items": items})
    first = Score().run(work).values
    assert first["scores"][0] | {"score": None} == {"image": "a", "tags": ["final"], "versions": [1], "score": None}
    assert first["scores"][0]["score"]["voxels"] == {"Heart": 6, "label_3": 1}
    assert "cannot be read" in first["scores"][1]["failure"] and "label 2 of 2" in lines[0]
    assert reader.count == 2
    assert Score().run(work).values == first
    assert reader.count == 3, "the broken one is tried again"
    changed, _ = job(tmp_path, reader, {"method": "sum", "items": [{"image": "a", "labels": [label(version=2)]}]})
    Score().run(changed)
    assert reader.count == 4


@pytest.mark.parametrize(("method", "reason"), [("dice", "no image has labels of both tags"), ("sum", "there are no labels")])
def test_a_run_without_labels_says_so(method: str, reason: str, tmp_path: Path) -> None:
    work, lines = job(tmp_path, Reader(nameless()), {"method": method, "items": []})
    assert Score().run(work).values == {"method": method, "scores": []}
    assert reason in lines[0]


def test_looks_do_not_depend_on_axes_and_tell_images_apart() -> None:
    one, other = (chest_ct((40, 36, 30), (10.0, 10.0, 11.0), seed=seed).volume for seed in (0, 1))
    axes = reorientation(one.geometry, "RSA")
    turned = Volume(np.ascontiguousarray(axes.apply(one.voxels)), axes.grid(one.geometry))
    noise = Volume(np.random.default_rng(0).normal(0, 500, one.voxels.shape).astype(np.float32), one.geometry)
    vector = describe(one)
    assert vector.shape == (149,) and vector.dtype == np.float32

    def far(image: Volume) -> float:
        return float(np.linalg.norm(describe(image) - vector))

    assert far(turned) < far(other) < 0.3 * far(noise)


@pytest.mark.parametrize("voxels", [np.zeros((1, 1, 1), np.int16), np.full((2, 3, 4), np.nan, np.float32)])
def test_looks_of_images_with_nothing_in_them_are_numbers(voxels: np.ndarray) -> None:
    assert np.isfinite(describe(Volume(voxels, Geometry(voxels.shape[::-1])))).all()


def test_describing_goes_on_after_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    image = chest_ct((20, 18, 15), (20.0, 20.0, 22.0)).volume
    images = [{"id": name, "version": 2, "place": Place(path="/x", name=name).to_json()} for name in ("broken", "fine")]
    work, lines = job(tmp_path, Reader(image), {"source": COARSE, "images": images})
    found = Describe().run(work).values["found"]
    assert [(one["id"], one["version"], "vector" in one) for one in found] == [("broken", 2, False), ("fine", 2, True)]
    assert len(lines) == 1
    with pytest.raises(ModelError, match="another way"):
        Describe().run(job(tmp_path, Reader(image), {"source": "older", "images": []})[0])
