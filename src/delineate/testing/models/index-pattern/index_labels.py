"""The pattern of the toy model ``index-pattern``."""

from __future__ import annotations

import numpy as np


def octants(shape: tuple[int, int, int]) -> np.ndarray:
    """Label map of shape (z, y, x): 1 in the third of low x, else 2 in that of low y, else 3 in that of low z, else 0."""
    labels = np.zeros(shape, dtype=np.uint8)
    low = [max(1, n // 3) for n in shape]
    labels[: low[0]] = 3
    labels[:, : low[1]] = 2
    labels[:, :, : low[2]] = 1
    return labels


def parity(shape: tuple[int, int, int]) -> np.ndarray:
    """Label map of shape (z, y, x): 1 where the sum of the indices is odd."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return np.asarray((z + y + x) % 2, dtype=np.uint8)
