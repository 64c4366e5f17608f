"""Where a client writes the structures it fetched: label maps, or RTSTRUCT and SEG that refer to the series they are of.

No DICOM is imported here: what reads and writes it is found by entry point when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol

from delineate.client.packing import Images, listed
from delineate.errors import InputError, MissingPartError
from delineate.files import READERS, is_dicom, suffix_of, write_segmentation
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.volume import Volume

IN_DICOM: Final = ("rtstruct", "seg")


class Series(Protocol):
    """`delineate.dicom.referring.ReadSeries`."""

    @property
    def volume(self) -> Volume:
        """The image."""

    def write(self, path: Path, segmentation: Segmentation, to: str, notes: list[str], **options: Any) -> None:
        """Write structures that refer to it."""


@dataclass(frozen=True, kw_only=True)
class StructureFile:
    """What to make of structures, and of the series that they are of.

    path : of the file, None for none; series : None where it is not read here; to : of `IN_DICOM`, empty for label maps by the
    file's name; options : of the file in DICOM.
    """

    path: Path | None = None
    series: Series | None = None
    to: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry | None:
        """The grid of the series."""
        return None if self.series is None else self.series.volume.geometry

    def replacing_first(self, images: Images) -> list[Path | Volume]:
        """The images, the series among them as it was read: once is enough."""
        given = listed(images)
        return given if self.series is None else [self.series.volume, *given[1:]]

    def write(self, segmentation: Segmentation, notes: list[str]) -> None:
        """Write; `notes` gets sentences on what was changed or left out."""
        if self.path is None:
            return
        if self.to and self.series is not None:
            self.series.write(self.path, segmentation, self.to, notes, **self.options)
        else:
            write_segmentation(self.path, segmentation)


def structure_file(to: str | None, output: object, source: object, model: str = "", series: str = "") -> StructureFile:
    """What is to be written; refused now, since a wrong wish should not cost a segmentation.

    Parameters
    ----------
    to : of `IN_DICOM`; None for label maps by the name of `output`
    output : path of the file
    source : path of the series that the structures are of
    model : named in the file
    series : number or Series Instance UID, where there are several

    Raises
    ------
    InputError
        No path, no such format, a source that is no DICOM.
    ImageError
        The series cannot be read.
    MissingPartError
        The reader of DICOM is not installed.
    """
    if to is not None and output is None:
        raise InputError("a file is wanted and its path is not given", f'Give output="structures.dcm" with to={to!r}.')
    if to is not None and to not in IN_DICOM:
        raise InputError(f"structures cannot be written as {to!r}", f"Use {' or '.join(IN_DICOM)}, or leave it out for a label map.")
    path = None if output is None else Path(str(output))
    if path is not None and to is None:
        suffix_of(path)
    if to is None and not series:
        return StructureFile(path=path)
    if isinstance(source, Volume) or source is None or not is_dicom(str(source)):
        what = f"a {to} file refers to a series in DICOM" if to else "one of several series in DICOM is chosen"
        raise InputError(f"{what}, and there is none", "Give the folder, zip or file of the series.")
    named = {"rtstruct": {"description": model}, "seg": {"description": model, "algorithm": model}}
    options = named[to] if to and model else {}
    return StructureFile(path=path, series=_read(Path(str(source)), series), to=to or "", options=options)


def _read(path: Path, series: str) -> Series:
    entry = next(iter(entry_points(group=READERS, name="dicom-source")), None)
    if entry is None:
        raise MissingPartError("the reader of DICOM", "dicom")
    found: Series = entry.load()(path, series)
    return found
