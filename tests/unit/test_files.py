from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from delineate import files, nifti
from delineate.errors import GeometryError, ImageError, InputError, MissingPartError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.segmentation import Segmentation, Structure
from delineate.volume import Volume

SHARED = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = sorted(SHARED.glob("S*/**/*.nrrd"))
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]


def grid(codes: str = "RPI") -> Geometry:
    turn = np.deg2rad(17)
    direction = (np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1)
    start = Geometry((5, 4, 3), (0.9, 1.5, 3.0), (-10.0, 20.0, 30.5), direction)
    return reorientation(start, codes).grid(start)


def overlapping(geometry: Geometry) -> Segmentation:
    heart = np.zeros(geometry.shape, dtype=bool)
    heart[0, 1:3, 1:3] = True
    left = heart.copy()
    left[1] = True
    return Segmentation.from_masks({"Heart": heart, "Lunge links é": left}, geometry)


def assert_same(one: Segmentation, other: Segmentation) -> None:
    assert not one.geometry.difference(other.geometry)
    assert one.names == other.names
    for name in one.names:
        np.testing.assert_array_equal(one.mask(name), other.mask(name))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("codes", ["LPS", "RPI", "SAR"])
def test_images_round_trip_in_every_format(tmp_path: Path, suffix: str, dtype: str, codes: str) -> None:
    geometry = grid(codes)
    image = Volume(np.arange(60).reshape(geometry.shape).astype(dtype), geometry)
    path = tmp_path / f"image{suffix}"
    files.write_volume(path, image)
    back = files.read_volume(path)
    assert not back.geometry.difference(geometry)
    assert back.voxels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.voxels, image.voxels)
    seen = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(seen), image.voxels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_real_values_are_kept(tmp_path: Path, suffix: str) -> None:
    image = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), Geometry((5, 4, 3)), slope=2.0, intercept=-1024.0)
    files.write_volume(tmp_path / f"image{suffix}", image)
    np.testing.assert_array_equal(files.read_volume(tmp_path / f"image{suffix}").values(), image.values())


@pytest.mark.parametrize("dtype", ["?", "f2"])
def test_types_that_itk_has_not(tmp_path: Path, dtype: str) -> None:
    voxels = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    files.write_volume(tmp_path / "image.nrrd", Volume(voxels, Geometry((5, 4, 3))))
    np.testing.assert_array_equal(files.read_volume(tmp_path / "image.nrrd").voxels, voxels)


