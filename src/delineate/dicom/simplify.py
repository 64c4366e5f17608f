"""Contours with fewer points, for whoever asks for them: no point that is left out is farther than a tolerance from what stays.

The rule of Douglas and Peucker, on closed contours from their first point and the one farthest from it. What is read back
is no longer the same voxels; where a contour is narrower than the tolerance its sides may cross.
"""

from __future__ import annotations

import numpy as np

_LEAST = 3


def simplified(starts: np.ndarray, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Fewer points of each contour, at least three.

    starts : int, shape (contours + 1,); points : float64, shape (points, 3), mm; tolerance : mm

    Returns
    -------
    starts, points : of the same form
    """
    kept = np.zeros(len(points), dtype=bool)
    for first, after in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        chosen = _kept(points[first:after], tolerance)
        kept[first:after] = chosen if np.count_nonzero(chosen) >= _LEAST else True
    sizes = np.add.reduceat(kept.astype(np.int64), starts[:-1]) if len(starts) > 1 else np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(sizes)]), points[kept]


def _kept(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Which points of one closed contour stay."""
    closed = np.concatenate([points, points[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    farthest = int(np.linalg.norm(points - points[0], axis=1).argmax())
    kept[[0, farthest, -1]] = True
    parts = [(0, farthest), (farthest, len(points))]
    while parts:
        first, last = parts.pop()
        if last - first < 2:
            continue
        away = _distances(closed[first + 1 : last], closed[first], closed[last])
        most = int(away.argmax())
        if away[most] > tolerance:
            middle = first + 1 + most
            kept[middle] = True
            parts += [(first, middle), (middle, last)]
    return kept[:-1]


def _distances(points: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From each point to the straight line between two others, not beyond its ends."""
    along = end - begin
    length = float(along @ along)
    part = np.clip((points - begin) @ along / length, 0, 1) if length else np.zeros(len(points))
    distances: np.ndarray = np.linalg.norm(points - begin - part[:, None] * along, axis=1)
    return distances
