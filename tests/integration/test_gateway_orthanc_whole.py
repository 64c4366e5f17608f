"""The whole way: a peer sends a chest, a rule runs ``lungs-ct``, contours and segments come back to the peer, whatever died on the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom")

from delineate.client.sync import Client
from delineate.dicom.header import read_header
from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import read_rtstruct
from delineate.dicom.seg import read_seg
from delineate.gateway.watching import listed, open_holdings, shown
from delineate.segmentation import Segmentation
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.orthanc import Orthanc, orthanc, orthanc_program
from delineate.testing.pacs import RTSTRUCT, SEG, Pacs
from delineate.testing.phantoms import chest_ct
from delineate.testing.ports import free_port

needs_orthanc = pytest.mark.skipif(orthanc_program() is None, reason="Orthanc is not installed (.ci/run does)")
needs_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK is not installed (.ci/run does)")

SIZE, SPACING = (86, 76, 56), (4.8, 5.0, 6.0)
LIMIT = 90.0  # seconds


def eventually(condition: Callable[[], Any], seconds: float = LIMIT, pause: float = 0.05) -> Any:
    """What a condition comes to, as soon as it holds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(pause)
    return value


class Process:
    """A command of ours that prints one line when it is ready; its log lies beside its data."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("ab") as file:
            command = [sys.executable, "-m", "delineate.cli", *arguments]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, stdin=subprocess.DEVNULL)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            self.end()
            pytest.fail(log.read_text())

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Site:
    """A server and a node, each in a process of its own that may be killed and started again at the same port."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.port, self.server_port = free_port(), free_port()
        self.processes: dict[str, Process] = {}

    def serve(self) -> None:
        self._start("server", "serve", "--port", str(self.server_port), "--data", str(self.folder / "server"), "--workers", "1")

    def rules(self, destination: str, deidentify: str = "off", sender: str = "*") -> None:
        (self.folder / "rules.toml").write_text(
            f"""
[node]
port = {self.port}
quiet_seconds = 0.5
broken_seconds = 2
pause_seconds = 0.3
longest_pause_seconds = 1

[servers.models]
url = "http://127.0.0.1:{self.server_port}"
deidentify = "{deidentify}"

[destinations.peer]
{destination}

[[rules]]
name = "lungs"
match = {{ Modality = "CT", NumberOfSlices = "10..", SourceApplicationEntityTitle = "{sender}" }}
model = "lungs-ct"
destinations = ["peer"]
"""
        )

    def listen(self) -> None:
        rules, data = str(self.folder / "rules.toml"), str(self.folder / "node")
        self._start("node", "gateway", "serve", "--rules", rules, "--data", data)

    def _start(self, name: str, *arguments: str) -> None:
        self.processes[name] = Process(self.folder / f"{name}.log", *arguments)
        self._stack.callback(self.processes[name].end)

    def kill(self, name: str) -> None:
        self.processes[name].end(signal.SIGKILL)

    @property
    def series(self) -> list[dict[str, Any]]:
        holdings = open_holdings(self.folder / "node")
        try:
            return [shown(holdings, item["series"]) for item in listed(holdings)]
        finally:
            holdings.close()

    def jobs(self) -> list[dict[str, Any]]:
        return [job for item in self.series for job in item["jobs"]]

    def states(self) -> list[str]:
        return [item["state"] for item in self.series]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chest")
    volume = chest_ct(SIZE, SPACING).volume
    write_series(folder, stack_of((volume.voxels + 1024).astype(np.uint16), volume.geometry, stored=12))
    return folder


@pytest.fixture(scope="module")
def image(chest: Path) -> DicomImage:
    return read(chest)


def require_equal(one: Segmentation, other: Segmentation) -> None:
    assert one.geometry.matches(other.geometry)
    assert sorted(one.names) == sorted(other.names) == ["Lung_L", "Lung_R"]
    for name in one.names:
        assert one.mask(name).any() and np.array_equal(one.mask(name), other.mask(name)), name


def require_results(site: Site, contours: Path, segments: Path, image: DicomImage) -> None:
    """Both files say what the server answers for this image."""
    with Client(f"http://127.0.0.1:{site.server_port}") as client:
        wanted = client.segment([image.volume], "lungs-ct")
    require_equal(read_rtstruct(contours, image.series), wanted)
    require_equal(read_seg(segments, image.series), wanted)


def require_in_orthanc(site: Site, peer: Orthanc, image: DicomImage) -> None:
    """Once each, and equal."""
    eventually(lambda: site.states() == ["done"])
    (contours,), (segments,) = peer.instances("RTSTRUCT").values(), peer.instances("SEG").values()
    there = site.folder
    require_results(site, peer.fetch(contours, there / "back-rs.dcm"), peer.fetch(segments, there / "back-seg.dcm"), image)


