"""Folders of anything: what is one image, what are several, what is none and why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

from delineate.cli.main import main
from delineate.dicom.attributes import DOUBLES, PRESENCE, SHORTS, TAGS
from delineate.dicom.header import NotDicomError, inflate, read_header
from delineate.dicom.parts import pydicom
from delineate.dicom.reader import read
from delineate.dicom.series import Found, scan
from delineate.errors import ImageError
from delineate.geometry import Geometry
from delineate.testing.dicom import MR, Change, Stack, sheared, stack_of, write_frames, write_series

GRID = Geometry((6, 5, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 10.0))
VOXELS = np.arange(120, dtype=np.int16).reshape(GRID.shape)


def stack(**other: Any) -> Stack:
    return stack_of(VOXELS, GRID, **other)


def images(found: Found) -> list[tuple[int, str]]:
    return [(len(group.slices), group.apart) for group in found.groups]


def times(count: int, name: str, values: list[Any], tmp_path: Path) -> Found:
    """The planes `count` times, each time with another value of an attribute."""

    def change(data: Any, number: int) -> None:
        setattr(data, name, values[number // 4])

    written = stack(change=change)
    positions = np.tile(written.positions, (count, 1))
    write_series(tmp_path, replace(written, voxels=np.tile(VOXELS, (count, 1, 1)), positions=positions))
    return scan(tmp_path)


def test_a_mixed_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "a", stack())
    write_series(tmp_path / "a" / "b", stack(series=2))
    write_series(tmp_path, stack(series=3, frame=2))
    other = Geometry((6, 5, 4), (1.0, 2.0, 3.0), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    write_series(tmp_path / "c", stack_of(VOXELS, other, series=1, study=2))
    write_series(tmp_path / "scout", replace(stack(series=1, study=3), change=_set("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])))
    write_series(tmp_path / "capture", replace(stack(series=1, study=4), change=_set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7")))
    (tmp_path / "DICOMDIR").write_bytes(
        (tmp_path / "a" / "s1-0000.dcm").read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10" + b"\0" * 6)
    )
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "note.txt").write_text("no DICOM " * 100)
    found = scan(tmp_path)
    assert images(found) == [(4, "")] * 4
    reasons = {item.name: item.reason for item in found.skipped}
    assert reasons["empty"] == reasons["note.txt"] == "not a DICOM file"
    assert reasons["DICOMDIR"] == "an index of files (DICOMDIR)"
    assert reasons["scout/s1-0000.dcm"] == "a localiser (scout)" and reasons["capture/s1-0000.dcm"] == "a secondary capture"
    assert len(found.skipped) == 3 + 4 + 4


def _set(name: str, value: Any) -> Change:
    return lambda data, _: setattr(data, name, value)


def test_slices_of_two_matrices_frames_of_reference_or_orientations_are_two_images(tmp_path: Path) -> None:
    larger = Geometry((7, 5, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 40.0))
    turned = Geometry((6, 5, 4), (1.0, 2.0, 3.0), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    for number, second in enumerate(
        (
            stack_of(np.zeros(larger.shape, np.int16), larger),
            replace(stack(frame=2), positions=stack().positions + np.array([0, 0, 12])),
            stack_of(VOXELS, turned),
            replace(stack(), positions=stack().positions + np.array([0, 0, 12]), spacing=(1.5, 2.0)),
        )
    ):
        folder = tmp_path / str(number)
        write_series(folder, stack())
        write_series(folder / "more", replace(second, change=_more))
        assert images(scan(folder)) == [(4, ""), (4, "")]
        with pytest.raises(ImageError, match=r"holds 2 images: \(1\) CT, .*; \(2\) CT, ") as caught:
            read(folder)
        assert "dicom ls" in caught.value.advice
        assert read(folder, choice="2").volume.geometry.size[2] == 4


def _more(data: Any, number: int) -> None:
    data.SOPInstanceUID += ".1"


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("TemporalPositionIdentifier", [1, 2, 3], "temporal position"),
        ("EchoTime", [4.6, 9.2, 13.8], "echo time"),
        ("DiffusionBValue", [0.0, 500.0, 1000.0], "b-value"),
        ("AcquisitionNumber", [1, 2, 3], "acquisition"),
    ],
)
def test_slices_at_one_place_are_parted(name: str, values: list[Any], words: str, tmp_path: Path) -> None:
    found = times(3, name, values, tmp_path)
    assert images(found) == [(4, f"{words} {value:g}") for value in values]
    with pytest.raises(ImageError, match="holds 3 images"):
        found.one()
    assert found.one("3").apart == f"{words} {values[2]:g}"


def test_two_attributes_part_echoes_over_time(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.TemporalPositionIdentifier, data.EchoTime = number // 8, 5.5 * (number // 4 % 2)

    written = stack(change=change)
    write_series(tmp_path, replace(written, voxels=np.tile(VOXELS, (4, 1, 1)), positions=np.tile(written.positions, (4, 1))))
    found = scan(tmp_path)
    assert images(found) == [(4, f"temporal position {t}, echo time {e}") for t in (0, 1) for e in (0.0, 5.5)]


def test_images_one_after_the_other_are_parted_by_instance_numbers(tmp_path: Path) -> None:
    found = times(2, "InstitutionName", ["x", "x"], tmp_path)
    assert images(found) == [(4, "instances 1 to 4"), (4, "instances 5 to 8")]


@pytest.mark.parametrize("twice", range(7))
def test_one_slice_that_is_there_twice_is_no_second_image(twice: int, tmp_path: Path) -> None:
    """In the middle of seven it would part them into two halves of four by instance numbers."""
    written = stack()
    positions = np.arange(7)[:, None] * [0.0, 0.0, 3.0]
    order = [*range(7), twice]

    def change(data: Any, number: int) -> None:
        data.InstanceNumber = order[number] + 1

    write_series(tmp_path, replace(written, voxels=np.resize(VOXELS, (8, *VOXELS.shape[1:])), positions=positions[order], change=change))
    assert images(scan(tmp_path)) == [(8, "")]


def test_an_acquisition_of_its_own_for_each_slice_parts_nothing(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.AcquisitionNumber = number

    write_series(tmp_path, stack(change=change))
    assert images(scan(tmp_path)) == [(4, "")]


def test_frames_over_time_are_parted(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
            group.FrameContentSequence[0].TemporalPositionIndex = number // 4 + 1

    written = stack(change=change)
    path = write_frames(
        tmp_path / "a.dcm", replace(written, voxels=np.tile(VOXELS, (2, 1, 1)), positions=np.tile(written.positions, (2, 1)))
    )
    assert images(scan(path)) == [(4, "temporal position 1"), (4, "temporal position 2")]
    second = read(path, choice="2")
    assert [item.frame for item in second.series.instances] == [5, 6, 7, 8]


def test_empty_uids_are_read_with_a_warning(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        data.SOPInstanceUID = data.StudyInstanceUID = data.SeriesInstanceUID = ""

    write_series(tmp_path, stack(change=change))
    notes: list[str] = []
    image = read(tmp_path, notes=notes)
    np.testing.assert_array_equal(image.volume.voxels, VOXELS)
    assert len(notes) == 2 and "SOPInstanceUID is empty" in notes[1]
    assert image.series.missing_uids == ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no DICOM image"):
        read(tmp_path)
    with pytest.raises(ImageError, match="there is no nowhere"):
        read(tmp_path / "nowhere")
    write_series(tmp_path, stack())
    with pytest.raises(ImageError, match="has no image '7'"):
        read(tmp_path, choice="7")


def test_headers_are_what_pydicom_reads(tmp_path: Path) -> None:
    def change(data: Any, _: int) -> None:
        item = pydicom().Dataset()
        item.CodeValue = "1"
        item.add_new(0x00091001, "UN", b"1234")
        inner = pydicom().Dataset()
        inner.ReferencedFrameNumber = [1, 2]
        item.ContentSequence = [inner, inner]
        data.RequestAttributesSequence = [item, item]
        data["RequestAttributesSequence"].is_undefined_length = True
        item.is_undefined_length_sequence_item = True
        data.add_new(0x00111001, "OB", b"\0" * 70_000)  # longer than what is read at first
        data.EchoTime, data.DiffusionBValue = 12.5, 800.0

    for number, syntax in enumerate(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")):
        path = write_series(tmp_path / str(number), stack(change=change, syntax=syntax, sop_class=MR))[1]
        header, data = read_header(path), pydicom().dcmread(path)
        for name, tag in TAGS.items():
            if tag >> 16 == 2 or name in PRESENCE or name not in data:
                continue
            value = data[name].value
            mine: Any = header.short(name) if name in SHORTS else header.texts(name)
            if name in DOUBLES:
                mine, value = float(header.word(name)), float(value)
            elif name not in SHORTS:
                value = tuple(str(part) for part in value) if data[name].VM > 1 else (str(value),)
            assert mine == value, (syntax, name)
        content = path.read_bytes()
        source = content if header.packed < 0 else inflate(content[header.packed :], path.name, 1 << 30)
        assert source[header.offset :][: header.length] == data.PixelData


@pytest.mark.parametrize(
    "content", [b"", b"DICM", b"\x08\x00", b"\x08\x00\x05\x00CS\x0a\x00", b"PK\x03\x04" + b"\0" * 300, b"\x02\x00" * 80]
)
def test_what_is_no_dicom(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises((NotDicomError, ImageError)):
        read_header(tmp_path / "a")


def test_any_damage_of_a_header_is_a_sentence(tmp_path: Path) -> None:
    """Each byte of a header made another one: read, or refused with a reason; never anything else."""
    path = write_series(tmp_path, stack())[0]
    content = path.read_bytes()
    end = read_header(path).offset
    outcomes = set()
    for position in range(128, end):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        found = scan(path)
        outcomes.add(len(found.groups))
        assert len(found.groups) + len(found.skipped) == 1
    assert outcomes == {0, 1}


def test_the_command_line_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path, stack())
    tilted = stack(series=2)
    write_series(tmp_path / "more" / "deep", replace(tilted, positions=sheared(tilted, 12.0)))
    (tmp_path / "note.txt").write_text("nothing")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main(["dicom", "ls", str(tmp_path), *arguments])
        return capsys.readouterr().out

    out = run()
    assert "regular" in out and "tilted by 12.0 degrees" in out and "note.txt: not a DICOM file" in out
    assert out.split()[0] == "--series" and "apart" not in out
    listed = json.loads(run("--json"))
    rows = [line.split() for line in out.splitlines()[1:3]]
    for row, image, folder in zip(rows, listed["images"], [".", "more/deep"], strict=True):
        assert f"…{image['series_uid'][-10:]}" in row and folder in row
    assert [image["size"] for image in listed["images"]] == [[6, 5, 4], [6, 5, 4]]
    assert listed["images"][0]["spacing"] == [1.0, 2.0, 3.0] and listed["images"][0]["axes"] == "LPS"
    assert listed["skipped"] == [{"name": "note.txt", "reason": "not a DICOM file", "unusable": False}]
