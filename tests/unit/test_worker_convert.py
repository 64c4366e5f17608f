"""Whatever the orientation of what is sent: the model sees what it declared, and the answer lies where it belongs."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from delineate.errors import SettingsError
from delineate.geometry import Geometry
from delineate.model import Model, ModelInput
from delineate.orientation import reorientation
from delineate.volume import Volume
from delineate.worker.check import LabelMap
from delineate.worker.convert import expected_grid, from_model, to_model

CODES = [
    "".join(letters[flip] for letters, flip in zip(order, flips, strict=True))
    for order in permutations(("LR", "PA", "SI"))
    for flips in product((0, 1), repeat=3)
]
LPS = Geometry((5, 6, 7), (1.0, 2.0, 3.0), (-11.0, 5.0, 30.0))
POINT = (2, 4, 1)  # x, y, z of one voxel on LPS


def sent(codes: str) -> Volume:
    """An image whose one bright voxel is at one place of the patient, in any orientation."""
    voxels = np.zeros(LPS.shape, dtype=np.int16)
    voxels[POINT[::-1]] = 100
    volume = Volume(voxels, LPS, slope=2.0, intercept=-50.0)
    return volume.mapped(reorientation(LPS, codes))


def answer(volume: Volume, fine: tuple[int, int, int] = (1, 1, 1)) -> LabelMap:
    """A model that finds what is bright."""
    labels = (volume.values() == volume.values().max()).astype(np.uint8)
    for axis, times in zip((2, 1, 0), fine, strict=True):
        labels = labels.repeat(times, axis=axis)
    return LabelMap(name="a", labels=labels, names={1: "A"}, fine=fine != (1, 1, 1))


def world(labels: np.ndarray, grid: Geometry) -> list[float]:
    """Centre of the labelled voxels, LPS mm."""
    assert labels.shape == grid.shape
    return list(grid.to_world(np.argwhere(labels)[:, ::-1].mean(axis=0)).round(6))


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", CODES)
def test_the_answer_lies_where_the_image_is_bright(codes: str) -> None:
    image = sent(codes)
    assert image.geometry.axis_codes == codes
    for orientation in ("LPS", "RAS", "SAR"):
        model = Model(name="m", runner="toy", orientation=orientation)
        (seen,) = to_model((image,), model)
        assert seen.geometry.axis_codes == orientation
        assert seen.voxels.flags.c_contiguous
        expected = expected_grid(image.geometry, seen.geometry, (1, 1, 1), model)
        labels, grid = from_model(answer(seen), image.geometry, (1, 1, 1), expected, model)
        assert grid.matches(image.geometry)
        assert labels.sum() == 1
        assert world(labels, grid) == list(LPS.to_world(POINT))


@pytest.mark.parametrize("codes", CODES[::5])
def test_the_contour_grid_follows_the_orientation(codes: str) -> None:
    """A factor of 2, 3, 1 is along the axes of what was sent, whatever the model sees."""
    image, factor, model = sent(codes), (2, 3, 1), Model(name="m", runner="toy", orientation="LPS")
    (seen,) = to_model((image,), model)
    expected = expected_grid(image.geometry, seen.geometry, factor, model)
    assert expected.contours.size == tuple(n * f for n, f in zip(seen.geometry.size, expected.factor, strict=True))
    contours = image.geometry.refined(factor)
    coarse, grid = from_model(answer(seen), image.geometry, factor, expected, model)
    fine, fine_grid = from_model(answer(seen, expected.factor), image.geometry, factor, expected, model)
    assert grid == fine_grid == contours
    np.testing.assert_array_equal(coarse, fine)
    assert coarse.sum() == 6, "one voxel is 2 x 3 x 1 of the contour grid"
    assert world(coarse, grid) == list(LPS.to_world(POINT))


def test_as_sent_changes_nothing() -> None:
    image, model = sent("ARS"), Model(name="m", runner="toy")
    (seen,) = to_model((image,), model)
    assert seen.voxels is image.voxels or seen.voxels.flags.c_contiguous
    np.testing.assert_array_equal(seen.voxels, image.voxels)
    assert (seen.slope, seen.intercept) == (2.0, -50.0), "stored values, as the protocol has them"
    expected = expected_grid(image.geometry, seen.geometry, (2, 2, 1), model)
    assert not expected.exact
    labels, grid = from_model(answer(seen), image.geometry, (2, 2, 1), expected, model)
    assert grid == image.geometry.refined((2, 2, 1))
    assert world(labels, grid) == list(LPS.to_world(POINT))


@pytest.mark.parametrize("codes", CODES[::7])
@pytest.mark.parametrize("orientation", ["as-sent", "LPS"])
def test_smooth_contours_of_a_ball_are_nearer_to_it_and_where_it_is(codes: str, orientation: str) -> None:
    """On a contour grid of 3 x 2 x 1 voxels in each of the image, which shows a ball in steps."""
    grid, centre = Geometry((20, 18, 12), (2.0, 2.4, 3.0), (-11.0, 5.0, 30.0)), np.array([8.6, 24.9, 46.1])
    factor = (3, 2, 1)

    def ball(where: Geometry) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, where.shape), indexing="ij"), axis=-1)[..., ::-1]
        inside: np.ndarray = ((where.to_world(index) - centre) ** 2).sum(axis=-1) < 144.0
        return inside

    image = Volume(ball(grid).astype(np.int16), grid).mapped(reorientation(grid, codes))
    wrong = {}
    for contours in ("blocks", "smooth"):
        model = Model(name="m", runner="toy", orientation=orientation, contours=contours)
        (seen,) = to_model((image,), model)
        expected = expected_grid(image.geometry, seen.geometry, factor, model)
        labels, fine = from_model(answer(seen), image.geometry, factor, expected, model)
        assert fine == image.geometry.refined(factor) and labels.shape == fine.shape
        wrong[contours] = np.count_nonzero(labels.astype(bool) != ball(fine)) / np.count_nonzero(ball(fine))
        np.testing.assert_allclose(world(labels, fine), centre, atol=0.35)
    assert wrong["smooth"] < 0.9 * wrong["blocks"]


def test_smooth_contours_without_a_finer_grid_or_on_it_already_change_nothing() -> None:
    image, model = sent("ARS"), Model(name="m", runner="toy", contours="smooth")
    expected = expected_grid(image.geometry, image.geometry, (2, 2, 1), model)
    labels, _ = from_model(answer(image, (2, 2, 1)), image.geometry, (2, 2, 1), expected, model)
    assert labels.sum() == 4
    expected = expected_grid(image.geometry, image.geometry, (1, 1, 1), model)
    labels, grid = from_model(answer(image), image.geometry, (1, 1, 1), expected, model)
    assert labels.sum() == 1 and grid is image.geometry


def test_a_way_to_contours_that_is_none() -> None:
    with pytest.raises(SettingsError, match="contours = 'round'"):
        Model(name="m", runner="toy", contours="round")


def test_units_are_those_the_model_declares() -> None:
    image = sent("LPS")
    model = Model(name="m", runner="toy", inputs=(ModelInput(units="HU"), ModelInput()))
    real, stored, more = to_model((image, image, image), model)
    assert (real.voxels.min(), real.voxels.max(), real.slope, real.intercept, real.units) == (-50.0, 150.0, 1.0, 0.0, "HU")
    assert stored.voxels.max() == more.voxels.max() == 100, "images beyond those declared are as the last one"


@pytest.mark.parametrize("codes", ["LPS", "SAR", "IRP"])
def test_another_spacing_comes_back_to_the_same_place(codes: str) -> None:
    """A ball of 12 mm, seen on a grid of 1.5 mm: its centre of mass comes back to a tenth of a voxel."""
    grid = Geometry((40, 36, 20), (1.0, 1.2, 2.0), (-31.0, 5.0, 30.0))
    centre = np.array(grid.to_world((17.3, 20.1, 8.6)))
    points = grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)[..., ::-1])
    ball = (((points - centre) ** 2).sum(axis=-1) < 144.0).astype(np.int16) * 100
    image = Volume(ball, grid)
    image = image.mapped(reorientation(grid, codes))
    model = Model(name="m", runner="toy", orientation="LPS", spacing=(1.5, 1.5, 1.5))
    (seen,) = to_model((image,), model)
    assert seen.geometry.spacing == pytest.approx((1.5, 1.5, 1.5))
    expected = expected_grid(image.geometry, seen.geometry, (1, 1, 1), model)
    found = LabelMap(name="a", labels=(seen.values() > 50).astype(np.uint8), names={1: "A"})
    labels, back = from_model(found, image.geometry, (1, 1, 1), expected, model)
    assert back.matches(image.geometry)
    assert np.abs(np.array(world(labels, back)) - centre).max() < 0.15
