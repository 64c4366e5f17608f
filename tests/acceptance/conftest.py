"""What the tests of the workstation's extension share: the built zip, our server with its workers, a workstation that runs the zip."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from delineate.cli.embedded import embedded_server
from delineate.mim.packaging.build import build
from delineate.testing import models
from delineate.testing.mimhost import Host, HostImage, Runner, running
from delineate.testing.script import Script
from delineate.testing.scripted import ScriptedServer

MODELS = Path(__file__).parent / "mim_models"


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip as it would be installed."""
    path = tmp_path_factory.mktemp("extension") / "extension.zip"
    path.write_bytes(build().data)
    return path


@pytest.fixture(scope="session")
def ours() -> Iterator[str]:
    """Address of our server, a process with a worker; it has the toy models and those of ``mim_models``."""
    with embedded_server([models.FOLDER, MODELS]) as url:
        yield url


@pytest.fixture
def quiet_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine is used."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def nifti(labels: np.ndarray) -> bytes:
    """A label map (z, y, x) with a header that says nothing, as published models write it."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *labels.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + labels.astype(np.uint8).tobytes(), 1)


@dataclass
class Bench:
    """One workstation with the built zip loaded."""

    host: Host
    runner: Runner
    ours: str
    folder: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack

    def part(self, name: str) -> ModuleType:
        """A module of the loaded zip."""
        (found,) = (module for module in self.runner.modules if module.rpartition(".")[2] == name)
        return sys.modules[found]

    def scripted(self, *faults: Any, tls: Any = None, **script: Any) -> ScriptedServer:
        """A scripted server that runs until the test ends; v1, ready at once, unless told otherwise."""
        given = {"dialect": "v1", "polls": 0, "late_row": False, **script}
        return self.stack.enter_context(ScriptedServer(Script(**given), *faults, tls=tls))

    def result(self, labels: np.ndarray, names: dict[int, str] | None, **more: bytes) -> Path:
        """A result archive for a scripted server; `names` None for a label map without, `more` for other entries (``__`` for a dot)."""
        path = self.folder / "result.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("r.nii.gz", nifti(labels))
            if names is not None:
                archive.writestr("r.json", json.dumps(names))
            for name, data in more.items():
                archive.writestr(name.replace("__", "."), data)
        return path

    def run(self, name: str, *arguments: object) -> Any:
        """Run an entry point; what it returned."""
        return self.runner.run(name, *arguments).value

    @property
    def log(self) -> str:
        """What the workstation's log says, a line each."""
        return "\n".join(line.text for line in self.host.log)

    @property
    def remains(self) -> list[str]:
        """Temporary files of the extension that are still there."""
        return [path.name for path in self.folder.iterdir() if path.name.startswith("delineate-")]


@pytest.fixture
def make_bench(
    extension: Path, ours: str, quiet_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Bench]]:
    """Makes workstations; what they leave on the disk is looked at when the test ends."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ExitStack() as stack:
        made: list[Bench] = []

        def make(load_as: Any = "ext", path: Path | None = None, **options: Any) -> Bench:
            host = stack.enter_context(Host(**options))
            runner = stack.enter_context(running(host, path or extension, load_as=load_as))
            bench = Bench(host, runner, ours, tmp_path, monkeypatch, stack)
            monkeypatch.setattr(bench.part("messages"), "FIRST_CONTACT", 0.2)
            made.append(bench)
            return bench

        yield make
    assert [bench.host.misuses for bench in made if bench.host.misuses] == []
    assert [bench.remains for bench in made if bench.remains] == []


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """The usual workstation."""
    return make_bench()


def expected(image: HostImage, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Where a contour of `image` has to be: bool, (z, y, x), computed from places in the patient alone.

    wanted(index, centre) : of voxels of the image, (n, 3) each, x, y, z and LPS mm: which of them are inside.
    """
    place = image.volume.geometry
    index, centre = voxels_of_contours(place.size, place.spacing, place.origin, place.direction, image.multiplier)
    x, y, z = (n * times for n, times in zip(place.size, image.multiplier, strict=True))
    found: np.ndarray = wanted(index, centre).reshape(z, y, x)
    return found


@lru_cache(8)
def voxels_of_contours(
    size: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...], factor: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """For each voxel of a contour, x fastest: index and place of the image's voxel in which its centre lies."""
    axes = np.array(direction).reshape(3, 3) * np.array(spacing)  # columns: one step along x, y, z
    k, j, i = np.meshgrid(*(np.arange(n) for n in (np.array(size) * factor)[::-1]), indexing="ij")
    fine = np.stack([i, j, k], axis=-1).reshape(-1, 3)
    corner = np.array(origin) - axes @ np.full(3, 0.5)
    world = corner + ((fine + 0.5) / factor) @ axes.T
    index = np.rint((world - np.array(origin)) @ np.linalg.inv(axes).T).astype(int)
    return index, np.array(origin) + index @ axes.T


@pytest.fixture(name="expected")
def expected_fixture() -> Callable[..., np.ndarray]:
    """`expected`."""
    return expected
