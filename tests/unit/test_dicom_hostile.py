"""Files made to mislead: nested without end, in thousands, of two spaces at once, and slices that hide in their own series."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate.dicom.deidentify import Deidentifier
from delineate.dicom.nesting import flat_text
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
from delineate.dicom.seg import read_seg, write_seg
from delineate.dicom.series import scan
from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.protocols.dicom_request import DicomAsked
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_frames, write_series
from delineate.worker.series import read_image

GRID = Geometry((6, 5, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 10.0))
VOXELS = np.arange(120, dtype=np.int16).reshape(GRID.shape)
MASKS = {"A": VOXELS > 100, "B": VOXELS < 20}


def nested(times: int, tag: bytes) -> bytes:
    """A sequence within a sequence, `times` deep, with true lengths, in explicit VR little endian."""
    body = b""
    for _ in range(times):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
        body = tag + b"SQ\0\0" + struct.pack("<I", len(item)) + item
    return body


def deepened(path: Path, before: bytes, tag: bytes, times: int = 1500) -> Path:
    """The file with a deep sequence in front of the element `before`."""
    content = path.read_bytes()
    at = content.index(before)
    path.write_bytes(content[:at] + nested(times, tag) + content[at:])
    return path


@pytest.fixture
def plain(tmp_path: Path) -> DicomImage:
    write_series(tmp_path / "plain", stack_of(VOXELS, GRID))
    return read(tmp_path / "plain")


@pytest.mark.parametrize("frames", [False, True])
def test_an_attribute_nested_without_end(frames: bool, tmp_path: Path) -> None:
    stack = stack_of(VOXELS, GRID)
    path = write_frames(tmp_path / "frames.dcm", stack) if frames else write_series(tmp_path, replace(stack, voxels=VOXELS[:1]))[0]
    deepened(path, b"\x08\x00\x60\x00CS", b"\x08\x00\x50\x00")  # the accession number, which results take over
    begin = time.process_time()
    with pytest.raises(ImageError, match="cannot be read"):
        read(path)
    with Deidentifier(tmp_path / "map.sqlite") as keeper:  # which leaves nothing of it
        (sent,) = keeper.series(path, tmp_path / "out")
    assert not pydicom.dcmread(sent).AccessionNumber
    assert time.process_time() - begin < 20


def test_structures_nested_without_end(plain: DicomImage, tmp_path: Path) -> None:
    found = Segmentation.from_masks(MASKS, GRID)
    write_seg(tmp_path / "seg.dcm", found, plain.series)
    write_rtstruct(tmp_path / "rs.dcm", found, plain.series)
    data = pydicom.dcmread(tmp_path / "rs.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(tmp_path / "rs.dcm", implicit_vr=False, little_endian=True)
    begin = time.process_time()
    with pytest.raises(ImageError, match="cannot be read"):
        read_seg(deepened(tmp_path / "seg.dcm", b"\x08\x00\x60\x00CS", b"\x08\x00\x50\x00"), plain.series)
    with pytest.raises(ImageError, match="cannot be read"):
        read_rtstruct(deepened(tmp_path / "rs.dcm", b"\x06\x30\x08\x00DA", b"\x06\x30\x06\x00"), plain.series)
    assert time.process_time() - begin < 20


def test_words_are_never_those_of_nested_items() -> None:
    data = pydicom.Dataset()
    data.PatientName, data.ImageType, data.AccessionNumber = "Doe^Jane", ["A", "B"], ""
    data.ReferencedStudySequence = [pydicom.Dataset()]
    names = ("PatientName", "ImageType", "AccessionNumber", "ReferencedStudySequence", "StudyID")
    assert [flat_text(data.get(name)) for name in names] == [
        "Doe^Jane", "A\\B", "", "", "",
    ]  # fmt: skip


def _without_place(data: Any) -> None:
    data.ImagePositionPatient = None


def _without_pixels(data: Any) -> None:
    del data.PixelData


def _in_colour(data: Any) -> None:
    data.PhotometricInterpretation = "RGB"


def _as_report(data: Any) -> None:
    data.Modality = "PR"


@pytest.mark.parametrize("change", [_without_place, _without_pixels, _in_colour, _as_report])
def test_a_last_slice_that_is_none_is_missed(change: Any, tmp_path: Path) -> None:
    write_series(tmp_path, stack_of(VOXELS, GRID, change=lambda data, number: change(data) if number == 3 else None))
    image = read(tmp_path)
    assert image.volume.geometry.size == (6, 5, 3)
    assert "may be slices" in image.lost and image.notes[-1] == image.lost
    with pytest.raises(ImageError, match="may be slices"):
        read_image(tmp_path, DicomAsked(), tmp_path / "scratch")


def test_a_scout_or_a_capture_of_the_series_is_not_missed(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        if number == 3:
            data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        elif number == 2:
            data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    write_series(tmp_path, stack_of(VOXELS, GRID, change=change))
    assert read(tmp_path).lost == ""


def test_thousands_of_images_are_found_soon_and_named_shortly(tmp_path: Path) -> None:
    path = write_series(tmp_path, stack_of(VOXELS[:1], Geometry((6, 5, 1), (1.0, 2.0, 3.0))))[0]
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x37\x00DS")
    (length,) = struct.unpack_from("<H", content, at + 6)
    for number in range(1500):  # each turned a little further than the others
        turned = (
            f"{np.cos(number / 500):.9f}\\{np.sin(number / 500):.9f}\\0\\{-np.sin(number / 500):.9f}\\{np.cos(number / 500):.9f}\\0"
        ).encode()
        turned += b" " * (len(turned) % 2)
        element = content[at : at + 6] + struct.pack("<H", len(turned)) + turned
        (tmp_path / f"{number}.dcm").write_bytes(content[:at] + element + content[at + 8 + length :])
    begin = time.process_time()
    with pytest.raises(ImageError) as caught:
        scan(tmp_path).one()
    assert time.process_time() - begin < 10
    assert "and 1481 more" in caught.value.message and len(caught.value.message) < 3000


def test_regions_of_two_frames_of_reference(plain: DicomImage, tmp_path: Path) -> None:
    path = tmp_path / "rs.dcm"
    write_rtstruct(path, Segmentation.from_masks(MASKS, GRID), plain.series)
    data = pydicom.dcmread(path)
    frame = pydicom.Dataset()
    frame.FrameOfReferenceUID = data.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"
    data.ReferencedFrameOfReferenceSequence.append(frame)
    data.save_as(path)
    notes: list[str] = []
    found = read_rtstruct(path, plain.series, notes=notes)
    assert np.array_equal(found.mask("A"), MASKS["A"]) and not found.mask("B").any()
    assert notes == ["B: in another frame of reference than the image: left out"]
    assert np.array_equal(read_rtstruct(path, plain.series, other_frame=True).mask("B"), MASKS["B"])
