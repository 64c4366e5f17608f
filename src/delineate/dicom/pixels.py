"""From files to planes of stored values: where they are native, straight into the array; where compressed, by pydicom's decoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, BinaryIO, Final

import numpy as np

from delineate.dicom.codestream import require_sizes
from delineate.dicom.header import AGAIN, NATIVE, Header, inflate
from delineate.dicom.parts import pydicom
from delineate.dicom.pixel_format import PixelFormat
from delineate.errors import ImageError, MissingPartError

LARGEST: Final = 1 << 36  # bytes of one image
_INFLATED: Final = 1 << 31  # bytes of one deflated file
_SAY: Final = "Export the series again, uncompressed."
_FASTEST: Final = dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "pyjpegls")  # of several decoders, by syntax


def format_of(header: Header) -> PixelFormat:
    """How the pixels of a file are stored.

    Raises
    ------
    ImageError
        An attribute is missing or makes no sense, or the file ends before its last pixel; names file and attribute.
    """
    found: dict[str, int] = {}
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"):
        value = header.short(name)
        if value is None:
            raise ImageError(f"{header.name} has no {name}", AGAIN)
        found[name] = value
    rows, columns, allocated, stored, signed = found.values()
    high = header.short("HighBit")
    high = stored - 1 if high is None else high
    if not rows or not columns:
        raise ImageError(f"{header.name} has no pixels: Rows {rows}, Columns {columns}", AGAIN)
    if allocated not in (8, 16, 32):
        raise ImageError(f"BitsAllocated of {header.name} is {allocated}; 8, 16 and 32 are read", _SAY)
    if not 1 <= stored <= high + 1 <= allocated or signed > 1:
        words = f"BitsStored {stored}, HighBit {high}, BitsAllocated {allocated}, PixelRepresentation {signed}"
        raise ImageError(f"the pixels of {header.name} make no sense: {words}", AGAIN)
    form = PixelFormat(rows, columns, allocated, stored, high, bool(signed))
    _require_whole(header, form)
    return form


def _require_whole(header: Header, form: PixelFormat) -> None:
    if header.syntax not in NATIVE:
        return
    needed = form.plane_bytes * header.frames
    if header.length < 0:
        raise ImageError(f"PixelData of {header.name} is in fragments, which its TransferSyntaxUID does not allow", AGAIN)
    if header.length < needed:
        raise ImageError(f"PixelData of {header.name} has {header.length} bytes instead of {needed} (Rows, Columns, BitsAllocated)", AGAIN)
    missing = header.offset + needed - header.size
    if header.packed >= 0 and header.offset + needed > _INFLATED:
        raise ImageError(f"{header.name} inflates to more than {_INFLATED >> 30} GiB", _SAY)
    if header.packed < 0 and missing > 0:
        raise ImageError(f"{header.name} is cut off: {missing} bytes of its PixelData are missing", AGAIN)


def planes_of(frames: Sequence[tuple[Header, int]], form: PixelFormat, target: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Read frames, in any order of files.

    Parameters
    ----------
    frames : (file, frame from 0) of each plane
    form : of them all
    target : shape (planes, rows, columns), of `form.dtype`, to be filled; or (1, rows, columns), where a plane is used before
        the next one comes

    Yields
    ------
    (index, plane)
        Each plane of stored values, when it is there.

    Raises
    ------
    ImageError
        A file cannot be read or decoded; names it.
    """
    order = sorted(range(len(frames)), key=lambda index: (frames[index][0].name, frames[index][1]))
    for _, members in groupby(order, key=lambda index: id(frames[index][0])):
        indices = list(members)
        header = frames[indices[0]][0]
        numbers = [frames[index][1] for index in indices]
        places = [target[index if len(target) > 1 else 0] for index in indices]
        source = _native(header, numbers, places) if header.syntax in NATIVE else _decoded(header, form, numbers, places)
        for index, plane in zip(indices, source, strict=True):
            _settle_bits(plane, form)
            yield index, plane


