from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from delineate.errors import GeometryError
from delineate.geometry import Geometry
from delineate.resampling import labels_to_grid, spaced, to_model_grid, volume_to_grid
from delineate.segmentation import Segmentation
from delineate.volume import Volume

CODES = ["".join(letters) for pairs in permutations(("LR", "PA", "SI")) for letters in product(*pairs)]
SLOPE = np.array([0.7, -1.1, 0.4])  # value per mm along L, P, S


def turned(degrees: float) -> tuple[float, ...]:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1)


def grid(size: tuple[int, int, int] = (21, 17, 13), degrees: float = 17.0) -> Geometry:
    return Geometry(size, (0.9, 1.4, 2.5), (-12.0, 8.0, -30.0), turned(degrees))


def places(geometry: Geometry) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")
    return geometry.to_world(np.stack([x, y, z], axis=-1))


def ramp(geometry: Geometry) -> np.ndarray:
    """A value that names its own place: linear in world coordinates, another slope along each axis."""
    values: np.ndarray = places(geometry) @ SLOPE
    return values


def sphere(geometry: Geometry, centre: np.ndarray, radius: float) -> np.ndarray:
    inside: np.ndarray = np.linalg.norm(places(geometry) - centre, axis=-1) < radius
    return inside


def middle(geometry: Geometry) -> np.ndarray:
    return geometry.to_world((np.array(geometry.size) - 1) / 2)


def interior(geometry: Geometry, within: Geometry, margin: float) -> np.ndarray:
    """Voxels of `geometry` at least `margin` voxels of either grid inside the outermost centres of `within`."""
    index = within.to_index(places(geometry))
    room = margin * np.maximum(1, np.array(geometry.spacing) / np.array(within.spacing))
    kept: np.ndarray = ((index >= room) & (index <= np.array(within.size) - 1 - room)).all(axis=-1)
    return kept


@pytest.mark.parametrize("degrees", [0.0, 17.0])
@pytest.mark.parametrize("codes", CODES)
def test_reorientation_is_exact_there_and_back(codes: str, degrees: float) -> None:
    start = grid((5, 4, 3), degrees)
    voxels = np.arange(60, dtype=np.int16).reshape(start.shape)
    seen = to_model_grid(Volume(voxels, start, 2.0, -1.0, "CT", "HU"), codes)
    assert seen.geometry.axis_codes == codes
    assert seen.voxels.flags.c_contiguous and seen.voxels.dtype == np.int16
    assert (seen.slope, seen.intercept, seen.modality, seen.units) == (2.0, -1.0, "CT", "HU")
    where = ramp(seen.geometry).ravel()[np.argsort(seen.voxels, axis=None)]
    np.testing.assert_allclose(where, ramp(start).ravel(), atol=1e-9)
    labels = Segmentation.from_labels((seen.voxels % 7).astype(np.uint8), seen.geometry, {n: f"s{n}" for n in range(1, 7)})
    back = labels_to_grid(labels, start)
    assert back.geometry == start
    assert back.layers[0].flags.c_contiguous
    np.testing.assert_array_equal(back.layers[0], voxels % 7)


def test_axes_at_45_degrees_come_back_exactly() -> None:
    start = grid((5, 4, 3), 45.0)
    voxels = np.arange(60, dtype=np.uint8).reshape(start.shape)
    for codes in ("LPS", "RAS", "PLI", "SAR"):
        seen = to_model_grid(Volume(voxels, start), codes)
        back = labels_to_grid(Segmentation.from_labels(seen.voxels, seen.geometry, {}), start)
        np.testing.assert_array_equal(back.layers[0], voxels)


def test_as_sent_changes_nothing() -> None:
    image = Volume(np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1), Geometry((3, 4, 2)))
    same = to_model_grid(image, "as-sent")
    np.testing.assert_array_equal(same.voxels, image.voxels)
    assert same.geometry == image.geometry
    assert same.voxels.flags.c_contiguous


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.45, 0.7, 1.25), (1.8, 2.8, 5.0), (1.1, 3.3, 2.5), (4.0, 4.0, 4.0)])
def test_a_ramp_stays_where_it_is(codes: str, spacing: tuple[float, float, float]) -> None:
    start = grid()
    seen = to_model_grid(Volume(ramp(start), start), codes, spacing)
    assert seen.geometry.spacing == pytest.approx(spacing)
    assert seen.geometry.axis_codes == codes
    kept = interior(seen.geometry, start, 1.0)
    assert kept.sum() > 5
    np.testing.assert_allclose(seen.voxels[kept], ramp(seen.geometry)[kept], atol=1e-6)
    # the check is not blind: half a voxel along the finest axis would be seen
    assert 0.5 * min(spacing) * np.abs(SLOPE).min() > 100 * 1e-6


