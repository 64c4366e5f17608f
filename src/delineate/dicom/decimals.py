"""Millions of decimal strings (DS of PS3.5, 6.2) at once: millimetres with four decimals, and back.

A number is a table's entry of its integer part, with sign and point, and one of its decimals; blanks in between are dropped
in the end. Reading takes whatever a writer may write; the form that nearly all write goes through arithmetic on bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

DECIMALS: Final = 4
_ONE: Final = 10**DECIMALS
_LARGEST: Final = 10**5  # mm, of the fast way: what a patient is in
_ENTRY: Final = 8  # bytes: sign, five digits, point

_AT_ONCE: Final = 1 << 16  # numbers: what is made of them stays in the cache
_PAD: Final = b"\0" * 16
_EXACT: Final = 15  # digits that a number holds
_POWERS: Final = 10.0 ** np.arange(9)


def _words(texts: list[str], size: int, kind: str) -> np.ndarray:
    return np.frombuffer(b"".join(text.encode().rjust(size, b"\0") for text in texts), dtype=kind)


class Writer:
    """Writes points; its tables are made once.

    decimals : four suffice for pixels of 0.02 mm and more; others are written one by one.
    """

    def __init__(self, decimals: int = DECIMALS) -> None:
        self._decimals = decimals
        self._whole: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._parts = _words([f"{part:04d}" for part in range(_ONE)], 4, "<u4")

    def lists(self, points: np.ndarray, starts: np.ndarray) -> list[bytes]:
        """For each polygon the coordinates of its points, x, y, z one after the other, parted by backslashes.

        points : float64, shape (points, 3), mm; starts : int, shape (polygons + 1,), where each polygon's points begin
        """
        scaled = np.rint(points.reshape(-1) * _ONE)
        if self._decimals != DECIMALS or np.abs(scaled).max(initial=0.0) >= _LARGEST * _ONE:
            return [_slowly(points[a:b], self._decimals) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        whole, parts, is_below = self._split(scaled)
        entries, sizes = self._table(int(whole.max(initial=0)))
        number = whole * 2 + is_below
        rows = np.empty(len(scaled), dtype=[("whole", "<u8"), ("parts", "<u4"), ("end", "u1")])
        rows["whole"] = entries.take(number)
        rows["parts"] = self._parts.take(parts)
        rows["end"] = ord("\\")
        each = rows.view(np.uint8).reshape(len(rows), -1)
        text = each[each != 0].tobytes()
        ends = np.concatenate([[0], np.cumsum(sizes.take(number), dtype=np.int64)])[3 * starts]
        return [text[a : b - 1] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]

    @staticmethod
    def _split(scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers = scaled.astype(np.int32)
        is_below = numbers < 0
        np.abs(numbers, out=numbers)
        whole = numbers // np.int32(_ONE)
        return whole, numbers - whole * np.int32(_ONE), is_below

    def _table(self, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """Entries of whole numbers, of those below zero after each, and how long a number with such an entry is, its end included."""
        size = 1 << max(highest, 1023).bit_length()
        if size not in self._whole:
            texts = [f"{sign}{n}." for n in range(size) for sign in ("", "-")]
            lengths = np.array([len(text) + DECIMALS + 1 for text in texts], dtype=np.uint8)
            self._whole[size] = _words(texts, _ENTRY, "<u8"), lengths
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


def read_numbers(texts: Sequence[bytes]) -> np.ndarray:
    """The numbers of lists that are parted by backslashes, all in one array, float64; what is no number is NaN."""
    text = b"\\".join((_PAD, *texts, _PAD))
    padded = np.frombuffer(text, np.uint8)
    words = np.ndarray((len(padded) - 7,), "<u8", padded, 0, (1,))  # eight bytes from every place on
    ends = np.flatnonzero(padded == ord("\\"))
    begins, ends = ends[:-1] + 1, ends[1:]
    result = np.empty(len(ends))
    for first in range(0, len(ends), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        numbers = _quickly(padded, words, begins[part], ends[part])
        if numbers is None:
            last = min(first + _AT_ONCE, len(ends)) - 1
            numbers = _carefully(text[begins[first] : ends[last]].split(b"\\"))
        result[part] = numbers
    return result


def _quickly(text: np.ndarray, words: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Numbers of digits around a point, at most eight on either side, with a sign or none; None where one is anything else."""
    points = _points(text, begins, ends)
    if points is None:
        return None
    is_signed = text.take(begins) == ord("-")
    whole, parts = points - begins - is_signed, ends - points - 1
    if min(whole.min(), parts.min()) < 0 or max(whole.max(), parts.max()) > 8:
        return None
    digits = whole + parts
    if digits.min() < 1 or digits.max() > _EXACT:
        return None
    before = _digits(words[points - 8], whole, True)
    behind = _digits(words[points + 1], parts, False)
    if before is None or behind is None:
        return None
    scale = _POWERS.take(parts)
    # Both are whole and exact, so that the quotient is the number nearest to the text.
    numbers: np.ndarray = (before * scale + behind) / scale
    np.negative(numbers, out=numbers, where=is_signed)
    return numbers


def _points(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
    """Where the point of each number is, None where one has none or several."""
    for decimals in (DECIMALS, 3, 2, 1):
        points = ends - decimals - 1
        if (text.take(points) == ord(".")).all():
            return points
    first = begins[0]
    points = np.flatnonzero(text[first : ends[-1]] == ord(".")) + first
    is_one_each = len(points) == len(begins) and bool(((points >= begins) & (points < ends)).all())
    return points if is_one_each else None


def _digits(words: np.ndarray, counts: np.ndarray, is_last: bool) -> np.ndarray | None:
    """The numbers that the last or the first digits of eight bytes are, None where one is no digit.

    Digits come to stand at the end of the word with zeros before them; then neighbours are added up, in twos, fours, eights.
    """
    unused = (np.uint64(64) - (counts.astype(np.uint64) << np.uint64(3))) & np.uint64(63)
    values = words ^ np.uint64(0x3030303030303030)
    if is_last:
        values >>= unused
    values <<= unused
    values[counts == 0] = 0
    if ((values + np.uint64(0x7676767676767676) | values) & np.uint64(0x8080808080808080)).any():
        return None
    values = values * np.uint64(10) + (values >> np.uint64(8))
    low = (values & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
    high = (values >> np.uint64(16) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
    numbers: np.ndarray = ((low + high) >> np.uint64(32)).astype(np.float64)
    return numbers


def _carefully(texts: list[bytes]) -> np.ndarray:
    return np.array([_number(text) for text in texts])


def _number(text: bytes) -> float:
    try:
        return float(text.strip(b" \0"))
    except ValueError:
        return float("nan")
