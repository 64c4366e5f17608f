from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate import nifti, nifti_codec
from delineate.errors import DelineateError, GeometryError, ImageError
from delineate.geometry import Geometry
from delineate.orientation import reorientation
from delineate.volume import Volume

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
SHARED = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REAL = sorted(SHARED.glob("S*/**/*.nii.gz"))


def volume(dtype: str = "i2", **rest: Any) -> Volume:
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    return Volume(voxels, Geometry((5, 4, 3), (0.9, 1.5, 3.0), (-10.0, 20.0, 30.5)), **rest)


def simpleitk_grid(image: Any) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_by_simpleitk(path: Path) -> tuple[np.ndarray, Geometry]:
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), simpleitk_grid(image)


def header(
    codes: tuple[int, int] = (0, 0),
    quaternion: tuple[float, ...] = (0, 0, 1),
    dim: tuple[int, ...] = (3, 2, 3, 4, 1, 1, 1, 1),
    pixdim: tuple[float, ...] = (1, 1.5, 2, 3),
    srow: tuple[float, ...] = (1.5, 0, 0, 7, 0, 2, 0, 8, 0, 0, -3, 9),
    units: int = 2,
    datatype: int = 4,
    magic: bytes = b"n+1\0",
    order: str = "<",
    scaling: tuple[float, float] = (1, 0),
    offset: float = 352,
) -> bytes:
    """A NIfTI-1 header written by hand, field by field, independent of the codec."""
    raw = bytearray(352)
    struct.pack_into(order + "i", raw, 0, 348)
    struct.pack_into(order + "8h", raw, 40, *dim)
    struct.pack_into(order + "hh", raw, 70, datatype, 16)
    struct.pack_into(order + "8f", raw, 76, *pixdim, 0, 0, 0, 0)
    struct.pack_into(order + "3f", raw, 108, offset, *scaling)
    raw[123] = units
    struct.pack_into(order + "hh", raw, 252, *codes)
    struct.pack_into(order + "6f", raw, 256, *quaternion, 4, 5, 6)
    struct.pack_into(order + "12f", raw, 280, *srow)
    raw[344:348] = magic
    return bytes(raw)


VOXELS = np.arange(24, dtype="<i2").tobytes()


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_round_trips_and_other_readers_agree(tmp_path: Path, dtype: str, name: str) -> None:
    path = tmp_path / name
    written = volume(dtype)
    nifti.write(path, written)
    back = nifti.read(path)
    assert back.voxels.dtype == np.dtype(dtype)
    assert back.voxels.flags.c_contiguous
    np.testing.assert_array_equal(back.voxels, written.voxels)
    assert back.geometry.matches(written.geometry)
    voxels, geometry = read_by_simpleitk(path)
    np.testing.assert_array_equal(voxels, written.voxels)
    assert geometry.matches(written.geometry)
    other = nibabel.Nifti1Image.from_filename(path)
    np.testing.assert_array_equal(np.asanyarray(other.dataobj).transpose(), written.voxels)
    np.testing.assert_allclose(other.affine, np.diag([-1, -1, 1, 1]) @ written.geometry.affine, atol=1e-4)


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    size = draw(st.tuples(*[st.integers(1, 9)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.05, 20)] * 3))
    origin = draw(st.tuples(*[st.floats(-2000, 2000)] * 3))
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.01)))
    a, b, c, d = quaternion / np.linalg.norm(quaternion)
    matrix = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    matrix[:, draw(st.integers(0, 2))] *= draw(st.sampled_from([1, -1]))
    geometry = Geometry(size, spacing, origin, tuple(matrix.ravel()))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    voxels = random.integers(0, 120, geometry.shape).astype(draw(st.sampled_from(TYPES)))
    slope, intercept = draw(st.sampled_from([(1.0, 0.0), (2.0, -1024.0), (0.5, 3.0)]))
    return Volume(voxels, geometry, slope, intercept)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=volumes(), packed=st.booleans())
