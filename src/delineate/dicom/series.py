"""What lies in a folder or a file: images, each a group of slices, and what is none, with the reason.

One folder may hold anything: several patients, series, scouts, captures, RT objects, an index, files of other formats.
Slices belong to one image where series, frame of reference, matrix, orientation and pixel spacing are the same; where
several then lie at one place, temporal position, echo and the like part them. Nothing is guessed: two images are two
groups, and whoever wants one of them says which.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from delineate.dicom.attributes import APART
from delineate.dicom.frames import frames_of
from delineate.dicom.header import Header, NotDicomError, read_header
from delineate.dicom.planes import Planes
from delineate.dicom.slices import LOCALISER, Slice, slice_of, why_not
from delineate.errors import ImageError

NOT_DICOM: Final = "not a DICOM file"
_GIVE: Final = "Give the files of one series of slices."
_PARALLEL: Final = 1e-3  # per cosine; written with few decimals
_SPACING: Final = 1e-4  # relative
_PLACE: Final = 1e-3  # mm; closer positions are one
_LISTED: Final = 20  # images named in one sentence
_COMPARED: Final = 64  # orientations of one series that another is held against; more than these are no stack's

# By what is in no file's header alone, and by what parts the frames of enhanced images.
_TRIED: Final = {"StackID": "stack", **APART, "InstanceNumber": "file"}


@dataclass(frozen=True)
class Skipped:
    """A file that is no slice of an image, below the folder that was looked at, and why; `error` where it may be a damaged one;
    series, kind : its Series Instance UID and SOP Class UID, where they were read."""

    name: str
    reason: str
    error: ImageError | None = None
    series: str = ""
    kind: str = ""

    def __str__(self) -> str:
        """In a sentence."""
        return str(self.error) if self.error is not None else f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The slices of one image, sorted along their normal; two may lie at one place.

    number : from 1 among what was found; apart : what parts it from others of its series, in words; notes : what is odd.
    """

    number: int = 0
    slices: tuple[Slice, ...]
    apart: str = ""
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> Header:
        """Of the first slice."""
        return self.slices[0].header

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.header.text("SeriesInstanceUID")

    @property
    def planes(self) -> Planes:
        """Where the slices lie."""
        first = self.slices[0]
        return Planes(
            (first.form.columns, first.form.rows),
            first.spacing,
            first.orientation,
            np.array([item.position for item in self.slices]),
            np.array([item.thickness for item in self.slices]),
            first.step or first.thickness or 1.0,
        )

    def __str__(self) -> str:
        """In words, without what could name a patient."""
        header, form = self.header, self.slices[0].form
        series = header.text("SeriesNumber")
        words = [header.text("Modality") or "image", f"{form.columns} x {form.rows}", _counted(len(self.slices), "slice")]
        return ", ".join(words + ([f"series number {series}"] if series else []) + ([self.apart] if self.apart else []))


