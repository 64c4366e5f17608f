"""The commands of de-identification, and what ``segment --deidentify`` lets leave."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate import nifti
from delineate.cli.image import without_patient
from delineate.cli.main import main
from delineate.dicom.deidentify import DeidentificationError
from delineate.dicom.reader import read
from delineate.dicom.rtstruct import write_rtstruct
from delineate.geometry import Geometry
from delineate.protocols.archive import FileRequestWriter
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_series
from delineate.volume import Volume

GRID = Geometry((7, 6, 4), (1.0, 1.0, 3.0))


def named(data: Any, number: int) -> None:
    data.PatientName, data.PatientID, data.StudyDate, data.PatientSex = "ZEBRA^Anna", "4711", "20200229", "F"


def burned(data: Any, number: int) -> None:
    named(data, number)
    data.BurnedInAnnotation = "YES" if number == 2 else "NO"


def series(folder: Path, change: Any = named) -> Path:
    voxels = np.random.default_rng(1).integers(0, 1000, GRID.shape).astype(np.int16)
    write_series(folder, stack_of(voxels, GRID, change=change))
    return folder


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return int(done.value.code or 0)


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("ZEBRA")
    out, identities = tmp_path / "out", tmp_path / "map.sqlite"
    assert run("deidentify", tmp_path / "in", "-o", out, "--map", identities, "--keep-characteristics") == 0
    said = capsys.readouterr()
    assert "wrote 4 files" in said.out and "1 file of other formats" in said.err
    assert all(b"ZEBRA" not in path.read_bytes() for path in out.iterdir())
    image = read(out)
    assert (str(image.series.attributes.PatientSex), str(image.series.attributes.StudyDate)) == ("F", "")
    structures = Segmentation.from_masks({"Liver": np.ones(GRID.shape, bool)}, GRID)
    write_rtstruct(tmp_path / "rs.dcm", structures, image.series)
    assert run("reidentify", tmp_path / "rs.dcm", "-o", tmp_path / "back", "--map", identities) == 0
    back = pydicom.dcmread(tmp_path / "back" / "rs.dcm")
    original = read(tmp_path / "in").series
    assert (back.PatientName, back.PatientID, back.StudyDate) == ("ZEBRA^Anna", "4711", "20200229")
    assert (back.StudyInstanceUID, back.FrameOfReferenceUID) == (original.study_uid, original.frame_of_reference)


def test_what_is_refused_names_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "ZEBRA", burned)
    out, identities = tmp_path / "out", tmp_path / "map.sqlite"
    assert run("deidentify", tmp_path / "ZEBRA", "-o", out, "--map", identities) == 2
    assert list(out.iterdir()) == []
    assert run("deidentify", tmp_path / "ZEBRA", "-o", out, "--map", identities, "--leave-out") == 0
    assert len(list(out.iterdir())) == 3
    assert run("deidentify", tmp_path / "ZEBRA", "-o", out, "--map", identities) == 2
    assert "not empty" in capsys.readouterr().err
    assert run("deidentify", tmp_path / "ZEBRA", "-o", tmp_path / "all", "--map", identities, "--burned-in") == 0
    first = sorted((tmp_path / "ZEBRA").iterdir())[0]
    (tmp_path / "text.dcm").write_text("no DICOM")
    for file, words in ((first, "belongs to no study"), (tmp_path / "text.dcm", "is no DICOM file")):
        assert run("reidentify", file, "-o", tmp_path / "back", "--map", identities) == 2
        assert words in capsys.readouterr().err
    assert run("reidentify", first, "-o", tmp_path / "back", "--map", tmp_path / "none.sqlite") == 2
    assert not (tmp_path / "none.sqlite").exists()
    said = capsys.readouterr()
    assert "ZEBRA^" not in said.out + said.err and "4711" not in said.out + said.err


def test_voxels_alone(tmp_path: Path) -> None:
    """What a NIfTI file says beside its voxels does not leave; names on pixels are refused in any case."""
    voxels = np.arange(168, dtype=np.int16).reshape(GRID.shape)
    nifti.write(tmp_path / "image.nii", Volume(voxels, GRID), description="ZEBRA^Anna")
    paths: list[Path] = [tmp_path / "image.nii"]
    assert without_patient(paths, paths, "off") == paths
    (image,) = without_patient(paths, paths, "on")
    with FileRequestWriter(tmp_path / "task.zip") as writer:
        writer.add_image(image)
    with zipfile.ZipFile(tmp_path / "task.zip") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    plain = b"".join(gzip.decompress(part) if part[:2] == b"\x1f\x8b" else part for part in contents)
    assert b"ZEBRA" in (tmp_path / "image.nii").read_bytes() and b"ZEBRA" not in plain
    assert voxels.tobytes() in plain
    series(tmp_path / "plain"), series(tmp_path / "burned", burned)
    volume = read(tmp_path / "plain").volume
    assert without_patient([tmp_path / "plain"], [volume], "required")[0] is volume
    with pytest.raises(DeidentificationError, match="file 3 of 4: BurnedInAnnotation"):
        without_patient([tmp_path / "burned"], [volume], "on")


def test_segment_refuses_before_anything_is_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "burned", burned)
    arguments = ("segment", tmp_path / "burned", "-m", "x", "-o", tmp_path / "out", "--server", "http://127.0.0.1:9")
    assert run(*arguments, "--deidentify", "required") == 2
    assert "nothing is sent" in capsys.readouterr().err
    assert run("submit", *arguments[1:4], "--server", "http://127.0.0.1:9", "--deidentify", "on") == 2
    assert "nothing is sent" in capsys.readouterr().err


def test_what_cannot_be_deidentified_says_by_which_option_the_rest_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series(tmp_path / "burned", burned)
    assert run("deidentify", tmp_path / "burned", "-o", tmp_path / "out", "--map", tmp_path / "map") == 2
    said = capsys.readouterr().err
    assert "nothing is written: file 3 of 4" in said and "--leave-out" in said and "--burned-in" in said


def test_without_its_library_no_file_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series(tmp_path / "in")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert run("deidentify", tmp_path / "in", "-o", tmp_path / "out", "--map", tmp_path / "map") == 2
    told = capsys.readouterr().err
    assert 'pip install "delineate[dicom]"' in told and "damaged" not in told
