"""Label maps to polygons and back: every voxel, whatever the shape, holes as they are or as keyholes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delineate.dicom import filling, keyholes
from delineate.dicom.contours import Contours, in_millimetres, planes_over, runs_of, shape_of
from delineate.dicom.filling import Polygons, layers_of, runs_inside
from delineate.dicom.keyholes import keyholed
from delineate.dicom.tracing import HALF, Traced, trace
from delineate.geometry import Geometry

SHAPE = (5, 13, 11)


def polygons_of(traced: Traced) -> Polygons:
    return Polygons(traced.labels.astype(np.int64) - 1, traced.slices, traced.starts, traced.corners)


def back(traced: Traced, shape: tuple[int, ...], structures: int) -> np.ndarray:
    """The label map that polygons enclose; no two of its structures overlap."""
    layers, places = layers_of(runs_inside(polygons_of(traced), shape), structures, shape)  # type: ignore[arg-type]
    assert len(layers) == 1 and not places.any()
    return layers[0]


def winding(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How often one polygon goes around each pixel's centre: an independent look, side by side, in floating point."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    turns = np.zeros(shape, dtype=int)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        is_left = (x1 - x0) * (rows - y0) - (columns - x0) * (y1 - y0)
        turns += ((y0 <= rows) & (y1 > rows) & (is_left > 0)).astype(int) - ((y1 <= rows) & (y0 > rows) & (is_left < 0)).astype(int)
    return turns


def shapes() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    z, y, x = np.indices(SHAPE)
    square = np.maximum(abs(y - 6), abs(x - 5))
    yield "random", rng.random(SHAPE) < 0.5
    yield "random, sparse", rng.random(SHAPE) < 0.1
    yield "random, dense", rng.random(SHAPE) < 0.9
    yield "ring", (square < 4) & (square > 1)
    yield "nested rings", square % 2 == 1
    yield "single voxels", (z % 2 == 0) & (y % 3 == 0) & (x % 3 == 1)
    yield "checkerboard", (x + y + z) % 2 == 0
    yield "thin plate across rows", x == 4
    yield "thin plate across columns", y == 12
    yield "thin plate of one slice", z == 2
    yield "borders", (x == 0) | (x == 10) | (y == 0) | (y == 12)
    yield "everything", np.ones(SHAPE, dtype=bool)
    yield "first and last slice", (z % 4 == 0) & (square < 3)
    yield "two components", (square < 5) & (x != 5)
    yield "diagonal", x == y
    yield "comb", (y == 6) | (x % 2 == 0)
    yield "spiral", np.isin(square, (4,)) & ~((x == 1) & (y == 5)) | ((y == 6) & (x < 6))


@pytest.mark.parametrize("join", [False, True], ids=["holes", "keyholes"])
@pytest.mark.parametrize(("name", "mask"), list(shapes()), ids=[name for name, _ in shapes()])
def test_every_voxel_comes_back(name: str, mask: np.ndarray, join: bool) -> None:
    labels = mask.astype(np.uint8)
    traced = trace(labels)
    if join:
        traced = keyholed(traced, labels)
        assert not traced.holes.any()
    assert np.array_equal(back(traced, SHAPE, 1), labels)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_label_map_comes_back(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)))
    values = data.draw(st.lists(st.integers(0, 3), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    labels = np.array(values, dtype=np.uint8).reshape(shape)
    traced = trace(labels)
    assert np.array_equal(back(traced, shape, 3), labels)
    assert np.array_equal(back(keyholed(traced, labels), shape, 3), labels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_rows_are_looked_at_in_parts(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(2).integers(0, 5, (9, 8, 7)).astype(kind)
    whole = keyholed(trace(labels), labels)
    monkeypatch.setattr(keyholes, "_PIXELS", 10)
    parts = keyholed(trace(labels), labels)
    assert np.array_equal(whole.corners, parts.corners) and np.array_equal(whole.slices, parts.slices)
    assert np.array_equal(back(parts, labels.shape, 4), labels)


def test_nothing_gives_nothing() -> None:
    labels = np.zeros((2, 3, 4), dtype=np.uint8)
    traced = trace(labels)
    assert len(traced) == 0 and len(keyholed(traced, labels)) == 0
    assert not back(traced, labels.shape, 1).any()


def test_corners_only_where_a_polygon_turns_a_hundredth_inside() -> None:
    labels = np.zeros((1, 5, 6), dtype=np.uint8)
    labels[0, 1:4, 1:5] = 1
    (polygon,) = [trace(labels).polygon(0)]
    assert sorted(map(tuple, polygon.tolist())) == sorted((x, y) for x in (1 - HALF, 4 + HALF) for y in (1 - HALF, 3 + HALF))
    assert HALF == 0.49


def test_outer_polygons_go_clockwise_on_a_screen_and_holes_the_other_way() -> None:
    labels = np.ones((1, 3, 3), dtype=np.uint8)
    labels[0, 1, 1] = 0
    traced = trace(labels)
    assert sorted(traced.holes.tolist()) == [False, True]
    around = sum(winding(traced.polygon(number), (3, 3)) for number in range(2))
    assert np.array_equal(around, labels[0])


@pytest.mark.parametrize("seed", range(6))
def test_keyholes_hold_by_other_rules_too(seed: int) -> None:
    """One polygon at a time: even-odd and non-zero agree, as readers use either, and fill each contour by itself."""
    labels = (np.random.default_rng(seed).random((3, 9, 10)) < 0.7).astype(np.uint8)
    traced = keyholed(trace(labels), labels)
    even, turned = np.zeros(labels.shape, dtype=int), np.zeros(labels.shape, dtype=int)
    for number in range(len(traced)):
        turns = winding(traced.polygon(number), labels.shape[1:])
        even[traced.slices[number]] += turns % 2
        turned[traced.slices[number]] += turns != 0
    assert np.array_equal(even, labels) and np.array_equal(turned, labels)


def test_many_holes_in_one_row_and_holes_behind_holes() -> None:
    labels = np.ones((1, 9, 41), dtype=np.uint8)
    labels[0, 4, 2:40:2] = 0
    labels[0, 2, 5:30] = 0
    labels[0, 6, 3] = labels[0, 6, 9] = 0
    traced = keyholed(trace(labels), labels)
    assert len(traced) == 1
    assert np.array_equal(back(traced, labels.shape, 1), labels)


def test_structures_that_overlap_come_to_lie_in_layers_of_their_own() -> None:
    masks = np.random.default_rng(3).random((4, *SHAPE)) < 0.3
    masks[3] = False
    masks[3, 0, 0, 0] = True
    masks[0, 0, 0, 0] = False
    parts = [trace(mask.astype(np.uint8)) for mask in masks]
    polygons = Polygons(
        np.concatenate([np.full(len(part), number) for number, part in enumerate(parts)]),
        np.concatenate([part.slices for part in parts]),
        np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.starts) for part in parts]))]),
        np.concatenate([part.corners for part in parts]),
    )
    layers, places = layers_of(runs_inside(polygons, SHAPE), 4, SHAPE)
    assert len(layers) == 3
    for number, mask in enumerate(masks):
        assert np.array_equal(layers[places[number]] == number + 1, mask)


def test_what_lies_outside_of_the_image_is_cut_off() -> None:
    corners = np.array([(-20.0, -20.0), (30.0, -20.0), (30.0, 3.4), (-20.0, 3.4)])
    runs = runs_inside(Polygons(np.zeros(1, int), np.zeros(1, int), np.array([0, 4]), corners), (1, 6, 5))
    (layer,), _ = layers_of(runs, 1, (1, 6, 5))
    assert np.array_equal(layer[0].any(axis=1), [True] * 4 + [False] * 2) and layer[0, :4].all()


def test_a_centre_on_an_edge_belongs_to_one_of_two_neighbours() -> None:
    left = [(0.0, 0.0), (2.0, 0.0), (2.0, 4.0), (0.0, 4.0)]
    right = [(2.0, 0.0), (4.0, 0.0), (4.0, 4.0), (2.0, 4.0)]
    polygons = Polygons(np.array([0, 1]), np.zeros(2, int), np.array([0, 4, 8]), np.array(left + right))
    (layer,), _ = layers_of(runs_inside(polygons, (1, 5, 5)), 2, (1, 5, 5))
    assert np.array_equal(np.bincount(layer.ravel()), [9, 8, 8])


# In millimetres: onto slices.

GRID = Geometry((11, 13, 5), (0.8, 1.7, 2.5), (-31.2, 14.4, 100.0))


def contours_of(mask: np.ndarray, geometry: Geometry = GRID) -> Contours:
    traced = trace(mask.astype(np.uint8))
    planes, _ = planes_over(geometry)
    points = in_millimetres(planes, traced.slices, traced.starts, traced.corners)
    return Contours(np.zeros(len(traced), dtype=np.int64), traced.starts, points)


def onto(contours: Contours, geometry: Geometry) -> tuple[np.ndarray, list[str]]:
    planes, is_turned = planes_over(geometry)
    notes: list[str] = []
    layers, _ = layers_of(runs_of([lambda _: contours], planes, ["A"], notes), 1, shape_of(planes))
    return layers[0][:: -1 if is_turned else 1] > 0, notes


def test_row_and_column_spacing() -> None:
    mask = np.random.default_rng(4).random(GRID.shape) < 0.5
    contours = contours_of(mask)
    assert np.ptp(contours.points[:, 0]) <= 11 * 0.8 and np.ptp(contours.points[:, 1]) > 12 * 1.7
    assert np.array_equal(onto(contours, GRID)[0], mask) and onto(contours, GRID)[1] == []


def test_within_a_tenth_of_the_distance_a_contour_is_on_its_slice() -> None:
    mask = np.random.default_rng(4).random(GRID.shape) < 0.5
    contours = contours_of(mask)
    moved = Contours(contours.structures, contours.starts, contours.points + np.array([0, 0, 0.24]))
    assert np.array_equal(onto(moved, GRID)[0], mask) and onto(moved, GRID)[1] == []


def test_contours_between_slices_stand_for_slabs() -> None:
    """Drawn every 2.5 mm, read on slices every 1 mm: each takes the nearest that was drawn, and nothing beyond half of 2.5 mm."""
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[1, 2:9, 3:7] = mask[2, 3:5, 3:7] = mask[3, 2:9, 3:7] = True
    finer = Geometry((11, 13, 12), (0.8, 1.7, 1.0), (-31.2, 14.4, 99.2))
    found, notes = onto(contours_of(mask), finer)
    at = 99.2 + np.arange(12)
    nearest = np.rint((at - 100.0) / 2.5).astype(int)
    expected = mask[np.clip(nearest, 0, 4)]
    assert np.array_equal(found, expected)
    assert notes == ["A: 3 contours are between slices: each slice takes the nearest contours of its structure"]


def test_parts_far_from_each_other_do_not_reach_out_to_each_other() -> None:
    tall = Geometry((11, 13, 21), GRID.spacing, GRID.origin)
    mask = np.zeros(tall.shape, dtype=bool)
    mask[2, 2:9, 3:7] = mask[18, 2:9, 3:7] = True
    moved = Geometry((11, 13, 51), (0.8, 1.7, 1.0), (-31.2, 14.4, 100.3))
    found, notes = onto(contours_of(mask, tall), moved)
    at = 100.3 + np.arange(51)
    assert np.array_equal(found.any(axis=(1, 2)), np.minimum(abs(at - 105), abs(at - 145)) <= 5) and len(notes) == 1


def test_two_planes_on_one_slice_are_no_holes_in_each_other() -> None:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[1:4, 2:9, 3:7] = True
    contours = contours_of(mask)
    smaller = contours_of(mask & (np.indices(GRID.shape)[2] < 6))
    both = Contours(
        np.zeros(6, int), np.concatenate([contours.starts, contours.starts[-1] + smaller.starts[1:]]),
        np.concatenate([contours.points, smaller.points + np.array([0, 0, 0.2])]),
    )  # fmt: skip
    found, notes = onto(both, GRID)
    assert np.array_equal(found, mask)
    assert notes == ["A: 3 contours are on one slice with others in another plane: each slice takes the nearest contours of its structure"]


def test_contours_outside_and_oblique_ones_are_left_out() -> None:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[:, 2:9, 3:7] = True
    contours = contours_of(mask)
    fewer = Geometry((11, 13, 3), GRID.spacing, (-31.2, 14.4, 105.0))
    found, notes = onto(contours, fewer)
    assert np.array_equal(found, mask[2:]) and notes == ["A: 2 contours are outside of the image's slices: left out"]
    contours.points[:4, 2] += np.array([0, 0, 3, 3])
    found, notes = onto(contours, GRID)
    assert not found[0].any() and np.array_equal(found[1:], mask[1:])
    assert notes == ["A: 1 contour is not parallel to the slices: left out"]


def test_a_contour_without_a_centre_is_named_and_the_rest_of_the_slice_stays() -> None:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[2, 2:9, 3:7] = True
    contours = contours_of(mask)
    tiny = GRID.to_world(np.array([(1.1, 1.1, 2), (1.4, 1.1, 2), (1.4, 1.4, 2)]))
    both = Contours(np.zeros(2, int), np.array([0, 4, 7]), np.concatenate([contours.points, tiny]))
    found, notes = onto(both, GRID)
    assert np.array_equal(found, mask) and notes == ["A: 1 contour is too small to hold the centre of a pixel"]


@pytest.mark.parametrize("change", [lambda g: g, lambda g: Geometry(g.size, g.spacing, g.origin, (1, 0, 0, 0, 1, 0, 0, 0, -1))])
def test_grids_of_either_handedness(change: Callable[[Geometry], Geometry]) -> None:
    mask = np.random.default_rng(6).random(GRID.shape) < 0.4
    grid = change(GRID)
    planes, is_turned = planes_over(grid)
    assert (np.diff(planes.places[:, 2]) > 0).all()
    ordered = mask[:: -1 if is_turned else 1]
    traced = trace(ordered.astype(np.uint8))
    points = in_millimetres(planes, traced.slices, traced.starts, traced.corners)
    found, _ = onto(Contours(np.zeros(len(traced), int), traced.starts, points), grid)
    assert np.array_equal(found, mask)


def test_no_contours() -> None:
    none = Contours(np.zeros(0, int), np.zeros(1, int), np.zeros((0, 3)))
    found, notes = onto(none, GRID)
    assert not found.any() and notes == [] and not none.normal().any()


def test_the_threads_parts_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((7, 3, 3), dtype=np.uint8)
    labels[:, 2, 2] = labels[::2, 0, 0] = 1
    for threads in (1, 2, 3, 9):
        monkeypatch.setattr(filling, "THREADS", threads)
        assert np.array_equal(back(trace(labels), labels.shape, 1), labels)


@pytest.mark.parametrize("size", [1, 7, 8, 64, 65, 1000, 1024])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_accumulating_eight_bytes_at_a_time(size: int, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "_BYTES", 64)
    values = np.random.default_rng(size).integers(0, 256, size).astype(kind)
    expected = np.bitwise_xor.accumulate(values)
    filling._accumulate(values)
    assert np.array_equal(values, expected)
