"""`region` and `scribbles`: what was clicked and drawn is found, whatever the image, and the cut is minimal."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import delineate.models
from delineate.errors import ModelError, SettingsError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.models.cut import border_weights, energy, minimal_cut
from delineate.models.likelihood import cost_of, histogram, mixture
from delineate.models.region.model import Region
from delineate.models.scribbles.model import Scribbles
from delineate.prompt import read_prompts
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.store.folders import ModelFolders
from delineate.volume import Volume

GRID = Geometry((60, 50, 40), (1.0, 1.2, 1.5), (-10.0, 20.0, 30.0))


def ball(centre: tuple[float, float, float], radius: float, grid: Geometry = GRID) -> np.ndarray:
    """Voxels within `radius` mm of an index x, y, z."""
    z, y, x = np.ogrid[: grid.size[2], : grid.size[1], : grid.size[0]]
    steps = zip((x, y, z), centre, grid.spacing, strict=True)
    result: np.ndarray = sum(((axis - c) * s) ** 2 for axis, c, s in steps) <= radius**2
    return result


ONE, OTHER = ball((20, 25, 20), 11), ball((44, 25, 20), 9)


def image(kind: str = "CT") -> Volume:
    rng = np.random.default_rng(3)
    scale, shift, dtype = {"CT": (1.0, 0.0, np.int16), "MR": (7.0, 900.0, np.uint16), "PT": (0.01, 0.5, np.float32)}[kind]
    values = np.where(ONE | OTHER, 120.0, 0.0) + rng.normal(0, 15, GRID.shape)
    return Volume((values * scale + shift).astype(dtype), GRID)


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


MODELS = {name: place.model for name, place in ModelFolders([(Path(delineate.models.__path__[0]), "builtin")]).models().items()}


def segment(model: Region | Scribbles, record: Model, volume: Volume, drawn: np.ndarray | None = None, **params: Any) -> Segmentation:
    prompts = read_prompts(params, volume.geometry, record.labels)
    return model.segment(
        Job(
            images=(volume,), input_folder=Path(), output_folder=Path(), prompts={**record.config, **params}, report=lambda *_: None,
            log=lambda _: None, deadline=0.0, task="t", clicks=prompts.clicks, boxes=prompts.boxes, label=drawn,
        )
    )  # fmt: skip


def region(volume: Volume | None = None, **params: Any) -> Segmentation:
    return segment(Region({}, None), MODELS["region"], volume or image(), **params)


def scribbled(drawn: np.ndarray | None, method: str = "histogram", volume: Volume | None = None, **params: Any) -> Segmentation:
    return segment(Scribbles({"method": method}, None), MODELS["scribbles"], volume or image(), drawn, **params)


def test_what_clients_are_told_of_them() -> None:
    assert MODELS["region"].kind == "deepgrow"
    assert [MODELS[name].kind for name in ("scribbles", "Histogram+GraphCut", "GMM+GraphCut")] == ["scribbles"] * 3
    assert [MODELS[name].parameters["method"] for name in ("scribbles", "Histogram+GraphCut", "GMM+GraphCut")] == [
        "histogram", "histogram", "mixture",
    ]  # fmt: skip
    assert MODELS["region"].labels == {"region": 1}
    assert MODELS["lungs-ct"].labels == {"Lung_L": 1, "Lung_R": 2}


def test_the_cut_is_minimal() -> None:
    """Against every one of the 4096 cuts of a small grid."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        cost = rng.normal(0, 1, (2, 2, 3)).astype(np.float32)
        values = rng.normal(0, 1, cost.shape).astype(np.float32)
        weights = border_weights(values, (2.0, 1.0, 1.0), contrast=1.0, strength=0.7)
        assert [weight.shape for weight in weights] == [(1, 2, 3), (2, 1, 3), (2, 2, 2)]
        masks = (np.reshape(bits, cost.shape) for bits in itertools.product((False, True), repeat=cost.size))
        least = min(energy(mask, cost, weights) for mask in masks)
        assert energy(minimal_cut(cost, weights, rounds=2000) > 0.5, cost, weights) == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("kind", ["CT", "MR", "PT"])
