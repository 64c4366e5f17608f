"""A coarse copy of an image to decide on, and the way back to the image's own voxels.

What a structure *is* needs some millimetres; where its border runs needs the full grid. So the models look for
structures on blocks of about three millimetres and draw the border on the voxels that came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Mask: TypeAlias = npt.NDArray[np.bool_]
Values: TypeAlias = npt.NDArray[np.int16]
Triple: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Blocks:
    """How a grid is cut into blocks.

    shape, spacing : of the fine grid, (z, y, x), mm; factor : voxels per block along z, y, x.
    The last block of an axis may be smaller.
    """

    shape: tuple[int, ...]
    spacing: Triple
    factor: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], spacing: Triple, size: float) -> Blocks:
        """Blocks of about `size` mm, never finer than the voxels."""
        return cls(shape, spacing, tuple(max(1, round(size / s)) for s in spacing))

    @property
    def coarse(self) -> Triple:
        """Size of a block, mm, (z, y, x)."""
        z, y, x = (s * f for s, f in zip(self.spacing, self.factor, strict=True))
        return (z, y, x)

    def mean(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Mean of each block."""
        result: npt.NDArray[Any] = values
        # Whole slices first: they are added fastest and leave less for the rest.
        for axis in range(3):
            step, length = self.factor[axis], self.shape[axis]
            if step == 1:
                continue
            shape = list(result.shape)
            shape[axis] = -(-length // step)
            total = np.zeros(shape, dtype=np.float32)
            for first in range(min(step, length)):
                part = result[tuple(slice(first, None, step) if a == axis else slice(None) for a in range(3))]
                total[tuple(slice(part.shape[a]) for a in range(3))] += part
            share = np.minimum(step, length - np.arange(0, length, step)).astype(np.float32)
            total /= share.reshape([-1 if a == axis else 1 for a in range(3)])
            result = total
        return result.astype(np.float32, copy=False)

    def spread(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Each block's value in each of its voxels."""
        for axis in range(3):
            if self.factor[axis] > 1:
                array = np.take(array, np.arange(self.shape[axis]) // self.factor[axis], axis=axis)
        return array
