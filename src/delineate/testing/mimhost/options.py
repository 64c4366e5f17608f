"""How the fake host behaves where nothing is known of the true one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "contours": ("live", "snapshot", "fail-fast"),
    "masks": ("uint8", "int8"),
    "vectors": ("java", "list"),
    "dicom_center": ("first-voxel", "first-corner", "middle", "ras", "noxel", "zero"),
    "iop": ("rows-columns", "columns-rows", "matrix", "identity"),
    "nox_size": ("mm", "voxels"),
    "numbers": ("text", "number"),
    "reads": ("at-once", "late"),
    "keep": ("all", "digest", "count"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may differ from one workstation to another; an extension should do with each.

    Parameters
    ----------
    contours :
        What ``getContours()`` gives: the ``live`` list, in which additions and deletions show while one iterates, a
        ``snapshot``, or a live one that throws ConcurrentModificationException then (``fail-fast``).
    masks : dtype of masks that are read.
    vectors : ``java``, arrays that are no lists, or ``list``.
    dicom_center, iop, nox_size : what ``getDicomCenter``, ``getIop`` and ``getNoxSize`` mean.
    numbers : whether numbers among the DICOM attributes are ``text``.
    reads : whether ``setFromNPArray`` reads the array ``at-once``, or ``late``: when the contour is next read.
    one_thread : whether only the thread that runs the entry point may call.
    keep :
        What is kept of voxels that are set: ``all``; a ``digest``, which shows changes; or a ``count`` of those inside, which
        costs next to nothing. What was not kept cannot be read back.
    """

    contours: str = "live"
    masks: str = "uint8"
    vectors: str = "java"
    dicom_center: str = "first-voxel"
    iop: str = "rows-columns"
    nox_size: str = "mm"
    numbers: str = "text"
    reads: str = "at-once"
    one_thread: bool = True
    keep: str = "all"

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name in CHOICES and value not in CHOICES[field.name]:
                raise ValueError(f"{field.name} is one of {', '.join(CHOICES[field.name])}, not {value!r}")