def test_any_image_round_trips_and_other_readers_agree(tmp_path: Path, image: Volume, packed: bool) -> None:
    # Beside a file image.nii, ITK takes the voxels of image.nii.gz from there: the two need names of their own.
    path = tmp_path / ("packed.nii.gz" if packed else "plain.nii")
    nifti.write(path, image)
    back = nifti.read(path)
    np.testing.assert_array_equal(back.voxels, image.voxels)
    assert (back.slope, back.intercept) == (image.slope, image.intercept)
    assert back.geometry.matches(image.geometry), back.geometry.difference(image.geometry)
    voxels, geometry = read_by_simpleitk(path)
    np.testing.assert_allclose(voxels, image.values(), rtol=1e-6)
    assert geometry.matches(image.geometry), geometry.difference(image.geometry)
    other = nibabel.Nifti1Image.from_filename(path)
    expected = np.diag([-1.0, -1, 1, 1]) @ image.geometry.affine
    np.testing.assert_allclose(other.affine, expected, rtol=1e-5, atol=1e-3)
    # The quaternion is float32: near half turns, where its first part vanishes, the format itself is coarser.
    np.testing.assert_allclose(other.get_qform(), expected, atol=2e-3 * max(image.geometry.spacing) + 1e-3)


@pytest.mark.parametrize(
    "codes, units",
    [((0, 0), 2), ((1, 0), 2), ((0, 1), 2), ((0, 2), 2), ((2, 1), 2), ((1, 0), 1), ((0, 4), 3), ((1, 1), 0)],
)
def test_the_grid_is_where_simpleitk_sees_it(tmp_path: Path, codes: tuple[int, int], units: int) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(header(codes, units=units) + VOXELS)
    voxels, geometry = read_by_simpleitk(path)
    image = nifti.read(path)
    assert not image.geometry.difference(geometry)
    np.testing.assert_array_equal(image.voxels, voxels)


def test_without_orientation_the_axes_are_l_p_s_at_the_origin() -> None:
    image = nifti.read(io.BytesIO(header() + VOXELS))
    assert image.geometry == Geometry((2, 3, 4), (1.5, 2.0, 3.0))


