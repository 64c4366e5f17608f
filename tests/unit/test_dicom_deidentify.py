"""De-identification by the table of PS3.15: nothing of what was there comes out, and what returns is the patient's again."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from delineate.dicom import deidentification_map, deidentify
from delineate.dicom.deidentification_table import Kept, _table, action_of
from delineate.dicom.deidentify import DeidentificationError, Deidentifier, Options, Policy
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import Options as ContourOptions
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
from delineate.dicom.seg import Options as SegmentOptions
from delineate.dicom.seg import read_seg, write_seg
from delineate.errors import SettingsError, StoreError
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.testing.dicom import CT, stack_of, write_frames, write_series

SECRET = "ZEBRA"
DAY = "19541231"
UID = "1.2.826.0.1.3680043.8.498.777"
TEXTS = {
    "AE": f"{SECRET}AE", "AS": "077Y", "CS": f"{SECRET}CS", "DA": DAY, "DT": f"{DAY}112233", "LO": f"{SECRET}LO",
    "LT": f"{SECRET}LT", "PN": f"{SECRET}^Anna", "SH": f"{SECRET}SH", "ST": f"{SECRET}ST", "TM": "112233.778899",
    "UC": f"{SECRET}UC", "UR": f"http://{SECRET}", "UT": f"{SECRET}UT", "DS": "7.7189", "IS": "-771899",
}  # fmt: skip
BYTES = {"OB": SECRET.encode() + b"\0", "OW": b"ZEBRAZEBRA", "UN": b"ZEBRAZEBRA"}
TRACES = [SECRET.encode(), SECRET.lower().encode(), DAY.encode(), UID.encode(), b"112233.7", b"077Y", b"7.7189", b"-771899"]


def element_value(tag: int, vr: str, number: int) -> Any:
    """A value by which its attribute is known again."""
    if vr == "SQ":
        item = Dataset()
        item.PatientName = f"{SECRET}^In"
        if action_of(tag, vr, Kept()) != "within":  # codes stay where references do
            item.CodeValue = f"{SECRET}C"
        item.ReferencedSOPInstanceUID = f"{UID}.5.{number}"
        return Sequence([item])
    if vr == "UI":
        return f"{UID}.{number}"
    return TEXTS.get(vr, BYTES.get(vr, 7718))


def image(**more: Any) -> Dataset:
    data = Dataset()
    values = {
        "SOPClassUID": CT, "SOPInstanceUID": f"{UID}.1", "StudyInstanceUID": f"{UID}.2", "SeriesInstanceUID": f"{UID}.3",
        "FrameOfReferenceUID": f"{UID}.4", "Modality": "CT", "PatientName": f"{SECRET}^Anna", "PatientID": f"{SECRET}1",
        "PatientBirthDate": DAY, "StudyDate": "20200229", "StudyTime": "101112", "PatientSex": "F", "PatientAge": "065Y",
        "Rows": 2, "Columns": 3, "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelSpacing": ["0.500", "0.5"],
        "ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "RescaleSlope": "1.0",
    }  # fmt: skip
    for name, value in {**values, **more}.items():
        setattr(data, name, value)
    data.PixelData = more.get("PixelData", np.arange(6, dtype="<u2").tobytes())
    data["PixelData"].VR = "OW"
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.SourceApplicationEntityTitle = f"{SECRET}AE"
    return data


def listed() -> Dataset:
    """An image with every attribute of the table that the dictionary knows, nested ones and private ones."""
    data = image()
    for number, tag in enumerate(_table()):
        if tag in DicomDictionary and tag >> 16 >= 8 and tag not in (0x00080018, 0x0020000D, 0x0020000E):
            vr = DicomDictionary[tag][0].split(" ")[0]
            data.add_new(tag, vr, element_value(tag, vr, number))
    nested = Dataset()
    for element in list(data):
        if element.tag not in (0x7FE00010,):
            nested[element.tag] = element
    data.add_new(0x00081250, "SQ", Sequence([nested]))  # RelatedSeriesSequence, which no table names
    for group in (0x0009, 0x0011):
        block = data.private_block(group, f"{SECRET} MAKER", create=True)
        block.add_new(1, "LO", SECRET)
        block.add_new(2, "SQ", Sequence([image()]))
    for tag, vr in ((0x60003000, "OW"), (0x60004000, "LT"), (0x50000030, "SH"), (0x60020022, "LO"), (0x00081301, "LO")):
        data.add_new(tag, vr, BYTES.get(vr, TEXTS.get(vr)))
    data.preamble = SECRET.encode().ljust(128, b" ")
    return data


def written(data: Dataset, path: Path) -> bytes:
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path.read_bytes()


@pytest.fixture
def keeper(tmp_path: Path) -> Any:
    with Deidentifier(tmp_path / "map" / "identities.sqlite") as keeper:
        yield keeper


@pytest.mark.parametrize("dates", [False, True])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])
def test_nothing_of_the_table_comes_out(syntax: str, dates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(10**37)  # chance might make a UID with the digits of a day
    monkeypatch.setattr(deidentification_map, "new_uid", lambda: f"2.25.{next(numbers)}")
    data = listed()
    data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    before = written(data, tmp_path / "in.dcm")
    assert syntax.endswith("99") or all(trace in before for trace in TRACES if trace != SECRET.lower().encode())
    with Deidentifier(tmp_path / "map.sqlite", Options(dates=dates)) as keeper:
        (path,) = keeper.series(tmp_path / "in.dcm", tmp_path / "out")
    clean = pydicom.dcmread(path)
    clean.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    after = written(clean, tmp_path / "plain.dcm") + path.read_bytes()
    kept = [b"112233.7"] if dates else []  # times stay with that option, days do not
    assert [trace for trace in TRACES if trace in after and trace not in kept] == []
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert clean.LongitudinalTemporalInformationModified == ("MODIFIED" if dates else "REMOVED")


def test_what_voxels_and_places_need_stays(tmp_path: Path) -> None:
    data = image()
    written(data, tmp_path / "in.dcm")
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        clean = pydicom.dcmread(keeper.series(tmp_path / "in.dcm", tmp_path / "out")[0])
    same = ("Rows", "BitsStored", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "PixelData")
    for name in (*same, "Modality", "SOPClassUID"):
        assert clean[name].value == data[name].value
    assert str(clean.PixelSpacing[0]) == "0.500"  # as it was written
    assert (clean.StudyDate, clean.PatientBirthDate, clean.PatientSex) == ("", "", "")
    assert "PatientAge" not in clean
    assert clean.PatientName == clean.PatientID != ""


def test_every_standard_attribute_has_an_action() -> None:
    """Also those that no table names: of these nothing stays that is of a type for people, places, days or prose."""
    telling = {"PN", "AE", "DA", "DT", "TM", "LT", "ST", "UT", "UC", "UR", "UN", "OB", "OD", "OF"}
    for tag, (vr, *_) in DicomDictionary.items():
        for kind in vr.split(" or "):
            action = action_of(tag, kind, Kept())
            assert action != "keep" or kind not in telling or tag >> 16 == 0x7FE0, hex(tag)
            assert action not in ("within", "empty", "dummy") or tag >> 16 >= 8
    assert action_of(0x00100010, "LO", Kept()) == "empty"  # whatever a file says that it is
    assert action_of(0x00280010, "LO", Kept()) == "remove"  # words where numbers belong
    assert action_of(0x00091001, "DS", Kept()) == action_of(0x00081301, "LO", Kept()) == "remove"


def test_uids_and_pseudonyms_are_the_same_everywhere(tmp_path: Path) -> None:
    first, second, third = image(), image(SOPInstanceUID=f"{UID}.9"), image(SOPInstanceUID=f"{UID}.8", PatientID="other")
    first.ReferencedImageSequence = [Dataset()]
    first.ReferencedImageSequence[0].ReferencedSOPClassUID = CT
    first.ReferencedImageSequence[0].ReferencedSOPInstanceUID = f"{UID}.9"
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        a, b, c = (keeper.dataset(data) for data in (first, second, third))
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        again = keeper.dataset(first)
    assert a.ReferencedImageSequence[0].ReferencedSOPInstanceUID == b.SOPInstanceUID
    assert a.ReferencedImageSequence[0].ReferencedSOPClassUID == CT
    assert (a.StudyInstanceUID, a.FrameOfReferenceUID, a.PatientID) == (b.StudyInstanceUID, b.FrameOfReferenceUID, b.PatientID)
    assert c.PatientID != a.PatientID
    assert c.StudyInstanceUID != a.StudyInstanceUID  # although both patients' files have the same
    assert again == a
    assert first.SOPInstanceUID == f"{UID}.1"  # what was given is as it was
    assert a.file_meta.MediaStorageSOPInstanceUID == a.SOPInstanceUID
    assert stat.S_IMODE((tmp_path / "map.sqlite").stat().st_mode) == 0o600


def test_frames_of_reference_of_the_standard_stay(keeper: Deidentifier) -> None:
    talairach = "1.2.840.10008.1.4.1.1"
    assert keeper.dataset(image(FrameOfReferenceUID=talairach)).FrameOfReferenceUID == talairach
    assert keeper.dataset(image(FrameOfReferenceUID="")).FrameOfReferenceUID == ""


def test_days_are_shifted_by_as_much(tmp_path: Path) -> None:
    more = {"AcquisitionDateTime": "20200301235959.5+0100", "SeriesDate": "20200301", "ContentDate": "1999", "SeriesTime": "010203"}
    with Deidentifier(tmp_path / "map.sqlite", Options(dates=True, characteristics=True)) as keeper:
        clean = keeper.dataset(image(**more))
        other = keeper.dataset(image(PatientID="other"))
    study, series = (np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}") for day in (clean.StudyDate, clean.SeriesDate))
    assert series - study == np.timedelta64(1, "D")  # 29 February to 1 March 2020
    assert 365 <= (np.datetime64("2020-02-29") - study).astype(int) <= 3650
    assert clean.AcquisitionDateTime == clean.SeriesDate + "235959.5+0100"
    assert (clean.SeriesTime, clean.StudyTime) == ("010203", "101112")
    assert clean.ContentDate == "19000101"  # not a day
    assert (clean.PatientBirthDate, clean.PatientSex, clean.PatientAge) == ("", "F", "065Y")
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert other.StudyDate != clean.StudyDate


@pytest.mark.parametrize(
    "more",
    [
        {"BurnedInAnnotation": "YES"},
        {"Modality": "US"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
)
def test_names_written_on_pixels(more: dict[str, Any], tmp_path: Path) -> None:
    with Deidentifier(tmp_path / "map.sqlite") as keeper, pytest.raises(DeidentificationError, match=r"written"):
        keeper.dataset(image(**more))
    with Deidentifier(tmp_path / "map.sqlite", Options(burned_in=True)) as keeper:
        assert keeper.dataset(image(**more)).PatientIdentityRemoved == "YES"


def test_a_capture_that_says_that_nothing_is_written_on_it(keeper: Deidentifier) -> None:
    assert keeper.dataset(image(Modality="US", BurnedInAnnotation="NO")).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_that_are_none_of_the_image(signed: int, keeper: Deidentifier) -> None:
    values = np.array([0, 5, 0x7FF, 0x800, 0xFFF, 0x123], "<u2")
    noisy = values | np.array([0xF000, 0xA000, 0, 0x5000, 0, 0xF000], "<u2")
    clean = keeper.dataset(image(PixelRepresentation=signed, PixelData=noisy.tobytes() + b"ZEBRAZEBRA"))
    found = np.frombuffer(clean.PixelData, "<u2")
    assert len(found) == 6
    assert (found & 0xFFF == values).all()
    assert ((found >> 12) == (np.where(values & 0x800, 0xF, 0) if signed else 0)).all()


def test_an_overlay_within_compressed_pixels(keeper: Deidentifier) -> None:
    data = image()
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    assert keeper.dataset(data)["PixelData"].is_undefined_length
    data.add_new(0x60000102, "US", 12)
    with pytest.raises(DeidentificationError, match="overlay"):
        keeper.dataset(data)


JPEG, SCAN, COMMENT = b"\xff\xd8\xff\xe0\x00\x04JF", b"\xff\xda\x00\x02ab\xff\x00\xff\xd0c", b"\xff\xfe\x00\x0cZEBRA^Anna"
J2K, TILE = b"\xff\x4f\xff\x51\x00\x04\x00\x00", b"\xff\x90\x00\x0a\0\0\0\0\0\x10\0\1"
J2K_COMMENT = b"\xff\x64\x00\x0e\x00\x01ZEBRA^Anna"


@pytest.mark.parametrize(
    ("begin", "end", "hidden"),
    [
        (JPEG, SCAN + b"\xff\xd9", COMMENT + b"\xff\xe1\x00\x0cZEBRA^Anna"),
        (JPEG + SCAN, SCAN + b"\xff\xd9", COMMENT),
        (J2K, TILE + b"\xff\x93ab\xff\xd9", J2K_COMMENT),
        (J2K + TILE[:9] + b"\x20" + TILE[10:], b"\xff\x93ab\xff\xd9", J2K_COMMENT),
    ],
)
def test_remarks_within_compressed_pixels(begin: bytes, end: bytes, hidden: bytes, keeper: Deidentifier) -> None:
    data = image()
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    content = begin + hidden + end
    data.PixelData = pydicom.encaps.encapsulate([content, content])
    data["PixelData"].is_undefined_length = True
    clean = keeper.dataset(data).PixelData
    assert clean == data.PixelData.replace(b"ZEBRA^Anna", b" " * 10)
    data.PixelData = pydicom.encaps.encapsulate([content[: len(begin) + 6]])
    with pytest.raises(DeidentificationError, match="remarks"):
        keeper.dataset(data)


@pytest.mark.parametrize("image_", [JPEG + SCAN + b"\xff\xd9", J2K + TILE + b"\xff\x93ab\xff\xd9"])
def test_what_stands_behind_compressed_pixels(image_: bytes, keeper: Deidentifier) -> None:
    data = image()
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless

    def sent(*parts: bytes) -> bytes:
        item = lambda part: b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part  # noqa: E731
        data.PixelData = b"".join(map(item, (b"", *parts))) + b"\xfe\xff\xdd\xe0\0\0\0\0"
        data["PixelData"].is_undefined_length = True
        clean: bytes = keeper.dataset(data).PixelData
        assert len(clean) == len(data.PixelData)
        return clean

    assert b"ZEBRA" not in sent(image_ + b"ZEBRA^Anna", image_)
    assert sent(image_[:11], image_[11:], image_ + b"\0") == data.PixelData  # in pieces, and padded
    remark = COMMENT if image_.startswith(JPEG) else J2K_COMMENT
    assert b"ZEBRA" not in sent(image_[:8] + remark[:7], remark[7:] + image_[8:])
    assert b"ZEBRA" not in sent(image_[:8], remark + image_[8:])
    with pytest.raises(DeidentificationError, match="remarks"):
        sent(image_, b"ZEBRA^Anna")


def test_texts_in_other_characters_and_damaged_ones(tmp_path: Path) -> None:
    data = image(SpecificCharacterSet="ISO_IR 100", Manufacturer="Fürst", PatientName="Müller^Jürgen")
    data.add_new(0x00185100, "CS", "HFS")
    path = tmp_path / "in.dcm"
    content = written(data, path).replace(b"0.500\\0.5 ", b"0.500\\ZEBR")
    path.write_bytes(content)
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        (done,) = keeper.series(path, tmp_path / "out")
    clean = pydicom.dcmread(done)
    assert (clean.SpecificCharacterSet, clean.Manufacturer, clean.PatientPosition) == ("ISO_IR 192", "Fürst", "HFS")
    assert "PixelSpacing" not in clean  # it is no number, so it may be anything
    assert b"ZEBR" not in done.read_bytes()
    assert "Müller".encode("latin-1") not in done.read_bytes()
    assert "Müller".encode() not in done.read_bytes()


def test_images_without_uids(tmp_path: Path, keeper: Deidentifier) -> None:
    for number in (1, 2):
        data = image(SOPInstanceUID="", StudyInstanceUID="", SeriesInstanceUID="", PatientID="", PatientName="", InstanceNumber=number)
        data.preamble = bytes(128)
        pydicom.dcmwrite(tmp_path / f"{number}.dcm", data, enforce_file_format=False)
    one, two = (keeper.series(tmp_path / f"{number}.dcm", tmp_path / f"out{number}")[0] for number in (1, 2))
    assert one.read_bytes()[128:132] == b"DICM"
    first, second = pydicom.dcmread(one), pydicom.dcmread(two)
    assert (first.SOPInstanceUID, first.PatientID) == ("", second.PatientID)


def test_reports_and_documents_are_refused(tmp_path: Path, keeper: Deidentifier) -> None:
    data = image(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22")
    del data.PixelData
    with pytest.raises(DeidentificationError, match="neither an image"):
        keeper.dataset(data)


def folder_of(tmp_path: Path) -> Path:
    """Two images, one with a name on its pixels, a text and an index."""
    folder = tmp_path / SECRET
    folder.mkdir()
    written(image(), folder / f"b {SECRET}.dcm")
    written(image(SOPInstanceUID=f"{UID}.9", BurnedInAnnotation="YES"), folder / f"a {SECRET}.dcm")
    (folder / "notes.txt").write_text(SECRET * 100)
    index = image(SOPClassUID="1.2.840.10008.1.3.10")
    index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    pydicom.dcmwrite(folder / "DICOMDIR", index)
    return folder


def test_required_sends_all_or_nothing(tmp_path: Path, keeper: Deidentifier) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "out"
    with pytest.raises(DeidentificationError, match="nothing is sent: file 2 of 4") as caught:
        keeper.series(folder, target)
    assert list(target.iterdir()) == []
    assert SECRET not in caught.value.sentence()
    notes: list[str] = []
    made = keeper.series(folder, target, policy=Policy.ON, notes=notes)
    assert len(made) == len(list(target.iterdir())) == 1
    assert len(notes) == 2 and "2 files of other formats" in notes[1]
    assert SECRET not in "".join(notes) + made[0].name
    (folder / f"b {SECRET}.dcm").unlink()
    with pytest.raises(DeidentificationError, match="nothing is sent"):
        keeper.series(folder, target, policy=Policy.ON)
    with pytest.raises(SettingsError):
        keeper.series(folder, target, policy=Policy.OFF)


def test_zips_damaged_files_and_empty_folders(tmp_path: Path, keeper: Deidentifier) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DeidentificationError, match="no DICOM file"):
        keeper.series(folder, tmp_path / "out")
    content = written(image(), folder / "a.dcm")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as file:
        file.write(folder / "a.dcm", "study/a.dcm")
    assert len(keeper.series(tmp_path / "in.zip", tmp_path / "out")) == 1
    (folder / "b.dcm").write_bytes(content[:300])
    with pytest.raises(DeidentificationError, match="file 2 of 2 by name: it is damaged"):
        keeper.series(folder, tmp_path / "out2")


def test_the_map_does_not_go_out(tmp_path: Path, keeper: Deidentifier) -> None:
    with pytest.raises(SettingsError, match="leads back"):
        keeper.series(folder_of(tmp_path), tmp_path / "map")


def test_attributes_of_a_task_archive(keeper: Deidentifier) -> None:
    data = listed()
    values = {str(int(item.tag)): str(item.value) for item in data if item.tag.group < 0x7FE0}
    values.update({"3": "x", "no tag": SECRET, str(0x00280030): "0.5\\0.5", str(0x00185100): "HFS", str(0x00280010): SECRET})
    clean = keeper.attributes(values)
    text = json.dumps(clean)
    assert [trace for trace in TRACES if trace.decode() in text] == []
    assert clean[str(0x00280030)] == "0.5\\0.5"
    assert clean[str(0x00185100)] == "HFS"
    assert clean[str(0x0020000D)] == keeper.dataset(data).StudyInstanceUID
    assert str(0x00280010) not in clean and "no tag" not in clean and "3" not in clean


def _map_one(path: Path, number: int, answers: Any) -> None:
    with Deidentifier(path) as keeper:
        answers.put([keeper.dataset(image(SOPInstanceUID=f"{UID}.{index}")).SOPInstanceUID for index in range(number, number + 20)])


def test_two_processes_use_one_map(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_map_one, args=(tmp_path / "map.sqlite", 100, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = (answers.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(60)
    assert first == second
    assert len(set(first)) == 20


def test_a_map_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(StoreError, match="map of identities"):
        Deidentifier(tmp_path / "map")
    with pytest.raises(StoreError, match="map of identities"):
        Deidentifier(tmp_path / "map" / "below.sqlite")


GRID = Geometry((11, 9, 5), (0.9765, 1.7, 2.5), (-31.25, 14.4, -100.0))
PATIENT = {
    "SpecificCharacterSet": "ISO_IR 192", "PatientName": "Zébra^Änne", "PatientID": "4711", "IssuerOfPatientID": "Clinic",
    "PatientBirthDate": DAY, "PatientSex": "F", "PatientAge": "065Y", "PatientWeight": "61.5", "StudyDate": "20200229",
    "StudyTime": "101112", "StudyID": "S1", "AccessionNumber": "A1", "ReferringPhysicianName": "Dr^Who", "StudyDescription": "Thorax",
}  # fmt: skip


def named(data: Any, number: int) -> None:
    for name, value in PATIENT.items():
        setattr(data, name, value)


def structures() -> Segmentation:
    z, y, x = np.indices(GRID.shape)
    square = np.maximum(abs(y - 4), abs(x - 5))
    masks = {"ring": (square < 4) & (square > 1), "random": np.random.default_rng(5).random(GRID.shape) < 0.5, "layer": z == 2}
    return Segmentation.from_masks(masks, GRID)


def both(tmp_path: Path, keeper: Deidentifier, frames: bool) -> tuple[DicomImage, DicomImage]:
    """An image of a patient, and the same one de-identified."""
    voxels = np.random.default_rng(3).integers(-1000, 1000, GRID.shape).astype(np.int16)
    stack = stack_of(voxels, GRID, change=named)
    if frames:
        write_frames(tmp_path / "in" / "frames.dcm", stack)
    else:
        write_series(tmp_path / "in", stack)
    keeper.series(tmp_path / "in", tmp_path / "out")
    return read(tmp_path / "in"), read(tmp_path / "out")


AT = datetime(2026, 5, 4, 3, 2, 1)
WRITERS = {
    "contours": lambda path, image: write_rtstruct(path, structures(), image.series, ContourOptions(at=AT, uid="2.25.77")),
    "segments": lambda path, image: write_seg(path, structures(), image.series, SegmentOptions(at=AT, uid="2.25.77")),
}


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_what_returns_is_as_if_made_from_the_original(kind: str, frames: bool, tmp_path: Path, keeper: Deidentifier) -> None:
    original, sent = both(tmp_path, keeper, frames)
    assert np.array_equal(original.volume.voxels, sent.volume.voxels)
    assert original.volume.geometry == sent.volume.geometry
    WRITERS[kind](tmp_path / "wanted.dcm", original)
    WRITERS[kind](tmp_path / "returned.dcm", sent)
    returned = pydicom.dcmread(tmp_path / "returned.dcm")
    assert returned.PatientID != "4711"
    back = keeper.restore(returned)
    assert returned.PatientID != "4711"  # what was given is as it was
    back.save_as(tmp_path / "back.dcm")
    assert pydicom.dcmread(tmp_path / "back.dcm") == pydicom.dcmread(tmp_path / "wanted.dcm")
    reader = read_rtstruct if kind == "contours" else read_seg
    found = reader(tmp_path / "back.dcm", original.series)
    for structure in structures():
        assert np.array_equal(found.mask(structure.name), structures().mask(structure.name))


def test_what_returns_in_other_characters(tmp_path: Path, keeper: Deidentifier) -> None:
    _, sent = both(tmp_path, keeper, False)
    WRITERS["contours"](tmp_path / "rs.dcm", sent)
    returned = pydicom.dcmread(tmp_path / "rs.dcm")
    for item in returned.StructureSetROISequence:
        item.ROIName = "Grüße"
    returned.SpecificCharacterSet = "ISO_IR 100"
    returned.PatientIdentityRemoved = "YES"
    returned.InstitutionName = "ANONYMIZED"
    returned.save_as(tmp_path / "latin.dcm")
    keeper.restore(pydicom.dcmread(tmp_path / "latin.dcm")).save_as(tmp_path / "back.dcm")
    back = pydicom.dcmread(tmp_path / "back.dcm")
    assert (back.PatientName, back.StructureSetROISequence[0].ROIName) == ("Zébra^Änne", "Grüße")
    assert "PatientIdentityRemoved" not in back and "InstitutionName" not in back


def test_what_returns_to_nobody(tmp_path: Path, keeper: Deidentifier) -> None:
    """Strangers' studies, strangers' images in a known study, another patient's, and what is the patient's already."""
    _, sent = both(tmp_path, keeper, False)
    WRITERS["contours"](tmp_path / "rs.dcm", sent)
    good = pydicom.dcmread(tmp_path / "rs.dcm")

    def refused(change: Callable[[Any], None], match: str) -> None:
        data = pydicom.dcmread(tmp_path / "rs.dcm")
        change(data)
        with pytest.raises(DeidentificationError, match=match) as caught:
            keeper.restore(data)
        assert "2.25" not in str(caught.value) and "4711" not in str(caught.value)

    def images(data: Any) -> Any:
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        return study.RTReferencedSeriesSequence[0].ContourImageSequence[0]

    other = keeper.dataset(image(PatientID="other")).SOPInstanceUID
    refused(lambda data: setattr(data, "StudyInstanceUID", "2.25.1"), "no study")
    refused(lambda data: setattr(images(data), "ReferencedSOPInstanceUID", "2.25.1"), "ReferencedSOPInstanceUID refers")
    refused(lambda data: setattr(images(data), "ReferencedSOPInstanceUID", other), "another patient")
    refused(lambda data: setattr(data, "FrameOfReferenceUID", "2.25.1"), "FrameOfReferenceUID refers")
    with pytest.raises(DeidentificationError, match="no study"):
        keeper.restore(keeper.restore(good))


def nested(times: int) -> Dataset:
    data = Dataset()
    for _ in range(times):
        outer = Dataset()
        outer.RelatedSeriesSequence = [data]
        data = outer
    return data


def test_items_nested_without_end(tmp_path: Path, keeper: Deidentifier) -> None:
    _, sent = both(tmp_path, keeper, False)
    data = image(RelatedSeriesSequence=[nested(40)])
    with pytest.raises(DeidentificationError, match="nested too deeply"):
        keeper.dataset(data)
    WRITERS["contours"](tmp_path / "rs.dcm", sent)
    returned = pydicom.dcmread(tmp_path / "rs.dcm")
    returned.RelatedSeriesSequence = [nested(900)]
    with pytest.raises(DeidentificationError, match="cannot be read"):
        keeper.restore(returned)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("frames", [False, True])
def test_dciodvfy_finds_no_new_errors(frames: bool, tmp_path: Path, keeper: Deidentifier) -> None:
    both(tmp_path, keeper, frames)

    def errors(folder: Path) -> set[str]:
        done = subprocess.run(["dciodvfy", "-new", sorted(folder.iterdir())[0]], capture_output=True, text=True, check=False)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    assert errors(tmp_path / "out") - errors(tmp_path / "in") == set()


TELLING = st.sampled_from(sorted(tag for tag in DicomDictionary if 0x0008 <= tag >> 16 < 0x5000))
SECRETS = ["ZEBRA", "zebra^anna", "19541231", "1.2.3.777"]


@st.composite
def items(draw: st.DrawFn, depth: int = 0) -> Dataset:
    """Any attributes with any types, their own or not, nested."""
    data = Dataset()
    for tag in draw(st.lists(TELLING | st.integers(0x00080000, 0x0FFFFFFF), max_size=6)):
        own = DicomDictionary[tag][0].split(" ")[0] if tag in DicomDictionary else "UN"
        vr = draw(st.sampled_from([own, own, "LO", "PN", "UT", "SQ", "UI"]))
        if vr in ("NONE", "AT") or own in ("CS", "SH", "LO") or tag & 0xFFFF == 0:
            continue  # words that no table names stay by the profile
        if vr == "SQ":
            value: Any = Sequence([draw(items(depth + 1))] if depth < 3 else [])
        elif vr in ("OB", "OW", "UN", "OD", "OF", "OL", "OV"):
            value = bytes(8) if action_of(tag, vr, Kept()) == "keep" else b"ZEBRA!  "  # tables of pixels' values stay
        elif vr in ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "DS", "IS"):
            value = 7
        else:
            is_kind = vr == "UI" and action_of(tag, vr, Kept()) == "keep"  # private classes, too, are nobody's
            value = draw(st.sampled_from(SECRETS[:2] if is_kind else SECRETS))
        data[tag] = pydicom.DataElement(tag, vr, value, validation_mode=pydicom.config.IGNORE)
    return data


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(more=items())
def test_any_data_set(more: Dataset, tmp_path: Path, keeper: Deidentifier) -> None:
    """It comes out without anything that was hidden in it, or is refused."""
    data = image()
    kept = {0x00080016, 0x00080018, 0x0020000D, 0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103}
    for element in more:
        if element.tag not in kept:
            data[element.tag] = element
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    pydicom.dcmwrite(folder / "in.dcm", data)
    try:
        (path,) = keeper.series(folder / "in.dcm", folder / "out")
    except DeidentificationError as error:
        assert "ZEBRA" not in str(error)
        return
    content = path.read_bytes()
    assert [secret for secret in SECRETS if secret.encode() in content] == []


def test_contours_go_out_with_their_images(tmp_path: Path, keeper: Deidentifier) -> None:
    original, sent = both(tmp_path, keeper, False)
    WRITERS["contours"](tmp_path / "rs.dcm", original)
    before = pydicom.dcmread(tmp_path / "rs.dcm")
    clean = keeper.dataset(before)
    pydicom.dcmwrite(tmp_path / "clean.dcm", clean)
    assert {str(item.ROIName) for item in clean.StructureSetROISequence} == {""}  # the table's Z: names of structures are free text
    found = read_rtstruct(tmp_path / "clean.dcm", sent.series)
    for one, other in zip(found, structures(), strict=True):
        assert np.array_equal(found.mask(one.name), structures().mask(other.name))


def _killed(folder: Path) -> None:
    written_files = iter(range(3))

    def save(data: Any, path: Path) -> None:
        if next(written_files, None) is None:
            os._exit(9)
        path.write_bytes(b"")

    deidentify.save = save
    with Deidentifier(folder / "map.sqlite") as keeper:
        keeper.series(folder / "in", folder / "out")


def test_a_kill_leaves_nothing_to_send_and_a_map_that_goes_on(tmp_path: Path) -> None:
    write_series(tmp_path / "in", stack_of(np.zeros(GRID.shape, np.int16), GRID, change=named))
    worker = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 9
    assert list((tmp_path / "out").glob("*.dcm")) == []
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        assert len(keeper.series(tmp_path / "in", tmp_path / "out")) == len(list((tmp_path / "out").glob("*.dcm"))) == 5
        assert np.array_equal(read(tmp_path / "out").volume.voxels, read(tmp_path / "in").volume.voxels)
