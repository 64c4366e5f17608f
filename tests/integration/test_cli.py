"""The command line with real servers: one command, the single steps, failures, interruption."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from delineate.cli.embedded import embedded_server
from delineate.files import read_segmentation, read_volume, write_volume
from delineate.testing import models
from delineate.testing.models import FOLDER
from delineate.testing.phantoms import chest_ct

SIZE, SPACING = (86, 76, 56), (4.8, 5.0, 6.0)


def delineate(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "delineate.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    own = tmp_path_factory.mktemp("models")
    models.copy("sleeper", own, "long", seconds=600.0)
    with embedded_server([FOLDER, own]) as url:
        yield url


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chest") / "chest.nii.gz"
    write_volume(path, chest_ct(SIZE, SPACING).volume)
    return path


def test_segment_with_a_server_of_its_own(chest: Path, tmp_path: Path) -> None:
    done = delineate("segment", chest, "--model", "lungs-ct", "-o", tmp_path / "out", "--json")
    result = json.loads(done.stdout)
    assert [structure["name"] for structure in result["structures"]] == ["Lung_L", "Lung_R"]
    assert all(Path(path).is_file() for path in result["files"])
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "reading Hounsfield units" in done.stderr, "progress of the model is shown"
    segmentation = read_segmentation(tmp_path / "out" / "lungs-ct.nii.gz")
    assert segmentation.geometry.matches(read_volume(chest).geometry)
    where = np.argwhere(segmentation.mask("Lung_L"))[:, ::-1].mean(axis=0)
    other = np.argwhere(segmentation.mask("Lung_R"))[:, ::-1].mean(axis=0)
    assert segmentation.geometry.to_world(where)[0] > 0 > segmentation.geometry.to_world(other)[0], "left is left"


@pytest.mark.parametrize("codes", ["RAS", "PIR", "SLP"])
def test_left_is_left_whatever_the_file(codes: str, tmp_path: Path, server: str) -> None:
    phantom = chest_ct(SIZE, SPACING, orientation=codes)
    write_volume(tmp_path / "ct.nii.gz", phantom.volume)
    delineate(
        "segment", tmp_path / "ct.nii.gz", "--model", "lungs-ct", "-o", tmp_path / "lungs.nrrd", "--server", server, "--no-picture", "-q"
    )
    found = read_segmentation(tmp_path / "lungs.nrrd")
    for name in ("Lung_L", "Lung_R"):
        mask, truth = found.mask(name), phantom.segmentation.mask(name)
        assert 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.9


def test_the_single_steps(chest: Path, tmp_path: Path, server: str) -> None:
    uid = delineate("submit", chest, "--model", "threshold", "--server", server, "--key", "once", "-q").stdout.strip()
    assert uid == delineate("submit", chest, "--model", "threshold", "--server", server, "--key", "once", "-q").stdout.strip()
    assert delineate("wait", uid, "--server", server, "-q").stdout == "finished\n"
    delineate("fetch", uid, "--image", chest, "-o", tmp_path / "out", "--server", server, "-q")
    assert (tmp_path / "out" / "structures.png").is_file()
    delineate("fetch", uid, "-o", tmp_path / "raw.zip", "--server", server, "-q")
    assert (tmp_path / "raw.zip").read_bytes().startswith(b"PK")
    rows = json.loads(delineate("tasks", "--server", server, "--json").stdout)
    assert any(row["model"] == "threshold" and row["state"] == "finished" for row in rows)
    assert uid not in json.dumps(rows), "a list of tasks gives nobody the right to fetch them"
    assert delineate("cancel", uid, "--server", server).stdout == "finished\n", "what has ended stays as it is"
    assert json.loads(delineate("delete", uid, "--server", server, "--json").stdout) == {"uid": uid, "deleted": True}
    delineate("wait", uid, "--server", server, "-q", code=2)


def test_a_model_that_fails(chest: Path, tmp_path: Path, server: str) -> None:
    uid = delineate("submit", chest, "--model", "raiser", "--server", server, "-q").stdout.strip()
    done = delineate("wait", uid, "--server", server, "-q", code=4)
    assert "told to fail" in done.stderr
    assert "Traceback" in delineate("log", uid, "--server", server).stdout
    rows = json.loads(delineate("tasks", "--json", "--state", "failed", "--server", server).stdout)
    assert "Traceback" in delineate("log", str(rows[0]["id"]), "--server", server).stdout, "an administrator knows no uid"


def test_the_log_of_a_server_of_its_own_is_not_lost(chest: Path, tmp_path: Path) -> None:
    arguments = ["segment", str(chest), "-m", "raiser", "--models", str(FOLDER), "-o", str(tmp_path), "-q"]
    assert "--verbose shows it" in delineate(*arguments, code=4).stderr
    command = [sys.executable, "-m", "delineate.cli", *arguments, "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "Traceback" in done.stderr and "told to fail" in done.stderr
    assert "Fatal Python error" not in done.stderr, "the server ends by itself"


def test_unknown_model_lists_what_to_do(chest: Path, tmp_path: Path, server: str) -> None:
    done = delineate("segment", chest, "--model", "lungs-mr", "-o", tmp_path, "--server", server, "-q", code=2)
    assert "lungs-mr" in done.stderr and "delineate models" in done.stderr


def test_a_model_with_a_misspelt_key_says_which(chest: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.toml").write_text('name = "mine"\nruner = "python"\nrunner = "python"\n')
    done = delineate("segment", chest, "--model", "mine", "--models", tmp_path, "-o", tmp_path, "-q", code=2)
    assert "runer" in done.stderr
    delineate("segment", chest, "--model", "mine", "--models", tmp_path / "nowhere", "-o", tmp_path, "-q", code=2)


def test_the_time_limit_is_5(chest: Path, tmp_path: Path, server: str) -> None:
    uid = delineate("submit", chest, "--model", "hanger", "--server", server, "-q").stdout.strip()
    delineate("cancel", uid, "--server", server)
    delineate("wait", uid, "--server", server, "-q", code=4)
    hanging = delineate("submit", chest, "--model", "long", "--server", server, "-q").stdout.strip()
    begin = time.monotonic()
    delineate("wait", hanging, "--timeout", "1", "--server", server, "-q", code=5)
    assert time.monotonic() - begin < 60
    delineate("cancel", hanging, "--server", server)


def test_models_and_doctor(server: str, tmp_path: Path) -> None:
    names = {row["human_readable_id"] for row in json.loads(delineate("models", "--json").stdout)}
    assert names == {"body-ct", "lungs-ct", "bones-ct", "body-mr", "region", "scribbles", "Histogram+GraphCut", "GMM+GraphCut", "nuclei"}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.toml").write_text('name = "x"\nrunner = "python"\nnmae = 3\n', encoding="utf-8")
    listed = delineate("models", "--models", FOLDER, "--models", tmp_path)
    assert "sleeper" in listed.stdout
    assert "broken" in listed.stderr and "nmae" in listed.stderr, "a model that is left out is told"
    assert "noop" in delineate("models", "--server", server).stdout
    done = subprocess.run(
        [sys.executable, "-m", "delineate.cli", "doctor", "--server", server], capture_output=True, text=True, check=False
    )
    assert "answers as dialect" in done.stdout


def hears_interruptions() -> None:
    """What a terminal's programs start with; a test run in the background of a shell has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interruption_at_a_server_leaves_the_task(chest: Path, tmp_path: Path, server: str) -> None:
    command = [sys.executable, "-m", "delineate.cli", "segment", str(chest), "--model", "long", "-o", str(tmp_path), "--server", server]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hears_interruptions)
    assert process.stderr is not None
    for line in process.stderr:
        if "%" in line:  # the server has told of the task
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 130
    uid = rest.split("delineate fetch ")[1].split()[0]
    delineate("cancel", uid, "--server", server)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interruption_leaves_nothing(
    number: signal.Signals, chest: Path, tmp_path: Path, while_the_clock_is_steady: Callable[[Callable[[], None]], None]
) -> None:
    models.copy("sleeper", tmp_path / "models", "long", seconds=60.0)
    numbers = itertools.count()

    def attempt() -> None:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        interrupted(number, chest, folder, tmp_path / "models")

    while_the_clock_is_steady(attempt)


def interrupted(number: signal.Signals, chest: Path, tmp_path: Path, models: Path) -> None:
    command = [sys.executable, "-m", "delineate.cli", "segment", str(chest), "--model", "long", "--models", str(models)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hears_interruptions
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "%" in line:
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert family, "server and worker"
    begin = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert time.monotonic() - begin < 7, "nobody waits for a task that nobody will fetch"
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [] or (number == signal.SIGKILL and left == ["result"]), "an empty file of the client's own"
    rest = process.stderr.read()
    assert number != signal.SIGINT or "interrupted" in rest
    process.stderr.close()


def test_the_settings_of_another_server_are_not_those_of_ones_own(chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.db"
    monkeypatch.setenv("DELINEATE_DATABASE", f"sqlite:///{other}")
    monkeypatch.setenv("DELINEATE_TLS_CERTIFICATE", str(tmp_path / "nobody.pem"))
    monkeypatch.setenv("DELINEATE_TOKEN", "secret")
    delineate("segment", chest, "--model", "noop", "--models", FOLDER, "-o", tmp_path / "out", "-q")
    assert not other.exists()