def test_one_click(kind: str) -> None:
    found = region(image(kind), foreground=[[20, 25, 20]])
    assert found.names == ["region"]
    assert dice(found.mask("region"), ONE) > 0.95


def test_several_structures_by_label() -> None:
    found = region(foreground={"left": [[20, 25, 20]], "right": [[44, 25, 20]]})
    assert found.names == ["left", "right"]
    assert dice(found.mask("left"), ONE) > 0.95
    assert dice(found.mask("right"), OTHER) > 0.95


def test_a_click_outside_parts_what_touches() -> None:
    joined = ONE | ball((38, 25, 20), 9)
    values = np.where(joined, 120, 0) + np.random.default_rng(4).normal(0, 15, GRID.shape)
    volume = Volume(values.astype(np.int16), GRID)
    before = region(volume, foreground=[[20, 25, 20]]).mask("region")
    after = region(volume, foreground=[[20, 25, 20]], background=[[40, 25, 20]]).mask("region")
    assert not after[20, 25, 40]
    assert dice(after, ONE) > max(0.85, dice(before, ONE))


def test_a_second_click_adds() -> None:
    found = region(foreground=[[20, 25, 20], [44, 25, 20]]).mask("region")
    assert dice(found, ONE | OTHER) > 0.95


def test_a_box() -> None:
    found = region(roi=[6, 34, 13, 37, 10, 31]).mask("region")
    assert dice(found, ONE) > 0.9


def test_nothing_beyond_the_box_or_the_reach() -> None:
    assert not region(foreground=[[20, 25, 20]], roi=[15, 25, 20, 30, 15, 25]).mask("region")[:, :, 25:].any()
    wide = Volume(np.zeros((10, 300, 300), np.int16), Geometry((300, 300, 10)))
    found = np.argwhere(region(wide, foreground=[[150, 150, 5]], reach=20.0).mask("region"))
    assert np.abs(found - (5, 150, 150)).max() <= 20


@pytest.mark.parametrize("value", [float("nan"), 100.0, np.inf])
def test_flat_and_broken_images(value: float) -> None:
    voxels = np.full((6, 7, 8), 100, np.float32)
    voxels[0, 0, 0] = value
    assert region(Volume(voxels, Geometry((8, 7, 6))), foreground=[[4, 4, 4]]).mask("region")[4, 4, 4]


@pytest.mark.parametrize("index", [(0, 0, 0), (59, 49, 39)])
def test_clicks_in_corners(index: tuple[int, int, int]) -> None:
    assert region(foreground=[list(index)]).mask("region")[index[::-1]]


def test_one_slice() -> None:
    flat = Volume(image().voxels[20:21], Geometry((60, 50, 1), GRID.spacing))
    assert dice(region(flat, foreground=[[20, 25, 0]]).mask("region"), ONE[20:21]) > 0.95


