"""What an upload must be: readable by its header, whole, and on the grid of its image."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from delineate import files, nifti
from delineate.datastore.formats import require_image, require_label, write_raw
from delineate.datastore.grids import grid_of
from delineate.errors import ImageError, InputError
from delineate.geometry import Geometry
from delineate.orientation import is_same_place, reorientation
from delineate.store.blobs import BlobStore
from delineate.testing.conformance.monai_label_plain import picture
from delineate.volume import Volume

SHARED = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
OBLIQUE = Geometry((9, 8, 7), (0.8, 0.9, 2.5), (-12.5, 30.25, 400.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
PNG = picture()
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 20 + b"\xff\xd9"
ENTRY = struct.pack("<HHII", 256, 3, 1, 9)
TIFF = b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", 1) + ENTRY + bytes(4)
BIG_TIFF = b"MM\0+" + struct.pack(">HHQ", 8, 0, 16) + struct.pack(">Q", 1) + struct.pack(">HHQQ", 256, 3, 1, 9) + bytes(8)


def volume(grid: Geometry = OBLIQUE) -> Volume:
    return Volume(np.arange(np.prod(grid.shape), dtype=np.int16).reshape(grid.shape), grid)


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR"])
def test_grids_by_header_are_those_of_the_libraries(tmp_path: Path, extension: str, codes: str) -> None:
    grid = reorientation(OBLIQUE, codes).grid(OBLIQUE)
    path = tmp_path / f"x{extension}"
    files.write_volume(path, volume(grid))
    found = grid_of(path, extension)
    assert found is not None
    assert not grid.difference(found)
    assert require_image(path, extension) == found


@pytest.mark.shared
def test_grids_of_real_nrrd_files() -> None:
    paths = sorted(SHARED.glob("*/*.nrrd"))
    if not paths:
        pytest.skip("the real images are not here")
    for path in paths:
        found = grid_of(path, ".nrrd")
        assert found is not None
        assert not files.read_volume(path).geometry.difference(found), path.name


@pytest.mark.parametrize("centres", ["", "centers: cell cell cell\n", "centers: node node node\n"])
def test_nrrd_whose_place_is_said_axis_by_axis(tmp_path: Path, centres: str) -> None:
    pytest.importorskip("SimpleITK")
    path = tmp_path / "x.nrrd"
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nencoding: raw\nendian: little\naxis mins: 5 6 7\n"
    path.write_bytes(f"{head}spacings: 1.5 2 3\n{centres}\n".encode() + bytes(48))
    found = grid_of(path, ".nrrd")
    assert found is not None
    assert not files.read_volume(path).geometry.difference(found)
    path.write_bytes(f"{head}axis maxs: 9 9 9\n\n".encode() + bytes(48))
    with pytest.raises(ImageError, match="by axis mins alone"):
        grid_of(path, ".nrrd")


def test_a_segmentation_of_several_layers_has_the_grid_of_its_space(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.zeros((*OBLIQUE.shape, 3), np.uint8), isVector=True)
    image.SetSpacing(OBLIQUE.spacing)
    image.SetOrigin(OBLIQUE.origin)
    image.SetDirection(OBLIQUE.direction)
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
    found = grid_of(tmp_path / "x.nrrd", ".nrrd")
    assert found is not None
    assert not OBLIQUE.difference(found)


def test_formats_without_millimetres_have_no_grid(tmp_path: Path) -> None:
    for name, start in {
        "x.png": PNG,
        "x.jpg": JPEG,
        "x.tif": TIFF,
        "x.svs": BIG_TIFF,
    }.items():
        (tmp_path / name).write_bytes(start)
        assert require_image(tmp_path / name, name[1:]) is None


@pytest.mark.parametrize(
    ("extension", "content"),
    [
        (".nii.gz", b"garbage" * 100), (".nii", b""), (".nii.gz", gzip.compress(b"no image at all" * 100, mtime=0)),
        (".nrrd", b"NRRD0004\n"), (".nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 x\nencoding: raw\n\n" + b"\0" * 16),
        (".nrrd", b"NRRD0004\ntype: short\ndimension: 2\nsizes: 2 2\nencoding: raw\n\n" + b"\0" * 16),
        (".mha", b"ObjectType = Image\n"), (".mha", b"NDims = 3\nDimSize = 2 2\nElementDataFile = LOCAL\n"),
        (".png", b"GIF89a" + b"\0" * 20), (".png", b""), (".svs", PNG), (".jpg", PNG), (".tif", b"II*\0"),
        (".png", PNG[:-1]), (".png", PNG[:40]), (".png", PNG[:16] + bytes(8) + PNG[24:]), (".jpg", JPEG[:-2]),
        (".tif", TIFF[:-10]), (".tif", TIFF[:14] ), (".tif", TIFF[:12] + bytes(18)), (".svs", BIG_TIFF[:30]),
        (".svs", b"MM\0+" + b"\xff" * 20),
    ],
)  # fmt: skip
def test_garbage_is_refused_with_a_reason(tmp_path: Path, extension: str, content: bytes) -> None:
    path = tmp_path / "0123456789abcdef"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        require_image(path, extension)
    assert caught.value.advice
    assert path.name not in caught.value.message


@pytest.mark.parametrize(
    "header",
    [b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: /etc/passwd\n\n",
     b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nDatafile: x\n\n"],
)  # fmt: skip
def test_nrrd_that_names_another_file_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "x").write_bytes(header)
    with pytest.raises(ImageError, match="another file"):
        require_image(tmp_path / "x", ".nrrd")


def test_metaimage_that_names_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"NDims = 3\nDimSize = 2 2 2\nElementDataFile = /etc/passwd\n")
    with pytest.raises(ImageError, match="another file"):
        require_image(tmp_path / "x", ".mha")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize("part", [0.98, 0.5, 0.2])
def test_cut_off_images_are_refused(tmp_path: Path, extension: str, part: float) -> None:
    path = tmp_path / f"x{extension}"
    grid = Geometry((40, 40, 20))
    nifti.write(path, Volume(np.random.default_rng(0).integers(0, 999, grid.shape).astype(np.int16), grid))
    require_image(path, extension)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ImageError, match="cut off"):
        require_image(path, extension)


def test_several_gzip_members_and_trailing_bytes_are_whole(tmp_path: Path) -> None:
    nifti.write(tmp_path / "x.nii", volume())
    plain = (tmp_path / "x.nii").read_bytes()
    packed = tmp_path / "x.nii.gz"
    packed.write_bytes(gzip.compress(plain[:500]) + gzip.compress(plain[500:]))
    assert require_image(packed, ".nii.gz") is not None
    packed.write_bytes(gzip.compress(plain + b"\0" * 100))
    assert require_image(packed, ".nii.gz") is not None
    packed.write_bytes(gzip.compress(plain) + b"\r\n")  # one line's end too many in a form
    assert require_image(packed, ".nii.gz") is not None
    packed.write_bytes(gzip.compress(plain)[:-9] + b"\r\n")
    with pytest.raises(ImageError, match="cut off"):
        require_image(packed, ".nii.gz")


def test_same_place_whatever_the_order_of_axes() -> None:
    turned = reorientation(OBLIQUE, "RAS").grid(OBLIQUE)
    assert is_same_place(OBLIQUE, turned)
    rounded = Geometry(OBLIQUE.size, OBLIQUE.spacing, tuple(round(v, 2) + 0.001 for v in OBLIQUE.origin), OBLIQUE.direction)
    assert is_same_place(OBLIQUE, rounded)
    shifted = Geometry(OBLIQUE.size, OBLIQUE.spacing, (OBLIQUE.origin[0] + 0.4, *OBLIQUE.origin[1:]), OBLIQUE.direction)
    assert not is_same_place(OBLIQUE, shifted)
    assert not is_same_place(OBLIQUE, Geometry((9, 8, 8), OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction))
    assert not is_same_place(OBLIQUE, Geometry(OBLIQUE.size, (0.8, 0.9, 2.6), OBLIQUE.origin, OBLIQUE.direction))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_raw_arrays_are_on_the_images_grid(tmp_path: Path, kind: type) -> None:
    labels = np.random.default_rng(1).integers(0, 200, OBLIQUE.shape).astype(kind)
    (tmp_path / "raw").write_bytes(labels.tobytes())
    with BlobStore(tmp_path / "blobs", sync=False).incoming() as writer:
        write_raw(tmp_path / "raw", OBLIQUE, writer)
        writer.seal()
        found, grid = nifti.read_labels(writer.path)
    np.testing.assert_array_equal(found, labels)
    assert not grid.difference(OBLIQUE)


@pytest.mark.parametrize("kind", ["<f4", ">u4"])
def test_raw_arrays_of_other_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    raw = tmp_path / "x.bin"
    raw.write_bytes(np.ones(OBLIQUE.shape, kind).tobytes())
    with BlobStore(tmp_path / "blobs", sync=False).incoming() as target, pytest.raises(InputError, match="values up to"):
        write_raw(raw, OBLIQUE, target)


@pytest.mark.parametrize("size", [0, 503, 505, 504 * 3, 504 * 8])
def test_raw_arrays_of_another_length_are_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "raw").write_bytes(b"\0" * size)
    with BlobStore(tmp_path / "blobs", sync=False).incoming() as writer, pytest.raises(InputError, match=f"{size} bytes"):
        write_raw(tmp_path / "raw", OBLIQUE, writer)


def test_outlines_must_be_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for extension, content in {".xml": b"<ASAP_Annotations><a/></ASAP_Annotations>", ".json": b'{"elements": []}'}.items():
        path.write_bytes(content)
        assert require_label(path, extension) is None
        path.write_bytes(content[:-3])
        with pytest.raises(InputError, match="no whole"):
            require_label(path, extension)
    path.write_bytes(b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    with pytest.raises(InputError, match="no whole"):
        require_label(path, ".xml")
    path.write_bytes(b"\0" * 128 + b"DICM")
    assert require_label(path, ".dcm") is None
    path.write_bytes(b"\0" * 200)
    with pytest.raises(ImageError, match="DICOM"):
        require_label(path, ".dcm")
