"""The container runner against a real engine, with an image made from busybox."""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from delineate import runners
from delineate.errors import ModelError, SettingsError
from delineate.model import Model, Resources
from delineate.runners import container_engine as engines
from delineate.runners.container import ContainerRunner
from delineate.testing.containers import BEHAVIOURS, IMAGE, UsableEngine
from delineate.testing.models.jobs import Recorded, make_job

pytestmark = [pytest.mark.container, pytest.mark.alone]


@pytest.fixture
def task() -> str:
    """A name that no other run of these tests has, for they may share the engine."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def job(tmp_path: Path, task: str) -> Recorded:
    folder = tmp_path / "job"
    folder.mkdir()
    return replace(make_job(folder), task=task)


def run(model: Model, job: Recorded, folder: Path | None = None) -> None:
    runner = runners.create(model, folder)
    assert runner.segment(job) is None
    runner.close()


def failure(model: Model, job: Recorded) -> ModelError:
    with pytest.raises(ModelError) as caught:
        run(model, job)
    return caught.value


def containers(engine: UsableEngine, **labels: str) -> list[str]:
    """Names of all containers of a task, running or not."""
    filters = [f"--filter=label=delineate.{key}={value}" for key, value in labels.items()]
    return engine.command.ask("ps", "--all", "--format", "{{.Names}}", *filters).stdout.split()


def test_files_go_in_and_come_out_of_sub_folders(container_engine: UsableEngine, job: Recorded) -> None:
    run(container_engine.model(BEHAVIOURS["copy"]), job)
    sent, answered = job.input_folder / "tmp_0000.nii.gz", job.output_folder / "sub" / "labels.nii.gz"
    assert gzip.decompress(answered.read_bytes()) == gzip.decompress(sent.read_bytes())
    assert json.loads((job.output_folder / "sub" / "labels.json").read_text()) == {"1": "Toy"}
    assert containers(container_engine, task=job.task) == []
    assert sorted(path.name for path in job.output_folder.parent.iterdir()) == ["input", "output"]


def test_the_model_s_files_and_the_prompts_are_there(container_engine: UsableEngine, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_text("seven\n")
    (tmp_path / "job").mkdir()
    job = make_job(tmp_path / "job", prompts={"roi": [1, 2]})
    run(container_engine.model("cat /model/w.bin $DELINEATE_PROMPTS"), job, tmp_path / "weights")
    assert job.lines == ["seven", '{"roi": [1, 2]}']


def test_progress_and_log(container_engine: UsableEngine, job: Recorded) -> None:
    run(container_engine.model(BEHAVIOURS["progress"] + "; echo out; echo err >&2", environment={"WORD": "said"}), job)
    assert job.progress == [(0.5, "half"), (0.75, "more")]
    assert sorted(job.lines) == ["err", "out"]


def test_nothing_of_the_machine_can_be_reached(container_engine: UsableEngine, job: Recorded) -> None:
    script = """
        touch /input/x 2>/dev/null && echo wrote input
        touch /model/x 2>/dev/null && echo wrote model
        touch /bin/x 2>/dev/null && echo wrote root
        touch /tmp/x || echo no tmp
        ls /sys/class/net
        cat /proc/self/status
    """
    folder = job.output_folder.parent / "model"
    folder.mkdir()
    run(container_engine.model(textwrap.dedent(script)), job, folder)
    status = dict(line.split(":\t", 1) for line in job.lines if ":\t" in line)
    assert not [line for line in job.lines if line.startswith(("wrote", "no tmp"))]
    assert [line for line in job.lines if ":\t" not in line and ":" not in line] == ["lo"]
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split()[0] == ("0" if os.geteuid() == 0 else status["Uid"].split()[1])


def test_an_exit_code_is_told_with_the_last_words(container_engine: UsableEngine, job: Recorded) -> None:
    error = failure(container_engine.model(BEHAVIOURS["exit"]), job)
    assert (error.kind, "exit code 3" in error.message, "no weights found" in error.message) == ("exit", True, True)
    assert job.lines == ["no weights found"]


@pytest.mark.parametrize(("command", "code"), [(["/bin/no-such-program"], "127"), (["/tmp"], "126")])
def test_a_command_that_cannot_run(container_engine: UsableEngine, job: Recorded, command: list[str], code: str) -> None:
    error = failure(container_engine.model("", command=command), job)
    assert error.kind == "exit"
    assert f"exit code {code}" in error.message


def test_an_engine_that_refuses_is_explained(container_engine: UsableEngine, job: Recorded) -> None:
    model = container_engine.model("true", run_arguments=["--no-such-option"])
    error = failure(model, job)
    assert error.kind == "start"
    assert "no-such-option" in error.message


def test_a_crash_is_named(container_engine: UsableEngine, job: Recorded) -> None:
    # The first process of a container ignores signals it sends to itself, so a child dies, as under a shell script.
    error = failure(container_engine.model("sh -c 'kill -SEGV $$'; exit $?"), job)
    assert (error.kind, "SIGSEGV" in error.message) == ("crash", True)


def test_the_time_limit_removes_the_container(
    container_engine: UsableEngine, tmp_path: Path, task: str, while_the_clock_is_steady: Callable[[Callable[[], None]], None]
) -> None:
    limits = iter((4.0, 8.0, 16.0, 32.0, 64.0))  # a container may take that long to begin

    def attempt() -> None:
        limit = next(limits)
        folder = tmp_path / f"{limit:g}"
        folder.mkdir()
        job = replace(make_job(folder, seconds=limit), task=task)
        begin = time.monotonic()
        error = failure(container_engine.model(BEHAVIOURS["hang"], time_limit=limit), job)
        assert error.kind == "timeout"
        assert time.monotonic() - begin < limit + 30
        assert job.lines == ["hanging"]
        assert containers(container_engine, task=task) == []

    while_the_clock_is_steady(attempt)


def test_memory_is_limited(container_engine: UsableEngine, job: Recorded) -> None:
    error = failure(container_engine.model(BEHAVIOURS["eat"], memory_mb=64), job)
    assert error.kind == "memory", job.text
    assert "64 MiB" in error.message
    assert containers(container_engine, task=job.task) == []


def test_memory_is_watched_where_the_engine_refuses_limits(container_engine: UsableEngine, tmp_path: Path, job: Recorded) -> None:
    """An engine without control groups, played by a script before the real one."""
    real = " ".join(container_engine.command.command)
    script = tmp_path / container_engine.command.name
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--memory*) echo \'Error: memory cgroup is not there\' >&2; exit 125;; esac\nexec {real} "$@"\n'
    )
    script.chmod(0o755)
    error = failure(container_engine.model(BEHAVIOURS["eat"], memory_mb=64, engine=str(script)), job)
    assert error.kind == "memory"
    assert re.search(r"used \d+ MiB \(its limit is 64 MiB\)", error.message)
    assert "watched from outside" in job.text
    assert containers(container_engine, task=job.task) == []


def test_files_of_another_user_are_ours_afterwards(container_engine: UsableEngine, job: Recorded) -> None:
    script = "id -u; mkdir /output/closed && cd /output/closed && cp /input/tmp_0000.nii.gz a.nii.gz; chmod 000 a.nii.gz /output/closed"
    run(container_engine.model(script, user="4321:4321"), job)
    assert job.lines == ["4321"]
    path = job.output_folder / "closed" / "a.nii.gz"
    assert path.read_bytes() == (job.input_folder / "tmp_0000.nii.gz").read_bytes()
    assert path.stat().st_uid == os.geteuid()
    path.unlink()
    path.parent.rmdir()


def test_links_out_of_the_output_are_removed(container_engine: UsableEngine, job: Recorded) -> None:
    run(container_engine.model("ln -s /etc/passwd /output/labels.nii.gz; mkfifo /output/pipe"), job)
    assert list(job.output_folder.iterdir()) == []
    assert "labels.nii.gz" in job.text


def test_a_missing_image_is_told_at_the_start(container_engine: UsableEngine) -> None:
    model = container_engine.model("true", image="localhost/no-such-image:none")
    with pytest.raises(ModelError, match="not on this machine") as caught:
        runners.create(model, None)
    assert caught.value.kind == "start"
    assert "pull" in caught.value.advice


def test_an_image_that_vanished_is_told(container_engine: UsableEngine, job: Recorded) -> None:
    runner = ContainerRunner(container_engine.model("true"), None)
    runner._image = "localhost/no-such-image:none"
    with pytest.raises(ModelError, match="not on this machine"):
        runner.segment(job)


def test_a_pull_that_fails_is_told(container_engine: UsableEngine) -> None:
    model = container_engine.model("true", image="registry.invalid/no-such-image:none", pull=True)
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        runners.create(model, None)
    assert caught.value.kind == "start"


WORKER = """
    import sys
    from pathlib import Path
    from delineate import runners
    from delineate.testing.containers import UsableEngine
    from delineate.testing.models.jobs import make_job
    model = UsableEngine({engine!r}, {arguments!r}).model("echo up; while true; do sleep 1; done")
    job = make_job(Path(sys.argv[1]))
    object.__setattr__(job, "log", lambda line: print(line, flush=True))
    object.__setattr__(job, "task", {task!r})
    runners.create(model, None).segment(job)
