"""Requests: which entries are images and in what order, what is said of them, and what we write."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.errors import ArchiveError, ImageError
from delineate.geometry import Geometry
from delineate.nifti_codec import Image
from delineate.protocols.archive import (
    ArchiveReader,
    FileRequestWriter,
    ImageMeta,
    RequestWriter,
    image_meta,
    read_image_meta,
    request_images,
)
from delineate.protocols.task_archive import tar_body
from delineate.volume import Volume

GRID = Geometry((5, 7, 9), (0.9, 1.1, 2.5), (-10.0, 20.0, 30.5), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def shared_data() -> Path | None:
    places = [os.environ.get("DELINEATE_SHARED_DATA", ""), Path(__file__).resolve().parents[3] / "shared" / "data"]
    return next((Path(place) for place in places if place and Path(place).is_dir()), None)


def real_images() -> list[Path]:
    data = shared_data()
    return sorted(data.glob("S0[13]*/example_*_sm.nii.gz")) if data else []


def volume(**fields: Any) -> Volume:
    voxels = np.arange(np.prod(GRID.shape), dtype=np.int16).reshape(GRID.shape)
    return Volume(voxels, GRID, **fields)


def archive_of(path: Path, names: list[str], contents: dict[str, Any] | None = None) -> ArchiveReader:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, json.dumps((contents or {}).get(name, {})))
    return ArchiveReader(path)


# ---- which entries are images


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["tmp_0001.nii.gz", "meta.json", "tmp_0000.nii.gz"], ["tmp_0000.nii.gz", "tmp_0001.nii.gz"]),
        (["top/tmp_0001.nii.gz", "top/tmp_0000.nii.gz", "top/meta.json"], ["top/tmp_0000.nii.gz", "top/tmp_0001.nii.gz"]),
        ([f"tmp_{n:04d}.nii.gz" for n in range(11, -1, -1)], [f"tmp_{n:04d}.nii.gz" for n in range(12)]),
        (["tmp_0000.nrrd", "tmp_0001.mha", "tmp_0002.nii"], ["tmp_0000.nrrd", "tmp_0001.mha", "tmp_0002.nii"]),
        (["TMP_0000.NII.GZ"], ["TMP_0000.NII.GZ"]),
        (["case10.nii.gz", "case9.nii.gz", "readme.txt"], ["case9.nii.gz", "case10.nii.gz"]),
        (["pet.nii.gz", "tmp_0000.nii.gz"], ["tmp_0000.nii.gz", "pet.nii.gz"]),
        (["__MACOSX/._tmp_0000.nii.gz", "._tmp_0000.nii.gz", "tmp_0000.nii.gz"], ["tmp_0000.nii.gz"]),
        (["tmp_0000.nii.gz", "tmp_0000.meta.json", "tmp_0000.dicom_info.json"], ["tmp_0000.nii.gz"]),
    ],
)
def test_images_and_their_order(tmp_path: Path, names: list[str], images: list[str]) -> None:
    assert request_images(names) == images
    assert request_images(archive_of(tmp_path / "a.zip", names)) == images


def test_exported_contours_are_no_images(tmp_path: Path) -> None:
    names = ["tmp_0000.nii.gz", "Heart.nii.gz", "Heart.json", "liver.nii.gz", "LIVER.json", "second.nii.gz", "second.json"]
    contour = {"name": "Heart", "dimensions": [5, 7, 9], "multiplier": [2, 2, 1]}
    reader = archive_of(tmp_path / "a.zip", names, {"Heart.json": contour, "LIVER.json": contour, "second.json": {"Manufacturer": "x"}})
    assert request_images(reader) == ["tmp_0000.nii.gz", "second.nii.gz"]
    assert request_images(names) == ["tmp_0000.nii.gz"], "from names alone, beside numbered images, a twin tells a contour"
    assert request_images(["scan.nii.gz", "scan.json"]) == ["scan.nii.gz"], "a sidecar as converters write it"
    assert request_images(archive_of(tmp_path / "b.zip", ["tmp_0000.nii.gz", "tmp_0000.json"])) == ["tmp_0000.nii.gz"]


def test_a_twin_that_is_no_json_hides_no_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("scan.nii.gz", b"")
        archive.writestr("scan.json", b"\xff{")
    assert request_images(ArchiveReader(tmp_path / "a.zip")) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "empty"),
        (["__MACOSX/._a.nii.gz"], "empty"),
        (["meta.json", "a.txt"], "no image"),
        (["tmp_0000.dcm"], "no image"),
        (["tmp_0000.nii.gz", "tmp_0000.nii"], "same image"),
        (["a/tmp_0000.nii.gz", "b/tmp_0000.nii.gz"], "same image"),
        (["tmp_0001.nii.gz"], "tmp_0000 is missing"),
        (["tmp_0000.nii.gz", "tmp_0002.nii.gz"], "tmp_0001 is missing"),
    ],
)
def test_no_image_and_no_order(names: list[str], words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        request_images(names)


# ---- what is said of them


def test_metadata_there_and_back() -> None:
    meta = ImageMeta((2, 2, 1), (0.5, 0.5, 3.0), (1.0, 2.0, 3.0), GRID.direction, 2.0, -1024.0, "HU", "CT", (4.0, 5.0, 6.0), GRID.direction)
    assert read_image_meta(meta.to_json()) == meta
    fields = json.loads(meta.to_json())
    assert fields["scaling_factor"] == [2, 2, 1] and fields["rescale_slope"] == 2.0 and fields["true_origin"] == [4.0, 5.0, 6.0]
    assert json.loads(ImageMeta().to_json()) == {"scaling_factor": [1, 1, 1]}, "what says nothing is left out"


@pytest.mark.parametrize(
    ("text", "meta"),
    [
        ("{}", ImageMeta()),
        ('{"scaling_factor": null, "origin": null, "units": null, "other": {"a": [1]}}', ImageMeta()),
        ('{"scaling_factor": [2.0, 2.0, 1.0]}', ImageMeta((2, 2, 1))),
        ('\ufeff{"scaling_factor": [2, 3, 1], "spacing": [1, 1.5, 3]}', ImageMeta((2, 3, 1), (1.0, 1.5, 3.0))),
        ('{"direction": [1, 0, 0, 0, 1, 0]}', ImageMeta(direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))),
        ('{"direction": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}', ImageMeta(direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))),
    ],
)
def test_metadata_of_others(text: str, meta: ImageMeta) -> None:
    assert read_image_meta(text.encode("utf-8")) == meta


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"scaling_factor": [1.5, 1, 1]}', "scaling_factor"),
        ('{"scaling_factor": [0, 1, 1]}', "scaling_factor"),
        ('{"scaling_factor": [-1, 1, 1]}', "scaling_factor"),
        ('{"scaling_factor": [2, 2]}', "scaling_factor"),
        ('{"scaling_factor": 2}', "scaling_factor"),
        ('{"scaling_factor": ["2", 2, 1]}', "scaling_factor"),
        ('{"scaling_factor": [true, 1, 1]}', "scaling_factor"),
        ('{"scaling_factor": [100000, 1, 1]}', "scaling_factor"),
        ('{"spacing": [1, 1, 0]}', "spacing"),
        ('{"spacing": [1, 1, NaN]}', "spacing"),
        ('{"spacing": [1, 1, 1e999]}', "spacing"),
        ('{"spacing": []}', "spacing"),
        ('{"origin": "here"}', "origin"),
        ('{"origin": {"x": 1}}', "origin"),
        ('{"rescale_slope": 0}', "rescale_slope"),
        ('{"rescale_intercept": "a"}', "rescale_intercept"),
        ('{"rescale_slope": 1' + "0" * 400 + "}", "rescale_slope"),
        ('{"units": 5}', "units"),
    ],
)
def test_metadata_that_makes_no_sense(text: str, words: str) -> None:
    with pytest.raises(ArchiveError, match=words) as caught:
        read_image_meta(text, "tmp_0000.meta.json")
    assert "tmp_0000.meta.json" in caught.value.message and len(caught.value.message) < 250


def test_metadata_in_an_archive(tmp_path: Path) -> None:
    own, shared = {"scaling_factor": [2, 2, 1]}, {"scaling_factor": [4, 4, 1]}
    names = ["top/tmp_0000.nii.gz", "top/tmp_0001.nii.gz", "top/meta.json", "top/tmp_0000.meta.json"]
    reader = archive_of(tmp_path / "a.zip", names, {"top/meta.json": shared, "top/tmp_0000.meta.json": own})
    assert image_meta(reader.names(), reader.read, "top/tmp_0000.nii.gz").scaling_factor == (2, 2, 1)
    assert image_meta(reader.names(), reader.read, "top/tmp_0001.nii.gz").scaling_factor == (4, 4, 1)
    assert image_meta(["tmp_0000.nii.gz"], lambda name: b"", "tmp_0000.nii.gz") == ImageMeta()


# ---- what we write


def test_a_request_for_models_of_either_age(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with FileRequestWriter(path) as writer:
        assert writer.add_image(volume(modality="CT", units="HU", slope=2.0, intercept=-1024.0)) == "tmp_0000.nii.gz"
        assert writer.add_image(volume(), ImageMeta((2, 2, 1), (1.0, 1.0, 1.0))) == "tmp_0001.nii.gz"
    reader = ArchiveReader(path)
    assert reader.names() == ["tmp_0000.nii.gz", "meta.json", "tmp_0000.meta.json", "tmp_0001.nii.gz", "tmp_0001.meta.json"]
    assert request_images(reader) == ["tmp_0000.nii.gz", "tmp_0001.nii.gz"]
    assert json.loads(reader.read("meta.json")) == {"scaling_factor": [1, 1, 1], "spacing": [0.9, 1.1, 2.5]}
    first = image_meta(reader.names(), reader.read, "tmp_0000.nii.gz")
    assert (first.modality, first.units, first.slope, first.intercept) == ("CT", "HU", 2.0, -1024.0)
    assert first.spacing == GRID.spacing and first.origin == first.true_origin == GRID.origin and first.true_direction == GRID.direction
    assert image_meta(reader.names(), reader.read, "tmp_0001.nii.gz").scaling_factor == (2, 2, 1)
    reader.extract(tmp_path / "out")
    image = nifti.read(tmp_path / "out/tmp_0000.nii.gz")
    assert np.array_equal(image.voxels, volume().voxels) and image.geometry.matches(GRID)
    assert (image.slope, image.intercept) == (2.0, -1024.0)
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_request_of_arrays(tmp_path: Path) -> None:
    with RequestWriter(tmp_path / "a.zip") as writer:
        assert writer.next_name == "tmp_0000.nii.gz"
        writer.add_image(Image(volume().voxels, GRID), ImageMeta((2, 2, 1), GRID.spacing))
        writer.add_nifti("Heart.nii.gz", Image(volume().voxels > 5, GRID))
        assert writer.next_name == "tmp_0001.nii.gz", "what is no image of the request does not count"
    reader = ArchiveReader(tmp_path / "a.zip")
    assert reader.names() == ["tmp_0000.nii.gz", "meta.json", "tmp_0000.meta.json", "Heart.nii.gz"]
    reader.extract(tmp_path / "out")
    assert np.array_equal(nifti.read(tmp_path / "out/Heart.nii.gz").voxels, volume().voxels > 5)
    tar = b"".join(tar_body(tmp_path / "a.zip", {name: name.upper() for name in reader.names()}, ["empty.log"]))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == [*(name.upper() for name in reader.names()), "empty.log"]
        member = archive.extractfile("META.JSON")
        assert member is not None and member.read() == reader.read("meta.json")


def test_files_go_in_byte_for_byte(tmp_path: Path) -> None:
    packed, plain = tmp_path / "scan.nii.gz", tmp_path / "scan.nii"
    nifti.write(packed, volume())
    nifti.write(plain, volume())
    misnamed = packed.with_name("misnamed.nii")
    misnamed.write_bytes(packed.read_bytes())
    with FileRequestWriter(tmp_path / "a.zip") as writer:
        names = [writer.add_image(path) for path in (packed, plain, str(misnamed))]
    assert names == ["tmp_0000.nii.gz", "tmp_0001.nii.gz", "tmp_0002.nii.gz"]
    reader = ArchiveReader(tmp_path / "a.zip")
    assert reader.read(names[0]) == reader.read(names[2]) == packed.read_bytes()
    assert gzip.decompress(reader.read(names[1])) == plain.read_bytes()
    assert image_meta(reader.names(), reader.read, names[1]).spacing == pytest.approx(GRID.spacing)


def test_the_same_request_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        with FileRequestWriter(tmp_path / name) as writer:
            writer.add_image(volume())
            writer.add_bytes("extra.txt", b"1")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_is_no_image_leaves_no_archive(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.nii\.gz"), FileRequestWriter(tmp_path / "a.zip") as writer:
        writer.add_image(tmp_path / "bad.nii.gz")
    assert not (tmp_path / "a.zip").exists()
    with pytest.raises(ImageError), FileRequestWriter(tmp_path / "a.zip") as writer:
        writer.add_image(Volume(np.zeros(GRID.shape, dtype="datetime64[s]"), GRID))
    assert not (tmp_path / "a.zip").exists()


def test_a_contour_cannot_take_the_name_of_an_image(tmp_path: Path) -> None:
    with FileRequestWriter(tmp_path / "a.zip") as writer:
        writer.add_image(volume())
        with pytest.raises(ArchiveError, match=r"one name|twice"):
            writer.add_bytes("TMP_0000.nii.gz", b"")


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.nii"
    nifti.write(path, Volume(np.zeros((50, 1024, 1024), np.int16), Geometry((1024, 1024, 50))))
    tracemalloc.start()
    try:
        with FileRequestWriter(tmp_path / "a.zip") as writer:
            writer.add_image(path)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.shared
@pytest.mark.parametrize("path", real_images(), ids=lambda p: p.name)
def test_real_images_come_out_as_they_went_in(tmp_path: Path, path: Path) -> None:
    with FileRequestWriter(tmp_path / "a.zip") as writer:
        writer.add_image(path)
        writer.add_image(nifti.read(path))
    reader = ArchiveReader(tmp_path / "a.zip")
    reader.extract(tmp_path / "out")
    assert (tmp_path / "out/tmp_0000.nii.gz").read_bytes() == path.read_bytes()
    sent, again = nifti.read(path), nifti.read(tmp_path / "out/tmp_0001.nii.gz")
    assert np.array_equal(sent.voxels, again.voxels) and sent.geometry.matches(again.geometry)
