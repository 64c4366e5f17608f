"""``delineate label``: each command against a scripted server, tokens, and exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from delineate.cli.connection import connect
from delineate.cli.kept_tokens import keep_token, kept_token, token_store
from delineate.cli.label import label
from delineate.cli.main import cli, main
from delineate.errors import DelineateError
from delineate.testing.faults import Fault
from delineate.testing.monai_label import LabelScript, ScriptedLabelServer
from delineate.testing.monai_label.script import CLASSES, DSA, INFO, MASK, PASSWORD, TOKEN, USER
from delineate.testing.scripted import refusing_url

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server() -> Iterator[ScriptedLabelServer]:
    with ScriptedLabelServer() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(click, "get_app_dir", lambda name: str(tmp_path / "configuration" / name))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("ct.nii.gz").write_bytes(b"\x1f\x8bIMAGE")
    Path("label.nii.gz").write_bytes(b"\x1f\x8bLABEL")
    return work


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str, server: ScriptedLabelServer | str) -> tuple[int, str, str]:
        url = server if isinstance(server, str) else server.url
        with pytest.raises(SystemExit) as ended:
            main(["label", *arguments, "--server", url])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name)


@pytest.mark.parametrize("words", list(commands(label)), ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["label", *words, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output


def test_info(run: Run, server: ScriptedLabelServer) -> None:
    code, out, _ = run("info", server=server)
    assert code == 0
    assert "scripted 1.0: 0 of 1 images are labelled" in out and "threshold" in out and "tiny" in out and "first" in out
    assert json.loads(run("info", "--json", server=server)[1]) == INFO


def test_next_upload_save(run: Run, server: ScriptedLabelServer) -> None:
    assert run("next", "--client-id", "alice", "-P", "label_tag=final", "-P", "n=3", server=server)[:2] == (0, "ct_small\n")
    assert server.bodies == [{"label_tag": "final", "n": 3, "client_id": "alice"}]
    assert run("upload", "ct.nii.gz", "-q", server=server)[:2] == (0, "ct\n")
    assert run("upload", "ct.nii.gz", "--id", "a b", "-q", "--json", server=server)[:2] == (0, '{"image": "a b"}\n')
    for image in ("ct", "a b", "ct_small"):
        assert run("save", image, "label.nii.gz", "-q", "-P", 'label_info=[{"name": "x"}]', server=server)[0] == 0
    assert server.labels["a b", "final"] == {"label_info": [{"name": "x"}]}
    assert run("next", server=server) == (
        0,
        "",
        "no image is left: each has a label, or somebody else has it in hand; `delineate label datastore` lists them\n",
    )
    assert run("next", "--json", server=server)[:2] == (0, "{}\n")
    out = run("datastore", server=server)[1]
    assert "a b" in out and "final" in out


def test_names_go_with_a_label(run: Run, server: ScriptedLabelServer, here: Path) -> None:
    Path("label.json").write_text('{"2": "Lung", "1": "Heart"}')
    run("save", "ct_small", "label.nii.gz", "-q", server=server)
    assert server.labels["ct_small", "final"] == {"label_info": [{"name": "Heart", "idx": 1}, {"name": "Lung", "idx": 2}]}
    run("save", "ct_small", "label.nii.gz", "-q", "-P", 'label_names={"Liver": 1}', server=server)
    assert server.labels["ct_small", "final"] == {"label_names": {"Liver": 1}}
    for other in ('{"Modality": "CT"}', "no JSON", "[1]"):
        Path("label.json").write_text(other)
        run("save", "ct_small", "label.nii.gz", "-q", server=server)
        assert server.labels["ct_small", "final"] == {}


def test_names_of_an_answer_are_written_beside_it(run: Run, here: Path) -> None:
    with ScriptedLabelServer(LabelScript(infer_params={"label_names": {"background": 0, "Lung": 2, "Heart": 1}})) as server:
        code, out, _ = run("infer", "threshold", "ct_small", "-q", "-o", "mask.nii.gz", server=server)
        assert code == 0 and out.endswith("wrote mask.nii.gz\nwrote mask.json\n")
        assert json.loads((here / "mask.json").read_text()) == {"1": "Heart", "2": "Lung"}
        assert run("infer", "threshold", "ct_small", "-q", "-o", "mask.nii.gz", server=server)[1].endswith("mask.json\n"), "again"
        assert run("infer", "threshold", "ct_small", "-q", "-o", "m.seg.nrrd", server=server)[1].endswith("wrote m.seg.nrrd\n")
        (here / "scan.json").write_text('{"Modality": "CT"}')
        assert run("infer", "threshold", "ct_small", "-q", "-o", "scan.nii.gz", server=server)[1].endswith("wrote scan.nii.gz\n")
    assert (here / "scan.json").read_text() == '{"Modality": "CT"}', "what is no table of names is not written over"


def test_download(run: Run, server: ScriptedLabelServer, here: Path) -> None:
    run("save", "ct_small", "label.nii.gz", "-q", "--tag", "mine", server=server)
    code, out, _ = run("download", "ct_small", "--tag", "mine", "-q", server=server)
    assert (code, out) == (0, "wrote ct_small.nii.gz\n")
    assert (here / "ct_small.nii.gz").read_bytes() == MASK
    assert run("download", "ct_small", "--image", "-o", "image.nii.gz", "-q", "--json", server=server)[1] == '{"file": "image.nii.gz"}\n'
    assert run("download", "ct_small", "--tag", "none", "-q", server=server)[0] == 3
    assert run("download", "ct_small", "-o", "nowhere/x.nii.gz", server=server)[0] == 2
    assert sorted(path.name for path in here.iterdir()) == ["ct.nii.gz", "ct_small.nii.gz", "image.nii.gz", "label.nii.gz"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_result_is_a_file_like_any_other(run: Run, server: ScriptedLabelServer, here: Path) -> None:
    run("infer", "threshold", "ct_small", "-q", "-o", "mask.nii.gz", server=server)
    assert (here / "mask.nii.gz").stat().st_mode == (here / "ct.nii.gz").stat().st_mode


def test_infer(run: Run, server: ScriptedLabelServer, here: Path) -> None:
    code, out, _ = run("infer", "threshold", "ct_small", "-q", "-o", "mask.nrrd", server=server)
    assert code == 0 and out.endswith("wrote mask.nrrd\nwrote mask.json\n")
    assert (here / "mask.nrrd").read_bytes() == MASK
    assert json.loads(server.forms[-1].fields["params"]) == {"result_extension": ".nrrd"}
    for suffix in (".seg.nrrd", ".png"):
        run("infer", "threshold", "ct_small", "-q", "-o", f"mask{suffix}", server=server)
        assert json.loads(server.forms[-1].fields["params"]) == {"result_extension": suffix}
    code, out, _ = run("infer", "threshold", "--file", "ct.nii.gz", "--label", "label.nii.gz", "-q", "--json", server=server)
    assert json.loads(out)["file"] == "ct-threshold.nii.gz"
    assert [file[0] for file in server.forms[-1].files] == ["label", "file"]
    assert json.loads(run("infer", "classifier", "ct_small", "-q", "--json", server=server)[1]) == {"file": None, "params": CLASSES}
    assert run("infer", "threshold", server=server)[0] == 2
    assert run("infer", "nope", "ct_small", "-q", server=server)[0] == 3


def test_outlines_without_end_are_not_printed_unasked(run: Run, here: Path) -> None:
    with ScriptedLabelServer(LabelScript(infer_params={"outlines": [[0, 1]] * 2000})) as server:
        assert "characters of JSON came with it" in (out := run("infer", "threshold", "ct_small", "-q", server=server)[1])
        assert len(out) < 200
        assert len(json.loads(run("infer", "threshold", "ct_small", "-q", "--json", server=server)[1])["params"]["outlines"]) == 2000


def test_slides(run: Run, server: ScriptedLabelServer, here: Path) -> None:
    code, out, _ = run("wsi-infer", "polygons", "slide", "-P", "level=1", "-q", server=server)
    assert (code, json.loads(out)) == (0, DSA)
    assert server.bodies == [{"level": 1}]
    assert run("wsi-infer", "polygons", "slide", "--format", "asap", "-o", "a.xml", "-q", server=server)[:2] == (0, "wrote a.xml\n")
    assert (here / "a.xml").read_text().startswith("<?xml")
    before = len(server.bodies)
    code, _, err = run("wsi-infer", "polygons", "slide", "-o", "none/a.json", "-q", server=server)
    assert code == 2 and "there is no folder none" in err and len(server.bodies) == before


def test_training(run: Run, server: ScriptedLabelServer) -> None:
    assert run("train", "status", server=server)[0] == 3
    assert run("train", "stop", server=server)[:2] == (0, "none\n")
    assert run("train", "start", "tiny", "-P", "max_epochs=2", server=server)[:2] == (0, "SUBMITTED\n")
    code, _, err = run("train", "start", "tiny", server=server)
    assert code == 3 and "Already Running" in err
    assert json.loads(run("train", "status", "--json", server=server)[1])["request"]["max_epochs"] == 2
    assert run("train", "stop", server=server)[:2] == (0, "STOPPED\n")
    assert run("train", "status", server=server)[:2] == (0, "STOPPED\nstopped\n")
    assert "SUBMITTED" in run("train", "start", server=server)[1]


@pytest.mark.parametrize(("end", "code"), [("DONE", 0), ("ERROR", 4), ("STOPPED", 4)])
def test_a_training_is_watched_to_its_end(
    run: Run, server: ScriptedLabelServer, monkeypatch: pytest.MonkeyPatch, end: str, code: int
) -> None:
    def meanwhile(_: float) -> None:
        server.training["status"], server.training["details"] = end, ["bone: Dice 0.9"]

    clock = SimpleNamespace(sleep=meanwhile, monotonic=time.monotonic)  # not the module's own sleep, in which other threads are
    monkeypatch.setattr("delineate.cli.label_training.time", clock)
    found, out, err = run("train", "start", "tiny", "--wait", server=server)
    assert (found, out) == (code, "DONE\nbone: Dice 0.9\n" if code == 0 else "")
    assert "RUNNING" in err and (code == 0 or "bone: Dice 0.9" in err)
    assert run("train", "watch", "-q", server=server)[0] == code


def test_a_training_that_does_not_end_is_left_alone(run: Run, server: ScriptedLabelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delineate.cli.label_training.INTERVAL", 0.01)
    run("train", "start", "tiny", server=server)
    code, _, err = run("train", "watch", "--timeout", "0.2", server=server)
    assert code == 5 and "goes on" in err


def test_sessions(run: Run, server: ScriptedLabelServer) -> None:
    code, out, _ = run("session", "create", "ct.nii.gz", "--expiry", "60", "-q", server=server)
    session = out.strip()
    assert code == 0 and server.forms[0].target == "/session/?expiry=60"
    assert json.loads(run("session", "show", session, server=server)[1])["name"] == session
    assert run("infer", "threshold", "--session", session, "-q", server=server)[0] == 0
    assert run("session", "remove", session, server=server)[:2] == (0, "removed\n")
    code, _, err = run("session", "show", session, server=server)
    assert code == 3 and "Not Found" in err


# ---------------------------------------------------------------- accounts


def test_login_keeps_the_token_for_this_server_alone(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.termui, "hidden_prompt_func", lambda text: PASSWORD)
    with ScriptedLabelServer(LabelScript(accounts=True)) as server, ScriptedLabelServer() as other:
        code, _, err = run("info", server=server)
        assert code == 3 and "who asks" in err
        code, out, _ = run("login", "--user", USER, server=server)
        assert code == 0 and TOKEN not in out and str(token_store()) in out
        assert run("info", server=server)[0] == 0
        assert run("info", server=other)[0] == 0
        assert "authorization" not in other.requests[-1].headers
        assert run("login", "--user", USER, "--print", server=server)[1] == f"{TOKEN}\n"
        code, _, err = run("login", "--user", USER, server=other)
        assert code == 2 and "no accounts" in err
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PASSWORD.encode() + b"\n")))
        assert run("login", "--user", USER, "--password-stdin", "--print", server=server)[1] == f"{TOKEN}\n"
        monkeypatch.setattr(click.termui, "hidden_prompt_func", lambda text: "wrong")
        code, out, err = run("login", "--user", USER, server=server)
        assert code == 3 and "wrong" not in out + err
        assert kept_token(server.url) == {"token_type": "Bearer", "access_token": TOKEN}
    if os.name != "nt":
        assert token_store().stat().st_mode & 0o777 == 0o600
        assert token_store().parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in token_store().parent.iterdir()] == ["label-tokens.json"]


def test_a_given_token_goes_before_the_kept_one(run: Run, here: Path, server: ScriptedLabelServer) -> None:
    keep_token(server.url, {"token_type": "Bearer", "access_token": "kept"})
    Path("token").write_text("given\n")
    run("info", server=server)
    run("info", "--token-file", "token", server=server)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer kept", "Bearer given"]


def test_the_other_commands_send_the_kept_token_too(run: Run, here: Path, server: ScriptedLabelServer) -> None:
    keep_token(server.url, {"token_type": "Bearer", "access_token": "kept"})
    for given, sent in ((None, "Bearer kept"), ("given", "Bearer given")):
        with connect(server.url, token=given) as client, contextlib.suppress(DelineateError):
            client.models()
        assert server.requests[-1].headers["authorization"] == sent


def test_a_store_that_cannot_be_read_is_told(run: Run, here: Path, server: ScriptedLabelServer) -> None:
    token_store().parent.mkdir(parents=True)
    token_store().write_text("{")
    code, _, err = run("info", server=server)
    assert code == 2 and "log in again" in err


# ---------------------------------------------------------------- what goes wrong


def test_exit_codes(run: Run, server: ScriptedLabelServer) -> None:
    assert run("upload", "none.nii.gz", "-q", server=server)[0] == 2
    assert run("next", "-P", "nonsense", server=server)[0] == 2
    assert run("session", "show", "..", server=server)[0] == 2
    with refusing_url() as nobody:
        code, out, err = run("info", "--json", server=nobody)
    assert code == 3 and json.loads(out)["error"] == "ConnectionFailedError" and "Traceback" not in err
    assert run("info", server="server.example")[0] == 3
    server.faults.add(Fault(action="hang", seconds=20, times=-1))
    assert run("info", "--timeout", "0.2", server=server)[0] == 5


def test_a_server_cannot_write_on_the_terminal(run: Run, server: ScriptedLabelServer) -> None:
    server.images = {"\x1b[2Jevil": {}}
    assert "\x1b" not in run("next", server=server)[1] + run("datastore", server=server)[1]
