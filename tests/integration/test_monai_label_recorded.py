"""What a MONAI Label server was recorded to answer, asked of ours: same status, content type and JSON keys, but for what is meant."""

from __future__ import annotations

import hashlib
import http.client
import importlib
import io
import json
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from delineate import nifti
from delineate.server.accounts.passwords import Passwords
from delineate.store.users import UserStore
from delineate.testing.conformance.monai_label_plain import picture

HERE = Path(__file__).parent
EVERY = json.loads((HERE / "data" / "monai_label_exchanges.json").read_text(encoding="utf-8"))
ACCOUNTS = [exchange for exchange in EVERY if exchange["step"].startswith("auth:")]
RECORDED = [exchange for exchange in EVERY if exchange not in ACCOUNTS]
SPEC = Path(os.environ.get("DELINEATE_SHARED_DATA") or HERE.parents[2] / "shared" / "data").parent / "spec" / "monai-label-exchanges.jsonl"

MODELS = {
    "jsononly": ("Words", "classification"),
    "detect": ("Words", "detection"),
    "boom": ("Boom", "others"),
}
CODE = """
import numpy as np
from delineate.runners.base import Findings
from delineate.segmentation import Segmentation


class Mask:
    def __init__(self, parameters, folder):
        pass

    def segment(self, job):
        labels = (job.images[0].voxels > 300).astype(np.uint8)
        return Segmentation.from_labels(labels, job.images[0].geometry, {1: "bone"})


class Words(Mask):
    def segment(self, job):
        return Findings(values={"prediction": [{"label": "normal", "score": 0.9}]})


class Boom(Mask):
    def segment(self, job):
        raise ValueError("boom")
"""

REASON = "refused with the reason instead of a bare 500, or taken as if it were good"
OUTSIDE = "would lead out of the store: refused, nothing is written or read there"
GARBAGE = "not readable as what its name says: refused"
SUM = "a checksum that matches is found to match"
NO_DICOM = "no DICOMweb, viewer or reloading here"
FAILS = "a model that fails is answered with the reason"

# Steps where ours is meant to answer with another status or content type: which status, and why.
MEANT: dict[str, tuple[int, str]] = {
    **dict.fromkeys(
        (
            "save_label/unknown_image", "infer/unknown_model", "infer/unknown_image", "infer/unknown_session",
            "PUT /datastore/image/info unknown", "PUT /datastore/label/info unknown", "DELETE /datastore/image unknown",
            "PUT /model/threshold", "GET /logs/gpu", "wsi_infer/unknown_model", "train_start/unknown_model",
        ),
        (404, REASON),
    ),
    **dict.fromkeys(
        (
            "infer/no_input", "infer/output=dicom_seg", "infer/bad json params", "infer/params is list", "infer/file no ext",
            "infer/empty file", "PUT /datastore/ bad json params", "PUT /datastore/label bad json", "wsi/no image",
        ),
        (422, REASON),
    ),
    **dict.fromkeys(
        (
            "infer/absolute server path", "infer/file traversal name", "PUT /datastore/ traversal id", "PUT /datastore/ traversal filename",
            "PUT /datastore/ traversal filename+id", "PUT /datastore/ absolute id", "PUT /datastore/label traversal tag",
            "GET /datastore/image traversal", "PUT /session/ traversal name",
        ),
        (422, OUTSIDE),
    ),
    **dict.fromkeys(
        ("infer/garbage file", "PUT /datastore/ unsupported ext", "PUT /datastore/ garbage nifti", "PUT /datastore/label other ext"),
        (422, GARBAGE),
    ),
    "DELETE /datastore/?id": (404, "the upload of that text file was refused"),
    "infer/detection": (200, "the model of this test gives no file"),
    "infer/model_raises": (500, FAILS),
    "HEAD /datastore/image checksum ok": (200, SUM),
    "HEAD /datastore/image checksum bare": (200, SUM),
    "POST /batch/infer default params (cpu box)": (200, "a batch needs no graphics card"),
    **dict.fromkeys(("auth:valid with token", "auth:info with token"), (200, "a token that was given is taken")),
    "GET /nope (404)": (404, "no path of this API"),
    "train_status/after_unknown": (404, "a trainer that is unknown is not started"),
    **dict.fromkeys(("GET /model/tiny", "GET /model/info/tiny"), (200, "what was trained is there; the recorded trainer kept nothing")),
    **dict.fromkeys(
        ("GET /proxy/dicom/wado (local studies)", "GET /proxy/dicom/qido (local studies)", "GET /ohif/../../../../etc/passwd",
         "POST /reload"),
        (404, NO_DICOM),
    ),
}  # fmt: skip

