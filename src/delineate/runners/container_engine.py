"""What podman and docker are asked besides running a model: whether an image is there, what a dead worker left behind."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delineate.errors import ModelError, SettingsError

QUICK = 60.0  # seconds for a question to the engine; a busy disk makes it slow
PULL = 3600.0
_ADVICE = "Install podman or docker on the worker's machine, or name the engine in the server's settings."


@dataclass(frozen=True)
class Engine:
    """A container engine: `command` is its program with the global options."""

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self.command[0]).name

    @property
    def is_podman(self) -> bool:
        """Whether it takes podman's options besides those it shares with docker."""
        return "podman" in self.name

    def ask(self, *arguments: str, seconds: float = QUICK) -> subprocess.CompletedProcess[str]:
        """Run it with `arguments`; `ModelError` of kind ``start`` when it does not answer."""
        try:
            return subprocess.run(
                [*self.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=seconds, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"the container engine {self.name} does not answer: {type(error).__name__}", _ADVICE, kind="start") from error

    def has_image(self, image: str) -> bool:
        """Whether an image is on this machine."""
        done = self.ask("image", "inspect", "--format", "{{.Id}}", image)
        if done.returncode and "connect" in done.stderr.lower():
            raise ModelError(f"the container engine {self.name} does not run: {_last_line(done.stderr)}", _ADVICE, kind="start")
        return done.returncode == 0

    def pull(self, image: str) -> None:
        """Fetch an image; `ModelError` of kind ``start`` when that fails."""
        done = self.ask("pull", "--quiet", image, seconds=PULL)
        if done.returncode:
            raise ModelError(
                f"the container image {image} could not be fetched: {_last_line(done.stderr)}",
                "Check its name, the network and the registry's login.",
                kind="start",
            )

    def process_of(self, container: str) -> int:
        """Number of a container's first process on this machine, 0 while there is none."""
        answer = self.ask("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        return int(answer) if answer.isdigit() else 0

    def removal(self, container: str) -> list[str]:
        """The command that kills and removes a container at once."""
        return [*self.command, "rm", "--force", *(["--time=0"] if self.is_podman else []), container]

    def own_user(self) -> str:
        """``uid:gid`` for inside, such that files written there are ours outside."""
        # Without root, podman (and a rootless docker) map the container's root to us.
        if os.geteuid() != 0 and (self.is_podman or "rootless" in self.ask("info", "--format", "{{.SecurityOptions}}").stdout):
            return "0:0"
        return f"{os.geteuid()}:{os.getegid()}"


def find_engine(engine: str = "", arguments: Sequence[str] = ()) -> Engine:
    """The engine of that name (with options, as in a shell), or the first of podman and docker on the path.

    Raises
    ------
    ModelError
        Of kind ``start``: there is none.
    """
    try:
        words = shlex.split(engine)
    except ValueError as error:
        raise SettingsError(
            f"the container engine {engine!r} cannot be read: {error}", "Give the program and its arguments as in a shell."
        ) from None
    for program in words[:1] or ("podman", "docker"):
        if shutil.which(program):
            return Engine((program, *words[1:], *arguments))
    raise ModelError(f"there is no container engine {words[0] if words else '(podman or docker)'} on this machine", _ADVICE, kind="start")


def own_labels() -> dict[str, str]:
    """Labels by which anyone can tell whose a container is, and whether that worker still lives."""
    return {"delineate.machine": _machine(), "delineate.worker": f"{os.getpid()}-{_started(os.getpid())}"}


def reap(engine: Engine, labels: Mapping[str, str] | None = None) -> list[str]:
    """Remove the containers of dead workers of this machine; `labels` narrows which. Names of those removed."""
    wanted = {"delineate.machine": _machine(), **(labels or {})}
    filters = [f"--filter=label={key}={value}" for key, value in wanted.items()]
    found = engine.ask("ps", "--all", "--quiet", "--no-trunc", *filters).stdout.split()
    removed = []
    for container in found:
        owner = engine.ask("inspect", "--format", '{{index .Config.Labels "delineate.worker"}}', container).stdout.strip()
        if owner and not _lives(owner):
            done = subprocess.run(engine.removal(container), capture_output=True, timeout=QUICK, check=False)
            removed += [container] if done.returncode == 0 else []
    return removed


def _lives(owner: str) -> bool:
    process, _, started = owner.partition("-")
    return process.isdigit() and _started(int(process)) == started


def _started(process: int) -> str:
    """When a process began, in ticks since the machine did: numbers of processes are used again. ``gone`` when there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] in "ZX" else fields[19]


def _machine() -> str:
    """This boot of this machine, and the process namespace we see: elsewhere the same numbers mean other processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return "unknown"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
