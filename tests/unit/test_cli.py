"""The command line without a server: usage, errors as one sentence, exit codes."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest
from click.testing import CliRunner

from delineate import errors, nifti
from delineate.cli.main import COMMANDS, cli, exit_code, main
from delineate.cli.output import require_folder, say, stem, target_path, write_result
from delineate.cli.progress import ProgressDisplay
from delineate.cli.serve import say_new_folder
from delineate.cli.table import print_table
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation
from delineate.server.settings import Settings
from delineate.volume import Volume


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ct.nii.gz"
    nifti.write(path, Volume(np.zeros((3, 4, 5), np.int16), Geometry((5, 4, 3))))
    return path


@pytest.fixture
def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_help_lists_every_command() -> None:
    listed = CliRunner().invoke(cli, ["--help"]).output.split("Commands:")[1]
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "] == list(COMMANDS)


def groups(command: click.Command, name: str = "delineate") -> Iterator[tuple[str, click.Group]]:
    if isinstance(command, click.Group):
        yield name, command
        for below in command.list_commands(click.Context(command)):
            yield from groups(command.get_command(click.Context(command), below) or cli, f"{name} {below}")


@pytest.mark.parametrize(("name", "group"), list(groups(cli)))
def test_a_list_of_commands_breaks_off_nowhere(name: str, group: click.Group) -> None:
    text = CliRunner().invoke(group, ["--help"], terminal_width=80).output
    assert [line for line in text.splitlines() if line.startswith("  ") and line.endswith("...")] == []


def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segment"], capsys)[0] == 2
    assert run(["no-such-command"], capsys)[0] == 2
    assert run(["serve", "--port", "many"], capsys)[0] == 2


def test_a_missing_image_is_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["segment", str(tmp_path / "none.nii.gz"), "--model", "lungs-ct", "-o", str(tmp_path)], capsys)
    assert code == 2
    assert "none.nii.gz" in err
    assert "Traceback" not in err and out == ""


def test_a_file_that_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.nii.gz"
    path.write_text("hello")
    code, out, err = run(["segment", str(path), "--model", "lungs-ct", "-o", str(tmp_path), "--json"], capsys)
    assert code == 2
    assert json.loads(out)["error"] == "ImageError"
    assert "text.nii.gz" in err


def test_a_file_of_another_kind_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    code, _, err = run(["segment", str(tmp_path / "report.pdf"), "--model", "lungs-ct", "-o", str(tmp_path)], capsys)
    assert code == 2
    assert "report.pdf is no image that is read here. Give DICOM, or a file whose name ends in .nii.gz" in err


def test_a_place_that_cannot_be_written_is_told_before_anything_starts(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run(["segment", str(image), "--model", "lungs-ct", "-o", str(tmp_path / "file" / "below")], capsys)
    assert (code, "starting a server" in err) == (2, False)
    assert f"{tmp_path / 'file'} is no folder. Give another place." in err


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(errors.InputError, match="is a folder that you may not write to"):
        require_folder(tmp_path / "new" / "a.nii.gz")


def test_a_table_in_a_log_has_no_blanks_at_its_ends(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "why"], [["a", ""], ["longer", "x"]])
    assert capsys.readouterr().out == "name    why\na\nlonger  x\n"


@pytest.mark.parametrize("name", ["series", "slice.dcm"])
def test_what_holds_no_dicom_is_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "slice.dcm").write_bytes(b"")
    code, _, err = run(["segment", str(tmp_path / name), "-m", "x", "-o", str(tmp_path)], capsys)
    assert code == 2
    assert name in err and "Give the files of one series of slices" in err


def test_nobody_there_is_3(image: Path, nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["submit", str(image), "--model", "m", "--server", nobody, "-q"], capsys)
    assert code == 3
    assert "Check the server's address" in err


def test_where_nobody_is_no_check_fails_for_it(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["conformance", nobody, "--dialect", "v1"], capsys)
    assert (code, out) == (3, "")
    assert "could not be spoken to" in err and "that the server runs" in err


def test_an_address_without_scheme_is_explained(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["submit", str(image), "--model", "m", "--server", "server.example", "-q"], capsys)
    assert code == 3
    assert "https://server.example" in err


def test_a_token_file_that_is_not_there(image: Path, nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["models", "--server", nobody, "--token-file", "/nonexistent/token"], capsys)
    assert code == 2
    assert "no token could be read" in err


def test_doctor_finds_its_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path, nobody: str) -> None:
    code, out, _ = run(["doctor", "--json", "--data", str(tmp_path)], capsys)
    findings = {finding["subject"]: finding for finding in json.loads(out)}
    assert findings["fastapi"]["level"] == "ok"
    assert findings["disk"]["detail"].startswith(tuple("0123456789"))
    assert code == (2 if any(finding["level"] == "problem" for finding in findings.values()) else 0)
    code, out, _ = run(["doctor", "--server", nobody], capsys)
    assert code == 2
    assert "problem server" in " ".join(out.split())


def test_settings_that_make_no_sense(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("colour = 1")
    code, _, err = run(["serve", "--settings", str(file)], capsys)
    assert code == 2
    assert "colour" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.DeadlineError("late"), 5),
        (errors.ConnectionFailedError("gone"), 3),
        (errors.RejectedError("no"), 3),
        (errors.TaskFailedError("failed"), 4),
        (errors.ResultLostError("lost"), 4),
        (errors.ImageError("bad"), 2),
        (errors.UnknownModelError("which"), 2),
        (errors.MissingPartError("x", "images"), 2),
        (errors.StorageFullError("full"), 1),
    ],
)
def test_exit_codes(error: errors.DelineateError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(("command", "extra"), [("gateway", "gateway"), ("compare", "dicom"), ("conformance", "all")])
def test_a_part_that_is_not_installed_is_named(
    command: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> NoReturn:
        raise ModuleNotFoundError(f"No module named 'scipy', asked for by {name}", name="scipy.sparse")

    monkeypatch.setattr("delineate.cli.main.importlib.import_module", missing)
    code, _, err = run([command, "x"], capsys)
    assert code == 2
    assert (
        err == f'delineate: scipy.sparse, which this command needs, is not installed. Install it with: pip install "delineate[{extra}]"\n'
    )


def test_a_module_of_our_own_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise ModuleNotFoundError(name, name="delineate.nowhere")

    monkeypatch.setattr("delineate.cli.main.importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


def test_where_results_go(tmp_path: Path) -> None:
    assert target_path(tmp_path / "new", "lungs-ct") == tmp_path / "new" / "lungs-ct.nii.gz"
    assert target_path(tmp_path / "a.nrrd", "lungs-ct") == tmp_path / "a.nrrd"
    (tmp_path / "file").touch()
    with pytest.raises(errors.InputError, match="is a file"):
        target_path(tmp_path / "file", "lungs-ct")
    assert stem(tmp_path / "a.b.nii.gz") == "a.b"


def test_folders_that_are_not_there_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nope"
    for arguments, words in (
        (["serve", "--data", str(tmp_path / "data"), "--models", str(nowhere)], "there is no folder of models"),
        (["work", "--data", str(tmp_path), "--models", str(nowhere)], "there is no folder of models"),
        (["work", "--data", str(nowhere)], "there is no server's data in"),
    ):
        code, _, err = run(arguments, capsys)
        assert (code, words in err, str(nowhere) in err) == (2, True, True), err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_that_is_new_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_new_folder(Settings(data=tmp_path, studies=tmp_path))
    say_new_folder(Settings(data=tmp_path))
    assert capsys.readouterr().err == ""
    say_new_folder(Settings(data=tmp_path, studies=tmp_path / "livr"))
    assert f"there is no folder {tmp_path / 'livr'} for images yet" in capsys.readouterr().err


def test_doctor_names_models_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.toml").write_text("name = ", encoding="utf-8")
    code, out, _ = run(["doctor", "--data", str(tmp_path), "--models", str(tmp_path / "models")], capsys)
    assert code == 2
    assert "broken/model.toml: it is not a valid model.toml" in out
    assert "can be used" in out
    assert not (tmp_path / "delineate.db").exists()


def test_a_name_of_no_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match=r"cannot be written as \.txt") as told:
        target_path(tmp_path / "x.txt", "lungs-ct")
    assert ".nii.gz, .nii, .nrrd" in told.value.advice
    (tmp_path / "study.txt").mkdir()
    assert target_path(tmp_path / "study.txt", "m").name == "m.nii.gz"
    assert target_path(tmp_path / "v1.2", "m").parent.name == "v1.2"
    assert target_path(tmp_path, "../../etc/\x1bm") == tmp_path / "_.._etc__m.nii.gz"


def test_fetch_looks_at_the_output_first(tmp_path: Path, nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["fetch", "uid", "-o", str(tmp_path / "x.txt"), "--server", nobody, "-q"], capsys)
    assert code == 2
    assert "cannot be written as .txt" in err


EVIL = "../..\x1b[31m\u009b\u202e[bold]\nwrote /etc/passwd"


def test_results_of_a_foreign_server_are_printed_and_stored_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmentation = Segmentation.from_masks({EVIL: np.ones((3, 4, 5), bool)}, Geometry((5, 4, 3)))
    written = write_result(segmentation, tmp_path / "out", "m", None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.json", "m.nii.gz"]
    say(written, as_json=False)
    say(written, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # a structure, two files, the JSON
    assert not any(mark in line for line in lines for mark in ("\x1b", "\u009b", "\u202e"))
    assert json.loads(lines[-1])["structures"][0]["name"] == EVIL
    with ProgressDisplay() as show:
        show(None, EVIL)
    assert "\x1b" not in (told := capsys.readouterr().err)
    assert "[bold]" in told


@pytest.mark.parametrize("fails", ["nii", "png"])
def test_a_full_disk_leaves_nothing_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("delineate.cli.output.write_segmentation" if fails == "nii" else "delineate.cli.output.Path.write_bytes", full)
    geometry = Geometry((5, 4, 3))
    segmentation = Segmentation.from_masks({"Heart": np.ones((3, 4, 5), bool)}, geometry)
    with pytest.raises(errors.StorageFullError, match=r"m\.nii\.gz was not written: no space left"):
        write_result(segmentation, tmp_path / "out", "m", Volume(np.zeros((3, 4, 5), np.int16), geometry))
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_in_a_log_is_a_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as show:
        for hundredth in range(101):
            show(hundredth / 100, "working")
        show(None, "done")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12
    assert lines[5].endswith(" 50%  working") and lines[-1].endswith("done")
    with ProgressDisplay(quiet=True) as show:
        show(0.5, "working")
    assert capsys.readouterr().err == ""
