"""The same round trips by other packages, in environments of their own (``make peers-geometry``).

``python geometry_peers.py PEER JOB.json``: prints a line of JSON for each series, ``{column: {shape: voxels that differ}}``; a column
that failed has its error in the place of counts. Nothing of Delineate is imported here.

Masks are compared on the slices that they were made on: a package that gives a volume is asked for the value at the centre of each
voxel in the patient, or, where the slices are on no grid and its volume can only be wrong, slice by slice and pixel by pixel.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

Counts = dict[str, int]
Read = Callable[[str], Any]


class Case:
    """One series: its slices in order, label maps on them by shape, and the files that Delineate wrote."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.series, self.folder = given["series"], Path(given["folder"])
        self.maps = dict(np.load(given["maps"]))
        self.uids, self.has_grid = given["uids"], given["has_grid"]
        self.rtstruct, self.binary, self.labelmaps = given["rtstruct"], given["binary"], given["labelmaps"]
        self.axes, self.spacing = np.array(given["axes"]), np.array(given["spacing"])
        self.positions = np.array(given["positions"])
        self.ring = None  # what was read of it last, for a picture

    def masks(self) -> dict[str, tuple[str, np.ndarray]]:
        """Of each structure: its shape and its mask (slices, rows, columns)."""
        found = {}
        for shape, labels in self.maps.items():
            highest = int(labels.max())
            for label in range(1, highest + 1):
                found[f"{shape} {label}" if highest > 1 else shape] = (shape, labels == label)
        return found

    def differing(self, read: Read) -> Counts:
        """Voxels of each shape that `read` of a structure's name gives otherwise; None for one that is not there."""
        counts = dict.fromkeys(self.maps, 0)
        for name, (shape, wanted) in self.masks().items():
            found = read(name)
            counts[shape] += int(np.count_nonzero(wanted if found is None else found != wanted))
            self.ring = found if shape == "ring" else self.ring
        return counts

    def on_slices(self, image: Any) -> np.ndarray:
        """A volume of SimpleITK on the slices."""
        import SimpleITK as sitk  # noqa: N813

        array = sitk.GetArrayFromImage(image) > 0
        shape = next(iter(self.maps.values())).shape
        if not self.has_grid:
            return array if array.shape == shape else np.zeros(shape, dtype=bool)
        matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        rows, columns = np.indices(shape[1:])
        steps = columns[..., None] * self.axes[:3] * self.spacing[0] + rows[..., None] * self.axes[3:] * self.spacing[1]
        points = self.positions[:, None, None, :] + steps
        at = np.rint((points - np.array(image.GetOrigin())) @ np.linalg.inv(matrix).T).astype(int)
        inside = ((at >= 0) & (at < np.array(array.shape[::-1]))).all(axis=-1)
        at[~inside] = 0
        return array[at[..., 2], at[..., 1], at[..., 0]] & inside


