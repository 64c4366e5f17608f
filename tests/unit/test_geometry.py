from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from delineate.errors import GeometryError
from delineate.geometry import Geometry
from delineate.orientation import AxisMap, reorientation

CODES = ["".join(letters) for pairs in permutations(("LR", "PA", "SI")) for letters in product(*pairs)]


def rotation(degrees: float) -> np.ndarray:
    """About an axis that is no patient axis."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.deg2rad(degrees)
    matrix: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


def oblique(degrees: float = 17.0) -> Geometry:
    return Geometry((3, 4, 5), (0.8, 1.5, 3.0), (-12.5, 40.0, 7.25), tuple(rotation(degrees).ravel()))


def indices(geometry: Geometry) -> np.ndarray:
    """Index (x, y, z) of every voxel, shape (z, y, x, 3)."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")
    return np.stack([x, y, z], axis=-1)


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("degrees", [0.0, 17.0])
@pytest.mark.parametrize("codes", CODES)
def test_every_voxel_keeps_its_place_in_all_48_orientations(codes: str, degrees: float) -> None:
    start = oblique(degrees)
    axes = reorientation(start, codes)
    mapped = axes.grid(start)
    assert mapped.axis_codes == codes
    places = start.to_world(indices(start))
    for coordinate in range(3):
        moved = axes.apply(places[..., coordinate])
        np.testing.assert_allclose(moved, mapped.to_world(indices(mapped))[..., coordinate], atol=1e-9)
    back = axes.inverse()
    assert back.grid(mapped).matches(start)
    names = np.arange(60).reshape(start.shape)
    np.testing.assert_array_equal(back.apply(axes.apply(names)), names)
    assert axes.apply(names).shape == mapped.shape


def test_identity_maps() -> None:
    assert AxisMap().is_identity
    assert reorientation(oblique(0), "LPS").is_identity
    assert not reorientation(oblique(0), "RAS").is_identity


def test_world_and_index_are_inverse() -> None:
    grid = oblique()
    points = np.random.default_rng(1).normal(0, 50, (20, 3))
    np.testing.assert_allclose(grid.to_world(grid.to_index(points)), points, atol=1e-9)
    np.testing.assert_allclose(grid.to_world((0, 0, 0)), grid.origin)
    np.testing.assert_allclose(grid.to_world((1, 0, 0)), np.array(grid.origin) + grid.matrix[:, 0] * 0.8)


def test_from_affine_gives_the_same_grid() -> None:
    grid = oblique()
    assert Geometry.from_affine(grid.size, grid.affine).matches(grid)


@pytest.mark.parametrize("factor", [(2, 2, 1), (1, 3, 2), (4, 1, 5)])
def test_refining_keeps_the_outer_edges(factor: tuple[int, int, int]) -> None:
    grid = oblique()
    fine = grid.refined(factor)
    assert fine.size == tuple(n * f for n, f in zip(grid.size, factor, strict=True))
    np.testing.assert_allclose(fine.to_world((-0.5, -0.5, -0.5)), grid.to_world((-0.5, -0.5, -0.5)), atol=1e-9)
    np.testing.assert_allclose(fine.to_world(np.array(fine.size) - 0.5), grid.to_world(np.array(grid.size) - 0.5), atol=1e-9)


@pytest.mark.parametrize("factor", [(0, 1, 1), (1, 1), (-1, 2, 2)])
def test_a_wrong_factor_is_refused(factor: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="scaling factor"):
        oblique().refined(factor)


def test_difference_names_what_differs_and_keeps_its_tolerances() -> None:
    grid = Geometry((3, 4, 5), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    assert grid.difference(Geometry((3, 4, 5), (1.00005, 2.0, 3.0), (10.0009, 20.0, 30.0))) == ""
    assert "size" in grid.difference(Geometry((3, 4, 6), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0)))
    assert "spacing" in grid.difference(Geometry((3, 4, 5), (1.0002, 2.0, 3.0), (10.0, 20.0, 30.0)))
    assert "origin" in grid.difference(Geometry((3, 4, 5), (1.0, 2.0, 3.0), (10.0, 20.002, 30.0)))
    turned = Geometry((3, 4, 5), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), tuple(rotation(0.002).ravel()))
    assert "direction" in grid.difference(turned)
    assert grid.matches(Geometry((3, 4, 5), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), tuple(rotation(0.0003).ravel())))


@pytest.mark.parametrize(
    "fields",
    [
        {"size": (0, 1, 1)},
        {"size": (1, 1)},
        {"size": (1, 1, 1), "spacing": (0, 1, 1)},
        {"size": (1, 1, 1), "spacing": (1, -1, 1)},
        {"size": (1, 1, 1), "origin": (np.nan, 0, 0)},
        {"size": (1, 1, 1), "direction": (1, 0.2, 0, 0, 1, 0, 0, 0, 1)},
        {"size": (1, 1, 1), "direction": (2, 0, 0, 0, 1, 0, 0, 0, 1)},
    ],
)
def test_grids_that_make_no_sense_are_refused(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(GeometryError):
        Geometry(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("codes", ["LLS", "XYZ", "LP", ""])
def test_words_that_are_no_orientation(codes: str) -> None:
    with pytest.raises(GeometryError):
        reorientation(oblique(), codes)


def test_a_singular_affine_is_refused() -> None:
    with pytest.raises(GeometryError, match="singular"):
        Geometry.from_affine((1, 1, 1), np.zeros((4, 4)))


def test_json_round_trip() -> None:
    assert Geometry(**oblique().to_dict()) == oblique()
