"""Structures of any format: label maps, SEG and RTSTRUCT files, read onto a grid and written for an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from delineate.cli.output import require_folder, stem, target_path
from delineate.errors import ImageError, InputError
from delineate.files import is_dicom, read_segmentation, read_volume, write_segmentation
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.volume import Volume

if TYPE_CHECKING:
    from delineate.dicom.source import Series

FORMATS: Final = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "rtstruct": ".rtstruct.dcm", "seg": ".seg.dcm"}
"""How names end that are made here. A name that is given may end in .dcm alone."""

Command = TypeVar("Command", bound=Callable[..., Any])

DICOM: Final = ("rtstruct", "seg")
TO_OPTION: Final = click.option(
    "--to",
    "formats",
    type=click.Choice(list(FORMATS)),
    multiple=True,
    help="The format; by default what the name of the output says. Repeatable where that is a folder. "
    "RTSTRUCT and SEG refer to the first image, which is DICOM then.",
)
_SUFFIXES: Final = {".nii.gz": "nifti", ".nii": "nifti", ".nrrd": "nrrd", ".mha": "mha", ".mhd": "mha"}
_SAY: Final = "Say --source, the series that the structures are of."


_CONTOURS: Final = (
    click.option("--short-names", is_flag=True, help="Names of at most 16 characters in an RTSTRUCT."),
    click.option(
        "--holes", type=click.Choice(["keyhole", "xor"]), default="keyhole", show_default=True, help="How an RTSTRUCT holds holes."
    ),
    click.option(
        "--tolerance",
        type=click.FloatRange(0, 100),
        default=0.0,
        help="Leave out points of an RTSTRUCT within so many mm.  [default: none]",
    ),
)


def contour_options(command: Command) -> Command:
    """How contours are written, as planning systems want them: the options, which the command gets as one mapping `contours`."""

    @wraps(command)
    def with_contours(*given: Any, short_names: bool, holes: str, tolerance: float, **other: Any) -> Any:
        return command(*given, contours={"short_names": short_names, "holes": holes, "tolerance": tolerance}, **other)

    for option in reversed(_CONTOURS):
        option(with_contours)
    return with_contours  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The image that structures are of; `series` where it came from DICOM."""

    volume: Volume
    series: Series | None = None

    @property
    def grid(self) -> Series | Geometry:
        """What structures are read onto."""
        return self.series or self.volume.geometry


def format_of(path: Path) -> str:
    """Which of `FORMATS` a file's name says, empty where it says none."""
    name = path.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), "")


def kind_of(path: Path) -> str:
    """``rtstruct`` or ``seg`` by a DICOM file's content, else empty: an image, or no DICOM."""
    if not path.is_file() or not is_dicom(path):
        return ""
    from delineate.dicom.header import NotDicomError, read_header

    try:
        return {"RTSTRUCT": "rtstruct", "SEG": "seg"}.get(read_header(path).text("Modality"), "")
    except NotDicomError:
        return ""


def has_names(path: Path) -> bool:
    """Whether a label map says what its labels are called."""
    name = path.name.lower()
    if name.endswith(".seg.nrrd"):
        return True
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    return bool(suffix) and path.with_name(path.name[: -len(suffix)] + ".json").is_file()


def read_source(path: Path, notes: list[str], *, series: str = "", fill_gaps: bool = False, doubled: str | None = None) -> Source:
    """An image with what can be referred to."""
    if not is_dicom(path):
        return Source(volume=read_volume(path))
    from delineate.dicom.reader import read

    image = read(path, choice=series, gaps="fill" if fill_gaps else "refuse", doubled=doubled or "refuse", notes=notes)  # type: ignore[arg-type]
    return Source(volume=image.volume, series=image.series)