"""


def worker(engine: UsableEngine, folder: Path, task: str) -> subprocess.Popen[str]:
    """A process that runs an endless container and can be killed."""
    folder.mkdir()
    code = textwrap.dedent(WORKER.format(engine=engine.engine, arguments=engine.run_arguments, task=task))
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def wait_until_gone(engine: UsableEngine, task: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while containers(engine, task=task) and time.monotonic() < end:
        time.sleep(0.1)
    assert containers(engine, task=task) == []


def test_a_killed_worker_takes_its_container_with_it(container_engine: UsableEngine, tmp_path: Path, task: str) -> None:
    with worker(container_engine, tmp_path / "a", task) as process:
        assert len(containers(container_engine, task=task)) == 1
        process.send_signal(signal.SIGKILL)
    wait_until_gone(container_engine, task)


def test_what_dead_workers_left_is_reaped_and_nothing_else(container_engine: UsableEngine, tmp_path: Path, task: str) -> None:
    engine = container_engine.command
    alive, dead, foreign = f"{task}-alive", f"{task}-dead", f"{task}-foreign"
    with worker(container_engine, tmp_path / "a", alive) as living, worker(container_engine, tmp_path / "b", dead) as dying:
        assert len(containers(container_engine, task=dead)) == 1
        for process in (*children(dying.pid), dying.pid):  # the guard as well, so that nothing cleans up
            os.kill(process, signal.SIGKILL)
        dying.wait()
        options = ["--detach", "--network=none", f"--label=delineate.task={foreign}", *container_engine.run_arguments]
        engine.ask("run", *options, IMAGE, "sleep", "60")
        try:
            engines.reap(engine, {"delineate.task": dead})  # unless another run of these tests was faster
            assert engines.reap(engine, {"delineate.task": alive}) == engines.reap(engine, {"delineate.task": foreign}) == []
            assert containers(container_engine, task=dead) == []
            assert len(containers(container_engine, task=alive)) == 1
            assert len(containers(container_engine, task=foreign)) == 1
        finally:
            for name in containers(container_engine, task=foreign):
                subprocess.run(engine.removal(name), check=True, capture_output=True)
            living.kill()
            living.wait()
    wait_until_gone(container_engine, alive)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize(
    "parameters",
    [{"image": "--privileged"}, {"image": ""}, {"processes": 0}, {"read_only": "no"}, {"command": "ls"}, {"volume": "/:/host"}],
)
def test_parameters_that_make_no_sense(container_engine: UsableEngine, job: Recorded, parameters: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        run(container_engine.model("true", **parameters), job)


def test_the_gpu_is_asked_for(container_engine: UsableEngine) -> None:
    model = replace(container_engine.model("true"), resources=Resources(gpu=True))
    arguments = ContainerRunner(model, None)._fixed_arguments()
    assert {"--device=nvidia.com/gpu=all", "--gpus=all"} & set(arguments)