def test_a_negative_qfac_mirrors_z(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(header((1, 0), pixdim=(-1, 1.5, 2, 3), quaternion=(0.1, 0.2, 0.3)) + VOXELS)
    assert nifti.read_geometry(path).matches(read_by_simpleitk(path)[1])
    assert np.linalg.det(nifti.read_geometry(path).matrix) == pytest.approx(-1)


@pytest.mark.parametrize("half", [(np.sqrt(0.5), np.sqrt(0.5), 0), (0, np.sqrt(0.5), np.sqrt(0.5)), (np.sqrt(1 / 3),) * 3])
def test_half_a_turn_is_not_askew_by_what_was_rounded(half: tuple[float, ...], tmp_path: Path) -> None:
    """Of b, c, d in 32 bits a is not quite 0, which would be a tenth of a millimetre at the other end of a patient."""
    path = tmp_path / "image.nii"
    path.write_bytes(header((1, 0), quaternion=half) + VOXELS)
    found = np.diag([-1.0, -1, 1]) @ nifti.read_geometry(path).matrix
    np.testing.assert_allclose(found, 2 * np.outer(half, half) - np.eye(3), atol=1e-6)
    assert nifti.read_geometry(path).matches(read_by_simpleitk(path)[1])


def test_sform_wins_over_a_contradicting_qform() -> None:
    assert nifti.read_geometry(io.BytesIO(header((1, 2)))).origin == (-7, -8, 9)


def test_sheared_and_singular_grids_are_refused() -> None:
    sheared = header((1, 1), srow=(1.5, 0.5, 0, 7, 0, 2, 0, 8, 0, 0, -3, 9))
    with pytest.raises(GeometryError, match="perpendicular") as caught:
        nifti.read(io.BytesIO(sheared + VOXELS))
    assert "Resample" in caught.value.advice
    with pytest.raises(GeometryError, match="singular"):
        nifti.read(io.BytesIO(header((0, 1), srow=(0,) * 12) + VOXELS))
    endless = header((1, 1), srow=(1.5, 0, 0, 7, 0, float("inf"), 0, 8, 0, 0, -3, 9))
    with pytest.raises(GeometryError, match="not finite"):  # and no warning of numpy's
        nifti.read(io.BytesIO(endless + VOXELS))


@pytest.mark.parametrize("dtype", TYPES)
def test_big_endian(dtype: str) -> None:
    codes = {"u1": 2, "i1": 256, "u2": 512, "i2": 4, "u4": 768, "i4": 8, "u8": 1280, "i8": 1024, "f4": 16, "f8": 64}
    values = np.arange(24, dtype=">" + dtype)
    image = nifti.read(io.BytesIO(header((0, 1), order=">", datatype=codes[dtype]) + values.tobytes()))
    assert image.voxels.dtype.isnative
    np.testing.assert_array_equal(image.voxels.ravel(), values)
    assert image.geometry == nifti.read_geometry(io.BytesIO(header((0, 1))))


def test_long_axes_make_nifti_2(tmp_path: Path) -> None:
    path = tmp_path / "long.nii.gz"
    image = Volume(np.arange(80000, dtype=np.int32).reshape(1, 2, 40000), Geometry((40000, 2, 1), (0.1, 2, 3), (1, 2, 3)), 3.0, 4.0)
    nifti.write(path, image, description="long")
    back = nifti.read(path)
    np.testing.assert_array_equal(back.voxels, image.voxels)
    assert back.geometry.matches(image.geometry)
    assert (back.slope, back.intercept) == (3.0, 4.0)
    other = nibabel.Nifti2Image.from_filename(path)
    np.testing.assert_allclose(other.affine, np.diag([-1, -1, 1, 1]) @ image.geometry.affine)
    np.testing.assert_allclose(other.get_qform(), other.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asanyarray(other.dataobj.get_unscaled()).transpose(), image.voxels)


def test_big_endian_nifti_2_of_nibabel(tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    affine = np.diag([-2.0, -3, 4, 1])
    nibabel.Nifti2Image(np.arange(24, dtype=">i2").reshape(2, 3, 4), affine, nibabel.Nifti2Header(endianness=">")).to_filename(path)
    image = nifti.read(path)
    assert image.geometry == Geometry((2, 3, 4), (2, 3, 4))
    np.testing.assert_array_equal(image.voxels.transpose().ravel(), np.arange(24))


@pytest.mark.parametrize("scaling", [(0, 5), (float("nan"), 1), (1, float("inf"))])
def test_scaling_that_means_none(scaling: tuple[float, float]) -> None:
    image = nifti.read(io.BytesIO(header(scaling=scaling) + VOXELS))
    assert not image.is_rescaled


def test_extensions_before_the_voxels_are_passed_over() -> None:
    raw = header(offset=384) + b"e" * 32 + VOXELS
    np.testing.assert_array_equal(nifti.read(io.BytesIO(raw)).voxels.ravel(), np.arange(24))
    np.testing.assert_array_equal(nifti.read(io.BytesIO(gzip.compress(raw))).voxels.ravel(), np.arange(24))


def test_dimensions_of_one_are_no_dimensions() -> None:
    assert nifti.read(io.BytesIO(header(dim=(5, 2, 3, 4, 1, 1, 1, 1)) + VOXELS)).geometry.size == (2, 3, 4)
    assert nifti.read(io.BytesIO(header(dim=(2, 2, 12, 0, 0, 0, 0, 0)) + VOXELS)).geometry.size == (2, 12, 1)


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "too short"),
        (b"not a NIfTI file" * 40, "not a NIfTI"),
        (header() + VOXELS[:-1], "cut off"),
        (header(magic=b"ni1\0") + VOXELS, r"\.hdr/\.img"),
        (header(dim=(4, 2, 3, 2, 2, 1, 1, 1)) + VOXELS, "4-dimensional image with 2 time points"),
        (header(dim=(5, 2, 3, 2, 1, 2, 1, 1)) + VOXELS, "several values per voxel"),
        (header(dim=(3, 2, 0, 4, 1, 1, 1, 1)) + VOXELS, "no voxels"),
        (header(dim=(3, -2, 3, 4, 1, 1, 1, 1)) + VOXELS, "no voxels"),
        (header(dim=(9, 2, 3, 4, 1, 1, 1, 1)) + VOXELS, "9 dimensions"),
        (header(datatype=32) + VOXELS * 4, "complex"),
        (header(datatype=128) + VOXELS * 2, "RGB"),
        (header(datatype=1234) + VOXELS * 2, "unknown"),
        (header(offset=float("nan")) + VOXELS, "begin nowhere"),
        (header(datatype=16) + np.full(24, np.nan, "<f4").tobytes(), "NaN only"),
        (header(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)) + VOXELS, "cut off"),
        (gzip.compress(header(dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)) + VOXELS), "cut off"),
        (gzip.compress(header() + VOXELS)[:-30], "cut off"),
        (gzip.compress(header() + VOXELS)[:-4], "cut off"),
    ],
)
def test_what_is_no_image_says_why(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "image.nii.gz"
    path.write_bytes(raw)
    for source in (path, io.BytesIO(raw)):
        with pytest.raises(ImageError, match=message) as caught:
            nifti.read(source)
        assert caught.value.advice


def test_a_wrong_checksum_is_noticed() -> None:
    raw = bytearray(gzip.compress(header() + VOXELS, 0))
    raw[-20] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        nifti.read(io.BytesIO(raw))


def test_a_header_that_promises_too_much_takes_no_memory() -> None:
    import tracemalloc

    liar = gzip.compress(header(dim=(3, 30000, 30000, 3000, 1, 1, 1, 1)) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(ImageError, match="cut off"):
        nifti.read(io.BytesIO(liar))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_missing_file() -> None:
    with pytest.raises(ImageError, match="cannot be opened"):
        nifti.read("/nowhere/image.nii.gz")


def test_several_members_and_what_follows_the_last() -> None:
    raw = header() + VOXELS
    members = gzip.compress(raw[:100]) + gzip.compress(raw[100:380]) + gzip.compress(raw[380:])
    for tail in (b"", b"\0" * 9, b"trailing garbage"):
        np.testing.assert_array_equal(nifti.read(io.BytesIO(members + tail)).voxels.ravel(), np.arange(24))
    np.testing.assert_array_equal(nifti.read(io.BytesIO(raw + b"garbage")).voxels.ravel(), np.arange(24))


def test_one_plain_gzip_member_of_the_same_bytes_each_time() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    big = Volume(np.random.default_rng(0).integers(0, 900, (40, 200, 300)).astype(np.int16), Geometry((300, 200, 40)))
    nifti.write(first, big)
    nifti.write(second, big)
    raw = first.getvalue()
    assert raw == second.getvalue()
    assert raw[:4] == b"\x1f\x8b\x08\x00"  # no name, no extra field, no comment
    assert raw[4:8] == bytes(4)  # no time
    import zlib

    inflate = zlib.decompressobj(31)
    content = inflate.decompress(raw)
    assert inflate.eof and not inflate.unused_data
    assert len(content) == 352 + big.voxels.nbytes


def test_zlib_instead_of_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    image = volume(slope=2.0)
    fast = io.BytesIO()
    nifti.write(fast, image)
    monkeypatch.setattr(nifti_codec, "_deflate", zlib)
    plain = io.BytesIO()
    nifti.write(plain, image)
    assert plain.getvalue()[:8] == b"\x1f\x8b\x08" + bytes(5)
    assert gzip.decompress(plain.getvalue()) == gzip.decompress(fast.getvalue())
    for raw in (plain.getvalue(), fast.getvalue() + b"garbage"):
        np.testing.assert_array_equal(nifti.read(io.BytesIO(raw)).voxels, image.voxels)
    with pytest.raises(ImageError, match="cut off"):
        nifti.read(io.BytesIO(plain.getvalue()[:-20]))


def test_views_are_written_as_they_are_seen(tmp_path: Path) -> None:
    image = volume()
    mapped = image.mapped(reorientation(image.geometry, "SAR"))
    assert not mapped.voxels.flags.c_contiguous
    nifti.write(tmp_path / "view.nii.gz", mapped)
    np.testing.assert_array_equal(nifti.read(tmp_path / "view.nii.gz").voxels, mapped.voxels)
    swapped = Volume(image.voxels.astype(">i2"), image.geometry)
    nifti.write(tmp_path / "swapped.nii", swapped)
    np.testing.assert_array_equal(nifti.read(tmp_path / "swapped.nii").voxels, image.voxels)


def test_geometry_needs_the_first_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    nifti.write(path, volume())
    assert nifti.read_geometry(path).matches(volume().geometry)
    plain = tmp_path / "image.nii"
    nifti.write(plain, volume())
    plain.write_bytes(plain.read_bytes()[:352])
    assert nifti.read_geometry(plain).matches(volume().geometry)


def test_types_that_nifti_has_not(tmp_path: Path) -> None:
    nifti.write(tmp_path / "a.nii.gz", volume("?"))
    assert nifti.read(tmp_path / "a.nii.gz").voxels.dtype == np.uint8
    nifti.write(tmp_path / "a.nii.gz", volume("f2"))
    assert nifti.read(tmp_path / "a.nii.gz").voxels.dtype == np.float32
    with pytest.raises(ImageError, match="complex"):
        nifti.write(tmp_path / "b.nii.gz", volume("c8"))
    assert not (tmp_path / "b.nii.gz").exists()


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti_codec, "write", fail)
    with pytest.raises(OSError, match="space"):
        nifti.write(tmp_path / "a.nii.gz", volume())
    assert not (tmp_path / "a.nii.gz").exists()


def test_description_is_cut_to_the_header(tmp_path: Path) -> None:
    nifti.write(tmp_path / "a.nii", volume(), description="é" + "x" * 100)
    text = bytes(nibabel.Nifti1Image.from_filename(tmp_path / "a.nii").header["descrip"])
    assert text.rstrip(b"\0") == b"?" + b"x" * 78


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "i8", "f4", "f8", "?"])
def test_labels_come_back_in_the_smallest_type(tmp_path: Path, dtype: str) -> None:
    labels = (np.arange(60).reshape(3, 4, 5) % 7).astype(dtype)
    nifti.write(tmp_path / "labels.nii.gz", Volume(labels, volume().geometry))
    back, geometry = nifti.read_labels(tmp_path / "labels.nii.gz")
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)
    assert geometry.matches(volume().geometry)