def test_arrays_outlive_the_image_they_came_from(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(0, 1000, (30, 40, 50)).astype(np.int16)
    files.write_volume(tmp_path / "image.nrrd", Volume(expected, Geometry((50, 40, 30))))
    read = [files.read_volume(tmp_path / "image.nrrd").voxels for _ in range(5)]
    for voxels in read:
        np.testing.assert_array_equal(voxels, expected)


def test_ras_nrrd_is_brought_to_lps(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype="<i2").reshape(4, 3, 2)
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 3 4\n"
        "space directions: (1.5,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (10,20,30)\n\n"
    )
    (tmp_path / "image.nrrd").write_bytes(text.encode() + voxels.tobytes())
    image = files.read_volume(tmp_path / "image.nrrd")
    assert image.geometry == Geometry((2, 3, 4), (1.5, 2, 3), (-10, -20, 30), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    np.testing.assert_array_equal(image.voxels, voxels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_overlapping_structures_round_trip_with_their_names(tmp_path: Path, suffix: str) -> None:
    segmentation = overlapping(grid())
    written = files.write_segmentation(tmp_path / f"result{suffix}", segmentation)
    assert all(path.is_file() for path in written)
    maps = [path for path in written if path.suffix != ".json"]
    assert_same(files.read_segmentation(*maps), segmentation)
    if suffix != ".nrrd":
        assert [path.name for path in written] == [f"result{suffix}", "result.json", f"result_2{suffix}", "result_2.json"]
        assert json.loads(written[1].read_text(encoding="utf-8")) == {"1": "Heart"}


def test_slicer_metadata_is_read(tmp_path: Path) -> None:
    voxels = np.zeros((3, 4, 5, 2), np.uint8)
    voxels[0, ..., 0] = 3
    voxels[1, ..., 0] = 7
    voxels[..., 1] = 3
    image = sitk.GetImageFromArray(voxels, isVector=True)
    tags = (
        "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~|"
    )
    fields = {
        "Segment0_ID": "Segment_1", "Segment0_Name": "Liver", "Segment0_LabelValue": "3", "Segment0_Layer": "0",
        "Segment0_Color": "1 0.5 0", "Segment0_Tags": tags,
        "Segment1_ID": "Segment_2", "Segment1_Name": "Tumour", "Segment1_LabelValue": "3", "Segment1_Layer": "1",
    }  # fmt: skip
    for key, value in fields.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    segmentation = files.read_segmentation(tmp_path / "s.seg.nrrd")
    assert segmentation["Liver"] == Structure("Liver", 3, 0, (255, 128, 0), "10200004")
    assert segmentation["Tumour"].layer == 1
    assert segmentation["label_7"].label == 7
    np.testing.assert_array_equal(segmentation.mask("Liver"), voxels[..., 0] == 3)
    assert segmentation.mask("Tumour").all()


def test_slicer_names_stay_on_one_line(tmp_path: Path) -> None:
    labels = np.ones((1, 1, 2), np.uint8)
    odd = Segmentation(Geometry((2, 1, 1)), (labels,), (Structure("a\nspace: x", 1),))
    files.write_segmentation(tmp_path / "a.nrrd", odd)
    assert files.read_segmentation(tmp_path / "a.nrrd").names == ["a space: x"]


def label_map(path: Path, *values: float) -> Path:
    nifti.write(path, Volume(np.array(values, np.float32).reshape(1, 1, -1), Geometry((len(values), 1, 1))))
    return path


def test_labels_without_names_get_some(tmp_path: Path) -> None:
    first = label_map(tmp_path / "a.nii.gz", 0, 1, 5)
    second = label_map(tmp_path / "b.nii.gz", 0, 1, 1)
    assert files.read_segmentation(first).names == ["label_1", "label_5"]
    (tmp_path / "a.json").write_text('{"1": "Heart", "9": "Empty"}')
    assert files.read_segmentation(first).names == ["Heart", "Empty", "label_5"]
    assert files.read_segmentation(first, second).names == ["Heart", "Empty", "label_5", "label_1_2"]


@pytest.mark.parametrize("content", ['{"Modality": "MR", "EchoTime": 0.01}', "[1, 2]", '{"1": 2}'])
def test_a_json_that_is_no_table_of_names_is_ignored(tmp_path: Path, content: str) -> None:
    path = label_map(tmp_path / "a.nii.gz", 0, 1)
    (tmp_path / "a.json").write_text(content)
    assert files.read_segmentation(path).names == ["label_1"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no image"):
        files.read_volume(tmp_path / "image")
    for name, reason in (("image.png", "a picture, not a volume"), ("image.xyz", "no image that is read here")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ImageError, match=reason):
            files.read_volume(tmp_path / name)
    with pytest.raises(ImageError, match="no such file"):
        files.read_volume(tmp_path / "image.nrrd")
    with pytest.raises(ImageError, match="cannot be opened"):
        files.read_volume(tmp_path / "image.nii")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        files.read_segmentation(label_map(tmp_path / "a.nii.gz", 0, 1))
    (tmp_path / "a.json").write_text('{"1": "A"}')
    (tmp_path / "b.json").write_text('{"1": "A"}')
    with pytest.raises(InputError, match="twice"):
        files.read_segmentation(tmp_path / "a.nii.gz", label_map(tmp_path / "b.nii.gz", 0, 1))
    with pytest.raises(GeometryError, match="another grid"):
        files.read_segmentation(tmp_path / "a.nii.gz", label_map(tmp_path / "c.nii.gz", 0, 1, 1))
    with pytest.raises(InputError, match="could not be written"):
        files.write_volume(tmp_path / "no" / "folder" / "a.nrrd", Volume(np.zeros((1, 1, 1)), Geometry((1, 1, 1))))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_broken_files_say_so(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"image{suffix}"
    files.write_volume(path, Volume(np.random.default_rng(0).integers(0, 99, (9, 20, 30)).astype(np.int16), Geometry((30, 20, 9))))
    whole = path.read_bytes()
    for raw in (b"", b"garbage", whole[: len(whole) // 2]):
        path.write_bytes(raw)
        with pytest.raises(ImageError, match="cut off, damaged"):
            files.read_volume(path)
    capfd.readouterr()  # ITK writes to standard error by itself


NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n%sendian: little\n\n"
MHA = b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n%s"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.nrrd", NRRD % b"data file: ../secret\n"),
        ("a.nrrd", NRRD % b"DataFile: %s\n"),
        ("a.nrrd", NRRD % b"datafile: LIST\n" + b"%s\n"),
        ("a.nrrd", NRRD % (b"# " + b"x" * (2 << 20) + b"\ndata file: %s\n")),
        ("a.mha", MHA % b"ElementDataFile = %s\n"),
        ("a.mha", MHA % b"ElementDataFile: ../secret\n"),
        ("a.mha", MHA % b"ElementDataFile = LIST\n%s\n%s\n"),
        ("a.mha", MHA % b"Offset = 0 0\nElementDataFile = LOCAL\n0\nElementDataFile = %s\n"),
        ("a.mha", MHA % b"Comment = \rElementDataFile = LOCAL\nElementDataFile = %s\n"),
    ],
)
def test_an_image_cannot_name_another_file_for_its_voxels(tmp_path: Path, name: str, header: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"password")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(header.replace(b"%s", str(secret).encode()))
    with pytest.raises(ImageError, match="voxels in another file"):
        files.read_volume(folder / name)
    with pytest.raises(ImageError, match="voxels in another file"):
        files.read_segmentation(folder / name)


def test_what_is_not_one_number_per_voxel_in_three_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "image.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(ImageError, match="3 values per voxel"):
        files.read_volume(path)
    sitk.WriteImage(sitk.JoinSeries([sitk.Image([4, 3, 2], sitk.sitkInt16)] * 5), str(path))
    with pytest.raises(ImageError, match="5 time points"):
        files.read_volume(path)
    sitk.WriteImage(sitk.JoinSeries([sitk.Image([4, 3, 2], sitk.sitkInt16)]), str(path))
    assert files.read_volume(path).geometry.size == (4, 3, 2)
    sitk.WriteImage(sitk.Image([4, 3], sitk.sitkInt16), str(path))
    assert files.read_volume(path).geometry.size == (4, 3, 1)
    files.write_volume(path, Volume(np.full((2, 2, 2), np.nan), Geometry((2, 2, 2))))
    with pytest.raises(ImageError, match="NaN"):
        files.read_volume(path)


def test_without_simpleitk_nifti_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    files.write_volume(tmp_path / "a.nii.gz", Volume(np.zeros((1, 1, 1)), Geometry((1, 1, 1))))
    assert files.read_volume(tmp_path / "a.nii.gz").geometry.size == (1, 1, 1)
    with pytest.raises(MissingPartError) as caught:
        files.read_volume(tmp_path / "a.nrrd")
    assert "delineate[images]" in caught.value.advice


@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.relative_to(SHARED).parts[0][:3]}-{p.name}")
def test_real_nrrds_are_read_as_simpleitk_reads_them(path: Path) -> None:
    image = files.read_volume(path)
    seen = sitk.ReadImage(str(path))
    assert not image.geometry.difference(Geometry(seen.GetSize(), seen.GetSpacing(), seen.GetOrigin(), seen.GetDirection()))
    np.testing.assert_array_equal(image.voxels, sitk.GetArrayFromImage(seen))
