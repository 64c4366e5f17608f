"""Small images whose values say where they are, and shapes that trip contour code."""

from __future__ import annotations

import numpy as np

from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.volume import Volume


def index_pattern(geometry: Geometry) -> Volume:
    """An image whose every value names its own index: ``x + 1000 * y + 1000000 * z`` (int32).

    Sizes up to 1000 along x and y and 2000 along z.
    """
    nx, ny, nz = geometry.size
    if nx > 1000 or ny > 1000 or nz > 2000:
        raise ValueError(f"an index pattern holds 1000 x 1000 x 2000 voxels, not {geometry.size}")
    z, y, x = np.ogrid[:nz, :ny, :nx]
    return Volume((x + 1000 * y + 1_000_000 * z).astype(np.int32), geometry)


def ring(geometry: Geometry, hole: bool = True) -> Segmentation:
    """One structure `Ring` about the grid's middle, elliptic in the x-y plane; with `hole` also `Core` inside it."""
    q = _radius(geometry)
    masks = {"Ring": (q <= 0.85) & (q > 0.45)}
    if hole:
        masks["Core"] = q <= 0.25
    return Segmentation.from_masks(masks, geometry)


def nested_shapes(geometry: Geometry) -> Segmentation:
    """`Outer` holds `Middle` holds `Inner`: all overlap, so three layers; `Inner` lies off the middle, to +x, +y, +z."""
    nx, ny, nz = geometry.size
    q = _radius(geometry)
    z, y, x = np.ogrid[:nz, :ny, :nx]
    corner = (x >= nx // 2) & (y >= ny // 2) & (z >= nz // 2)
    return Segmentation.from_masks({"Outer": q <= 0.95, "Middle": q <= 0.7, "Inner": (q <= 0.5) & corner}, geometry)


def _radius(geometry: Geometry) -> np.ndarray:
    """Distance from the middle as a share of the half size; the first and last slices are cut flat."""
    nx, ny, nz = geometry.size
    z, y, x = np.ogrid[:nz, :ny, :nx]
    u, v, w = (2 * (i + 0.5) / n - 1 for i, n in ((x, nx), (y, ny), (z, nz)))
    result: np.ndarray = np.sqrt(u**2 + v**2 + (0.6 * w) ** 2)
    return result
