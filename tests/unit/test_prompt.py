"""Clicks and boxes: every way clients write them, onto every orientation, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from delineate.errors import InputError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.prompt import MOST, Box, Click, Prompts, read_prompts
from delineate.resampling import spaced, to_model_grid
from delineate.volume import Volume

GRID = Geometry((7, 6, 5), (1.0, 2.0, 3.0), (-10.0, 20.0, 30.0))
CODES = ["".join(letters) for axes in itertools.permutations(("LR", "PA", "SI")) for letters in itertools.product(*axes)]


def read(**params: Any) -> Prompts:
    return read_prompts(params, GRID, ("Liver", "Spleen"))


def test_nothing_is_nothing() -> None:
    assert read() == read(foreground=[], background=None, roi=[], Liver="") == Prompts()


def test_points_inside_and_outside() -> None:
    found = read(foreground=[[1, 2, 3]], background=[[0, 0, 0], [6, 5, 4]])
    assert found.clicks == (Click((1, 2, 3)), Click((0, 0, 0), inside=False), Click((6, 5, 4), inside=False))


def test_points_by_label() -> None:
    assert read(Liver=[[1, 1, 1]], Spleen=[[2, 2, 2]], Heart=[[9, 9, 9]]).clicks == (
        Click((1, 1, 1), label="Liver"),
        Click((2, 2, 2), label="Spleen"),
    )
    assert read(foreground={"Liver": [[1, 1, 1]]}, background={"Spleen": [[2, 2, 2]]}).clicks == (
        Click((1, 1, 1), label="Liver"),
        Click((2, 2, 2), inside=False, label="Spleen"),
    )


def test_the_label_that_points_are_meant_for() -> None:
    assert read(label="Liver", foreground=[[1, 1, 1]]).clicks == (Click((1, 1, 1), label="Liver"),)
    assert read(label="Segment_1", foreground=[[1, 1, 1]]).clicks == (Click((1, 1, 1)),), "a name of the client's own"


def test_numbered_points() -> None:
    assert read(points=[[1, 1, 1], [2, 2, 2]], point_labels=[0, 1]).clicks == (Click((1, 1, 1), inside=False), Click((2, 2, 2)))
    assert read(points=[[1, 1, 1]]).clicks == (Click((1, 1, 1)),)


def test_lists_as_text_and_fractions() -> None:
    assert read(foreground="[[1.4, 1.6, -0.5]]").clicks == (Click((1, 2, 0)),)


@pytest.mark.parametrize(
    "roi",
    [[1, 3, 0, 2, 2, 5], [[1, 3, 0, 2, 2, 5]], [[1, 0, 2], [3, 2, 5]], "[1, 3, 0, 2, 2, 5]", [3, 1, 2, 0, 5, 2], [1, 3, -9, 2, 2, 99]],
)
def test_boxes_end_before_their_upper_corner_and_at_the_image(roi: Any) -> None:
    assert read(roi=roi).boxes == (Box((1, 0, 2), (2, 1, 4)),)


def test_boxes_by_label() -> None:
    assert read(roi={"Liver": [1, 2, 1, 2, 1, 2]}).boxes == (Box((1, 1, 1), (1, 1, 1), "Liver"),)


@pytest.mark.parametrize(("space", "sign"), [("lps", (1, 1, 1)), ("ras", (-1, -1, 1))])
def test_points_in_millimetres(space: str, sign: tuple[int, int, int]) -> None:
    point = GRID.to_world((4, 3, 2)) * sign
    assert read(prompt_space=space, foreground=[point.tolist()]).clicks == (Click((4, 3, 2)),)
    box = np.stack([GRID.to_world((1, 0, 2)), GRID.to_world((3, 2, 5))]) * sign
    assert read(prompt_space=space, roi=box.tolist()).boxes == (Box((1, 0, 2), (2, 1, 4)),)


@pytest.mark.parametrize(
    "params",
    [
        {"foreground": [[7, 0, 0]]},
        {"background": [[0, -1, 0]]},
        {"Liver": [[0, 0, 4.5]]},
        {"foreground": [[1, 2]]},
        {"foreground": [[1, 2, "3"]]},
        {"foreground": [[1, 2, True]]},
        {"foreground": [[1, 2, float("nan")]]},
        {"foreground": [[1, 2, float("inf")]]},
        {"foreground": [[1, 2, 10**400]]},
        {"foreground": [1, 2, 3]},
        {"foreground": 5},
        {"foreground": "here"},
        {"points": [[1, 1, 1]], "point_labels": [1, 1]},
        {"points": [[1, 1, 1]], "point_labels": "x"},
        {"roi": [7, 9, 0, 1, 0, 1]},
        {"roi": [1, 2, 3]},
        {"roi": {"Liver": 5}},
        {"prompt_space": "moon"},
        {"prompt_space": []},
        {"foreground": [[1, 1, 1]] * (MOST + 1)},
    ],
)
def test_what_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        read(**params)
    assert caught.value.advice


def test_a_point_outside_is_named_with_the_image() -> None:
    with pytest.raises(InputError, match=r"\(7, 0, 0\) of \(7, 6, 5\) voxels"):
        read(foreground=[[7, 0, 0]])


@pytest.mark.parametrize("codes", CODES)
def test_points_stay_where_they_are_in_the_patient(codes: str) -> None:
    oblique = Geometry(GRID.size, GRID.spacing, GRID.origin, (0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1))
    voxels = np.arange(210, dtype=np.int16).reshape(GRID.shape)
    seen = to_model_grid(Volume(voxels, oblique), codes)
    for x, y, z in [(0, 0, 0), (6, 5, 4), (1, 4, 2)]:
        (click,) = Prompts((Click((x, y, z)),)).on(oblique, seen.geometry).clicks
        i, j, k = click.index
        assert seen.voxels[k, j, i] == voxels[z, y, x]
    (box,) = Prompts(boxes=(Box((1, 2, 3), (4, 3, 4)),)).on(oblique, seen.geometry).boxes
    (i, j, k), (i2, j2, k2) = box.first, box.last
    assert sorted(seen.voxels[k : k2 + 1, j : j2 + 1, i : i2 + 1].ravel()) == sorted(voxels[3:5, 2:4, 1:5].ravel())


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("wide", [0.49, 0.2, -0.2, -0.4])
def test_a_box_in_millimetres_holds_the_same_voxels_whichever_way_the_grid_lies(codes: str, wide: float) -> None:
    """Those whose centres are in it; corners are `wide` of a voxel outside of the centres of the voxels 1 and 3."""
    grid = reorientation(GRID, codes).grid(GRID)
    ends = np.stack([GRID.to_world(np.full(3, 1 - wide)), GRID.to_world(np.full(3, 3 + wide))])
    (box,) = read_prompts({"roi": ends.T.ravel().tolist(), "prompt_space": "lps"}, grid).boxes
    found = np.array([grid.to_world(box.first), grid.to_world(box.last)])
    first, last = (1, 3) if wide > 0 else (2, 2)
    np.testing.assert_allclose(np.sort(found, axis=0), [GRID.to_world([first] * 3), GRID.to_world([last] * 3)], atol=1e-9)


def test_a_box_on_a_grid_that_is_turned_is_not_cut() -> None:
    turned = Geometry((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    low, high = np.array([-6.0, 12.0, 5.0]), np.array([6.0, 22.0, 8.5])
    (box,) = read_prompts({"roi": np.stack([low, high]).tolist(), "prompt_space": "lps"}, turned).boxes
    indices = np.indices(turned.size).reshape(3, -1).T
    world = turned.to_world(indices)
    inside = indices[((world >= low) & (world <= high)).all(axis=1)]
    assert (inside >= box.first).all() and (inside <= box.last).all()
    assert (np.array(box.first) >= inside.min(axis=0) - 1).all() and (np.array(box.last) <= inside.max(axis=0) + 1).all()


def test_points_on_a_grid_of_another_spacing() -> None:
    seen = spaced(reorientation(GRID, "RAS").grid(GRID), (2.0, 2.0, 2.0))
    (click,) = Prompts((Click((6, 5, 4)),)).on(GRID, seen).clicks
    distance = seen.to_world(click.index) - GRID.to_world((6, 5, 4))
    assert np.abs(distance).max() <= 1.0 + 1e-9
