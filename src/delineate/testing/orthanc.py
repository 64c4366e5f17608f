"""Orthanc as a peer: a process of its own on free loopback ports, with a configuration and a store of its own.

Debian has it as ``orthanc`` and ``orthanc-dicomweb``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from delineate.testing.ports import free_port

_PLUGINS: Final = Path("/usr/share/orthanc/plugins")
_STARTS: Final = 30.0  # seconds


def orthanc_program() -> str | None:
    """The path of Orthanc, None where it or its DICOMweb plugin is not installed."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    return program if program and (_PLUGINS / "libOrthancDicomWeb.so").exists() else None


@dataclass
class Orthanc:
    """A running Orthanc.

    url : of its REST API; port : of its DICOM association; dicomweb : of its DICOMweb service.
    """

    url: str
    port: int
    process: subprocess.Popen[bytes]
    title: str = "ORTHANC"

    @property
    def dicomweb(self) -> str:
        """The address of its DICOMweb service."""
        return f"{self.url}/dicom-web"

    def get(self, path: str) -> Any:
        """An answer of its REST API, as JSON."""
        return httpx.get(self.url + path, timeout=30, trust_env=False).raise_for_status().json()

    def post(self, path: str, content: Any) -> Any:
        """Post JSON, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.post(self.url + path, content=body, timeout=60, trust_env=False).raise_for_status().json()

    def upload(self, files: Sequence[Path]) -> str:
        """Put the files of one series in; its id there."""
        return str([self.post("/instances", path.read_bytes()) for path in files][-1]["ParentSeries"])

    def send(self, series: str, modality: str) -> str:
        """Begin to send a series to a modality of its configuration; the job's id."""
        return str(self.post(f"/modalities/{modality}/store", {"Resources": [series], "Synchronous": False})["ID"])

    def instances(self, modality: str) -> dict[str, str]:
        """Ids of the instances of a modality, by SOP Instance UID."""
        query = {"Level": "Instance", "Expand": True, "Query": {"Modality": modality}}
        return {item["MainDicomTags"]["SOPInstanceUID"]: item["ID"] for item in self.post("/tools/find", query)}

    def fetch(self, instance: str, path: Path) -> Path:
        """Write an instance's file."""
        path.write_bytes(httpx.get(f"{self.url}/instances/{instance}/file", timeout=60, trust_env=False).raise_for_status().content)
        return path


@contextlib.contextmanager
def orthanc(
    folder: Path, modalities: Mapping[str, tuple[str, int]] | None = None, *, port: int = 0, http_port: int = 0, **settings: Any
) -> Iterator[Orthanc]:
    """While Orthanc runs.

    Parameters
    ----------
    folder : for its store, configuration and log; one that was used before has what it had
    modalities : AE title and port on loopback, by name, of those that it may send to
    port, http_port : free ones by default
    settings : further ones of its configuration
    """
    program = orthanc_program()
    assert program is not None, "Orthanc is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    port, http_port = port or free_port(), http_port or free_port()
    configuration = {**_configuration(folder, port, http_port, modalities or {}), **settings}
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log, cwd=folder)
    try:
        started = Orthanc(f"http://127.0.0.1:{http_port}", port, process)
        _await(started, folder / "orthanc.log")
        yield started
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configuration(folder: Path, port: int, http_port: int, modalities: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    return {
        "Name": "peer",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(_PLUGINS / "libOrthancDicomWeb.so")],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {
            name: {"AET": title, "Port": place, "Host": "127.0.0.1", "AllowStorageCommitment": True}
            for name, (title, place) in modalities.items()
        },
        "StorageCommitmentReportsSize": 100,
        "JobsHistorySize": 100,
        "SaveJobs": False,
    }


def _await(started: Orthanc, log: Path) -> None:
    end = time.monotonic() + _STARTS
    while time.monotonic() < end and started.process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            started.get("/system")
            return
        time.sleep(0.05)
    raise AssertionError("Orthanc did not start:\n" + log.read_text(errors="replace")[-2000:])
