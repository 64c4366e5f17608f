"""Millions of decimal strings (DS of PS3.5, 6.2) at once: millimetres with four decimals, and back.

A number is a table's entry of its integer part, with sign and point, and one of its decimals; blanks in between are dropped
in the end. Reading takes whatever a writer may write; the form that nearly all write goes through arithmetic on bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

DECIMALS: Final = 4
_ONE: Final = 10**DECIMALS
_LARGEST: Final = 10**5  # mm, of the fast way: what a patient is in
_ENTRY: Final = 8  # bytes: sign, five digits, point


def _words(texts: list[str], size: int, kind: str) -> np.ndarray:
    return np.frombuffer(b"".join(text.encode().rjust(size, b"\0") for text in texts), dtype=kind)


class Writer:
    """Writes points; its tables are made once.

    decimals : four suffice for pixels of 0.02 mm and more; others are written one by one.
    """

    def __init__(self, decimals: int = DECIMALS) -> None:
        self._decimals = decimals
        self._whole: dict[int, np.ndarray] = {}
        self._parts = _words([f"{part:04d}" for part in range(_ONE)], 4, "<u4")

    def lists(self, points: np.ndarray, starts: np.ndarray) -> list[bytes]:
        """For each polygon the coordinates of its points, x, y, z one after the other, parted by backslashes.

        points : float64, shape (points, 3), mm; starts : int, shape (polygons + 1,), where each polygon's points begin
        """
        scaled = np.rint(points.reshape(-1) * _ONE)
        if self._decimals != DECIMALS or np.abs(scaled).max(initial=0.0) >= _LARGEST * _ONE:
            return [_slowly(points[a:b], self._decimals) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        whole, parts, is_below = self._split(scaled)
        rows = np.zeros(len(scaled), dtype=[("whole", "<u8"), ("parts", "<u4"), ("end", "u1")])
        rows["whole"] = self._table(int(whole.max(initial=0))).take(whole * 2 + is_below)
        rows["parts"] = self._parts.take(parts)
        rows["end"] = ord("\\")
        each = rows.view(np.uint8).reshape(len(rows), -1)
        text = each[each != 0].tobytes()
        lengths = np.count_nonzero(each[:, :_ENTRY], axis=1) + 5
        ends = np.concatenate([[0], np.cumsum(lengths)])[3 * starts]
        return [text[a : b - 1] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]

    @staticmethod
    def _split(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers = scaled.astype(np.int32)
        is_below = numbers < 0
        np.abs(numbers, out=numbers)
        whole = numbers // np.int32(_ONE)
        return whole, numbers - whole * np.int32(_ONE), is_below

    def _table(self, highest: int) -> np.ndarray:
        size = 1 << max(highest, 1023).bit_length()
        if size not in self._whole:
            self._whole[size] = _words([f"{sign}{n}." for n in range(size) for sign in ("", "-")], _ENTRY, "<u8")
        return self._whole[size]


def decimals_for(spacing: float) -> int:
    """How many decimals place a point within a hundredth of the hundredth of a pixel that contours are drawn in by."""
    return int(np.clip(np.ceil(3.7 - np.log10(spacing)), DECIMALS, 9)) if spacing < 0.02 else DECIMALS


def _slowly(points: np.ndarray, decimals: int) -> bytes:
    return "\\".join(_decimal(value, decimals) for value in points.reshape(-1).tolist()).encode()


def _decimal(value: float, decimals: int) -> str:
    """At most 16 characters."""
    text = f"{value:.{decimals}f}"
    return text if len(text) <= 16 else f"{value:.8e}"


def read_numbers(text: bytes) -> np.ndarray:
    """Numbers parted by backslashes, float64; what is no number is NaN."""
    try:
        return np.array(text.split(b"\\"), dtype=np.bytes_).astype(np.float64)
    except ValueError:
        return np.array([_number(part) for part in text.split(b"\\")])


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
