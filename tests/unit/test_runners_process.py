"""The process runner: what a command may do, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti, runners
from delineate.errors import ModelError, SettingsError
from delineate.model import Model, Resources
from delineate.runners import memory
from delineate.runners.process import PASSED_ON
from delineate.testing import models
from delineate.testing.models.jobs import Recorded, make_job


def command(*words: str, time_limit: float = 60.0, memory_mb: int = 0, **parameters: object) -> Model:
    return Model(
        name="toy",
        runner="process",
        time_limit=time_limit,
        resources=Resources(memory_mb=memory_mb),
        parameters={"command": list(words), **parameters},
    )


def shell(text: str, **options: float) -> Model:
    return command("sh", "-c", text, **options)


def run(model: Model, job: Recorded, folder: Path | None = None) -> None:
    runner = runners.create(model, folder)
    try:
        assert runner.segment(job) is None
    finally:
        runner.close()


def failure(model: Model, job: Recorded) -> ModelError:
    with pytest.raises(ModelError) as caught:
        run(model, job)
    assert not list(job.output_folder.parent.glob("scratch-*")), "the scratch folder stayed"
    return caught.value


def with_mark(mark: str) -> list[int]:
    """Processes whose command line holds a mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in place.joinpath("cmdline").read_text() and place.name != str(os.getpid()):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def wait_until_gone(mark: str) -> None:
    end = time.monotonic() + 60
    while with_mark(mark) and time.monotonic() < end:
        time.sleep(0.02)
    assert with_mark(mark) == []


@pytest.fixture
def job(tmp_path: Path) -> Recorded:
    return make_job(tmp_path)


def test_a_script_reads_the_input_and_writes_a_label_map_in_a_sub_folder(job: Recorded) -> None:
    run(models.load("process-copy"), job, models.FOLDER / "process-copy")
    labels, geometry = nifti.read_labels(job.output_folder / "labels" / "bright.nii.gz")
    voxels = job.images[0].voxels
    assert np.array_equal(labels > 0, voxels > voxels.mean())
    assert geometry.matches(job.images[0].geometry)
    assert job.progress == [(0.1, "reading"), (0.9, "writing")]
    assert "60 voxels are above the mean" in job.text


def test_values_are_put_into_the_command_and_other_braces_stay(job: Recorded) -> None:
    model = command(
        "{python}", "-c", "import sys; print(*sys.argv[1:], sep='\\n')",
        "{input}", "{output}", "{memory_mb}", "{time_limit}", "{else}", "$HOME; ls",
        memory_mb=300, time_limit=45.0,
    )  # fmt: skip
    run(model, job)
    assert job.lines == [str(job.input_folder), str(job.output_folder), "300", "45", "{else}", "$HOME; ls"]


def test_the_environment_is_minimal(job: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELINEATE_TOKEN", "very secret")
    monkeypatch.setenv("SITE_LICENCE", "floating")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run(command("env", environment={"WEIGHTS": "{input}/w"}, pass_environment=["SITE_LICENCE"]), job)
    found = dict(line.split("=", 1) for line in job.lines)
    assert found["WEIGHTS"] == f"{job.input_folder}/w"
    assert found["SITE_LICENCE"] == "floating"
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert found["HOME"] == found["TMPDIR"] != str(Path.home())
    allowed = {"WEIGHTS", "SITE_LICENCE", "HOME", "TMPDIR", "PATH", "LANG", "PYTHONUNBUFFERED", "PWD", "SHLVL", "_"}
    assert set(found) - allowed <= set(PASSED_ON)


def test_prompts_are_a_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, prompts={"foreground": [[1, 2, 3]]})
    run(command("cat", "{prompts}"), job)
    assert job.lines == ['{"foreground": [[1, 2, 3]]}']


def test_an_exit_code_is_told_with_the_last_words(job: Recorded) -> None:
    error = failure(models.load("process-exit"), job)
    assert error.kind == "exit"
    assert "exit code 3" in error.message
    assert "no weights found" in error.message
    assert job.lines == ["no weights found"]


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "FPE", "ILL", "BUS"])
def test_a_fatal_signal_is_a_crash_and_named(job: Recorded, name: str) -> None:
    error = failure(shell(f"kill -{name} $$"), job)
    assert error.kind == "crash"
    assert f"SIG{name}" in error.message


def test_a_crash_inside_a_shell_is_a_crash_too(job: Recorded) -> None:
    error = failure(shell("sh -c 'kill -SEGV $$'; exit $?"), job)
    assert (error.kind, "SIGSEGV" in error.message) == ("crash", True)


@pytest.mark.parametrize("text", ["kill -KILL $$", "exit 137"])
def test_killed_from_outside_is_a_crash_where_no_memory_was_wanting(job: Recorded, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "kernel_kills", lambda: 5)
    assert failure(shell(text), job).kind == "crash"


