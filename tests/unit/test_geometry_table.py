"""The published table of round trips says what the code does: its page is made of its results, and these of these shapes and places."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

from delineate.testing.roundtrips import ORGANS, TRIPS, Place, by_shape, places, shapes, trial

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "geometry.md").read_text(encoding="utf-8")
RESULTS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "geometry.json").read_text(encoding="utf-8"))
PLACES = list(places())
KINDS = list(dict.fromkeys(place.kind for place in PLACES))


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_results() -> None:
    assert loaded("geometry_document").render(PAGE, RESULTS) == PAGE
    assert (ROOT / "docs" / "images" / "geometry-ring.png").is_file()


def test_the_results_are_of_these_shapes_and_places() -> None:
    assert list(RESULTS["kinds"]) == KINDS
    masks = {size: shapes(size[::-1]) for size in {place.geometry.size for place in PLACES}}
    for kind, found in RESULTS["kinds"].items():
        there = [place for place in PLACES if place.kind == kind]
        inside = Counter[str]()
        for place in there:
            inside.update({name: int(np.count_nonzero(labels)) for name, labels in masks[place.geometry.size].items()})
        assert found["series"] == len(there) and found["inside"] == dict(inside)
        assert list(found["differing"]) == list(TRIPS)
        assert all(set(counts) == set(inside) for counts in found["differing"].values())
    assert RESULTS["structures"] == len(inside) - 1 + ORGANS
    assert f"on {len(PLACES)} series of DICOM" in PAGE


def test_nothing_of_ours_differs_and_every_file_is_valid() -> None:
    wrong = [value for kind in RESULTS["kinds"].values() for counts in kind["differing"].values() for value in counts.values()]
    assert set(wrong) == {0} and len(wrong) == len(KINDS) * len(TRIPS) * len(shapes((4, 4, 4)))
    for name, series in (("validity", len(PLACES)), ("validator", len(KINDS))):
        files = {kind: counts["files"] for kind, counts in RESULTS[name].items()}
        assert files == {"RTSTRUCT keyhole": series, "RTSTRUCT XOR": series, "SEG binary": series, "SEG LABELMAP": 9 * series}
        assert all(counts["errors"] == 0 for counts in RESULTS[name].values())


@pytest.mark.parametrize("place", [PLACES[31], PLACES[-2]], ids=lambda place: place.name)
def test_a_sample_gives_the_figures_of_the_page(place: Place, tmp_path: Path) -> None:
    """Of series that no other test takes: as many voxels for each shape and format as the page has, which are none."""
    given = trial(place, tmp_path / "series")
    names = list(given.on_slices)
    for name, trip in TRIPS.items():
        counts = by_shape(trip(given, tmp_path), names)
        assert counts == RESULTS["kinds"][place.kind]["differing"][name], name
