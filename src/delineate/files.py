"""Any image file ↔ `Volume` and `Segmentation`, by the file's name.

``.nii`` and ``.nii.gz`` go through `delineate.nifti`; ``.nrrd``, ``.mha`` and ``.mhd`` through
SimpleITK, which is imported only then and only needed then (extra ``images``). SimpleITK's frame is
LPS, and it converts NRRD's other spaces itself. DICOM, a folder, a ``.zip`` or a file of it, is read by whatever the entry
point ``dicom`` of `READERS` names (extra ``dicom``).

Names of structures: NIfTI and MetaImage label maps have a twin ``NAME.json``, ``{"1": "Heart"}``;
NRRD label maps carry the metadata of 3D Slicer's segmentations (``Segment0_Name``,
``Segment0_LabelValue``, ``Segment0_Layer``, ``Segment0_Color``). A label without a name is called
``label_1``, ``label_2`` and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from delineate import nifti
from delineate.errors import GeometryError, ImageError, InputError, MissingPartError
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation, Structure, names_by_label
from delineate.volume import Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", ".zip")

_FLAT = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_HEADER = 1 << 20  # bytes; Slicer's longest headers are a tenth of it
_CONVERT = "DICOM is read as an image only."

READERS = "delineate.readers"
"""Group of entry points: functions of a path and a list of notes that answer a `Volume`."""


def suffix_of(path: str | PathLike[str]) -> str:
    """Which of `SUFFIXES` a file name ends in; `ImageError` where it is none of them, or where a folder is of that name."""
    if Path(path).is_dir():
        raise ImageError(f"{path} is a folder", _CONVERT)
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return suffix
    raise ImageError(f"{name} is not the name of an image file", f"Use a name that ends in {', '.join(SUFFIXES)}. {_CONVERT}")


def is_dicom(path: str | PathLike[str]) -> bool:
    """Whether an image is read as DICOM: a folder, a zip, or a file of that name or, without a known name, of that content."""
    path = Path(path)
    name = path.name.lower()
    if path.is_dir() or name.endswith(DICOM_SUFFIXES):
        return True
    if name.endswith(SUFFIXES):
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_volume(path: str | PathLike[str], notes: list[str] | None = None) -> Volume:
    """Read one image; `notes` gets sentences on what is odd about a DICOM series that was read nevertheless.

    Raises
    ------
    ImageError
        No such file, another suffix, not readable, or not one number per voxel in three dimensions.
    GeometryError
        A grid that makes no sense.
    MissingPartError
        NRRD or MetaImage without SimpleITK, DICOM without its reader.
    """
    if is_dicom(path):
        return _read_dicom(path, notes)
    name = Path(path).name
    if not name.lower().endswith(SUFFIXES) and not Path(path).exists():
        raise ImageError(f"there is no {name}", "Check the path.")
    if name.lower().endswith(_FLAT):
        raise ImageError(f"{name} is a picture, not a volume", f"Use a file whose name ends in {', '.join(SUFFIXES)}.")
    if not name.lower().endswith(SUFFIXES):
        raise ImageError(f"{name} is no image that is read here", f"Give DICOM, or a file whose name ends in {', '.join(SUFFIXES)}.")
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        return nifti.read(path)
    image = _read_image(Path(path), suffix)
    voxels, geometry = _voxels(image, name)
    if voxels.ndim != 3:
        raise ImageError(f"{name} holds {voxels.shape[-1]} values per voxel (colour or vectors)")
    if voxels.dtype.kind == "f" and not any(np.isfinite(plane).any() for plane in voxels):
        raise ImageError(f"{name} holds no number, NaN only", "Export the image again.")
    return Volume(voxels, geometry)


def write_volume(path: str | PathLike[str], volume: Volume) -> None:
    """Write one image. NRRD and MetaImage have no slope and intercept: they get the real values; NIfTI keeps the stored ones."""
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        nifti.write(path, volume)
    else:
        _write_image(_image(volume.values(), volume.geometry), Path(path))


def read_segmentation(path: str | PathLike[str], *more: str | PathLike[str]) -> Segmentation:
    """Read one segmentation; several files of one grid become its layers.

    Names come from the twin ``.json`` or from Slicer's metadata; labels that occur and have none are called ``label_N``
    (``label_N_2`` in the second layer). A ``.json`` beside the image that is no table of names is not a twin.

    Raises
    ------
    ImageError
        As `read_volume`; negative or broken values.
    GeometryError
        Files of different grids.
    InputError
        The same name in two files, or twice in one.
    """
    parts = [_read_labels(Path(item)) for item in (path, *more)]
    geometry = parts[0][1]
    layers: list[np.ndarray] = []
    structures: list[Structure] = []
    for item, (maps, grid, named) in zip((path, *more), parts, strict=True):
        if difference := geometry.difference(grid):
            raise GeometryError(f"{Path(item).name} is on another grid than {Path(path).name}: {difference}", "Give files of one grid.")
        first = len(layers)
        layers += maps
        structures += [Structure(s.name, s.label, s.layer + first, s.colour, s.code) for s in named]
    structures += _unnamed(layers, structures)
    return Segmentation(geometry, tuple(layers), tuple(structures))


def write_segmentation(path: str | PathLike[str], segmentation: Segmentation) -> list[Path]:
    """Write one segmentation; all files written, in order.

    NIfTI and MetaImage: ``NAME.nii.gz`` and ``NAME.json`` for the first layer, ``NAME_2.nii.gz`` and ``NAME_2.json`` for the
    second, and so on. NRRD: one file with all layers, names and colours as 3D Slicer writes a ``.seg.nrrd``.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix == ".nrrd":
        _write_slicer(path, segmentation)
        return [path]
    written = []
    for index, layer in enumerate(segmentation.layers):
        target = path.with_name(_stem(path) + (f"_{index + 1}" if index else "") + path.name[-len(suffix) :])
        labels = nifti.to_labels(layer)
        if suffix in NIFTI_SUFFIXES:
            nifti.write_labels(target, labels, segmentation.geometry)
        else:
            _write_image(_image(labels, segmentation.geometry), target)
        names = names_by_label(s for s in segmentation if s.layer == index)
        twin = _twin(target)
        twin.write_text(json.dumps({str(label): names[label] for label in sorted(names)}, ensure_ascii=False) + "\n", encoding="utf-8")
        written += [target, twin]
    return written