def read_structures(path: Path, grid: Series | Geometry | None, notes: list[str]) -> Segmentation:
    """Structures of any format; those in DICOM onto `grid`.

    Raises
    ------
    ImageError
        A file that holds no structures; an RTSTRUCT without a grid.
    """
    kind = kind_of(path)
    if kind == "seg":
        from delineate.dicom.seg import read_seg

        if grid is None:
            notes.append(
                f"{path.name} is read onto a grid over its own frames, which may be less than the image: --source gives the image's"
            )
        return read_seg(path, grid, notes=notes)
    if kind == "rtstruct":
        from delineate.dicom.rtstruct import read_rtstruct

        if grid is None:
            raise InputError(f"{path.name} holds contours, which are on no grid", _SAY)
        return read_rtstruct(path, grid, notes=notes)
    if is_dicom(path):
        raise ImageError(f"{path.name} is a DICOM image, not structures", "Give a label map, a SEG or an RTSTRUCT file.")
    return read_segmentation(path)


def write_structures(segmentation: Segmentation, path: Path, to: str, source: Source | None, notes: list[str], **more: Any) -> list[Path]:
    """Write structures in one of `FORMATS`; the files written.

    more : options of the writers: ``kind``, ``packing`` and ``algorithm`` of a SEG; ``holes``, ``short_names`` and ``tolerance`` of an
        RTSTRUCT; ``description``

    Raises
    ------
    InputError
        DICOM without the series that it is of.
    """
    if to not in DICOM:
        return write_segmentation(path, segmentation)
    if source is None or source.series is None:
        raise InputError(f"{'contours' if to == 'rtstruct' else 'segments'} in DICOM refer to a series, and there is none", _SAY)
    if to == "seg":
        from delineate.dicom import seg

        options = {name: value for name, value in more.items() if name in ("kind", "packing", "algorithm", "description")}
        seg.write_seg(path, segmentation, source.series, seg.Options(**options), notes)
    else:
        from delineate.dicom import rtstruct

        options = {name: value for name, value in more.items() if name in ("holes", "short_names", "tolerance", "description")}
        rtstruct.write_rtstruct(path, segmentation, source.series, rtstruct.Options(**options), notes)
    return [path]


def require_target(output: Path, name: str, formats: Sequence[str], image: Path | None, told: str) -> None:
    """Refuse a path for a result that does not go with its formats, and DICOM of an image that is none.

    told : how a person gives the image

    Raises
    ------
    InputError
        Any of them.
    """
    for to in formats:
        if format_of(output) not in ("", to):
            raise InputError(f"{output.name} is not a name for {to}", f"Use one that ends in {ending_of(to)}, or a folder.")
    target = target_path(output, name, FORMATS[formats[0] if formats else "nifti"])
    if len(formats) > 1 and target == output:
        raise InputError(f"{output.name} is one file, and {len(formats)} formats are wanted", "Give a folder.")
    require_folder(target)
    for to in formats:
        if to in DICOM and (image is None or not is_dicom(image)):
            words = "there is no image" if image is None else f"{image.name} is not DICOM"
            raise InputError(f"{words}: {to} cannot refer to it", f"Give the DICOM series{told}, or write another format.")


def way_to_write(
    formats: Sequence[str], source: Source | None, model: str, notes: list[str], contours: Mapping[str, Any]
) -> dict[str, Any]:
    """Suffix and writer of formats for `output.write_result`; nothing where the output's name says it. contours : of `contour_options`."""
    if not formats:
        return {}

    def write(path: Path, segmentation: Segmentation) -> list[Path]:
        paths = [path, *(path.with_name(f"{stem(path)}{FORMATS[to]}") for to in formats[1:])]
        files: list[Path] = []
        left = len(formats)
        for to, target in zip(formats, paths, strict=True):
            left -= 1
            try:
                files += write_structures(segmentation, target, to, source, notes, algorithm=model, description=model, **contours)
            except InputError as error:  # contours of nothing, say; the other format may do
                if not files and not left:
                    raise
                notes.append(f"there is no {target.name}: {error.sentence()}")
        return files

    return {"suffix": FORMATS[formats[0]], "write": write}


def ending_of(to: str) -> str:
    """How the name of a file of one of `FORMATS` ends."""
    return Path(FORMATS[to]).suffix if to in DICOM else FORMATS[to]