def plain(name: str) -> str:
    """A name without what packages change in it."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def images_in(folder: Path, prefix: str) -> dict[str, Path]:
    """Volumes that a package wrote, by the plain name of their structures."""
    return {plain(path.name.removeprefix(prefix).removesuffix(".nii.gz")): path for path in folder.glob(f"{prefix}*.nii.gz")}


# ------------------------------------------------------------ rt-utils, dcmrtstruct2nii


def rt_utils_written(case: Case, path: str, **options: bool) -> str:
    """The structures as rt-utils writes them."""
    from rt_utils import RTStructBuilder

    builder = RTStructBuilder.create_new(dicom_series_path=case.series)
    order = [case.uids.index(data.SOPInstanceUID) for data in builder.series_data]
    for name, (_, mask) in case.masks().items():
        builder.add_roi(mask=np.moveaxis(mask[order], 0, -1), name=name, **options)
    builder.save(path)
    return path


def rt_utils_read(case: Case, path: str) -> Counts:
    """What rt-utils reads of a file."""
    from rt_utils import RTStructBuilder

    builder = RTStructBuilder.create_from(dicom_series_path=case.series, rt_struct_path=path)
    order = [[data.SOPInstanceUID for data in builder.series_data].index(uid) for uid in case.uids]
    return case.differing(lambda name: np.moveaxis(builder.get_roi_mask_by_name(name), -1, 0)[order])


def dcmrtstruct2nii_read(case: Case, path: str) -> Counts:
    """What dcmrtstruct2nii reads of a file."""
    import pydicom
    import SimpleITK as sitk  # noqa: N813

    if not hasattr(pydicom, "read_file"):
        pydicom.read_file = pydicom.dcmread  # what it is called since version 3, which dcmrtstruct2nii does not know
    from dcmrtstruct2nii import dcmrtstruct2nii

    target = case.folder / f"nii-{Path(path).stem}"
    dcmrtstruct2nii(path, case.series, str(target), convert_original_dicom=False)
    found = images_in(target, "mask_")
    return case.differing(lambda name: case.on_slices(sitk.ReadImage(str(found[plain(name)]))) if plain(name) in found else None)


def rtstruct(case: Case) -> dict[str, Callable[[], Counts]]:
    """Columns of the first environment."""
    own, pierced = str(case.folder / "rt-utils.dcm"), str(case.folder / "rt-utils-pin-holes.dcm")
    return {
        "rt-utils": lambda: rt_utils_read(case, rt_utils_written(case, own)),
        "rt-utils, pin holes": lambda: rt_utils_read(case, rt_utils_written(case, pierced, use_pin_hole=True)),
        "rt-utils → dcmrtstruct2nii": lambda: dcmrtstruct2nii_read(case, own),
        "ours → rt-utils": lambda: rt_utils_read(case, case.rtstruct),
        "ours → dcmrtstruct2nii": lambda: dcmrtstruct2nii_read(case, case.rtstruct),
    }


# ------------------------------------------------------------ platipy


def platipy_read(case: Case, path: str) -> Counts:
    """What platipy reads of a file."""
    import SimpleITK as sitk  # noqa: N813
    from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct

    target = case.folder / f"platipy-{Path(path).stem}"
    target.mkdir(exist_ok=True)
    convert_rtstruct(case.series, path, prefix="Struct_", output_dir=str(target))
    found = images_in(target, "Struct_")
    return case.differing(lambda name: case.on_slices(sitk.ReadImage(str(found[plain(name)]))) if plain(name) in found else None)


def platipy_written(case: Case, path: str) -> str:
    """The structures as platipy writes them, from volumes on the grid that SimpleITK reads the series on."""
    import SimpleITK as sitk  # noqa: N813
    from platipy.dicom.io.nifti_to_rtstruct import convert_nifti

    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(case.series)
    reader.SetFileNames(names)
    image = reader.Execute()
    masks = {}
    for name, (_, mask) in case.masks().items():
        volume = sitk.GetImageFromArray(mask.astype(np.uint8))
        volume.CopyInformation(image)
        masks[name] = volume
    convert_nifti(case.series, masks, path)
    return path


def platipy(case: Case) -> dict[str, Callable[[], Counts]]:
    """Columns of the second environment."""
    own = str(case.folder / "platipy.dcm")
    return {
        "platipy": lambda: platipy_read(case, platipy_written(case, own)),
        "ours → platipy": lambda: platipy_read(case, case.rtstruct),
    }


# ------------------------------------------------------------ highdicom


def highdicom_written(case: Case, path: str, kind: str, labels: np.ndarray) -> str:
    """A label map, or masks along a fourth axis, as highdicom writes them."""
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    files = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, Path(case.series).glob("*.dcm"))}
    made = hd.AlgorithmIdentificationSequence(name="a", version="1", family=codes.DCM.ArtificialIntelligence)
    count = labels.shape[3] if labels.ndim == 4 else int(labels.max())
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=str(number), segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue, algorithm_type="AUTOMATIC", algorithm_identification=made,
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    hd.seg.Segmentation(
        source_images=[files[uid] for uid in case.uids], pixel_array=labels, segmentation_type=kind, segment_descriptions=segments,
        series_instance_uid=hd.UID(), series_number=1, sop_instance_uid=hd.UID(), instance_number=1, manufacturer="a",
        manufacturer_model_name="a", software_versions="1", device_serial_number="1",
    ).save_as(path)  # fmt: skip
    return path


def highdicom_read(case: Case, path: str, *, is_labelmap: bool) -> Any:
    """On the slices, in their order: labels, or a mask for each segment along the last axis."""
    import highdicom as hd

    found = hd.seg.segread(path)
    return found.get_pixels_by_source_instance(case.uids, combine_segments=is_labelmap, ignore_spatial_locations=not case.has_grid)


def highdicom_binary(case: Case, path: str) -> Counts:
    """What highdicom reads of a file with a segment for each structure."""
    found = highdicom_read(case, path, is_labelmap=False) > 0
    numbers = {name: number for number, name in enumerate(case.masks())}
    return case.differing(lambda name: found[..., numbers[name]])


def highdicom_labelmap(case: Case, paths: Mapping[str, str]) -> Counts:
    """What highdicom reads of a file for each shape, counted as of structures."""
    found = {shape: highdicom_read(case, path, is_labelmap=True) for shape, path in paths.items()}
    shapes = {name: shape for name, (shape, _) in case.masks().items()}
    labels = {name: int(name.rsplit(" ", 1)[1]) if name != shape else 1 for name, shape in shapes.items()}
    return case.differing(lambda name: found[shapes[name]] == labels[name])


def highdicom(case: Case) -> dict[str, Callable[[], Counts]]:
    """Columns of the third environment."""

    def binary() -> Counts:
        masks = np.stack([mask for _, mask in case.masks().values()], axis=-1)
        return highdicom_binary(case, highdicom_written(case, str(case.folder / "highdicom.dcm"), "BINARY", masks))

    def labelmap() -> Counts:
        path = case.folder / "highdicom"
        maps = case.maps.items()
        return highdicom_labelmap(
            case, {shape: highdicom_written(case, f"{path}-{number}.dcm", "LABELMAP", one) for number, (shape, one) in enumerate(maps)}
        )

    return {
        "highdicom binary": binary,
        "highdicom LABELMAP": labelmap,
        "our binary → highdicom": lambda: highdicom_binary(case, case.binary),
        "our LABELMAP → highdicom": lambda: highdicom_labelmap(case, case.labelmaps),
    }


PEERS: Final[Mapping[str, tuple[Callable[[Case], dict[str, Callable[[], Counts]]], tuple[str, ...]]]] = {
    "rtstruct": (rtstruct, ("rt-utils", "dcmrtstruct2nii")),
    "platipy": (platipy, ("platipy",)),
    "seg": (highdicom, ("highdicom",)),
}


def main(peer: str, job: str) -> None:
    """All series of a job."""
    warnings.simplefilter("ignore")
    columns, packages = PEERS[peer]
    print(json.dumps({"versions": {name: importlib.metadata.version(name) for name in packages}}), flush=True)
    for given in json.loads(Path(job).read_text()):
        case = Case(given)
        found: dict[str, Counts | str] = {}
        for column, work in columns(case).items():
            try:
                found[column] = work()
                if given["is_kept"] and case.ring is not None:
                    np.save(case.folder / f"kept-{column}.npy", case.ring)
            except Exception as error:
                found[column] = f"{type(error).__name__}: {error}"
        print(json.dumps({"name": given["name"], "kind": given["kind"], "columns": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