@dataclass(frozen=True, eq=False)
class Found:
    """What a folder or file holds."""

    name: str
    groups: tuple[Group, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def one(self, choice: str = "") -> Group:
        """The one image there is, or the one of a number or Series Instance UID.

        Raises
        ------
        ImageError
            None, with the reasons; several, with a list of them.
        """
        groups = [group for group in self.groups if choice in ("", str(group.number), group.uid)]
        if len(groups) == 1:
            return groups[0]
        if not self.groups:
            raise self._none()
        listed = "; ".join(f"({group.number}) {group}" for group in self.groups[:_LISTED])
        listed += f" and {len(self.groups) - _LISTED} more" if self.groups[_LISTED:] else ""
        if not groups:
            raise ImageError(f"{self.name} has no image {choice!r}; there are {listed}", "Give one of these numbers.")
        advice = (
            "Say which by the number in brackets, not the series number (--series; series or choice in Python; dicom.series in a request), "
            "or give the files of one. `delineate dicom ls` shows more."
        )
        raise ImageError(f"{self.name} holds {len(groups)} images: {listed}", advice)

    def missed(self, group: Group) -> list[Skipped]:
        """Files that may be slices of an image and were not read: damaged ones, and those of its series and class that have no
        place or no pixels. Without its first or last slice an image looks like a shorter one."""
        of = _of(group.header) if group.uid else None
        return [item for item in self.skipped if item.error or ((item.series, item.kind) == of and item.reason != LOCALISER)]

    def localisers(self, group: Group) -> int:
        """How many files of an image's series call themselves localisers."""
        of = _of(group.header) if group.uid else None
        return sum((item.series, item.kind) == of and item.reason == LOCALISER for item in self.skipped)

    def _none(self) -> ImageError:
        if len(self.skipped) == 1:
            (item,) = self.skipped
            return item.error or ImageError(f"{item.name} is no DICOM image that can be read: {item.reason}", _GIVE)
        counts = Counter("unusable" if item.error else item.reason for item in self.skipped).most_common(4)
        reasons = ": " + ", ".join(f"{_counted(count, 'file')} ({reason})" for reason, count in counts) if counts else ""
        return ImageError(f"{self.name} holds no DICOM image{reasons}", _GIVE)


def scan(path: Path) -> Found:
    """Look at a file, or at all files in a folder and its sub-folders; no pixels are read.

    Raises
    ------
    ImageError
        No such file or folder.
    """
    if not path.exists():
        raise ImageError(f"there is no {path.name}", "Check the path.")
    root = path if path.is_dir() else path.parent
    headers, skipped = [], []
    for file in _files(path):
        name = file.relative_to(root).as_posix()
        try:
            header = read_header(file, name)
            reason = why_not(header)
        except NotDicomError:
            skipped.append(Skipped(name, NOT_DICOM))
            continue
        except ImageError as error:
            skipped.append(_unusable(name, error))
            continue
        except OSError as error:
            skipped.append(_unusable(name, ImageError(f"{name} cannot be read: {error.strerror}", "Check its permissions.")))
            continue
        if reason:
            skipped.append(Skipped(name, reason, None, *_of(header)))
        else:
            headers.append(header)
    groups, more = grouped(headers)
    return Found(path.name, groups, (*skipped, *more))


def _of(header: Header) -> tuple[str, str]:
    return header.text("SeriesInstanceUID"), header.text("SOPClassUID")


def _files(path: Path) -> Iterator[Path]:
    """Files in a stable order; links to folders are not followed, for they may lead in circles."""
    if not path.is_dir():
        yield path
        return
    for folder, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_file():
                yield file


def grouped(headers: Iterable[Header]) -> tuple[tuple[Group, ...], list[Skipped]]:
    """Groups of the slices of files, and the files that cannot be used after all."""
    skipped: list[Skipped] = []
    slices = list(_slices(_once(headers, skipped), skipped))
    groups = [part for same in _together(slices) for part in _parted(same)]
    groups.sort(key=_order)
    return tuple(replace(group, number=number) for number, group in enumerate(groups, 1)), skipped


def _order(group: Group) -> tuple[object, ...]:
    """Series as a person counts them, parts of one by what parts them."""
    numbers = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", group.apart)]
    return _number(group.header.text("SeriesNumber")), group.uid, numbers, group.header.name


def _once(headers: Iterable[Header], skipped: list[Skipped]) -> Iterator[Header]:
    """Files that are no copies of others; whatever else has the UID of another stays, and is found to be doubled."""
    known: dict[str, Header] = {}
    for header in headers:
        uid = header.text("SOPInstanceUID")
        other = known.setdefault(uid, header) if uid else header
        if other is not header and other.size == header.size and filecmp.cmp(other.path, header.path, shallow=False):
            skipped.append(Skipped(header.name, f"a copy of {other.name}"))
        else:
            yield header


def _slices(headers: Iterable[Header], skipped: list[Skipped]) -> Iterator[Slice]:
    for header in headers:
        try:
            if "PerFrameFunctionalGroupsSequence" in header.elements:
                yield from frames_of(header)
            else:
                yield slice_of(header)
        except ImageError as error:
            skipped.append(_unusable(header.name, error))


def _unusable(name: str, error: ImageError) -> Skipped:
    return Skipped(name, error.message.replace(f" of {name}", "").replace(f"{name} ", "", 1), error)


def _together(slices: Iterable[Slice]) -> Iterator[list[Slice]]:
    """Slices of one series, frame of reference, matrix, kind of pixels, orientation and spacing."""
    by_key: dict[tuple[object, ...], list[list[Slice]]] = defaultdict(list)
    keys: dict[int, tuple[object, ...]] = {}
    for item in slices:
        header = item.header
        key = keys.get(id(header)) or keys.setdefault(id(header), _key(item))
        for same in by_key[key][-_COMPARED:]:
            if _is_parallel(same[0], item):
                same.append(item)
                break
        else:
            by_key[key].append([item])
    for lists in by_key.values():
        yield from lists


def _key(item: Slice) -> tuple[object, ...]:
    names = (
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "Modality",
        "SOPClassUID",
        "PhotometricInterpretation",
    )
    return (*map(item.header.text, names), item.form, item.units)


def _is_parallel(one: Slice, other: Slice) -> bool:
    if one.orientation == other.orientation and one.spacing == other.spacing:
        return True
    turned = max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True))
    return turned <= _PARALLEL and all(abs(a - b) <= _SPACING * a for a, b in zip(one.spacing, other.spacing, strict=True))


