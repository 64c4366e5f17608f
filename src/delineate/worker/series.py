"""A folder of the files of one DICOM series as an image, through SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate.errors import ImageError, MissingPartError
from delineate.geometry import Geometry
from delineate.volume import Volume

POSITION, MODALITY = "0020|0032", "0008|0060"

_UNEVEN: Final = 0.02  # of the distance between slices: what scanners round to; a missing slice is 1
_ADVICE: Final = "Convert it to one NIfTI or NRRD file, and look at what is missing."


def read_series(folder: Path) -> Volume:
    """The one series in a folder, slices in the order of their positions; real values (HU for a CT).

    Raises
    ------
    ImageError
        No series or several, slices of different size, one missing or twice, a tilted stack, colour.
    MissingPartError
        Without SimpleITK.
    """
    sitk = _simpleitk()
    reader = sitk.ImageSeriesReader()
    folder = _innermost(folder)
    found = reader.GetGDCMSeriesIDs(str(folder))
    if len(found) != 1:
        raise ImageError(f"{folder.name} holds {len(found) or 'no'} DICOM series", "Give a folder of the files of one series.")
    names = reader.GetGDCMSeriesFileNames(str(folder), found[0])
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ImageError(f"the DICOM series in {folder.name} cannot be read as one image", _ADVICE) from error
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() != 3:
        raise ImageError(f"the DICOM series in {folder.name} is in colour or not of slices", _ADVICE)
    if len(names) > 1:
        _require_even(reader, image, len(names), folder.name)
    modality = _text(reader, 0, MODALITY)
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(sitk.GetArrayFromImage(image), geometry, modality=modality, units="HU" if modality == "CT" else "")


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise MissingPartError("the reader of DICOM series (SimpleITK)", "images") from None
    sitk: Any = SimpleITK
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # of uneven slices, which we look for ourselves
    return sitk


def _innermost(folder: Path) -> Path:
    """Archives often have one folder, and the files in it."""
    while True:
        entries = list(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _require_even(reader: Any, image: Any, count: int, name: str) -> None:
    """ITK takes the first step between slices for all of them, and warns at most."""
    try:
        places = np.array([[float(part) for part in _text(reader, i, POSITION).split("\\")] for i in range(count)])
    except ValueError:
        raise ImageError(f"a slice of the DICOM series in {name} does not say where it is", _ADVICE) from None
    step = np.array(image.GetDirection()).reshape(3, 3)[:, 2] * image.GetSpacing()[2]
    ideal = places[0] + np.arange(count)[:, None] * step
    if places.shape != (count, 3) or np.abs(places - ideal).max() > _UNEVEN * image.GetSpacing()[2]:
        raise ImageError(f"the slices of the DICOM series in {name} are not evenly spaced along their normal", _ADVICE)


def _text(reader: Any, index: int, tag: str) -> str:
    return str(reader.GetMetaData(index, tag)).strip() if reader.HasMetaDataKey(index, tag) else ""
