"""A tiny container image for tests, made on the spot from a static busybox: no registry, no network."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from delineate.errors import ModelError
from delineate.model import Model, Resources
from delineate.runners.container_engine import Engine, find_engine

IMAGE = "localhost/delineate-busybox:test"
APPLETS = ("cat", "chmod", "cp", "echo", "head", "id", "kill", "ln", "ls", "mkdir", "mkfifo", "sh", "sleep", "tail", "touch", "true")

BEHAVIOURS = {
    "copy": 'mkdir /output/sub && cp /input/tmp_0000.nii.gz /output/sub/labels.nii.gz && echo \'{"1": "Toy"}\' > /output/sub/labels.json',
    "exit": "echo 'no weights found' >&2; exit 3",
    "crash": "kill -SEGV $$",
    "hang": "trap '' TERM; echo hanging; while true; do sleep 1; done",
    "eat": "tail /dev/zero",  # one line without end, all of it in memory
    "empty": "true",
    "progress": 'echo \'progress: 0.5 half\'; echo \'{"progress": 0.75, "message": "more"}\'',
}
"""Shell scripts by what they do; run with ``["/bin/sh", "-c", script]``."""

# From the plainest machine to one inside another container: there, cgroups, overlay mounts and raised limits may be forbidden.
_ENGINES = ("podman", "podman --storage-driver=vfs --cgroup-manager=cgroupfs --runtime runc", "docker")
_RUN_ARGUMENTS: tuple[tuple[str, ...], ...] = ((), ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"))


@dataclass(frozen=True)
class UsableEngine:
    """An engine that was seen to run a container on this machine.

    engine : `parameters.engine` of models; run_arguments : `parameters.run_arguments`.
    """

    engine: str
    run_arguments: tuple[str, ...] = ()

    @property
    def command(self) -> Engine:
        """For questions of one's own."""
        return find_engine(self.engine)

    def model(self, script: str, *, memory_mb: int = 0, time_limit: float = 60.0, **parameters: object) -> Model:
        """A model that runs a shell script in the test image."""
        return Model(
            name="toy-container",
            runner="container",
            time_limit=time_limit,
            resources=Resources(memory_mb=memory_mb),
            parameters={
                "image": IMAGE,
                "command": ["/bin/sh", "-c", script],
                "engine": self.engine,
                "run_arguments": list(self.run_arguments),
                **parameters,
            },
        )


def usable_engine() -> tuple[UsableEngine | None, str]:
    """The first engine that really runs a container here, with the test image made; else None and why, in words. Takes a second."""
    busybox = shutil.which("busybox")
    if busybox is None:
        return None, "there is no busybox (Debian package busybox-static)"
    reasons = []
    for engine in _ENGINES:
        try:
            command = find_engine(engine)
            _make_image(command, Path(busybox))
            for arguments in _RUN_ARGUMENTS:
                done = command.ask("run", "--rm", "--network=none", "--pull=never", *arguments, IMAGE, "/bin/true")
                if done.returncode == 0:
                    return UsableEngine(engine, arguments), ""
                reasons.append(f"{command.name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        except ModelError as error:
            reasons.append(error.message)
    return None, "; ".join(dict.fromkeys(reasons))


def _make_image(engine: Engine, busybox: Path) -> None:
    if engine.has_image(IMAGE):
        return
    done = subprocess.run([*engine.command, "import", "-", IMAGE], input=_tree(busybox), capture_output=True, timeout=120, check=False)
    if done.returncode:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["?"])[-1]
        raise ModelError(f"{engine.name} cannot import an image: {last}", kind="start")


def _tree(busybox: Path) -> bytes:
    """The image's files as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "tmp", "input", "output", "model"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.mode, program.size = 0o755, busybox.stat().st_size
        with busybox.open("rb") as file:
            archive.addfile(program, file)
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()