def send(site: Site, folder: Path) -> None:
    """By DCMTK, on one association."""
    command = ["storescu", "-aec", "DELINEATE", "-aet", "STORESCU", "+sd", "127.0.0.1", str(site.port), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@needs_orthanc
def test_from_orthanc_through_a_rule_back_to_orthanc_with_commitment(site: Site, chest: Path, image: DicomImage) -> None:
    with orthanc(site.folder / "orthanc", {"delineate": ("DELINEATE", site.port)}) as peer:
        site.rules(f'kind = "dicom"\nhost = "127.0.0.1"\nport = {peer.port}\nae = "ORTHANC"\ncommitment = true')
        site.serve()
        site.listen()
        peer.send(peer.upload(sorted(chest.iterdir())), "delineate")
        require_in_orthanc(site, peer, image)


@needs_orthanc
def test_the_server_the_node_and_orthanc_are_killed_in_between(site: Site, chest: Path, image: DicomImage) -> None:
    port, http_port = free_port(), free_port()
    peers = {"delineate": ("DELINEATE", site.port)}
    site.rules(f'kind = "dicom"\nhost = "127.0.0.1"\nport = {port}\nae = "ORTHANC"\ntimeout = 5')
    site.serve()
    site.listen()
    with orthanc(site.folder / "orthanc", peers, port=port, http_port=http_port) as peer:
        series = peer.upload(sorted(chest.iterdir()))
        peer.send(series, "delineate")
        eventually(lambda: [job["state"] for job in site.jobs()] == ["sent"], pause=0.005)
        site.kill("server")
        peer.process.kill()
        peer.process.wait()
    site.kill("node")
    site.listen()
    assert [job["state"] for job in site.jobs()] == ["sent"]
    site.serve()
    eventually(lambda: [item["attempts"] > 0 for job in site.jobs() for item in job["deliveries"]] == [True])
    site.kill("node")
    site.listen()
    with orthanc(site.folder / "orthanc", peers, port=port, http_port=http_port) as peer:
        require_in_orthanc(site, peer, image)


@needs_dcmtk
def test_from_storescu_through_a_rule_to_storescp_that_comes_later(site: Site, chest: Path, image: DicomImage) -> None:
    port, received = free_port(), site.folder / "received"
    received.mkdir()
    site.rules(f'kind = "dicom"\nhost = "127.0.0.1"\nport = {port}\nae = "STORESCP"\ntimeout = 5', sender="STORESCU")
    site.listen()
    send(site, chest)
    eventually(lambda: [job["attempts"] > 0 for job in site.jobs()] == [True])
    site.serve()
    eventually(lambda: [item["attempts"] > 0 for job in site.jobs() for item in job["deliveries"]] == [True])
    receiver = subprocess.Popen(["storescp", "--promiscuous", "-od", str(received), str(port)])
    try:
        eventually(lambda: site.states() == ["done"])
    finally:
        receiver.kill()
        receiver.wait()
    contours, segments = sorted(received.iterdir(), key=lambda path: path.name)
    require_results(site, contours, segments, image)


@needs_dcmtk
def test_an_archive_that_accepts_and_drops_is_found_out_and_gets_it_again(site: Site, chest: Path) -> None:
    pacs = Pacs(keeps=False, commits="never")
    with pacs.running():
        site.rules(
            f'kind = "dicom"\nhost = "127.0.0.1"\nport = {pacs.port}\nae = "PACS"\ncommitment = true\ncommitment_timeout = 0.5\ntimeout = 5'
        )
        site.serve()
        site.listen()
        send(site, chest)
        (delivery,) = eventually(lambda: [item for job in site.jobs() for item in job["deliveries"] if item["attempts"] > 0])
        assert "did not commit to them within 0.5 s" in delivery["reason"] and site.states() != ["done"]
        pacs.commits = "fails"
        eventually(lambda: any("no such object is there" in item["reason"] for job in site.jobs() for item in job["deliveries"]))
        assert len(pacs.came) >= 4 and not pacs.objects
        pacs.keeps, pacs.commits = True, "other"
        pacs.reports_to = site.port
        eventually(lambda: site.states() == ["done"])
    assert sorted(str(item.SOPClassUID) for item in pacs.objects.values()) == sorted([RTSTRUCT, SEG])
    assert len(set(pacs.came)) == 2  # the same objects each time


@needs_dcmtk
def test_a_foreign_server_sees_no_patient_and_the_results_belong_to_the_image(site: Site, chest: Path, image: DicomImage) -> None:
    site.rules('kind = "folder"\npath = "out"', deidentify="required")
    site.serve()
    site.listen()
    send(site, chest)
    eventually(lambda: site.states() == ["done"])
    found = {read_header(path, path.name).text("Modality"): path for path in (site.folder / "out").iterdir()}
    assert {read_header(path, "result").text("PatientID") for path in found.values()} == {"phantom"}
    require_results(site, found["RTSTRUCT"], found["SEG"], image)
