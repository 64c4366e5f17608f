"""What a datastore tells of its images and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One image as it is now.

    Parameters
    ----------
    id : what callers know it by; no two images of a datastore share one, and it is never a path.
    extension : of the file, such as ``.nii.gz``; empty for a series.
    path : absolute; the file, or the folder of a DICOM series.
    is_series : whether `path` is such a folder.
    size : bytes, of all files of a series.
    mtime : Unix seconds, when the file was last written.
    version : counted from 1; grows when the image is replaced.
    added, who : Unix seconds, and who uploaded this version; empty for a file that was found.
    info : what callers keep with the image; ``ts`` and ``name`` are always there.
    """

    id: str
    extension: str
    path: Path
    is_series: bool
    size: int
    mtime: float
    version: int
    added: float
    who: str
    info: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRecord:
    """One version of a label.

    Parameters
    ----------
    image, tag : whose label it is, and of which kind: ``final``, ``original`` or any other.
    version : counted from 1 for each image and tag, anew after the label was removed.
    extension, path, size : of the file; the path of an old version leads into the kept files, None where it is lost.
    is_current : whether this is the label now, or an older version of it.
    at, who : Unix seconds, and who saved it; empty for a file that was found.
    image_version : the version of the image on which it was drawn.
    info : what callers keep with the label; ``ts`` and ``name`` are always there.
    """

    image: str
    tag: str
    version: int
    extension: str
    path: Path | None
    size: int
    is_current: bool
    at: float
    who: str
    image_version: int
    info: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageVersion:
    """One version of an image; `path` is None where its content is lost, because somebody wrote over it in the folder."""

    version: int
    extension: str
    path: Path | None
    size: int
    at: float
    who: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """Who has an image to label, until when (Unix seconds); a label of that tag ends it."""

    image: str
    holder: str
    strategy: str
    tag: str
    expires: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The image to label next, its lease, and the weight with which it was chosen where the strategy has weights."""

    image: ImageRecord
    lease: Lease
    weight: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """How many images, how many of them with a final label, how many labels of each tag."""

    total: int
    completed: int
    label_tags: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatastoreEvent:
    """One thing that happened to an image or a label (then with its tag); events outlive both."""

    id: int
    image: str
    tag: str
    version: int
    at: float
    kind: str
    who: str