def _native(header: Header, numbers: Sequence[int], places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    if header.packed >= 0:
        yield from _inflated(header, numbers, places)
        return
    try:
        with header.path.open("rb", buffering=0) as file:
            for number, plane in zip(numbers, places, strict=True):
                _fill(file, header, header.offset + number * plane.nbytes, plane)
                yield plane
    except OSError as error:
        raise ImageError(f"{header.name} cannot be read: {error.strerror}", "Check the file and its permissions.") from error


def _inflated(header: Header, numbers: Sequence[int], places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    size = places[0].nbytes
    needed = header.offset + (max(numbers) + 1) * size
    try:
        content = inflate(header.path.read_bytes()[header.packed :], header.name, needed)
    except OSError as error:
        raise ImageError(f"{header.name} cannot be read: {error.strerror}", "Check the file and its permissions.") from error
    if len(content) < needed:
        raise ImageError(f"{header.name} is cut off: {needed - len(content)} bytes of its PixelData are missing", AGAIN)
    for number, plane in zip(numbers, places, strict=True):
        plane.reshape(-1).view(np.uint8)[:] = np.frombuffer(content, np.uint8, size, header.offset + number * size)
        yield plane


def _fill(file: BinaryIO, header: Header, start: int, plane: np.ndarray) -> None:
    view = plane.reshape(-1).view(np.uint8).data
    file.seek(start)
    count = 0
    while count < len(view):
        got = file.readinto(view[count:])  # type: ignore[attr-defined]
        if not got:
            raise ImageError(f"{header.name} became shorter while it was read", AGAIN)
        count += got
    if header.order == ">":
        plane.byteswap(inplace=True)


def _decoded(header: Header, form: PixelFormat, numbers: Sequence[int], places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    library = pydicom()
    try:
        require_sizes(header, form)
        chosen = numbers if header.frames > 1 else None
        for plane, found in zip(places, _frames(library, header, chosen), strict=True):
            plane[...] = _fitting(found, plane, header)
            yield plane
    except ImageError:
        raise
    except BaseException as error:  # what decoders make of damaged fragments is anything, a panic of Rust's too
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        syntax = library.uid.UID(header.syntax)
        if not _is_decodable(library, syntax):
            raise MissingPartError(f"a decoder of {syntax.name}", "dicom") from error
        raise ImageError(f"the PixelData of {header.name} cannot be decoded ({syntax.name})", _SAY) from error


def _frames(library: Any, header: Header, chosen: Sequence[int] | None) -> Iterator[np.ndarray]:
    """By the fastest decoder there is; by whichever can, where that one fails at once."""
    plugin = _FASTEST.get(header.syntax, "")
    if plugin and plugin not in library.pixels.get_decoder(header.syntax).available_plugins:
        plugin = ""
    is_begun = False
    try:
        for frame in library.pixels.iter_pixels(header.path, raw=True, indices=chosen, decoding_plugin=plugin):
            is_begun = True
            yield frame
    except Exception:
        if is_begun or not plugin:
            raise
        yield from library.pixels.iter_pixels(header.path, raw=True, indices=chosen)


def _is_decodable(library: Any, syntax: Any) -> bool:
    try:
        return bool(library.pixels.get_decoder(syntax).is_available)
    except NotImplementedError:
        return True  # nobody decodes it: nothing is missing that could be installed


def _fitting(found: np.ndarray, plane: np.ndarray, header: Header) -> np.ndarray:
    """A decoded frame, if it is what the header says."""
    if found.shape != plane.shape:
        words = " x ".join(str(length) for length in reversed(found.shape))
        raise ImageError(f"the PixelData of {header.name} decodes to {words} pixels instead of Columns x Rows", AGAIN)
    if found.dtype.itemsize > plane.dtype.itemsize:
        raise ImageError(f"the PixelData of {header.name} decodes to more bits than BitsAllocated", AGAIN)
    return found


def _settle_bits(plane: np.ndarray, form: PixelFormat) -> None:
    """Remove what stands in bits that are not the value's, such as overlays, and extend the sign (PS3.5, 8.1.1)."""
    if form.stored == form.allocated:
        return
    down = form.high + 1 - form.stored
    if form.is_signed:
        limit = 1 << (form.stored - 1)
        if down or int(plane.max()) >= limit or int(plane.min()) < -limit:
            np.left_shift(plane, form.allocated - 1 - form.high, out=plane)
            np.right_shift(plane, form.allocated - form.stored, out=plane)
    elif down or int(plane.max()) >> form.stored:
        np.right_shift(plane, down, out=plane)
        np.bitwise_and(plane, plane.dtype.type((1 << form.stored) - 1), out=plane)