@pytest.mark.parametrize(
    "params", [{}, {"background": [[1, 1, 1]]}, {"foreground": [[1, 1, 1]], "reach": -1}, {"roi": [0, 9, 0, 9, 0, 9], "smoothness": "x"}]
)
def test_region_says_what_is_missing(params: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        region(**params)
    assert caught.value.kind == "input"


def drawing() -> np.ndarray:
    """A stroke in one ball, strokes around it."""
    drawn = np.zeros(GRID.shape, np.uint8)
    drawn[20, 25, 14:27] = drawn[16, 20:30, 20] = 3
    drawn[20, 10, 10:50] = drawn[20, 42, 10:50] = drawn[20, 10:42, 33] = 2
    drawn[3, 25, 10:50] = drawn[37, 25, 10:50] = 2
    return drawn


@pytest.mark.parametrize("method", ["histogram", "mixture"])
@pytest.mark.parametrize("kind", ["CT", "MR", "PT"])
def test_scribbles_in_and_around(method: str, kind: str) -> None:
    drawn = drawing()
    found = scribbled(drawn, method, image(kind))
    mask = found.mask("region")
    assert dice(mask, ONE) > 0.95
    assert mask[drawn == 3].all()
    assert not mask[drawn == 2].any()


def test_a_roi_in_place_of_strokes_outside_and_a_name() -> None:
    drawn = np.where(drawing() == 3, 3, 0).astype(np.uint8)
    found = scribbled(drawn, roi=[5, 36, 12, 38, 8, 33], label="Tumour")
    assert found.names == ["Tumour"]
    assert dice(found.mask("Tumour"), ONE) > 0.9


def test_strokes_outside_of_the_roi_do_not_matter() -> None:
    drawn = drawing()
    drawn[20, 25, 44] = 3
    assert not scribbled(drawn, roi=[5, 36, 12, 38, 8, 33]).mask("region")[:, :, 36:].any()


@pytest.mark.parametrize("drawn", [None, np.zeros(GRID.shape, np.uint8), np.where(drawing() == 2, 2, 0)])
def test_scribbles_say_what_is_missing(drawn: np.ndarray | None) -> None:
    with pytest.raises(ModelError, match="no scribbles inside") as caught:
        scribbled(drawn)
    assert caught.value.kind == "input"


def test_all_inside_is_not_enough() -> None:
    with pytest.raises(ModelError, match="nothing is known to be outside"):
        scribbled(np.full(GRID.shape, 3, np.uint8))


def test_scribbles_inside_but_beyond_the_roi() -> None:
    with pytest.raises(ModelError, match="inside"):
        scribbled(drawing(), roi=[50, 58, 0, 8, 0, 8])


def test_a_method_nobody_knows() -> None:
    with pytest.raises(SettingsError):
        Scribbles({"method": "magic"}, None)


@pytest.mark.parametrize("density", [histogram, mixture])
def test_likelihoods_tell_values_apart(density: Any) -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(100, 10, 500).astype(np.float32), rng.normal(0, 10, 500).astype(np.float32)
    cost = cost_of(np.array([[[100.0, 0.0, 50.0]]], np.float32), inside, outside, density)
    assert cost[0, 0, 0] < -0.9
    assert cost[0, 0, 1] > 0.9
    assert np.isfinite(cost).all()


def specks(mask: np.ndarray) -> int:
    """Holes and parts of a slice of three voxels or fewer."""
    count = 0
    for plane in mask:
        for side in (plane, ~plane):
            parts, number = ndimage.label(side)
            count += int((np.bincount(parts.ravel(), minlength=number + 1)[1:] <= 3).sum())
    return count


def test_noise_does_not_draw_the_border_where_there_is_no_edge() -> None:
    grid = Geometry((90, 80, 40), (1.0, 1.0, 2.0))
    values = 60 + np.random.default_rng(1).normal(0, 15, grid.shape)
    values[:, :20] = -100  # an edge at one side
    found = region(Volume(values.astype(np.int16), grid), foreground=[[45, 42, 20]], reach=30.0).mask("region")
    assert found.sum() > 10_000
    assert specks(found) < 60, "445 if noise draws it; some are the caps at its ends"
    smooth = ndimage.uniform_filter(found.astype(np.float32), 5) > 0.5
    assert (smooth != found).sum() < 0.04 * found.sum(), "0.13 if noise draws it"
    assert not found[:, :20].any()
    assert found[:, 20].any(), "it reaches the edge"


@pytest.mark.parametrize("method", ["histogram", "mixture"])
def test_values_that_were_scribbled_nowhere_are_not_inside(method: str) -> None:
    strange = ball((20, 36, 20), 6) & ~ONE
    values = image().voxels.copy()
    values[strange] = 600 + np.random.default_rng(4).normal(0, 15, int(strange.sum())).astype(np.int16)
    drawn = np.zeros(GRID.shape, np.uint8)
    drawn[20, 25, 14:27] = 3
    drawn[20, 5, 5:40] = 2
    found = scribbled(drawn, method, Volume(values, GRID)).mask("region")
    assert dice(found, ONE) > 0.9
    assert (found & strange).sum() < 0.05 * strange.sum()
