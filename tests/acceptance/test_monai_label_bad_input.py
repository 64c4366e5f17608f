"""Bad input of the MONAI Label API, cell by cell, through a real server with real workers: the status, the words, the exception
of our client; that nothing is written and nothing left, and that a good request goes through afterwards. What the original
client shows of it is in tests/interop."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from delineate.monai_label import MONAILabelClient, MONAILabelClientException, MONAILabelError
from delineate.server.accounts.passwords import Passwords
from delineate.store.database import Database
from delineate.store.users import UserStore
from delineate.testing import models
from delineate.testing.conformance.monai_label_plain import VOXELS, mask, picture
from delineate.testing.conformance.plain import image

READY = "delineate: ready at "
OLD = 1_700_000_000
MIB = 1 << 20
# Images are not looked at in the background, which would leave traces of its own.
ENVIRONMENT = {"DELINEATE_MAX_UPLOAD_MB": "20", "DELINEATE_SYNC": "0", "DELINEATE_ACTIVE_LEARNING": "0"}
OWN_PACE = {"datastore_v2.json"}  # is written when nothing else is to do
PASSWORD = "a long enough password"


class Server:
    """`delineate serve` with two images and toy models, and what a person at its disk can see."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.studies = folder / "studies"
        self.studies.mkdir()
        for name in ("a", "b"):
            self.put(name)
        models.copy("sleeper", folder / "models", "sleeper-1", seconds=1.0)
        command = [sys.executable, "-m", "delineate.cli", "serve", "--port", "0", "--data", str(folder / "data"), "--workers", "1"]
        command += ["--studies", str(self.studies), "--models", str(folder / "models"), "--models", str(models.FOLDER)]
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT, **environment}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith(READY), (folder / "log").read_text()
        self.url = line[len(READY) :].strip()
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def put(self, name: str) -> None:
        path = self.studies / f"{name}.nii.gz"
        path.write_bytes(image())
        os.utime(path, (OLD, OLD))  # what was written just now may not be whole yet

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            assert self.process.wait(30) == 0
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()

    def traces(self) -> dict[str, Any]:
        """Every file below the server's folder with its content, and how many rows each table has, once nothing is done any more.

        Events stay when their task is deleted: they tell what was done.
        """
        wait_until(self.is_at_rest)
        found: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            is_own = path.name in OWN_PACE or path.name.startswith("delineate.db") or name.parts[:2] == ("data", "run")
            if path.is_file() and not is_own and name.parts[0] != "log":
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
        for table in self.rows("select name from sqlite_master where type = 'table' and name <> 'events'"):
            found[f"table {table}"] = self.rows(f'select count(*) from "{table}"')
        return found

    def rows(self, query: str) -> list[Any]:
        """The first column of what the database answers."""
        with contextlib.closing(sqlite3.connect(self.folder / "data" / "delineate.db")) as database:
            return [row[0] for row in database.execute(query)]

    def serve_somebody(self) -> None:
        """A good request."""
        assert self.infer().status_code == 200

    def is_at_rest(self) -> bool:
        """Whether no task is left but failed ones, no file but theirs, and nothing is being written for the index."""
        if any(path.is_file() for path in (self.studies / ".delineate" / "blobs" / "incoming").glob("*")):
            return False
        stored = {path.name for path in (self.folder / "data" / "blobs").rglob("*") if path.is_file()}
        return self.rows("select count(*) from tasks where state != 'failed'") == [0] and stored == set(
            self.rows("select digest from blobs")
        )

    def infer(self, name: str = "a") -> httpx.Response:
        """A good request."""
        return self.http.post("/infer/threshold", params={"image": name, "output": "json"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bad-input"))
    server.serve_somebody()  # the worker is warm: what it keeps is no trace of what comes
    yield server
    server.stop()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[MONAILabelClient]:
    (tmp_path / "results").mkdir()
    with MONAILabelClient(server.url, str(tmp_path / "results"), "bad-input", timeout=60) as client:
        yield client
    assert list((tmp_path / "results").iterdir()) == []


# ---------------------------------------------------------------- what is sent


def form(data: bytes, name: str = "x.nii.gz", field: str = "file", params: str = "{}") -> dict[str, Any]:
    return {"params": (None, params), field: (name, data)}


def params(text: str) -> dict[str, Any]:
    return {"data": {"params": text}}


def label(data: bytes, name: str = "l.nii.gz", params: str = "{}") -> dict[str, Any]:
    return form(data, name, "label", params)


def nifti(size: tuple[int, ...] = (9, 7, 5), kind: int = 4, bits: int = 16, value: bytes = b"\0\0", voxels: int | None = None) -> bytes:
    """A NIfTI-1 file, written by hand, on the grid of `image`; `kind` is its datatype code."""
    head = bytearray(gzip.decompress(image())[:352])
    struct.pack_into(f"<{1 + len(size)}h", head, 40, len(size), *size)
    struct.pack_into("<2h", head, 70, kind, bits)
    return gzip.compress(bytes(head) + value * (VOXELS if voxels is None else voxels), 1)


def zipped(**entries: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "."), data)
    return packed.getvalue()


def series(archive: bytes) -> dict[str, Any]:
    return {"files": ("x.zip", archive)}


@dataclass(frozen=True)
class Cell:
    """What is asked, the status and words of the answer; `ours`: the same asked by our client, where it can.

    ours : takes the client and a folder to write files into; is_kept : the model finds it, so its task stays, with its log.
    """

    method: str
    path: str
    status: int
    words: str
    body: dict[str, Any] = field(default_factory=dict)
    ours: Callable[[MONAILabelClient, Path], Any] | None = None
    is_kept: bool = False


def written(folder: Path, data: bytes, name: str = "x.nii.gz") -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


INFER, UPLOAD, LABEL = "/infer/threshold", "/datastore/", "/datastore/label"
TWO = [("file", ("a.nii.gz", image())), ("file", ("b.nii.gz", image()))]
FORM = {"content-type": "multipart/form-data"}
OTHER_GRID = label(mask((3, 4, 5)))
LONG = "x" * 300
GARBAGE = b"not an image at all " * 30

CELLS: dict[str, Cell] = {
    # what is unknown
    "unknown model": Cell("POST", "/infer/nope?image=a", 404, "nope", {}, lambda c, _: c.infer("nope", "a")),
    "unknown image": Cell("POST", f"{INFER}?image=nope", 404, "no such image", {}, lambda c, _: c.infer("threshold", "nope")),
    "unknown session": Cell(
        "POST", f"{INFER}?image=a&session_id={'0' * 32}", 404, "unknown or has expired", {},
        lambda c, _: c.infer("threshold", "a", session_id="0" * 32),
    ),
    "no image at all": Cell("POST", INFER, 422, "no image", {}, lambda c, _: c.infer("threshold", "")),
    "unknown strategy": Cell("POST", "/activelearning/nope", 404, "strategy", {}, lambda c, _: c.next_sample("nope", {})),
    "unknown trainer": Cell("POST", "/train/nope", 404, "trainer", {"json": {}}, lambda c, _: c.train_start("nope", {})),
    "unknown scoring": Cell("POST", "/scoring/nope", 404, "scoring", {"json": {}}),
    "unknown batch": Cell("POST", "/batch/infer/nope", 404, "nope", {"json": {}}),
    "unknown slide model": Cell("POST", "/infer/wsi/nope?image=a", 404, "nope", {"json": {}}, lambda c, _: c.wsi_infer("nope", "a")),
    "label of an unknown image": Cell(
        "PUT", f"{LABEL}?image=nope", 404, "no such image", {"files": label(mask())},
        lambda c, folder: c.save_label("nope", written(folder, mask())),
    ),
    "label that is not there": Cell(
        "GET", f"{LABEL}?label=a&tag=nope", 404, "no label", {}, lambda c, _: c.download_label("a", "nope")
    ),
    "info of an unknown label": Cell("PUT", "/datastore/updatelabelinfo?label=a&tag=nope", 404, "no label", params("{}")),
    "removal of an unknown image": Cell("DELETE", f"{UPLOAD}?id=nope", 404, "no such image"),
    "removal of an unknown session": Cell("DELETE", "/session/nope", 404, "session", {}, lambda c, _: c.remove_session("nope")),
    "no such path": Cell("GET", "/datastore/nope", 404, "not found"),
    # parameters
    "params not JSON": Cell("POST", f"{INFER}?image=a", 422, "not JSON", params("{bad")),
    "params a list": Cell("POST", f"{INFER}?image=a", 422, "no object", params("[1]")),
    "params with NaN": Cell("POST", f"{INFER}?image=a", 422, "not JSON", params('{"a": NaN}')),
    "params nested deeply": Cell("POST", f"{INFER}?image=a", 422, "not JSON", params("[" * 100_000)),
    "params too large": Cell("POST", f"{INFER}?image=a", 413, "4 MiB", params(json.dumps({"a": "x" * (5 * MIB)}))),
    "wrong type: extension": Cell(
        "POST", f"{INFER}?image=a", 422, "result_extension", params('{"result_extension": 1}'),
        lambda c, _: c.infer("threshold", "a", {"result_extension": 1}),
    ),
    "wrong type: flag": Cell("POST", f"{INFER}?image=a", 422, "result_compress", params('{"result_compress": "yes"}')),
    "extension that is none": Cell("POST", f"{INFER}?image=a", 422, "cannot be written", params('{"result_extension": ".exe"}')),
    "dtype that is none": Cell("POST", f"{INFER}?image=a", 422, "cannot be written", params('{"result_dtype": "uint7"}')),
    "point outside": Cell(
        "POST", "/infer/region?image=a", 422, "outside of the image", params('{"foreground": [[9, 0, 0]]}'),
        lambda c, _: c.infer("region", "a", {"foreground": [[9, 0, 0]]}),
    ),
    "point of two numbers": Cell("POST", "/infer/region?image=a", 422, "foreground", params('{"foreground": [[1, 2]]}')),
    "point that is no number": Cell("POST", "/infer/region?image=a", 422, "foreground", params('{"foreground": [["x", 0, 0]]}')),
    "box of two numbers": Cell("POST", "/infer/region?image=a", 422, "roi", params('{"roi": [1, 2]}')),
    "output that is none": Cell("POST", f"{INFER}?image=a&output=xyz", 422, "output"),
    "strategy: list": Cell("POST", "/activelearning/first", 422, "no object", {"json": [1]}),
    "strategy: wrong type": Cell("POST", "/activelearning/first", 422, "label_tag", {"json": {"label_tag": 1}}),
    "strategy: tag": Cell(
        "POST", "/activelearning/first", 422, "separator", {"json": {"label_tag": "../x"}},
        lambda c, _: c.next_sample("first", {"label_tag": "../x"}),
    ),
    "batch: list": Cell("POST", "/batch/infer/threshold", 422, "no object", {"json": [1]}),
    "batch: wrong type": Cell("POST", "/batch/infer/threshold", 422, "save_label", {"json": {"save_label": "yes"}}),
    "batch: tag": Cell("POST", "/batch/infer/threshold", 422, "separator", {"json": {"label_tag": "a/b"}}),
    "batch: images": Cell("POST", "/batch/infer/threshold?images=zzz", 422, "images", {"json": {}}),
    "batch: flag": Cell("POST", "/batch/infer/threshold?run_sync=maybe", 422, "run_sync", {"json": {}}),
    "session: expiry": Cell("PUT", "/session/?expiry=soon", 422, "expiry", {"files": {"files": ("x.nii.gz", image())}}),
    "session: expiry no number": Cell("PUT", "/session/?expiry=soon", 422, "expiry", {"files": {"files": ("x.nii.gz", image())}}),
    "dataset: limit": Cell("GET", "/datastore/dataset?limit_cases=many", 422, "limit_cases"),
    "datastore: output": Cell("GET", f"{UPLOAD}?output=zzz", 422, "output"),
    "image: params": Cell("PUT", f"{UPLOAD}?image=x", 422, "no object", {"files": form(image(), params="[]")}),
    "label: params": Cell("PUT", f"{LABEL}?image=a", 422, "not JSON", {"files": label(mask(), params="{bad")}),
    "info: list": Cell("PUT", "/datastore/image/info?image=a", 422, "no object", {"data": {"info": "[1]"}}),
    # what leads out
    "image id leads out": Cell(
        "PUT", f"{UPLOAD}?image=../../x", 422, "separator", {"files": form(image())},
        lambda c, folder: c.upload_image(written(folder, image()), "../../x"),
    ),
    "image id is absolute": Cell("PUT", f"{UPLOAD}?image=/tmp/x", 422, "separator", {"files": form(image())}),
    "image id with a zero": Cell("PUT", f"{UPLOAD}?image=x%00y", 422, "control character", {"files": form(image())}),
    "image id with a new line": Cell("PUT", f"{UPLOAD}?image=x%0Ay", 422, "control character", {"files": form(image())}),
    "image id too long": Cell("PUT", f"{UPLOAD}?image={LONG}", 422, "longer", {"files": form(image())}),
    "image id of a device": Cell("PUT", f"{UPLOAD}?image=NUL", 422, "keep for themselves", {"files": form(image())}),
    "file name leads out": Cell("PUT", f"{UPLOAD}?image=x", 422, "lead out", {"files": form(image(), "../../x.nii.gz")}),
    "file name leads out, no id": Cell("PUT", UPLOAD, 422, "lead out", {"files": form(image(), "..\\..\\x.nii.gz")}),
    "absolute path to infer": Cell("POST", f"{INFER}?image=/etc/passwd", 422, "separator", {},
        lambda c, _: c.infer("threshold", "/etc/passwd")),
    "path to infer": Cell("POST", f"{INFER}?image=../../etc/passwd", 422, "separator"),
    "path to fetch": Cell("GET", "/datastore/image?image=../../etc/passwd", 422, "separator", {},
        lambda c, _: c.download_image("../a")),
    "path as a session": Cell("POST", f"{INFER}?session_id=../../etc", 404, "session"),
    "tag with separators": Cell(
        "PUT", f"{LABEL}?image=a&tag=../../x", 422, "separator", {"files": label(mask())},
        lambda c, folder: c.save_label("a", written(folder, mask()), "../../x"),
    ),
    "tag with a backslash": Cell("PUT", f"{LABEL}?image=a&tag=a%5Cb", 422, "separator", {"files": label(mask())}),
    "tag of a saved infer": Cell(
        "POST", f"{INFER}?image=a", 422, "separator", params('{"save_label": true, "label_tag": "../x"}')
    ),
    "session: file name leads out": Cell("PUT", "/session/", 422, "lead", {"files": {"files": ("../../x.nii.gz", image())}}),
    "session: archive leads out": Cell("PUT", "/session/?uncompress=true", 422, "leads out", {"files": series(zipped(**{"../a": b"1"}))}),
    "session: bomb": Cell("PUT", "/session/?uncompress=true", 413, "200 times", {"files": series(zipped(a=bytes(300 * MIB)))}),
    "session: no archive": Cell("PUT", "/session/?uncompress=true", 422, "archive", {"files": series(b"abc")}),
    # what is no image
    "image: garbage": Cell(
        "PUT", f"{UPLOAD}?image=x", 422, "NIfTI", {"files": form(GARBAGE)},
        lambda c, folder: c.upload_image(written(folder, GARBAGE), "x"),
    ),
    "image: empty": Cell("PUT", f"{UPLOAD}?image=x", 422, "", {"files": form(b"")}),
    "image: text": Cell("PUT", f"{UPLOAD}?image=x", 422, "extension", {"files": form(b"hello", "x.txt")}),
    "image: no extension": Cell("PUT", f"{UPLOAD}?image=x", 422, "extension", {"files": form(image(), "x")}),
    "image: cut off": Cell("PUT", f"{UPLOAD}?image=x", 422, "cut off", {"files": form(image()[:-40])}),
    "image: complex": Cell("PUT", f"{UPLOAD}?image=x", 422, "complex", {"files": form(nifti(kind=32, bits=64, value=bytes(8)))}),
    "image: no voxels": Cell("PUT", f"{UPLOAD}?image=x", 422, "no voxels", {"files": form(nifti((6, 0, 4)))}),
    "image: four dimensions": Cell("PUT", f"{UPLOAD}?image=x", 422, "4-dim", {"files": form(nifti((9, 7, 5, 3), voxels=3 * VOXELS))}),
    "image: says it is huge": Cell("PUT", f"{UPLOAD}?image=x", 422, "cut off", {"files": form(nifti((30_000, 30_000, 30_000)))}),
    "image: not the picture it says": Cell("PUT", f"{UPLOAD}?image=x", 422, "PNG", {"files": form(GARBAGE, "x.png")}),
    "image: picture cut off": Cell("PUT", f"{UPLOAD}?image=x", 422, "cut off", {"files": form(picture()[:-30], "x.png")}),
    "image: too large": Cell(
        "PUT", f"{UPLOAD}?image=x", 413, "20 MiB", {"files": form(bytes(21 * MIB))},
        lambda c, folder: c.upload_image(written(folder, bytes(21 * MIB)), "x"),
    ),
    "infer: garbage": Cell(
        "POST", INFER, 422, "NIfTI", {"files": form(GARBAGE)}, lambda c, folder: c.infer("threshold", "", file=written(folder, GARBAGE))
    ),
    "infer: cut off": Cell("POST", INFER, 422, "cut off", {"files": form(image()[:-40])}),
    "infer: empty": Cell("POST", INFER, 422, "", {"files": form(b"")}),
    "infer: no extension": Cell("POST", INFER, 422, "extension", {"files": form(image(), "x")}),
    "infer: name leads out": Cell("POST", INFER, 422, "lead out", {"files": form(image(), "../../x.nii.gz")}),
    "infer: mask that is none": Cell("POST", f"{INFER}?image=a", 422, "NIfTI", {"files": label(GARBAGE)}),
    "infer: mask on another grid": Cell(
        "POST", f"{INFER}?image=a", 409, "3 x 4 x 5", {"files": OTHER_GRID},
        lambda c, folder: c.infer("threshold", "a", label_in=written(folder, mask((3, 4, 5)))),
    ),
    "infer: raw mask too short": Cell("POST", f"{INFER}?image=a", 422, "315 voxels", {"files": label(bytes(314), "l.bin")}),
    # labels
    "label: garbage": Cell(
        "PUT", f"{LABEL}?image=a", 422, "NIfTI", {"files": label(GARBAGE)}, lambda c, folder: c.save_label("a", written(folder, GARBAGE))
    ),
    "label: cut off": Cell("PUT", f"{LABEL}?image=a", 422, "cut off", {"files": label(mask()[:-20])}),
    "label: another grid": Cell(
        "PUT", f"{LABEL}?image=a", 409, "the label has 3 x 4 x 5 voxels", {"files": OTHER_GRID},
        lambda c, folder: c.save_label("a", written(folder, mask((3, 4, 5)))),
    ),
    "label: another grid, the image's": Cell("PUT", f"{LABEL}?image=a", 409, "the image 9 x 7 x 5 voxels", {"files": OTHER_GRID}),
    "label: raw, too short": Cell("PUT", f"{LABEL}?image=a", 422, "315 voxels", {"files": label(bytes(314), "l.bin")}),
    "label: a program": Cell("PUT", f"{LABEL}?image=a", 422, "extension", {"files": label(b"MZ", "l.exe")}),
    "label: no file": Cell("PUT", f"{LABEL}?image=a", 422, "label", {"files": {"params": (None, "{}")}}),
    "label: no image": Cell("PUT", LABEL, 422, "image", {"files": label(mask())}),
    # training, weights, scoring, slides
    "training: list": Cell("POST", "/train/voxel-forest", 422, "no object", {"json": [1]}),
    "training: wrong type": Cell(
        "POST", "/train/voxel-forest", 422, "label_tag", {"json": {"label_tag": 1}},
        lambda c, _: c.train_start("voxel-forest", {"label_tag": 1}),
    ),
    "training: tag": Cell("POST", "/train/voxel-forest", 422, "separator", {"json": {"label_tag": "../x"}}),
    "training: flag": Cell("POST", "/train/voxel-forest?run_sync=maybe", 422, "run_sync", {"json": {}}),
    "training: nothing to learn from": Cell("POST", "/train/voxel-forest", 422, "label", {"json": {}},
        lambda c, _: c.train_start("voxel-forest", {}),
    ),
    "model that never learned": Cell(
        "POST", "/infer/voxel-forest?image=a", 404, "learned nothing yet", {}, lambda c, _: c.infer("voxel-forest", "a")
    ),
    "weights that are none": Cell("PUT", "/model/voxel-forest", 422, "", {"files": form(GARBAGE, "forest.npz")}),
    "weights that are cut off": Cell("PUT", "/model/voxel-forest", 422, "", {"files": form(zipped(facts__npy=b"x")[:-10], "forest.npz")}),
    "weights of an unknown model": Cell("PUT", "/model/nope", 404, "of that name", {"files": form(GARBAGE, "forest.npz")}),
    "weights that a model has not": Cell("GET", "/model/threshold", 404, "weights"),
    "scoring: list": Cell("POST", "/scoring/dice", 422, "no object", {"json": [1]}),
    "scoring: tag": Cell("POST", "/scoring/dice", 422, "separator", {"json": {"y": "../x"}}),
    "scoring: wrong type": Cell("POST", "/scoring/dice", 422, "tolerance", {"json": {"tolerance": "wide"}}),
    "slide: unknown model": Cell("POST", "/infer/wsi/nope?image=a", 404, "nope", {"json": {}}),
    "slide: no image": Cell("POST", "/infer/wsi/nuclei", 422, "no image", {"json": {}}),
    "slide: an image that is none": Cell("POST", "/infer/wsi/nuclei?image=a", 422, "slide", {"json": {}},
        lambda c, _: c.wsi_infer("nuclei", "a", {}), True,
    ),
    "slide: unknown image": Cell("POST", "/infer/wsi/nuclei?image=nope", 404, "no such image", {"json": {}}),
    "slide: list": Cell("POST", "/infer/wsi/nuclei?image=a", 422, "", {"json": [1]}),
    "slide: wrong type": Cell("POST", "/infer/wsi/nuclei?image=a", 422, "level", {"json": {"level": "top"}}),
    "slide: below zero": Cell("POST", "/infer/wsi/nuclei?image=a", 422, "level", {"json": {"level": -1}}),
    "slide: output": Cell("POST", "/infer/wsi/nuclei?image=a&output=xml", 422, "output", {"json": {}}),
    "slide: garbage": Cell("POST", "/infer/wsi_v2/nuclei", 422, "", {"files": {"file": ("x.png", GARBAGE)}}),
    "slide: cut off": Cell("POST", "/infer/wsi_v2/nuclei", 422, "", {"files": {"file": ("x.png", picture()[:-30])}}),
    "slide: a region outside": Cell(
        "POST", "/infer/wsi_v2/nuclei", 422, "",
        {"files": {"wsi": (None, '{"location": [1000, 1000], "size": [10, 10]}'), "file": ("x.png", picture())}},
        is_kept=True,
    ),
    "slide: tiles too small": Cell(
        "POST", "/infer/wsi_v2/nuclei", 422, "", {"files": {"wsi": (None, '{"tile_size": [0, 0]}'), "file": ("x.png", picture())}}
    ),
    # forms
    "form: two files": Cell("PUT", f"{UPLOAD}?image=x", 422, "two files", {"files": TWO}),
    "form: unknown field": Cell("PUT", f"{UPLOAD}?image=x", 422, "field file", {"files": {"other": ("x.bin", b"x")}}),
    "form: packed": Cell("PUT", f"{UPLOAD}?image=x", 422, "encoding", {"content": b"zz", "headers": {"content-encoding": "gzip"}}),
    "form: cut off": Cell(
        "PUT", f"{UPLOAD}?image=x", 422, "cut off",
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\nPK',
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
    ),
    "form: no boundary": Cell("PUT", f"{UPLOAD}?image=x", 422, "boundary", {"content": b"x", "headers": FORM}),
    "form: none": Cell("PUT", f"{UPLOAD}?image=x", 422, "no form", {"content": b"x", "headers": {"content-type": "image/png"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_what_is_refused_says_why_and_leaves_nothing(server: Server, client: MONAILabelClient, name: str, tmp_path: Path) -> None:
    cell = CELLS[name]
    before = server.traces()
    answer = server.http.request(cell.method, cell.path, **cell.body)
    assert (answer.status_code, answer.headers["content-type"]) == (cell.status, "application/json"), answer.text
    body = answer.json()
    assert cell.words in body["detail"]
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert str(server.folder) not in answer.text
    if cell.ours is not None:
        with pytest.raises(MONAILabelClientException) as raised:
            cell.ours(client, tmp_path)
        assert raised.value.status_code == cell.status
        assert raised.value.error == (MONAILabelError.SESSION_EXPIRED if "session" in name else MONAILabelError.SERVER_ERROR)
        assert cell.words in raised.value.msg
        assert cell.words in raised.value.message
    if cell.is_kept:
        assert server.rows("select state from tasks order by id desc limit 1") == ["failed"]
    else:
        assert server.traces() == before
    server.serve_somebody()


@pytest.mark.parametrize(
    "path", ["/session/..", "/session/../../x", "/session/..%2f..%2fx", "/session/%00", "/infer/..%2fx?image=a", "/ohif/../../x"]
)
def test_paths_in_place_of_names(server: Server, path: str) -> None:
    before = server.traces()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)  # it tidies no path
    connection.request("DELETE" if "session" in path else "POST", path)
    answer = connection.getresponse()
    assert answer.status in (404, 405)
    assert json.loads(answer.read())["detail"]
    connection.close()
    assert server.traces() == before


# ---------------------------------------------------------------- what is readable as a file, and not as an image


def test_an_image_without_a_single_number_fails_when_it_is_used(server: Server) -> None:
    data = nifti(kind=16, bits=32, value=struct.pack("<f", float("nan")))
    answer = server.http.post(INFER, files=form(data))
    assert (answer.status_code, "NaN" in answer.json()["detail"]) == (422, True)


def test_a_session_of_garbage_fails_when_it_is_used(server: Server) -> None:
    made = server.http.put("/session/", files={"files": ("x.nii.gz", GARBAGE)}).json()["session_id"]
    answer = server.http.post(INFER, params={"session_id": made})
    assert (answer.status_code, "NIfTI" in answer.json()["detail"]) == (422, True)
    assert server.http.delete(f"/session/{made}").status_code == 200


# ---------------------------------------------------------------- what changes meanwhile


def test_a_label_of_an_image_since_replaced(server: Server) -> None:
    server.http.put(UPLOAD, params={"image": "changing"}, files=form(image()))
    assert server.http.put(LABEL, params={"image": "changing"}, files=label(mask())).status_code == 200
    smaller = nifti((3, 4, 5), voxels=60)
    assert server.http.put(UPLOAD, params={"image": "changing"}, files=form(smaller)).status_code == 200
    late = server.http.put(LABEL, params={"image": "changing", "tag": "late"}, files=label(mask()))
    assert late.status_code == 409
    assert "the label has 9 x 7 x 5" in late.json()["detail"]
    assert "the image 3 x 4 x 5" in late.json()["detail"]
    # The label that was there is there, and says which version of the image it was drawn on.
    assert server.http.get(LABEL, params={"label": "changing", "tag": "final"}).content == mask()
    assert server.http.get(UPLOAD, params={"output": "all"}).json()["objects"]["changing"]["labels"].keys() == {"final"}
    assert server.http.request("DELETE", UPLOAD, params={"id": "changing"}).status_code == 200


def test_an_image_deleted_while_it_is_used(server: Server) -> None:
    server.put("leaving")
    wait_until(lambda: server.http.get("/datastore/image", params={"image": "leaving"}).status_code == 200)
    answers: dict[str, httpx.Response] = {}

    def ask(model: str) -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            answers[model] = http.post(f"/infer/{model}", params={"image": "leaving", "output": "json"})

    threads = [threading.Thread(target=ask, args=(model,)) for model in ("sleeper-1", "threshold")]
    threads[0].start()
    wait_until(lambda: running(server) == 1)
    threads[1].start()
    wait_until(lambda: running(server, "pending") == 1)
    assert server.http.request("DELETE", UPLOAD, params={"id": "leaving"}).json() == {}
    for thread in threads:
        thread.join(60)
    assert answers["sleeper-1"].status_code == 200  # what had begun had read it
    # What waited fails with the reason; or is right, where the worker still had the image.
    assert answers["threshold"].status_code in (200, 422)
    if answers["threshold"].status_code == 422:
        assert "image" in answers["threshold"].json()["detail"]
    assert server.infer("leaving").status_code == 404
    late = server.http.put(LABEL, params={"image": "leaving"}, files=label(mask()))
    assert late.status_code == 404


def running(server: Server, state: str = "running") -> int:
    (count,) = server.rows(f"select count(*) from tasks where state = '{state}' and protocol = 'monai-label'")
    return int(count)


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# ---------------------------------------------------------------- who may


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server with accounts, and a token for each role; ``expired`` was one, ``forged`` never was."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "data").mkdir()
    database = Database(f"sqlite:///{folder}/data/delineate.db")
    database.migrate()
    users, hashed, tokens = UserStore(database), Passwords(passes=1, memory_kib=64).hash(PASSWORD), {}
    for role in ("user", "annotator", "reviewer", "admin"):
        tokens[role] = users.give_token(users.add(role, hashed, role), 3600)
    other = users.add("somebody", hashed, "annotator")
    tokens["somebody"] = users.give_token(other, 3600)
    tokens["expired"] = UserStore(database, lambda: time.time() - 7200).give_token(other, 3600)
    tokens["forged"] = tokens["admin"][:-4] + ("AAAA" if tokens["admin"][-4:] != "AAAA" else "BBBB")
    database.close()
    server = Server(folder, DELINEATE_ACCOUNTS="local")
    yield server, tokens
    server.stop()


def as_(tokens: dict[str, str], who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens[who]}"}


@pytest.mark.parametrize(
    ("who", "status", "words"),
    [("", 401, "no token"), ("forged", 401, "not valid"), ("expired", 401, "expired"), ("user", 403, "annotator")],
)
def test_tokens_and_roles(guarded: tuple[Server, dict[str, str]], who: str, status: int, words: str, tmp_path: Path) -> None:
    server, tokens = guarded
    before = server.traces()
    answer = server.http.put(UPLOAD, params={"image": "x"}, files=form(image()), headers=as_(tokens, who) if who else {})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert ("www-authenticate" in answer.headers) is (status == 401)
    with MONAILabelClient(server.url, str(tmp_path), token=tokens[who] if who else None) as client:
        with pytest.raises(MONAILabelClientException) as raised:
            client.upload_image(written(tmp_path, image()), "x")
    assert raised.value.status_code == status
    assert words in raised.value.msg
    assert all(token not in (server.folder / "log").read_text() for token in tokens.values())
    assert server.traces() == before


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/activelearning/first", "annotator"),
        ("PUT", f"{LABEL}?image=a", "annotator"),
        ("DELETE", f"{LABEL}?id=a&tag=final", "reviewer"),
        ("PUT", "/datastore/updatelabelinfo?label=a&tag=final", "reviewer"),
        ("DELETE", f"{UPLOAD}?id=a", "admin"),
        ("POST", "/train/voxel-forest", "admin"),
        ("DELETE", "/train/", "admin"),
        ("POST", "/batch/infer/threshold", "admin"),
        ("PUT", "/model/threshold", "admin"),
        ("GET", "/logs/", "admin"),
    ],
)
def test_a_role_that_is_missing_is_named(guarded: tuple[Server, dict[str, str]], method: str, path: str, role: str) -> None:
    server, tokens = guarded
    roles = ["user", "annotator", "reviewer", "admin"]
    before = server.traces()
    for less in roles[: roles.index(role)]:
        answer = server.http.request(method, path, headers=as_(tokens, less))
        assert (answer.status_code, role in json.dumps(answer.json())) == (403, True), less
    assert server.traces() == before


def test_a_session_of_somebody_else_is_not_there(guarded: tuple[Server, dict[str, str]]) -> None:
    server, tokens = guarded
    mine, theirs = as_(tokens, "annotator"), as_(tokens, "somebody")
    made = server.http.put("/session/", files={"files": ("x.nii.gz", image())}, headers=mine).json()["session_id"]
    for answer in (
        server.http.get(f"/session/{made}", headers=theirs),
        server.http.get(f"/session/{made}", params={"image": True}, headers=theirs),
        server.http.delete(f"/session/{made}", headers=theirs),
        server.http.post(INFER, params={"session_id": made}, headers=theirs),
    ):
        assert (answer.status_code, "unknown or has expired" in answer.json()["detail"]) == (404, True), answer.text
    assert server.http.post(INFER, params={"session_id": made}, headers=mine).status_code == 200
    assert server.http.delete(f"/session/{made}", headers=mine).status_code == 200