def _parted(slices: Sequence[Slice]) -> list[Group]:
    """One group, or several where slices at one place differ by what may part images."""
    most = _most_at_one_place(slices)
    if most == 1:
        return [_group(slices, "")]
    names: list[str] = []
    for name in _TRIED:
        parts = _split(slices, [name])
        if not 1 < len(parts) <= 2 * most:
            continue  # by what differs from slice to slice nothing is told apart
        if all(_most_at_one_place(part) == 1 for part in parts.values()):
            names = [name]
            break
        names.append(name)
    parts = _split(slices, names) if names else {}
    if not names or len(parts) > 2 * most or max(map(_most_at_one_place, parts.values())) > 1:
        return _in_turn(slices, most)
    return [_group(part, _apart(names, values)) for values, part in parts.items()]


def _in_turn(slices: Sequence[Slice], most: int) -> list[Group]:
    """Images that were taken one after the other, by Instance Number; one group where that does not part them."""
    count = len(slices) // most
    ordered = sorted(slices, key=lambda item: (_number(item.header.text("InstanceNumber")), item.frame))
    runs = [ordered[first : first + count] for first in range(0, len(ordered), count)]
    if count < 2 or count * most != len(slices) or any(_most_at_one_place(run) > 1 for run in runs) or not _lie_alike(runs):
        return [_group(slices, "")]
    ends = [(run[0].header.text("InstanceNumber"), run[-1].header.text("InstanceNumber")) for run in runs]
    return [_group(run, f"instances {first} to {last}") for run, (first, last) in zip(runs, ends, strict=True)]


def _lie_alike(runs: Sequence[Sequence[Slice]]) -> bool:
    """Whether all lie at the same places: one slice that is there twice does not make two images of the halves around it."""
    places = [np.sort(np.array([item.position for item in run]) @ runs[0][0].normal) for run in runs]
    return all(bool(np.abs(other - places[0]).max() <= _PLACE) for other in places[1:])


def _split(slices: Iterable[Slice], names: Sequence[str]) -> dict[tuple[str, ...], list[Slice]]:
    parts: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        parts[tuple(item.apart.get(name, "") for name in names)].append(item)
    return parts


def _apart(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{_TRIED[name]} {value or 'unknown'}" for name, value in zip(names, values, strict=True))


def _most_at_one_place(slices: Sequence[Slice]) -> int:
    along = np.sort(np.array([item.position for item in slices]) @ slices[0].normal)
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) > _PLACE)
    return int(np.diff(starts, append=len(along)).max())


def _group(slices: Sequence[Slice], apart: str) -> Group:
    order = np.argsort(np.array([item.position for item in slices]) @ slices[0].normal, kind="stable")
    return Group(slices=tuple(slices[i] for i in order), apart=apart, notes=_notes(slices))


def _notes(slices: Sequence[Slice]) -> tuple[str, ...]:
    """What is odd about a group, and what follows from it."""
    notes = []
    empty: Callable[[str], bool] = lambda name: any(not item.header.text(name) for item in slices)  # noqa: E731
    if empty("SeriesInstanceUID") or empty("StudyInstanceUID"):
        notes.append("StudyInstanceUID or SeriesInstanceUID is empty: slices of one matrix and orientation were taken for one series")
    if empty("SOPInstanceUID"):
        notes.append("SOPInstanceUID is empty: contours and segmentations in DICOM cannot refer to this image")
    if empty("FrameOfReferenceUID"):
        notes.append("FrameOfReferenceUID is empty: nobody can say whether other images lie in the same space")
    return tuple(notes)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