def test_the_new_grid_has_the_same_centre_and_extent() -> None:
    start = grid()
    for spacing in ((1.0, 1.0, 1.0), (3.0, 2.0, 7.0), (100.0, 100.0, 100.0)):
        new = spaced(start, spacing)
        np.testing.assert_allclose(middle(new), middle(start), atol=1e-9)
        extent = np.array(new.size) * spacing - np.array(start.size) * start.spacing
        assert (np.abs(extent) <= np.array(spacing) / 2 + 1e-9).all() or min(new.size) == 1
    assert spaced(start, start.spacing) is start


@pytest.mark.parametrize("spacing", [(0.45, 0.7, 1.25), (0.9, 0.8, 2.5)])
def test_finer_grids_agree_with_scipy(spacing: tuple[float, float, float]) -> None:
    start = grid(degrees=0)
    values = np.random.default_rng(0).normal(0, 100, start.shape)
    fine = spaced(start, spacing)
    index = start.to_index(places(fine))[..., ::-1]
    expected = ndimage.map_coordinates(values, np.moveaxis(index, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(volume_to_grid(Volume(values, start), fine).voxels, expected, atol=1e-9)


def test_coarser_grids_do_not_alias() -> None:
    start = Geometry((60, 4, 4))
    stripes = np.broadcast_to((np.arange(60) % 2) * 1000.0, start.shape)
    coarse = to_model_grid(Volume(stripes, start), "LPS", (4.0, 1.0, 1.0))
    assert np.abs(coarse.voxels[..., 1:-1] - 500).max() < 100  # taking every fourth voxel would give 0 or 1000
    assert coarse.voxels.mean() == pytest.approx(500, abs=20)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_types_are_kept_and_whole_numbers_rounded(dtype: str) -> None:
    start = Geometry((4, 1, 1))
    image = Volume(np.array([0, 10, 21, 250]).reshape(1, 1, 4).astype(dtype), start)
    fine = volume_to_grid(image, Geometry((4, 1, 1), origin=(0.5, 0, 0)))
    assert fine.voxels.dtype == np.dtype(dtype)
    expected = [5, 16, 136, 250] if np.dtype(dtype).kind in "ui" else [5, 15.5, 135.5, 250]
    np.testing.assert_allclose(fine.voxels.ravel(), expected)


def test_a_constant_stays_constant() -> None:
    start = grid()
    for spacing in ((0.5, 0.5, 0.5), (3.0, 3.0, 3.0)):
        seen = to_model_grid(Volume(np.full(start.shape, -1000, np.int16), start), "RAS", spacing)
        assert (seen.voxels == -1000).all()


def test_labels_on_the_same_grid_are_exact() -> None:
    start = grid()
    labels = np.random.default_rng(0).integers(0, 9, start.shape).astype(np.uint8)
    header = Geometry(start.size, start.spacing, tuple(np.array(start.origin) + 4e-4), start.direction)
    back = labels_to_grid(Segmentation.from_labels(labels, header, {1: "A"}), start)
    np.testing.assert_array_equal(back.layers[0], labels)
    assert back.geometry == start


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SPR"])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.6, 0.6, 0.8), (3.0, 2.0, 2.0)])
def test_two_spheres_come_back_where_they_were_and_left_stays_left(codes: str, spacing: tuple[float, float, float]) -> None:
    start = Geometry((50, 44, 30), (1.0, 1.2, 2.0), (-25.0, -20.0, 5.0), turned(17.0))
    left, right = middle(start) + np.array([10, 3, 0]), middle(start) - np.array([10, -3, 4])
    names = {"Left": (left, 8.0), "Right": (right, 6.0)}
    seen = to_model_grid(Volume(np.zeros(start.shape, np.uint8), start), codes, spacing).geometry
    found = Segmentation.from_masks({name: sphere(seen, *place) for name, place in names.items()}, seen)
    back = labels_to_grid(found, start)
    assert back.geometry == start
    for name, (centre, radius) in names.items():
        mask, ideal = back.mask(name), sphere(start, centre, radius)
        dice = 2 * (mask & ideal).sum() / (mask.sum() + ideal.sum())
        assert dice > 0.9
        drawn = places(seen)[found.mask(name)].mean(axis=0)  # a sphere of few voxels is not quite at its centre
        np.testing.assert_allclose(places(start)[mask].mean(axis=0), drawn, atol=0.25)  # half a voxel is 0.3 to 1.5 mm
        assert mask.sum() == pytest.approx(ideal.sum(), rel=0.08)
    assert places(start)[back.mask("Left")][:, 0].mean() > places(start)[back.mask("Right")][:, 0].mean()


def strongest_by_hand(segmentation: Segmentation, target: Geometry) -> np.ndarray:
    """The definition: every structure's indicator interpolated by itself, the largest wins."""
    layer = segmentation.layers[0]
    index = np.moveaxis(segmentation.geometry.to_index(places(target))[..., ::-1], -1, 0)
    labels = np.unique(layer)
    scores = np.stack([ndimage.map_coordinates((layer == n).astype(float), index, order=1, mode="nearest") for n in labels])
    winning = scores >= scores.max(axis=0) - 1e-6
    order = [n if n else 255 for n in labels]
    chosen = np.where(winning, np.array(order)[:, None, None, None], 256).min(axis=0)
    limit = np.array(segmentation.geometry.shape).reshape(3, 1, 1, 1)
    outside = ((index < -0.5) | (index > limit - 0.5)).any(axis=0)
    result: np.ndarray = np.where((chosen == 255) | outside, 0, chosen)
    return result


@pytest.mark.parametrize("spacing", [(0.5, 0.7, 1.1), (2.0, 2.0, 2.0), (1.8, 2.8, 5.0)])
def test_labels_follow_the_definition(spacing: tuple[float, float, float]) -> None:
    start = grid((12, 10, 8), 0)
    labels = np.random.default_rng(3).integers(0, 4, start.shape).astype(np.uint8)
    segmentation = Segmentation.from_labels(labels, start, {1: "A", 2: "B", 3: "C"})
    new = spaced(start, spacing)
    shifted = Geometry(new.size, new.spacing, tuple(np.array(new.origin) + np.array([3.17, -2.23, 1.31])), new.direction)
    for target in (new, shifted):
        np.testing.assert_array_equal(labels_to_grid(segmentation, target).layers[0], strongest_by_hand(segmentation, target))


def test_layers_and_structures_are_kept() -> None:
    start = Geometry((8, 8, 8))
    one, two = np.zeros(start.shape, bool), np.zeros(start.shape, bool)
    one[2:6, 2:6, 2:6] = True
    two[3:7, 3:7, 3:7] = True
    segmentation = Segmentation.from_masks({"One": one, "Two": two}, start)
    fine = labels_to_grid(segmentation, start.refined((2, 2, 2)))
    assert fine.structures == segmentation.structures
    assert len(fine.layers) == 2
    inner = np.zeros(fine.geometry.shape, bool)
    inner[6:10, 6:10, 6:10] = True
    assert fine.mask("One")[inner].all()
    assert fine.volume_ml("Two") == pytest.approx(segmentation.volume_ml("Two"), rel=0.1)


def test_beyond_the_edge_there_is_nothing() -> None:
    start = Geometry((3, 3, 3))
    full = Segmentation.from_labels(np.ones(start.shape, np.uint8), start, {1: "A"})
    wide = labels_to_grid(full, Geometry((9, 9, 9), origin=(-3, -3, -3)))
    expected = np.zeros((9, 9, 9), np.uint8)
    expected[3:6, 3:6, 3:6] = 1
    np.testing.assert_array_equal(wide.layers[0], expected)
    boolean = Segmentation(start, (np.ones(start.shape, bool),), ())
    assert labels_to_grid(boolean, Geometry((9, 9, 9), origin=(-3, -3, -3))).layers[0].sum() == 27


def test_rotated_grids_are_refused() -> None:
    full = Segmentation.from_labels(np.ones((3, 3, 3), np.uint8), Geometry((3, 3, 3)), {1: "A"})
    with pytest.raises(GeometryError, match="not parallel"):
        labels_to_grid(full, Geometry((3, 3, 3), direction=turned(1.0)))


@pytest.mark.parametrize("dtype", ["i2", "f8"])
def test_an_image_goes_onto_a_rotated_grid(dtype: str) -> None:
    pytest.importorskip("SimpleITK")
    start = grid(degrees=0)
    target = Geometry((4, 3, 2), (0.7, 0.9, 1.3), tuple(middle(start) - 1.0), turned(17.0))
    steep = 100 * ramp(start)
    found = volume_to_grid(Volume((np.rint(steep) if dtype == "i2" else steep).astype(dtype), start), target)
    assert found.geometry is target and found.voxels.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found.voxels, 100 * ramp(target), atol=1.0 if dtype == "i2" else 1e-6)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, 1), (1, -1, 1)])
def test_a_wrong_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="spacing"):
        to_model_grid(Volume(np.zeros((1, 1, 1)), Geometry((1, 1, 1))), "LPS", spacing)
