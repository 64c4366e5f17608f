"""DICOM attributes as the workstation hands them out, full of a patient's data that must not leave it."""

from __future__ import annotations

import datetime
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from delineate.testing.mimhost.calls import HostObject, JavaVector, host_call

PATIENT: Final = "PlantedPatient^Erika"
PLANTED: Final = (PATIENT, "PLANTED-ID-4711", "PlantedStreet 12", "1.2.826.0.1.3680043.99.4711", "Mar 17 00:00:00 UTC 1942", "PlantedImage")
"""Every one of these tells who the patient is."""
RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00281052, 0x00281053


def attributes(modality: str, slope: float, intercept: float, number: int) -> dict[int, Any]:
    """DICOM attributes of image `number` of the planted patient, tag → value; a list has several values, a dict is a sequence."""
    uid = PLANTED[3]
    return {
        0x00080008: ["ORIGINAL", "PRIMARY", "AXIAL"],
        0x00080018: f"{uid}.{number}.1",
        0x00080060: modality,
        0x00080090: "PlantedPatient^Referrer, mentioned by " + PATIENT,
        0x00081140: {0x00081155: uid},
        0x00100010: PATIENT,
        0x00100020: PLANTED[1],
        0x00100030: datetime.date(1942, 3, 17),
        0x00101040: PLANTED[2],
        0x0020000D: uid,
        0x0020000E: f"{uid}.{number}",
        0x00200032: [-12.5, 20.0, 7.25],
        0x00200037: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        0x00280030: [1.0, 2.0],
        RESCALE_INTERCEPT: intercept,
        RESCALE_SLOPE: slope,
    }


class JavaValue:
    """An object of Java that is no text and no number; ``str`` of it is all that can be done with it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "<java object>"


class XMimDicomInfo(HostObject):
    """Attributes of one slice: the first value of each, dates as Java writes them, sequences as objects."""

    __slots__ = ()

    @host_call
    def getTags(self) -> JavaVector:  # noqa: D102, N802
        return JavaVector(list(self._kept[0]))

    @host_call
    def getValue(self, tag: int) -> Any:  # noqa: D102, N802
        if type(tag) is not int:
            self._ledger.refuse("java.lang.IllegalArgumentException", f"getValue takes the whole number of a tag, not {type(tag).__name__}")
        values, numbers = self._kept
        return _java(values.get(tag), numbers)


def _java(value: Any, numbers: str) -> Any:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, datetime.date):
        return JavaValue(value.strftime("%a %b %d 00:00:00 UTC %Y"))
    if isinstance(value, Mapping):
        return JavaValue(f"com.mimvista.external.series.XMimDicomSequence@{zlib.crc32(repr(sorted(value)).encode()):x}")
    if isinstance(value, float) and numbers == "text":
        return f"{value:g}"
    return value


def leaks(data: bytes, planted: tuple[str, ...] = PLANTED) -> list[str]:
    """What of `planted` is in `data`, in zips, tars and gzip streams within it too, in any letter case."""
    found = set()
    for piece in _pieces(data):
        low = piece.lower()
        for text in planted:
            if any(text.lower().encode(code) in low for code in ("utf-8", "utf-16-le", "utf-16-be")):
                found.add(text)
    return [text for text in planted if text in found]


def _pieces(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from _pieces(gzip.decompress(data))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                yield entry.filename.encode()
                yield from _pieces(archive.read(entry))
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                content = tar.extractfile(member)
                yield from _pieces(content.read() if content else b"")
