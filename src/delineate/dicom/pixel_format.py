"""How the pixels of a plane are stored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PixelFormat(NamedTuple):
    """How one plane is stored."""

    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    is_signed: bool

    @property
    def dtype(self) -> np.dtype:
        """Of stored values in memory."""
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.allocated // 8}")

    @property
    def plane_bytes(self) -> int:
        """Of one frame."""
        return self.rows * self.columns * self.allocated // 8
