"""``delineate mim``: the real extension is built, verified, and small; what is refused leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trustme

from delineate import __version__, nifti
from delineate.cli.main import main
from delineate.mim.packaging.build import MOST_BYTES, MOST_MODULES, probed
from delineate.mim.packaging.check import check
from delineate.testing.phantoms import chest_ct


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["mim", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extension") / "deep" / "delineate-mim.zip"
    command = [sys.executable, "-m", "delineate.cli", "mim", "build", "--server", "https://server.example/delineate", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


FIVE = {
    **{
        f"InferenceServer{count}images": ["session", *names[:count], "model_human_readable_id", "export_dicom_info", "server_url"]
        for names in [["img_zero", "img_one", "img_two", "img_three"]]
        for count in (1, 2, 3, 4)
    },
    "InferenceServerGetFromUid": ["session", "uid", "reference_image", "server_url", "polling_interval_sec", "timeout_sec"],
}


def test_the_extension_passes_its_own_check(extension: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["check", str(extension), "--json"], capsys)
    assert [row for row in json.loads(out) if row["ok"] is not True] == []
    assert code == 0


def test_the_extension_is_small(extension: Path) -> None:
    with zipfile.ZipFile(extension) as archive:
        modules = {entry.filename: entry.file_size for entry in archive.infolist() if entry.filename.endswith(".py")}
    assert len([name for name in modules if not name.endswith("__init__.py")]) <= MOST_MODULES
    assert sum(modules.values()) <= MOST_BYTES


def test_the_entry_points_of_the_workflows_are_there(extension: Path) -> None:
    with zipfile.ZipFile(extension) as archive:
        files = {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}
    entries = {str(entry["method"]): entry for entry in probed("ext", files)["entries"]}
    parameters = {name: [parameter for parameter, _ in entries[name]["parameters"]] for name in entries}  # type: ignore[attr-defined]
    assert {name: parameters[name] for name in FIVE} == FIVE
    kinds = {parameter: kind for entry in entries.values() for parameter, kind in entry["parameters"]}  # type: ignore[attr-defined]
    assert {kind for name, kind in kinds.items() if name.startswith("img") or name == "reference_image"} == {"XMimImage"}
    assert {kinds[name] for name in ("export_dicom_info", "polling_interval_sec", "timeout_sec")} == {"Integer"}
    assert {kinds[name] for name in ("uid", "model_human_readable_id", "server_url")} == {"String"}
    assert {name: [kind for _, kind in entries[name]["outputs"]] for name in FIVE} == {  # type: ignore[attr-defined]
        **{name: ["String"] for name in FIVE}, "InferenceServerGetFromUid": [],
    }  # fmt: skip


def test_two_builds_are_the_same_bytes_and_the_date_is_as_told(extension: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "delineate.cli", "mim", "build", "--json", "-o"]
    for name in ("a.zip", "b.zip"):
        done = subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True, env=environment)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert b"CREATION_DATE=2023-11-14 22:13:20\n" in archive.read("info.properties")
    assert json.loads(done.stdout)["package"].startswith("delineate_mim_" + __version__.replace(".", "_"))


def test_build_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    code, out, _ = run(["build", "--ca", "ca.crt"], capsys)
    assert code == 0
    assert f"wrote delineate-mim-{__version__}.zip, SHA-256 " in out
    assert "InferenceServerGetFromUid" in out
    assert " ext.py" in out
    assert {finding.check: finding.ok for finding in check(tmp_path / f"delineate-mim-{__version__}.zip", loaded=False)}["certificates"]


def test_a_refused_build_leaves_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.pem").write_bytes(trustme.CA().private_key_pem.bytes())
    (tmp_path / "x.zip").write_bytes(b"before")
    code, _, err = run(["build", "--ca", str(tmp_path / "key.pem"), "-o", str(tmp_path / "x.zip")], capsys)
    assert code == 2
    assert "private key" in err
    code, _, err = run(["build", "--server", "https://me:pw@server.example", "-o", str(tmp_path / "x.zip")], capsys)
    assert code == 2
    assert "pw" not in err
    assert (tmp_path / "x.zip").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "x.zip"]


def test_check_says_what_fails(extension: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.zip"
    shutil.copy(extension, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("src/utils.py", "import httpx\n")
    code, out, _ = run(["check", str(path)], capsys)
    assert code == 4
    assert "FAIL  layout" in out
    assert "src/utils.py" in out
    assert run(["check", str(tmp_path / "nothing.zip")], capsys)[0] == 2


def test_a_static_check_loads_nothing(extension: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["check", str(extension), "--static", "--python", "/nowhere/python", "--json"], capsys)
    assert code == 0
    assert [row["ok"] for row in json.loads(out) if row["check"].startswith("loads")] == [None, None]


def test_another_interpreter_loads_it(extension: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["check", str(extension), "--python", "/nowhere/python", "--json"], capsys)
    assert code == 4
    assert {row["detail"] for row in json.loads(out) if row["ok"] is False} == {"/nowhere/python: No such file or directory"}


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chest") / "chest.nii.gz"
    nifti.write(path, chest_ct((90, 80, 60), (4.5, 4.7, 5.5)).volume)
    return path


def test_the_demo_sets_contours_and_draws_them(chest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["demo", str(chest), "-o", str(tmp_path / "new")], capsys)
    assert code == 0
    assert (tmp_path / "new" / "mim.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^  log, info: .*Lung_L, Lung_R", out, re.MULTILINE)
    volumes = {name: float(volume) for name, volume in re.findall(r"^  (Lung_[LR]) +([\d.]+) ml$", out, re.MULTILINE)}
    assert 1000 < volumes["Lung_L"] < volumes["Lung_R"] < 2000
    assert not [name for name in sys.modules if name.startswith("delineate_mim_")]


def test_the_demo_says_what_the_person_at_the_workstation_would_see(
    chest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["demo", str(chest), "-m", "nobody", "-o", str(tmp_path)], capsys)
    assert code == 4
    assert "  log, error: No model is called 'nobody'." in out
    assert "InferenceServer1images failed: No model is called 'nobody'." in err
    assert list(tmp_path.iterdir()) == []