@pytest.mark.parametrize("text", ["kill -KILL $$", "exit 137"])
def test_killed_while_the_kernel_was_short_of_memory_is_memory(job: Recorded, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([5, 6])
    monkeypatch.setattr(memory, "kernel_kills", lambda: next(counts))
    assert failure(shell(text), job).kind == "memory"


def test_the_time_limit_kills_everything_that_was_started(tmp_path: Path) -> None:
    mark = f"mark{os.getpid()}{time.monotonic_ns()}"
    job = make_job(tmp_path, seconds=0.7)
    script = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600 # {mark}; true' & sleep 600 # {mark}\ntrue"
    begin = time.monotonic()
    error = failure(shell(script, time_limit=0.7), job)
    assert error.kind == "timeout"
    assert "0.7 s" in error.message
    assert time.monotonic() - begin < 60
    wait_until_gone(mark)


def test_what_a_command_leaves_running_is_killed(job: Recorded) -> None:
    mark = f"mark{os.getpid()}{time.monotonic_ns()}"
    run(shell(f"setsid sh -c 'sleep 600; true # {mark}' & exit 0"), job)
    wait_until_gone(mark)


def test_the_memory_limit_counts_children(job: Recorded) -> None:
    eater = "x = bytearray(b'x') * (150 << 20); import time; time.sleep(120)"
    begin = time.monotonic()
    error = failure(shell(f'for i in 1 2; do "{sys.executable}" -c "{eater}" & done; wait', memory_mb=250), job)
    assert error.kind == "memory"
    assert "250 MiB" in error.message
    assert time.monotonic() - begin < 60


def test_memory_that_processes_share_counts_once(job: Recorded) -> None:
    text = """
        import os, time
        shared = bytearray(b'x') * (120 << 20)
        children = [os.fork() for _ in range(1)] + [0]
        time.sleep(0.5)
    """
    run(command("{python}", "-c", textwrap.dedent(text), memory_mb=200), job)


def test_a_flood_of_output_is_cut_in_the_middle(job: Recorded) -> None:
    run(command("{python}", "-c", "for i in range(200_000): print('line', i)"), job)
    size = len(job.text)
    assert 300_000 < size < 600_000
    assert job.lines[0] == "line 0"
    assert job.lines[-1] == "line 199999"
    assert sum("left out" in line for line in job.lines) == 1


def test_output_arrives_while_the_command_runs(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    seen: list[str] = []

    def hear(line: str) -> None:
        seen.append(line)
        (tmp_path / "heard").touch()

    run(shell(f"echo first; until [ -e '{tmp_path}/heard' ]; do sleep 0.02; done; echo second"), replace(job, log=hear))
    assert seen == ["first", "second"]


def test_what_is_no_file_is_removed_from_the_output(job: Recorded) -> None:
    script = "cd $0; mkdir -m 000 a; ln -s /etc/passwd p.nii.gz; mkfifo q; echo x > x; chmod 000 x"
    run(shell(script.replace("$0", str(job.output_folder))), job)
    assert sorted(path.name for path in job.output_folder.iterdir()) == ["a", "x"]
    assert (job.output_folder / "x").read_text() == "x\n"
    assert "p.nii.gz" in job.text
    assert "q" in job.text


def test_nothing_outlives_a_killed_worker(tmp_path: Path) -> None:
    mark = f"mark{os.getpid()}{time.monotonic_ns()}"
    code = f"""
        from pathlib import Path
        from delineate import runners
        from delineate.model import Model
        from delineate.testing.models.jobs import make_job
        script = "trap '' TERM; setsid sh -c 'sleep 600; true # {mark}' & echo up; sleep 600; true # {mark}"
        model = Model(name="toy", runner="process", parameters=dict(command=["sh", "-c", script]))
        job = make_job(Path({str(tmp_path)!r}))
        object.__setattr__(job, "log", lambda line: print(line, flush=True))
        runners.create(model, None).segment(job)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "up\n"
        assert with_mark(mark)
        worker.send_signal(signal.SIGKILL)
    wait_until_gone(mark)


def test_a_missing_program_is_told_at_the_start() -> None:
    with pytest.raises(ModelError, match="no program") as caught:
        runners.create(command("no-such-program-anywhere"), None)
    assert caught.value.kind == "start"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"command": "ls -l"},
        {"command": ["ls"], "comand": ["ls"]},
        {"command": ["{model}/x"]},
        {"command": ["ls"], "environment": ["A=1"]},
    ],
)
def test_parameters_that_make_no_sense(parameters: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        runners.create(Model(name="toy", runner="process", parameters=parameters), None)
    assert caught.value.advice or "folder" in caught.value.message


def test_an_exception_from_the_worker_stops_the_command(tmp_path: Path) -> None:
    mark = f"mark{os.getpid()}{time.monotonic_ns()}"

    class Cancelled(BaseException):
        pass

    def report(fraction: float, message: str) -> None:
        raise Cancelled

    job = replace(make_job(tmp_path), report=report)
    with pytest.raises(Cancelled):
        run(shell(f"echo progress: 0.5; sleep 600; true # {mark}"), job)
    wait_until_gone(mark)
