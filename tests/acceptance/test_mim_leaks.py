"""Nothing leaks: of the patient, of the uid, of the token; no file, thread, socket or connection stays, whatever happened."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from delineate.testing import models
from delineate.testing.faults import Fault
from delineate.testing.mimhost import PATIENT, PLANTED, HostFailure, leaks
from delineate.testing.script import FAILURE, Script
from delineate.testing.scripted import ScriptedServer

POSTS = [f"InferenceServer{count}images" for count in (1, 2, 3, 4)]
DIALECTS = ("seed", "v1", "v2")


def said(server: Any) -> bytes:
    """Everything that was sent to a scripted server but the bodies: targets and headers."""
    return "\n".join(f"{seen.method} {seen.target} {dict(seen.headers)}" for seen in server.requests).encode()


def unpacked(data: bytes) -> dict[str, bytes]:
    """The entries of an upload."""
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


# ------------------------------------------------------------ the patient


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_of_the_patient_leaves_with_flag_0(bench: Any, dialect: str, capfd: pytest.CaptureFixture[str]) -> None:
    server = bench.scripted(dialect=dialect)
    images = [bench.host.image(modality=modality) for modality in ("CT", "MR", "PT", "OT")]
    for image in images:
        image.add_contour(f"Drawn by {PATIENT}")  # a name that nobody asked to send
    for count, name in enumerate(POSTS, start=1):
        uid = bench.run(name, *images[:count], "noop", 0, server.url)
        bench.run(name + "Contours", *images[:count], "noop", 0, 0, "", server.url)
        bench.run("InferenceServerGetFromUid", uid, images[0], server.url, 1, 20)
    bench.run("Delineate4Images", *images, "noop", server.url, 20)
    assert len(server.uploads) == 9
    for upload in server.uploads:
        assert leaks(upload.read()) == []
        entries = unpacked(upload.read())
        assert not [name for name in entries if "dicom_info" in name]
        for name, data in entries.items():
            assert leaks(name.encode() + b"\n" + data) == []
            if name.endswith(".json"):
                assert set(json.loads(data)) <= {
                    "scaling_factor", "spacing", "origin", "direction", "rescale_slope", "rescale_intercept", "units", "modality",
                    "true_origin", "true_direction",
                }  # fmt: skip
            else:
                assert name.endswith(".nii.gz")
    assert leaks(said(server) + bench.log.encode() + "".join(capfd.readouterr()).encode()) == []


def test_the_search_would_find_it(bench: Any) -> None:
    """With flag 1 the attributes leave, and what looks for them finds them, in each dialect's archive."""
    for dialect in DIALECTS:
        server = bench.scripted(dialect=dialect)
        bench.run("InferenceServer1images", bench.host.image(), "noop", 1, server.url)
        assert leaks(server.uploads[0].read()) == [text for text in PLANTED if text != "PlantedImage"], "which is no attribute"
        assert leaks(bench.log.encode()) == []


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Our server with its log at its most talkative; its address, and its folder."""
    command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--workers", "1", "--data", str(tmp_path / "data")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--models", str(models.FOLDER), "--log-level", "debug"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("delineate: ready at "), (tmp_path / "log").read_text()
        yield line.removeprefix("delineate: ready at ").strip(), tmp_path
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_our_server_keeps_and_logs_nothing_of_the_patient_nor_the_uid(bench: Any, watched: tuple[str, Path]) -> None:
    url, folder = watched
    image = bench.host.image()
    uid = bench.run("InferenceServer1images", image, "noop", 0, url)
    bench.run("InferenceServerGetFromUid", uid, image, url, 1, 30)
    with pytest.raises(HostFailure):
        bench.run("DelineateImages", image, "raiser", url, 30)
    with contextlib.closing(sqlite3.connect(folder / "data" / "delineate.db")) as database:
        uids = [row[0] for row in database.execute("select uid from tasks")]
    assert uid in uids
    assert len(uids) == 2
    work, deadline = folder / "data" / "work", time.monotonic() + 60
    while [*work.glob("*/*/*"), *work.glob("*/result.zip")]:  # a worker clears up after it has answered
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stored = [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert any(path.read_bytes()[:2] == b"PK" for path in stored)
    for path in [*stored, folder / "log"]:
        assert leaks(path.read_bytes()) == [], path.name
    log = (folder / "log").read_text() + bench.log
    assert not [uid for uid in uids if uid in log]


# ------------------------------------------------------------ uid and token

TOKEN = "t0ken-0123456789-abcdefghijklmnopqrstuvwxyz"
ENDINGS: dict[str, Callable[[Any, str], None]] = {
    "success": lambda server, uid: None,
    "login page": lambda server, uid: server.faults.add(Fault(action="redirect", location=f"/login/{uid}/{TOKEN}", times=-1)),
    "status 500": lambda server, uid: server.faults.add(Fault(action="status", status=500, path=uid, times=-1)),
    "status 404": lambda server, uid: server.faults.add(Fault(action="status", status=404, path=uid, times=-1)),
    "status 401": lambda server, uid: server.faults.add(Fault(action="status", status=401, path=uid, times=-1)),
    "dropped": lambda server, uid: server.faults.add(Fault(action="drop", path=uid, times=-1)),
    "cut": lambda server, uid: server.faults.add(Fault(action="break", path=uid, times=-1)),
    "unknown": lambda server, uid: server.tasks.clear(),
    "gone": lambda server, uid: server.stop(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_neither_uid_nor_token_is_said(bench: Any, ending: str) -> None:
    server, image = bench.scripted(), bench.host.image()
    url = f"{server.url}#token={TOKEN}"
    uid = bench.run("InferenceServer1images", image, "noop", 0, url)
    assert server.requests[-1].headers["x-token"] == TOKEN
    ENDINGS[ending](server, uid)
    shown = ""
    try:
        bench.run("InferenceServerGetFromUid", uid, image, url, 1, 1)
    except HostFailure as failure:
        shown = f"{failure} {failure.__cause__!r}"
    assert bool(shown) is (ending != "success")
    for secret in (uid, TOKEN, TOKEN[6:30]):
        assert secret not in shown + bench.log


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_a_server_that_repeats_the_uid_in_its_reason(bench: Any, dialect: str) -> None:
    server, image = bench.scripted(dialect=dialect), bench.host.image()
    uid = bench.run("InferenceServer1images", image, "failing", 0, server.url)
    bench.patch.setattr("delineate.testing.scripted_handler.FAILURE", f"{FAILURE}: task {uid} of {uid}")
    with pytest.raises(HostFailure, match="code 137") as raised:
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 20)
    assert uid not in f"{raised.value} {raised.value.__cause__!r} {bench.log}"


# ------------------------------------------------------------ what stays


def disk(bench: Any) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", f"/home/{PATIENT}/x")

    bench.patch.setattr(bench.part("nifti_codec"), "write", full)


BREAKS: dict[str, Callable[[Any, Any], None]] = {
    "nothing": lambda bench, server: None,
    "the disk is full": lambda bench, server: disk(bench),
    "refused": lambda bench, server: server.faults.add(Fault(action="status", status=413, method="POST", times=-1)),
    "dropped": lambda bench, server: server.faults.add(Fault(action="drop-early", method="POST", times=-1)),
    "gone": lambda bench, server: server.stop(),
    "no result": lambda bench, server: server.faults.add(Fault(action="break", path="/api/tasks/", method="GET", after=1, times=-1)),
    "host": lambda bench, server: bench.host.fail_on(1, "XMimContourData.setFromNPArray"),
    "memory": lambda bench, server: bench.host.fail_on(1, "XMimDataArray.copyToNPArray", error=MemoryError()),
    "stopped by hand": lambda bench, server: bench.host.fail_on(1, "XMimContour.redrawCompletely", error=SystemExit(1)),
}


def open_things() -> tuple[int, int, int]:
    """Threads, file descriptors, connections of this process."""
    gc.collect()
    process = psutil.Process()
    return threading.active_count(), process.num_fds(), len(process.net_connections())


@pytest.mark.parametrize("what", BREAKS)
def test_nothing_stays_open_and_no_file_is_left(bench: Any, what: str) -> None:
    image = bench.host.image()
    image.add_contour("First_Half", np.ones(image.contour_geometry.shape, dtype=bool))
    with ScriptedServer(Script(polls=0, late_row=False)) as server:
        bench.run("DelineateImages", image, "noop", server.url, 20)  # what is opened once and for all is open now
    before, contours = open_things(), bench.host.snapshot()
    with ScriptedServer(Script(polls=0, late_row=False)) as server:
        BREAKS[what](bench, server)
        if what == "nothing":
            bench.run("DelineateImages", image, "noop", server.url, 20)
        else:
            with pytest.raises(HostFailure):
                bench.run("DelineateImages", image, "noop", server.url, 2)
            assert contours.changes(bench.host.snapshot()) == []
        assert bench.remains == []
    assert open_things() == before
    assert leaks(bench.log.encode()) == []