# Keys that an answer was recorded to have and ours does not, and why.
UNSAID: dict[str, tuple[set[str], str]] = {
    **dict.fromkeys(
        ("infer/output=json", "infer/params urlencoded", "infer/params as json body", "infer/params override image"),
        ({"centroids"}, "empty in the recording: the model there did not compute any"),
    ),
    "POST /train/tiny?run_sync": (
        {"best_metric", "current_epoch", "current_iteration", "rank", "total_iterations", "train"},
        "of the training of a network; and nothing is held back of images as small as these",
    ),
    "POST /activelearning/random no body": ({"user"}, "there are no accounts; the recorded server called everybody admin"),
    # Of images whose upload was refused here.
    "POST /batch/infer/threshold sync": ({"../../x", "/local/abs_evil"}, OUTSIDE),
}


# Names of the recorded server's own trainer and model of slides, and ours.
OURS = {"tiny": "voxel-forest", "polygons": "nuclei"}


class Replay:
    """Asks a server what was asked, with its ids and images."""

    def __init__(self, server: Any) -> None:
        self.server = server
        image = server.studies / "ct_small.nii.gz"
        voxels = nifti.read(image)
        mask = server.studies.parent / "mask.nii.gz"
        nifti.write_labels(mask, (voxels.voxels > 0).astype(np.uint8), voxels.geometry)
        drawn = np.full(voxels.voxels.shape, 0, np.uint8)
        drawn[1, 3, 3:6], drawn[4, 6, 1:8] = 3, 2  # inside, outside
        scribbles = server.studies.parent / "scribbles.nii.gz"
        nifti.write_labels(scribbles, drawn, voxels.geometry)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a/b.nii.gz", image.read_bytes())
        self.files = {
            "IMAGE": image.read_bytes(), "LABEL": mask.read_bytes(), "SCRIBBLES": scribbles.read_bytes(),
            "RAW": bytes(voxels.voxels.size), "ARCHIVE": packed.getvalue(),
            "PATCH": picture(),
        }  # fmt: skip
        self.sessions: dict[str, str] = {}
        self.token = ""
        self.sha256 = hashlib.sha256(image.read_bytes()).hexdigest()

    def ask(self, exchange: dict[str, Any]) -> tuple[int, str, bytes]:
        """What the server answers. Where a slide is asked for, the recorded model looked at no pixel of a CT; here it is a picture."""
        if not exchange["path"].startswith("/infer/wsi"):
            return self.send(exchange, dict(exchange.get("query", [])))
        query, http = dict(exchange.get("query", [])), self.server.http
        if query.get("image"):
            http.put("/datastore/", params={"image": "slide"}, files={"file": ("slide.png", picture())})
            query["image"] = "slide"
        if query.get("session_id"):
            query["session_id"] = http.put("/session/", files={"files": ("slide.png", picture())}).json()["session_id"]
        try:
            return self.send(exchange, query)
        finally:
            http.request("DELETE", "/datastore/", params={"id": "slide"})

    def send(self, exchange: dict[str, Any], wanted: dict[str, str]) -> tuple[int, str, bytes]:
        """Status, content type and body; written by hand, because clients tidy paths."""
        query = urlencode([(name, self.own(value)) for name, value in wanted.items()])
        headers, body = {}, None
        if "parts" in exchange:
            body = self.multipart(exchange["parts"])
            headers["Content-Type"] = "multipart/form-data; boundary=----raw"
        elif "body" in exchange:
            body = self.own(exchange["body"]).encode()
            headers["Content-Type"] = exchange["content_type"] or "application/json"
        if "authorization" in exchange:
            headers["Authorization"] = f"Bearer {'garbage' if 'garbage' in exchange['step'] else self.token}"
        if exchange["step"].endswith("range"):
            headers["Range"] = "bytes=0-99"
        if "Origin" in exchange["step"] or "preflight" in exchange["step"]:
            headers.update({"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"})
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request(exchange["method"], self.own(exchange["path"]) + ("?" + query if query else ""), body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kind = answer.getheader("content-type", "").split(";")[0]
        if "access_token" in exchange.get("keys", ()):
            self.token = json.loads(content)["access_token"]
        if "session_id" in exchange.get("keys", ()):  # one that is refused here still has its number in the recording
            self.sessions[f"SESSION{len(self.sessions)}"] = json.loads(content).get("session_id", "refused")
        return answer.status, kind, content

    def own(self, text: str) -> str:
        for theirs, ours in OURS.items():
            text = re.sub(rf"\b{theirs}\b", ours, text)
        for name, id in sorted(self.sessions.items(), reverse=True):
            text = text.replace(name, id)
        return re.sub("66b5a6b0c7e9[0-9a-f]{52}", self.sha256, text)

    def multipart(self, parts: list[list[str]]) -> bytes:
        body = b""
        for name, *rest in parts:
            filename = f'; filename="{rest[0]}"' if len(rest) == 2 else ""
            content = self.files.get(rest[-1], rest[-1].encode()) if len(rest) == 2 else rest[0].encode()
            body += f'------raw\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + content + b"\r\n"
        return body + b"------raw--\r\n"


def fault(exchange: dict[str, Any], status: int, kind: str, content: bytes) -> str:
    """How an answer differs, empty where it does not."""
    step = exchange["step"]
    if step in MEANT:
        meant = MEANT[step][0]
        if status != meant:
            return f"status {status}, not {meant}: {content[:300]!r}"
        return "" if status < 400 or exchange["method"] == "HEAD" or json.loads(content).get("detail") else "an error without its reason"
    if status != exchange["status"]:
        return f"status {status}, not {exchange['status']}: {content[:300]!r}"
    if exchange["answer"] and kind != exchange["answer"]:
        return f"content type {kind}, not {exchange['answer']}"
    if "keys" in exchange:
        missing = {OURS.get(key, key) for key in exchange["keys"]} - set(json.loads(content) or ()) - UNSAID.get(step, (set(), ""))[0]
        return f"without the keys {sorted(missing)}" if missing else ""
    if "json" in exchange:
        value = json.loads(content)
        return "" if value == exchange["json"] or (exchange["json"] == "list" and isinstance(value, list)) else f"{value!r}"
    if "parts_answered" in exchange:
        found = re.findall(rb'name="(\w+)"', content)
        return "" if [name.decode() for name in found] == exchange["parts_answered"] else f"parts {found}"
    return ""


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 150  # trainings give way to everything else on the machine
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


# Steps, with the status they were recorded with, before which the recording waited for the end of what runs.
ENDS_BEFORE = {
    ("GET /batch/infer after", 200): "/batch/infer", ("poll", 404): "/train/", ("train_status/all_done", 200): "/train/",
}  # fmt: skip


def test_recorded_exchanges(label_server: Callable[..., Any], tmp_path: Path) -> None:
    for name, (kind, type) in MODELS.items():
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "code.py").write_text(CODE)
        (folder / "model.toml").write_text(f'name = "{name}"\nrunner = "python"\nkind = "{type}"\n[parameters]\nclass = "code:{kind}"\n')
    server = label_server("ct_small.nii.gz", workers=1, models=(tmp_path / "models",), cors_origins=("http://localhost:3000",))
    replay = Replay(server)
    wrong = []
    for exchange in RECORDED:
        if path := ENDS_BEFORE.get((exchange["step"], exchange["status"])):
            wait_until(lambda: server.http.get(path, params={"check_if_running": "true"}).status_code == 404)
        if difference := fault(exchange, *replay.ask(exchange)):
            wrong.append(f"{exchange['step']} ({exchange['method']} {exchange['path']}): {difference}")
    assert not wrong, "\n".join(wrong)


def test_recorded_exchanges_with_accounts(label_server: Callable[..., Any]) -> None:
    server = label_server("ct_small.nii.gz", accounts="local")
    UserStore(server.service.database).add("alice", Passwords(passes=1, memory_kib=64).hash("pw"), "user")
    replay = Replay(server)
    wrong = [f"{exchange['step']}: {difference}" for exchange in ACCOUNTS if (difference := fault(exchange, *replay.ask(exchange)))]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_one_of_an_exchange() -> None:
    assert set(MEANT) | set(UNSAID) <= {exchange["step"] for exchange in EVERY}


def test_what_is_replayed_is_what_was_recorded() -> None:
    if not SPEC.is_file():
        return
    sys.path.insert(0, str(HERE))
    try:
        distil = importlib.import_module("label_recording").distil
    finally:
        sys.path.remove(str(HERE))
    assert distil(SPEC.read_text(encoding="utf-8").splitlines()) == EVERY
    assert len(EVERY) == 204
