"""Orthanc and DCMTK as receivers and senders: real peers, on loopback, with a configuration of their own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom")

from delineate.dicom.reader import DicomImage, read
from delineate.dicom.rtstruct import read_rtstruct, write_rtstruct
from delineate.dicom.seg import read_seg, write_seg
from delineate.gateway.commitment import COMMITMENT, Commitments
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import DicomSettings, StowSettings
from delineate.gateway.destinations import make
from delineate.gateway.parts import pynetdicom
from delineate.geometry import Geometry
from delineate.segmentation import Segmentation, Structure
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.orthanc import Orthanc, orthanc, orthanc_program
from delineate.testing.pacs import serving
from delineate.testing.ports import free_port

needs_orthanc = pytest.mark.skipif(orthanc_program() is None, reason="Orthanc is not installed (.ci/run does)")
needs_dcmtk = pytest.mark.skipif(shutil.which("storescp") is None, reason="DCMTK is not installed (.ci/run does)")

GRID = Geometry((20, 16, 6), (1.0, 1.5, 3.0), (-10.0, 5.0, 100.0))


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a condition comes to, as soon as it holds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DicomImage:
    folder = tmp_path_factory.mktemp("series")
    voxels = np.random.default_rng(1).integers(0, 2000, GRID.shape).astype(np.int16)
    write_series(folder, stack_of(voxels, GRID))
    return read(folder)


@pytest.fixture(scope="module")
def structures() -> Segmentation:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:5, 3:12, 4:15] = 1
    labels[2:4, 5:9, 7:11] = 2
    labels[0, 0, 0] = labels[5, 15, 19] = 2
    return Segmentation(GRID, (labels,), (Structure("Lung_L", 1), Structure("Heart", 2)))


@pytest.fixture
def files(image: DicomImage, structures: Segmentation, tmp_path: Path) -> list[Path]:
    write_rtstruct(tmp_path / "rs.dcm", structures, image.series)
    write_seg(tmp_path / "seg.dcm", structures, image.series)
    return [tmp_path / "rs.dcm", tmp_path / "seg.dcm"]


def require_equal(one: Segmentation, other: Segmentation) -> None:
    assert {item.name for item in one.structures} == {item.name for item in other.structures}
    for item in one.structures:
        (same,) = [this for this in other.structures if this.name == item.name]
        assert np.array_equal(one.layers[item.layer] == item.label, other.layers[same.layer] == same.label), item.name


def require_there(peer: Orthanc, image: DicomImage, structures: Segmentation, folder: Path) -> None:
    """Both results are in Orthanc, once, and say what was sent."""
    (contours,), (segments,) = peer.instances("RTSTRUCT").values(), peer.instances("SEG").values()
    require_equal(read_rtstruct(peer.fetch(contours, folder / "back-rs.dcm"), image.series), structures)
    require_equal(read_seg(peer.fetch(segments, folder / "back-seg.dcm"), image.series), structures)


def to_orthanc(peer: Orthanc, **other: Any) -> DicomSettings:
    return DicomSettings(**{"name": "pacs", "host": "127.0.0.1", "port": peer.port, "ae": peer.title, "timeout": 10.0, **other})


@needs_orthanc
def test_results_arrive_in_orthanc_by_c_store_and_by_stow(
    image: DicomImage, structures: Segmentation, files: list[Path], tmp_path: Path
) -> None:
    with orthanc(tmp_path / "one") as peer:
        notes: list[str] = []
        make(to_orthanc(peer)).deliver(files, notes)
        require_there(peer, image, structures, tmp_path)
        make(to_orthanc(peer)).deliver(files, notes)  # again, as after a kill
        require_there(peer, image, structures, tmp_path)
        assert not notes
    with orthanc(tmp_path / "two") as peer:
        for _ in range(2):
            make(StowSettings(name="web", url=peer.dicomweb)).deliver(files)
            require_there(peer, image, structures, tmp_path)


@needs_orthanc
def test_orthanc_commits_to_what_it_took(image: DicomImage, structures: Segmentation, files: list[Path], tmp_path: Path) -> None:
    library, commitments = pynetdicom(), Commitments()
    entity = library.AE(ae_title="DELINEATE")
    entity.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
    with serving(entity, [(library.evt.EVT_N_EVENT_REPORT, commitments.handle)]) as port:
        with orthanc(tmp_path / "orthanc", {"delineate": ("DELINEATE", port)}) as peer:
            make(to_orthanc(peer, commitment=True, commitment_timeout=20.0), commitments).deliver(files)
            require_there(peer, image, structures, tmp_path)


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int, Path]]]:
    """Starts DCMTK's receivers; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, port: int = 0) -> tuple[subprocess.Popen[bytes], int, Path]:
        folder, port = tmp_path / "received", port or free_port()
        folder.mkdir(exist_ok=True)
        command = ["storescp", "-aet", "STORESCP", "-od", str(folder), *options, str(port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        echo = ["echoscu", "127.0.0.1", str(port)]
        eventually(lambda: subprocess.run(echo, capture_output=True, check=False).returncode == 0)
        return process, port, folder

    yield start
    for process in started:
        process.kill()
        process.wait()


def to_storescp(port: int) -> DicomSettings:
    return DicomSettings(name="dcmtk", host="127.0.0.1", port=port, ae="STORESCP", timeout=2.0)


@needs_dcmtk
def test_results_arrive_at_storescp(image: DicomImage, structures: Segmentation, files: list[Path], storescp: Callable[..., Any]) -> None:
    _, port, folder = storescp("--promiscuous")
    make(to_storescp(port)).deliver(files)
    contours, segments = sorted(folder.iterdir(), key=lambda path: str(path.name))
    require_equal(read_rtstruct(contours, image.series), structures)
    require_equal(read_seg(segments, image.series), structures)


@needs_dcmtk
def test_storescp_that_aborts_or_is_killed_is_tried_again(files: list[Path], storescp: Callable[..., Any]) -> None:
    process, port, folder = storescp("--abort-during")
    with pytest.raises(DeliveryError) as caught:
        make(to_storescp(port)).deliver(files)
    assert not caught.value.is_final
    process.kill()
    process.wait()
    with pytest.raises(DeliveryError, match="nothing listens there") as caught:
        make(to_storescp(port)).deliver(files)
    assert not caught.value.is_final
    storescp(port=port)
    make(to_storescp(port)).deliver(files)
    assert len([path for path in folder.iterdir() if path.stat().st_size]) >= 2
