"""Which part of a request archive is a series of DICOM: by what files begin with, in one walk, whatever the kind of archive."""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from delineate.errors import ArchiveError, InputError
from delineate.protocols.archive import ArchiveReader, request_images
from delineate.protocols.dicom_request import DicomAsked, outputs_of, with_output, without_dicom
from delineate.protocols.request_series import WHOLE, is_series

SLICE = b"\0" * 128 + b"DICM" + b"x" * 50
OTHER = b"x" * 300


def zipped(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


KINDS: dict[str, Callable[[Path, Mapping[str, bytes]], None]] = {
    "zip": zipped,
    "tar": tarred,
    "tgz": lambda path, files: tarred(path, files, "w:gz"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("files", "images"),
    [
        ({"IM0": SLICE, "IM1": SLICE}, [WHOLE]),
        ({"a/b/1.2.840.7": SLICE, "README.txt": OTHER, "meta.json": b"{}"}, [WHOLE]),
        ({"viewer.exe": OTHER, "DICOMDIR": SLICE, "IM.dcm": OTHER}, [WHOLE]),
        ({"tmp_0000/a.dcm": SLICE, "tmp_0000/b.dcm": SLICE}, ["tmp_0000"]),
        ({"top/TMP_0001/a": SLICE, "top/tmp_0000/deeper/a": SLICE}, ["top/tmp_0000", "top/TMP_0001"]),
        ({"tmp_0001.nii.gz": OTHER, "tmp_0000/a": SLICE, "tmp_0000/b.nii": OTHER}, ["tmp_0000", "tmp_0001.nii.gz"]),
        ({"tmp_0000/a": SLICE, "later.nrrd": OTHER}, ["tmp_0000", "later.nrrd"]),
        ({"tmp_0000.nii.gz": OTHER, "slice.dcm": SLICE}, ["tmp_0000.nii.gz"]),
        ({"tmp_0000/image.nii.gz": OTHER, "tmp_0000/notes": OTHER}, ["tmp_0000/image.nii.gz"]),
        ({"image.nii.gz": OTHER, "slices/a": SLICE}, ["image.nii.gz"]),
    ],
)
def test_which_images_there_are(tmp_path: Path, kind: str, files: Mapping[str, bytes], images: list[str]) -> None:
    path = tmp_path / f"a.{kind}"
    KINDS[kind](path, files)
    reader = ArchiveReader(path)
    assert request_images(reader) == images
    assert request_images(reader.names(), reader) == images
    assert [is_series(name) for name in images] == [name == WHOLE or name.lower().endswith(("tmp_0000", "tmp_0001")) for name in images]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"IM0": OTHER, "IM1": b"DICM"}, "no image"),
        ({"slices.zip": SLICE, "report.pdf": SLICE}, "no image"),
        ({"a/tmp_0000/x": SLICE, "b/tmp_0000/x": SLICE}, "are the same image of the request"),
        ({"tmp_0000/x": SLICE, "tmp_0000.nii": OTHER}, "are the same image of the request"),
        ({"tmp_0001/x": SLICE}, "image tmp_0000 is missing"),
    ],
)
def test_what_is_no_request(tmp_path: Path, files: Mapping[str, bytes], words: str) -> None:
    zipped(tmp_path / "a.zip", files)
    with pytest.raises(ArchiveError, match=words):
        request_images(ArchiveReader(tmp_path / "a.zip"))


def test_names_alone_tell_of_no_series() -> None:
    with pytest.raises(ArchiveError, match="no image"):
        request_images(["IM0.dcm", "IM1.dcm"])


def test_thousands_of_folders_are_looked_at_in_one_walk(tmp_path: Path) -> None:
    """A stranger's archive must not cost the server more than reading it once."""
    zipped(tmp_path / "a.zip", {f"tmp_{number:04d}/{letter}": b"" for number in range(1500) for letter in "abc"})
    reader = ArchiveReader(tmp_path / "a.zip")
    names = reader.names()
    begin = time.process_time()
    with pytest.raises(ArchiveError, match="no image"):
        request_images(names, reader)
    assert time.process_time() - begin < 5.0


def test_what_is_asked_for() -> None:
    assert DicomAsked.of({}) == DicomAsked()
    prompts = {"level": 3, "dicom": {"series": 2, "gaps": "fill"}}
    asked = DicomAsked.of(with_output(prompts, "seg, rtstruct,"))
    assert (asked.output, asked.series, asked.gaps, asked.doubled) == (("rtstruct", "seg"), "2", "fill", "refuse")
    assert without_dicom(prompts) == {"level": 3}
    assert outputs_of("") == ()
    assert with_output({"dicom": None}, ["seg"]) == {"dicom": {"output": ["seg"]}}


@pytest.mark.parametrize("fields", [[], "seg", {"x": 1}, {"series": True}, {"series": "1" * 65}, {"holes": None}, {"output": {"seg": 1}}])
def test_what_makes_no_sense(fields: object) -> None:
    with pytest.raises(InputError) as caught:
        DicomAsked.of({"dicom": fields})
    assert caught.value.advice
