"""Agreement of segmentations: shapes whose answers are known, and two libraries that others use."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
import surface_distance

from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.scoring.comparison import StructureScore, compare
from delineate.scoring.surfaces import percentile, surface
from delineate.segmentation import Segmentation

GRID = Geometry((30, 40, 20), (0.8, 1.1, 3.0), (5.0, -7.0, 100.0))
THEIR_WARNINGS = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of surface_distance
VOXEL = 0.8 * 1.1 * 3.0 / 1000  # ml


def box(grid: Geometry, x: slice, y: slice, z: slice) -> np.ndarray:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[z, y, x] = True
    return mask


def ball(grid: Geometry, middle: tuple[float, float, float], radius: float) -> np.ndarray:
    z, y, x = (np.arange(n) for n in grid.shape)
    squares = [((axis + 0.5) * step - centre) ** 2 for axis, step, centre in zip((x, y, z), grid.spacing, middle, strict=True)]
    return (squares[2][:, None, None] + squares[1][None, :, None] + squares[0][None, None, :]) <= radius**2


def score(one: np.ndarray, other: np.ndarray, grid: Geometry = GRID, tolerance: float = 2.0) -> StructureScore:
    (found,) = compare(Segmentation.from_masks({"A": one}, grid), Segmentation.from_masks({"A": other}, grid), tolerance=tolerance)
    return found


def test_the_same_twice() -> None:
    found = score(box(GRID, slice(3, 9), slice(5, 20), slice(2, 6)), box(GRID, slice(3, 9), slice(5, 20), slice(2, 6)), tolerance=0.0)
    assert (found.dice, found.surface_dice, found.hausdorff, found.hausdorff_95, found.mean_surface) == (1, 1, 0, 0, 0)
    assert found.volume_a == found.volume_b == pytest.approx(6 * 15 * 4 * VOXEL)


@pytest.mark.parametrize(("axis", "step"), [(0, 0.8), (1, 1.1), (2, 3.0)])
def test_a_box_moved_along_an_axis_is_as_far_off_as_it_was_moved(axis: int, step: float) -> None:
    slices = [slice(3, 12), slice(5, 20), slice(2, 8)]
    moved = list(slices)
    moved[axis] = slice(slices[axis].start + 2, slices[axis].stop + 2)
    length = slices[axis].stop - slices[axis].start
    found = score(box(GRID, *slices), box(GRID, *moved))
    assert found.dice == pytest.approx((length - 2) / length)
    assert found.hausdorff == pytest.approx(2 * step)
    assert found.hausdorff_95 == pytest.approx(2 * step)
    assert found.mean_surface is not None and 0 < found.mean_surface < 2 * step


def test_a_box_that_one_slice_is_missing_from() -> None:
    whole, cut = box(GRID, slice(0, 30), slice(0, 40), slice(2, 8)), box(GRID, slice(0, 30), slice(0, 40), slice(2, 7))
    found = score(whole, cut, tolerance=3.0)
    assert found.hausdorff == pytest.approx(3.0)
    assert found.surface_dice == 1  # a distance that equals the tolerance is within it
    assert score(whole, cut, tolerance=2.9).surface_dice < 0.8  # a lid of 30 x 40 of all six faces
    assert found.dice == pytest.approx(2 * 5 / 11)


def test_single_voxels_apart() -> None:
    one, other = box(GRID, slice(3, 4), slice(5, 6), slice(2, 3)), box(GRID, slice(8, 9), slice(5, 6), slice(6, 7))
    found = score(one, other)
    assert found.dice == found.surface_dice == 0
    assert found.hausdorff == pytest.approx(math.hypot(5 * 0.8, 4 * 3.0))
    # The corners of a voxel are equal; half of them are one voxel nearer along x, half along z.
    near = [math.hypot(x * 0.8, z * 3.0) for x in (4, 5) for z in (3, 4)]
    assert found.mean_surface == pytest.approx(np.mean(near))


def test_balls_within_each_other_are_their_radii_apart() -> None:
    grid = Geometry((70, 64, 44), (0.9, 1.0, 1.5))
    middle = (31.0, 32.0, 33.0)
    found = score(ball(grid, middle, 20), ball(grid, middle, 25), grid, tolerance=3.0)
    assert found.mean_surface == pytest.approx(5, abs=0.75)  # from corner to corner: up to half a voxel too short
    assert found.hausdorff == pytest.approx(5, abs=1.5)
    assert found.volume_a == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.01)
    assert found.dice == pytest.approx(2 * 20**3 / (20**3 + 25**3), rel=0.01)
    assert found.surface_dice < 0.1


@THEIR_WARNINGS
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5), (1.0, 2.0, 0.5)])
def test_the_area_of_a_ball(spacing: tuple[float, float, float]) -> None:
    grid = Geometry(tuple(math.ceil(52 / step) for step in spacing), spacing)
    mask = ball(grid, (26, 26, 26), 24)
    share = surface(mask, spacing[::-1]).areas.sum() / (4 * math.pi * 24**2)
    theirs = surface_distance.compute_surface_distances(mask, mask, spacing[::-1])["surfel_areas_gt"].sum() / (4 * math.pi * 24**2)
    assert 1 <= share < min(1.15, theirs)  # steps are longer than a slope; by less than the triangles of others


def test_the_area_of_a_box_is_exact_but_for_its_edges() -> None:
    found = surface(np.ones((20, 30, 40), dtype=bool), (3.0, 2.0, 1.0))
    faces = 2 * (60 * 60 + 60 * 40 + 60 * 40)
    assert found.areas.sum() == pytest.approx(faces, rel=0.03)
    inner = np.all((found.corners[:, 1:] > 0) & (found.corners[:, 1:] < (30, 40)), axis=1)
    assert found.areas[inner] == pytest.approx(2.0)  # of the lids: one voxel's face each
    assert inner.sum() == 2 * 29 * 39


def test_nothing_is_defined_and_never_nan() -> None:
    something, nothing = box(GRID, slice(3, 4), slice(5, 6), slice(2, 3)), np.zeros(GRID.shape, dtype=bool)
    for one, other, agreement in ((nothing, nothing, 1), (something, nothing, 0), (nothing, something, 0)):
        found = score(one, other)
        assert (found.dice, found.surface_dice) == (agreement, agreement)
        assert found.hausdorff is found.hausdorff_95 is found.mean_surface is None
        json.dumps(found.to_json(), allow_nan=False)


def test_a_structure_that_one_does_not_list() -> None:
    mask = box(GRID, slice(3, 9), slice(5, 20), slice(2, 6))
    a = Segmentation.from_masks({"Heart": mask, "Only_A": mask}, GRID)
    b = Segmentation.from_masks({"Only_B": mask, "Heart": mask}, GRID)
    found = {one.name: one for one in compare(a, b)}
    assert list(found) == ["Heart", "Only_A", "Only_B"]
    assert (found["Only_A"].in_a, found["Only_A"].in_b, found["Only_A"].dice) == (True, False, 0)
    assert found["Only_B"].volume_a == 0 and found["Only_B"].volume_b > 0
    assert [one.name for one in compare(a, b, names=["Only_B", "Nobody"])] == ["Only_B", "Nobody"]
    assert compare(a, b, names=["Nobody"])[0].dice == 1


def test_axes_in_another_order_are_the_same_place() -> None:
    one = Segmentation.from_masks({"A": box(GRID, slice(3, 9), slice(5, 20), slice(2, 6))}, GRID)
    other = Segmentation.from_masks({"A": box(GRID, slice(4, 9), slice(5, 21), slice(2, 7))}, GRID)
    turned = other.mapped(reorientation(GRID, "SAR"))
    assert turned.geometry.shape != GRID.shape
    assert compare(one, turned) == compare(one, other)


def test_other_grids_and_tolerances_are_refused() -> None:
    one = Segmentation.from_masks({"A": np.zeros(GRID.shape, dtype=bool)}, GRID)
    moved = Geometry(GRID.size, GRID.spacing, (6.0, -7.0, 100.0))
    with pytest.raises(GeometryError, match="different grids"):
        compare(one, Segmentation.from_masks({"A": np.zeros(GRID.shape, dtype=bool)}, moved))
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="tolerance"):
            compare(one, one, tolerance=tolerance)


def test_percentiles_by_weight() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 8.0, 1.0])
    assert [percentile(values, weights, share) for share in (0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 1.0)] == [1, 1, 1, 2, 2, 3, 3]


def blob(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """A shape with corners, holes and thin parts."""
    noise = np.random.default_rng(seed).normal(size=shape)
    for axis in range(3):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return noise > np.percentile(noise, 80)


@THEIR_WARNINGS
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_as_the_library_that_introduced_the_surface_dice(spacing: tuple[float, float, float], seed: int) -> None:
    grid = Geometry((40, 34, 22), spacing)
    pairs = [(blob(seed, grid.shape), blob(seed + 10, grid.shape)), (ball(grid, (14, 14, 14), 9), ball(grid, (15, 13, 16), 8))]
    for one, other in pairs:
        found = score(one, other, grid, tolerance=1.0)
        theirs = surface_distance.compute_surface_distances(one, other, spacing[::-1])
        assert found.hausdorff == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 100))
        assert found.dice == pytest.approx(surface_distance.compute_dice_coefficient(one, other))
        # Their pieces of surface are triangles between the middles of edges: smaller where the surface is bent.
        step = max(spacing)
        assert found.hausdorff_95 == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=step / 2)
        assert found.mean_surface == pytest.approx(np.mean(surface_distance.compute_average_surface_distance(theirs)), abs=step / 10)
        assert found.surface_dice == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0), abs=0.03)


def test_the_largest_distance_as_itk_measures_it() -> None:
    """Between voxels instead of corners; the same for boxes."""
    one, other = box(GRID, slice(3, 9), slice(5, 20), slice(2, 6)), box(GRID, slice(3, 9), slice(5, 26), slice(2, 9))
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (one, other)]
    for image in images:
        image.SetSpacing(GRID.spacing)
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    assert score(one, other).hausdorff == pytest.approx(theirs.GetHausdorffDistance())
