"""A walk over the elements of a data set in memory (PS3.5, chapter 7): where values begin and end, none decoded.

Contours are a hundred thousand elements; a library makes an object of each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from delineate.dicom.header import LONG, SHORT, UNDEFINED, after_item, after_sequence

_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_END: Final = 8  # bytes of a mark at the end of what has no length


class Element(NamedTuple):
    """Where the value of an element is, whether types stand within, and where the next element begins."""

    tag: int
    begin: int
    end: int
    is_explicit: bool
    after: int


class DataSet:
    """Bytes of a data set, or of a part of one.

    What is no data set raises `struct.error` or `ValueError` on the way.
    """

    def __init__(self, data: bytes, order: str = "<") -> None:
        self.data = data
        self._order = order
        self.is_little = order == "<"
        self._head = struct.Struct(order + "HHI").unpack_from
        self._typed = struct.Struct(order + "HH2sH").unpack_from
        self._wide = struct.Struct(order + "I").unpack_from

    def elements(self, at: int, end: int, is_explicit: bool) -> Iterator[Element]:
        """The elements in a range, sequences as one element each."""
        while at < end:
            if not is_explicit:  # most of what there is: a third of the time
                group, element, length = self._head(self.data, at)
                after = at + _END + length
                if after <= end and group != 0xFFFE:
                    yield Element(group << 16 | element, at + _END, after, False, after)
                    at = after
                    continue
            found = self._element(at, end, is_explicit)
            if found is None:
                return
            yield found
            at = found.after

    def _element(self, at: int, end: int, is_explicit: bool) -> Element | None:
        inner = is_explicit
        if is_explicit:
            group, element, vr, length = self._typed(self.data, at)
            if vr in LONG:
                (length,) = self._wide(self.data, at + 8)
                at += 4
                inner = vr != b"UN"  # what nobody knew the type of stays implicit (PS3.5, 6.2.2)
            elif vr not in SHORT and group != 0xFFFE:
                raise ValueError("no value representation")
        else:
            group, element, length = self._head(self.data, at)
        at += 8
        tag = group << 16 | element
        if tag in (_ITEM_END, _SEQUENCE_END):
            return None
        if length == UNDEFINED:
            after = after_sequence(self.data, at, self._order, inner, 0)
            return Element(tag, at, after - _END, inner, after)
        if at + length > end:
            raise ValueError("a value ends beyond what it is in")
        return Element(tag, at, at + length, inner, at + length)

    def items(self, sequence: Element) -> Iterator[tuple[int, int, bool]]:
        """The items of a sequence: where their elements begin and end, and whether types stand in them."""
        at, end, is_explicit = sequence.begin, sequence.end, sequence.is_explicit
        while at + _END <= end:
            group, element, length = self._head(self.data, at)
            tag = group << 16 | element
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise ValueError("no item in a sequence")
            at += _END
            after = at + length if length != UNDEFINED else after_item(self.data, at, self._order, is_explicit, 0)
            if after > end:
                raise ValueError("an item ends beyond its sequence")
            yield at, after if length != UNDEFINED else after - _END, is_explicit
            at = after