def _stem(path: Path) -> str:
    return path.name[: -len(suffix_of(path))]


def _twin(path: Path) -> Path:
    return path.with_name(_stem(path) + ".json")


def _read_labels(path: Path) -> tuple[list[np.ndarray], Geometry, list[Structure]]:
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        labels, geometry = nifti.read_labels(path)
        return [labels], geometry, _twin_structures(path)
    image = _read_image(path, suffix)
    voxels, geometry = _voxels(image, path.name)
    layers = [voxels] if voxels.ndim == 3 else [np.ascontiguousarray(voxels[..., i]) for i in range(voxels.shape[-1])]
    structures = _slicer_structures({key: image.GetMetaData(key) for key in image.GetMetaDataKeys()})
    return [nifti.to_labels(layer) for layer in layers], geometry, structures or _twin_structures(path)


def _twin_structures(path: Path) -> list[Structure]:
    twin = _twin(path)
    if not twin.is_file():
        return []
    try:
        content = json.loads(twin.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{twin.name} is not valid JSON", 'Write the names like {"1": "Heart"}.') from error
    if not isinstance(content, dict) or not all(key.isdecimal() and isinstance(name, str) for key, name in content.items()):
        return []  # e.g. the acquisition parameters that converters from DICOM write beside an image
    return [Structure(name, label) for label, name in sorted((int(key), name) for key, name in content.items()) if label]


def _unnamed(layers: Sequence[np.ndarray], structures: Sequence[Structure]) -> list[Structure]:
    """A structure for every label that occurs and has no name."""
    found = []
    for index, layer in enumerate(layers):
        known = {s.label for s in structures if s.layer == index}
        present = set().union(*(np.unique(plane).tolist() for plane in layer))  # plane by plane: a sorted copy is never large
        for label in sorted(present):
            if label and label not in known:
                found.append(Structure(f"label_{label}" + (f"_{index + 1}" if index else ""), label, index))
    return found


# ---- 3D Slicer's segmentations (source: the "Segmentation file format" page of 3D Slicer's developer guide)


def _slicer_structures(metadata: Mapping[str, str]) -> list[Structure]:
    numbers = sorted(int(match[1]) for key in metadata if (match := re.fullmatch(r"Segment(\d+)_ID", key)))
    structures = []
    for number in numbers or sorted(int(m[1]) for key in metadata if (m := re.fullmatch(r"Segment(\d+)_Name", key))):
        fields = {key.split("_", 1)[1]: value for key, value in metadata.items() if key.startswith(f"Segment{number}_")}
        # Before 2020 Slicer wrote one binary layer per segment and neither of the two numbers.
        layer, label = int(fields.get("Layer", number)), int(fields.get("LabelValue", 1))
        name = fields.get("Name") or fields.get("ID") or f"label_{label}"
        codes = re.findall(r"~SCT\^(\d+)\^", fields.get("Tags", ""))  # category first, then type
        structures.append(Structure(name, label, layer, _colour(fields.get("Color", "")), codes[1] if len(codes) > 1 else ""))
    return structures


def _colour(text: str) -> tuple[int, int, int] | None:
    try:
        red, green, blue = (round(min(max(float(part), 0.0), 1.0) * 255) for part in text.split())
    except ValueError:
        return None
    return red, green, blue


def _write_slicer(path: Path, segmentation: Segmentation) -> None:
    layers = [nifti.to_labels(layer) for layer in segmentation.layers]
    stacked = layers[0] if len(layers) == 1 else np.stack(layers, axis=-1)
    image = _image(stacked, segmentation.geometry)
    last = " ".join(f"0 {n - 1}" for n in segmentation.geometry.size)
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap", "Segmentation_ReferenceImageExtentOffset": "0 0 0"}
    for number, structure in enumerate(segmentation):
        fields |= {
            f"Segment{number}_ID": f"Segment_{number + 1}",
            f"Segment{number}_Name": " ".join(structure.name.split()),  # a line break would end the field
            f"Segment{number}_NameAutoGenerated": "0",
            f"Segment{number}_LabelValue": str(structure.label),
            f"Segment{number}_Layer": str(structure.layer),
            f"Segment{number}_Color": " ".join(f"{value / 255:.6g}" for value in structure.rgb()),
            f"Segment{number}_Extent": last,
        }
    for key, value in fields.items():
        image.SetMetaData(key, value)
    _write_image(image, path)


def _read_dicom(path: str | PathLike[str], notes: list[str] | None) -> Volume:
    entry = next(iter(entry_points(group=READERS, name="dicom")), None)
    if entry is None:
        raise MissingPartError("the reader of DICOM", "dicom")
    volume: Volume = entry.load()(path, notes)
    return volume


# ---- SimpleITK


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise MissingPartError("the reader of NRRD and MetaImage files (SimpleITK)", "images") from None
    return SimpleITK


def _read_image(path: Path, suffix: str) -> Any:
    sitk = _simpleitk()
    if not path.is_file():
        raise ImageError(f"{path.name} cannot be opened: no such file", "Check the path.")
    _require_own_voxels(path, suffix)
    try:
        return sitk.ReadImage(str(path), imageIO=_READERS[suffix])
    except (RuntimeError, MemoryError) as error:
        raise ImageError(f"{path.name} is cut off, damaged or no {suffix[1:].upper()} file", "Export the image again.") from error


def _require_own_voxels(path: Path, suffix: str) -> None:
    """Refuse an ``.nrrd`` or ``.mha`` that names another file for its voxels: sent by a stranger, it would read any file of ours.

    An ``.mhd`` always names one; it is never taken from an archive.
    """
    if suffix == ".mhd":
        return
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER)
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}", "Check the file and its permissions.") from error
    if suffix == ".mha":
        # One mention only, LOCAL: whatever a reader makes of odd lines before it, it finds no other.
        named = re.search(rb"(?:\A|\n)[ \t]*ElementDataFile[ \t]*[=:][ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n", start)
        is_own = named is not None and start.count(b"ElementDataFile") == 1
    else:
        is_own = re.search(rb"\n\r?\n", start) is not None and re.search(rb"(?i)[\r\n]\s*data\s*file\s*:", start) is None
    if not is_own:
        raise ImageError(f"{path.name} is cut off, damaged or keeps its voxels in another file", "Export the image again, into one file.")


def _voxels(image: Any, name: str) -> tuple[np.ndarray, Geometry]:
    """(array of shape (z, y, x) or (z, y, x, components), grid). The array is a copy: a view would outlive its image."""
    sitk = _simpleitk()
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        count = image.GetSize()[-1]
        raise ImageError(
            f"{name} is a {image.GetDimension()}-dimensional image with {count} time points", "Send one three-dimensional image of it."
        )
    voxels: np.ndarray = sitk.GetArrayFromImage(image)
    if voxels.dtype.kind not in "uif":
        raise ImageError(f"{name} holds complex values", "Send an image of one number per voxel.")
    return voxels, Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _image(voxels: np.ndarray, geometry: Geometry) -> Any:
    """A SimpleITK image of an array of shape (z, y, x) or (z, y, x, components)."""
    sitk = _simpleitk()
    narrow = {"b": np.uint8, "e": np.float32}.get(voxels.dtype.char if voxels.dtype.char == "e" else voxels.dtype.kind)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels, dtype=narrow), isVector=voxels.ndim == 4)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def _write_image(image: Any, path: Path) -> None:
    sitk = _simpleitk()
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        raise InputError(f"{path.name} could not be written", "Check that the folder exists and has space.") from error
