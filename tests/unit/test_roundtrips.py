"""A part of the table of round trips: every orientation, every kind of place, every format, every shape; and that it can fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.testing.roundtrips import ORGANS, TRIPS, Place, by_shape, differing, places, segmentation_of, shapes, trial

PLACES = list(places())
SHAPES = list(shapes((4, 5, 6)))
NAMED = {place.name: place for place in PLACES}
# Every order and flip of the axes once, one shape each; sizes and spacings differ along all axes.
ORIENTATIONS = [(NAMED[f"oblong, {number}"], SHAPES[number % len(SHAPES)]) for number in range(48)]
KINDS = [next(place for place in PLACES if place.kind == kind) for kind in dict.fromkeys(place.kind for place in PLACES)]
KINDS.append(NAMED["narrow, 11"])


@pytest.mark.parametrize(("place", "shape"), ORIENTATIONS, ids=[f"{place.name}, {shape}" for place, shape in ORIENTATIONS])
def test_every_orientation_through_every_format(place: Place, shape: str, tmp_path: Path) -> None:
    given = trial(place, tmp_path / "series", [shape])
    counts = {name: by_shape(trip(given, tmp_path), [shape]) for name, trip in TRIPS.items()}
    assert counts == {name: {shape: 0} for name in TRIPS}


@pytest.mark.parametrize("place", KINDS, ids=[place.name for place in KINDS])
def test_every_shape_in_every_kind_of_place(place: Place, tmp_path: Path) -> None:
    given = trial(place, tmp_path / "series")
    for name, trip in TRIPS.items():
        counts = trip(given, tmp_path)
        assert len(counts) == len(SHAPES) - 1 + ORGANS and set(counts.values()) == {0}, name


def test_places_are_what_they_are_called(tmp_path: Path) -> None:
    assert len({place.name for place in PLACES}) == len(PLACES) == 3 * 48 + 3 * 4
    assert len({place.geometry.direction for place in PLACES[:96]}) == 96
    for place in KINDS:
        planes = place.write(tmp_path / place.name).series.planes
        assert (planes.geometry is None) == (place.positions is not None)
        assert planes.tilt == pytest.approx(18.5 if place.kind.startswith("tilted") else 0, abs=1e-6)
        assert planes.is_even == (not place.kind.startswith("uneven"))
        is_square = planes.spacing[0] == planes.spacing[1] and planes.size[0] == planes.size[1]
        assert is_square == (not place.kind.startswith("oblong"))
    for place, _ in ORIENTATIONS:
        assert len(set(place.geometry.size)) == len(set(place.geometry.spacing)) == 3


@pytest.mark.parametrize("name", SHAPES)
def test_no_shape_is_its_own_mirror_image(name: str) -> None:
    labels = shapes((16, 16, 16))[name]
    turned = [np.transpose(labels, order) for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    steps = list(product((1, -1), repeat=3))
    same = [
        (number, step)
        for number, one in enumerate(turned)
        for step in steps
        if np.array_equal(one[:: step[0], :: step[1], :: step[2]], labels)
    ]
    assert same == [(0, (1, 1, 1))] and labels.any()


def test_what_differs_is_counted() -> None:
    grid = Geometry((12, 10, 6), (1.0, 2.0, 3.0))
    wanted = segmentation_of(shapes(grid.shape), grid)
    assert len(wanted.names) == len(SHAPES) - 1 + ORGANS and set(differing(wanted, wanted).values()) == {0}
    mirrored = Segmentation(grid, tuple(layer[:, :, ::-1] for layer in wanted.layers), wanted.structures)
    assert all(by_shape(differing(mirrored, wanted), SHAPES).values())
    elsewhere = replace(wanted, geometry=replace(grid, origin=(0.5, 0.0, 0.0)))
    assert set(differing(elsewhere, wanted).values()) == {12 * 10 * 6}
    lost = replace(wanted, structures=tuple(item for item in wanted if item.name != "ring"))
    counts = differing(lost, wanted)
    assert counts.pop("ring") == np.count_nonzero(wanted.mask("ring")) > 0 and set(counts.values()) == {0}