def test_labels_of_many_structures_and_of_rounding() -> None:
    many = np.arange(60, dtype=np.float64).reshape(3, 4, 5) * 10
    assert nifti.to_labels(many).dtype == np.uint16
    np.testing.assert_array_equal(nifti.to_labels(many + 9e-4), many)
    np.testing.assert_array_equal(nifti.to_labels(many - 9e-4), many)
    scaled = io.BytesIO()
    nifti.write(scaled, Volume((many / 5).astype(np.int16), volume().geometry, slope=5.0))
    scaled.seek(0)
    np.testing.assert_array_equal(nifti.read_labels(scaled)[0], many)


@pytest.mark.parametrize(
    "values, message",
    [([0, -1.0], "negative"), ([0, 0.5], "between"), ([0, np.nan], "finite"), ([1, np.inf], "finite"), ([0, 1e12], "too large")],
)
def test_what_is_no_label_map(values: list[float], message: str) -> None:
    with pytest.raises(DelineateError, match=message):
        nifti.to_labels(np.array(values).reshape(1, 1, 2))
    if message == "negative":
        with pytest.raises(ImageError, match=message):
            nifti.to_labels(np.array([0, -1], np.int16).reshape(1, 1, 2))


def test_labels_are_written_in_the_smallest_type(tmp_path: Path) -> None:
    labels = np.arange(60, dtype=np.uint32).reshape(3, 4, 5)
    nifti.write_labels(tmp_path / "labels.nii.gz", labels, volume().geometry)
    assert nifti.read(tmp_path / "labels.nii.gz").voxels.dtype == np.uint8


@pytest.mark.parametrize("path", REAL, ids=lambda p: f"{p.parts[-2][:3]}-{p.name}")
def test_real_images_are_read_as_simpleitk_reads_them(path: Path) -> None:
    if nibabel.Nifti1Image.from_filename(path).ndim > 3:
        with pytest.raises(ImageError, match="time points"):
            nifti.read(path)
        return
    image = nifti.read(path)
    voxels, geometry = read_by_simpleitk(path)
    assert not image.geometry.difference(geometry)
    np.testing.assert_array_equal(image.values(), voxels)
    assert nifti.read_geometry(path) == image.geometry
