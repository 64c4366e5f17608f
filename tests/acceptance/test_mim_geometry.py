"""From the image to the contours on it, through the built zip and our server: not one voxel is elsewhere, and left is left.

What has to be inside is computed from places in the patient (`expected`), or by another way to the server: a file and the Python client.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from delineate.client import Client
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.testing.mimhost import MULTIPLIERS, HostImage, tilted
from delineate.testing.phantoms import chest_ct, chest_ct_on
from delineate.volume import Volume

GRID = Geometry((11, 9, 7), (2.5, 1.9, 5.2), (-10.25, 41.5, -903.0))
POINT = (3.137, 47.213, -889.391)  # of the model ``places``
Expected = Callable[..., np.ndarray]


def turned(geometry: Geometry, columns: tuple[int, int, int], signs: tuple[int, int, int]) -> Geometry:
    """A grid of the same middle whose x, y, z indices grow along other axes of it, or against them; sizes and spacings stay."""
    matrix = np.array(geometry.direction).reshape(3, 3)[:, list(columns)] * signs
    half = (np.array(geometry.size) - 1) / 2
    old = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing)
    middle = np.array(geometry.origin) + old @ half
    origin = middle - (matrix * np.array(geometry.spacing)) @ half
    return Geometry(geometry.size, geometry.spacing, tuple(origin), tuple(matrix.ravel()))


def space(kind: str, rise: str, geometry: Geometry = GRID) -> Geometry:
    """A grid for a row of the matrix; `rise`: whether the slices go up or down."""
    up = 1 if rise == "up" else -1
    if kind == "straight":
        return turned(geometry, (0, 1, 2), (1, 1, up))
    if kind == "flipped":
        return turned(geometry, (0, 1, 2), (-1, -1, up))
    if kind == "mirrored":
        return turned(geometry, (0, 1, 2), (-1, 1, up))
    if kind == "sagittal":
        return turned(geometry, (1, 2, 0), (1, -1, up))
    return tilted(turned(geometry, (0, 1, 2), (1, 1, up)))


KINDS = ("straight", "flipped", "mirrored", "sagittal", "oblique")


def counts(kind: str) -> tuple[int, ...]:
    """Numbers of images: all for the spaces that are usual, two for the rarer ones, to stay quick."""
    return (1, 3) if kind in ("mirrored", "sagittal") else (1, 2, 3, 4)


def differing(image: HostImage, expected: Expected, wanted: dict[str, Callable[..., np.ndarray]]) -> dict[str, int]:
    """Voxels that are not as they should be, by structure; a structure that should hold nothing has no contour."""
    masks = {name: expected(image, inside) for name, inside in wanted.items()}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    assert set(image.names) == set(masks)
    return {name: int(np.count_nonzero(image.contour(name).mask != mask)) for name, mask in masks.items()}


def pattern(size: tuple[int, int, int]) -> dict[str, Callable[..., np.ndarray]]:
    """What the model ``index-pattern`` says of an image of that size."""
    low = [max(1, n // 3) for n in size]
    return {
        "X_low": lambda i, _: i[:, 0] < low[0],
        "X_high_Y_low": lambda i, _: (i[:, 0] >= low[0]) & (i[:, 1] < low[1]),
        "X_high_Y_high_Z_low": lambda i, _: (i[:, 0] >= low[0]) & (i[:, 1] >= low[1]) & (i[:, 2] < low[2]),
        "Odd": lambda i, _: i.sum(axis=1) % 2 == 1,
    }


PLACES: dict[str, Callable[..., np.ndarray]] = {
    "Left": lambda _, centre: centre[:, 0] > POINT[0],
    "Posterior": lambda _, centre: centre[:, 1] > POINT[1],
    "Superior": lambda _, centre: centre[:, 2] > POINT[2],
}
NAMES = ["DelineateImages", "Delineate2Images", "Delineate3Images", "Delineate4Images"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_an_index_pattern_comes_back_where_it_was(make_bench: Any, expected: Expected, multiplier: tuple[int, int, int], kind: str) -> None:
    bench = make_bench(multiplier=multiplier)
    for rise, count in itertools.product(("up", "down"), counts(kind)):
        images = [bench.host.image(space(kind, rise)) for _ in range(count)]
        bench.run(NAMES[count - 1], *images, "index-pattern", bench.ours, 30)
        found = differing(images[0], expected, pattern(GRID.size))
        assert found == dict.fromkeys(pattern(GRID.size), 0), f"{rise}, {count} images"
        assert not any(image.contours for image in images[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_a_model_that_wants_true_places_is_given_them(
    make_bench: Any, expected: Expected, multiplier: tuple[int, int, int], kind: str
) -> None:
    """Other images are on grids of their own, and do not shift those of the first."""
    bench = make_bench(multiplier=multiplier, dicom_center="zero", iop="identity")
    others = [space("oblique", "down"), Geometry((9, 8, 7), (3.0, 2.0, 1.0)), space("sagittal", "up")]
    for rise, count in itertools.product(("up", "down"), counts(kind)):
        images = [bench.host.image(space(kind, rise)), *(bench.host.image(other) for other in others[: count - 1])]
        bench.run(NAMES[count - 1], *images, "places", bench.ours, 30)
        assert differing(images[0], expected, PLACES) == dict.fromkeys(PLACES, 0), f"{rise}, {count} images"
        assert not any(image.contours for image in images[1:])


@pytest.mark.parametrize("multiplier", [*MULTIPLIERS, (2, 1, 3)])
@pytest.mark.parametrize("rise", ["up", "down"])
def test_an_old_model_answers_on_the_grid_of_contours(make_bench: Any, multiplier: tuple[int, int, int], rise: str) -> None:
    """Its header says spacing 1 and origin 0; index and size count."""
    bench = make_bench(multiplier=multiplier)
    image = bench.host.image(space("oblique", rise))
    bench.run("DelineateImages", image, "fine-pattern", bench.ours, 30)
    z, y, x = np.indices(image.contour_geometry.shape)
    labels = 1 + (x % 7 == 3) + 2 * ((y % 5 == 2) ^ (z % 3 == 1))
    for label, name in enumerate("ABCD", start=1):
        assert np.count_nonzero(image.contour(name).mask != (labels == label)) == 0


# ------------------------------------------------------------ lungs

SIZE, SPACING = (52, 46, 36), (7.8, 7.9, 9.2)


@lru_cache
def chest(kind: str, rise: str) -> tuple[Volume, Segmentation]:
    """A chest on a grid of the matrix, as a scanner stores it, and the truth."""
    straight = chest_ct(SIZE, SPACING).volume.geometry
    phantom = chest_ct_on(space(kind, rise, straight))
    volume = dataclasses.replace(phantom.volume, voxels=phantom.volume.voxels + np.int16(1024), intercept=-1024.0)
    return volume, phantom.segmentation


CELLS = [
    ("straight", "up", (1, 1, 1)), ("straight", "down", (2, 2, 1)), ("oblique", "up", (2, 3, 1)), ("oblique", "down", (4, 4, 1)),
    ("flipped", "up", (4, 4, 1)), ("flipped", "down", (2, 3, 1)), ("mirrored", "up", (2, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rise", "multiplier"), CELLS)
def test_lungs_are_where_the_client_finds_them_and_left_is_left(
    make_bench: Any, expected: Expected, kind: str, rise: str, multiplier: tuple[int, int, int]
) -> None:
    bench = make_bench(multiplier=multiplier)
    volume, truth = chest(kind, rise)
    image = bench.host.image_from_volume(volume)
    bench.run("DelineateImages", image, "lungs-ct", bench.ours, 60)
    with Client(bench.ours) as client:
        elsewhere = client.segment(volume, "lungs-ct")
    masks = {name: elsewhere.mask(name) for name in elsewhere.names}
    wanted = {name: lambda index, _, mask=mask: mask[tuple(index.T[::-1])] for name, mask in masks.items()}
    assert differing(image, expected, wanted) == {"Lung_L": 0, "Lung_R": 0}
    for name in ("Lung_L", "Lung_R"):
        real = expected(image, lambda index, _, name=name: truth.mask(name)[tuple(index.T[::-1])])
        found = image.contour(name).mask
        assert 2 * np.count_nonzero(real & found) > 0.85 * (np.count_nonzero(real) + np.count_nonzero(found))
    assert middle(image, "Lung_L")[0] > middle(image, "Lung_R")[0] + 80, "the patient's left is where x grows, LPS"


def middle(image: HostImage, name: str) -> np.ndarray:
    """Of a contour, LPS mm."""
    found: np.ndarray = np.stack(np.nonzero(image.contour(name).mask)[::-1]).mean(axis=1)
    place = image.volume.geometry
    axes = np.array(place.direction).reshape(3, 3) * np.array(place.spacing)
    result: np.ndarray = np.array(place.origin) + axes @ ((found + 0.5) / np.array(image.multiplier) - 0.5)
    return result
