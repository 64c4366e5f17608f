"""A small DICOMweb server on a free loopback port, with faults that may be switched on while it runs.

QIDO for studies and series, WADO for series, instances, frames and metadata, STOW. It keeps instances in memory as they came.
Needs the extra ``dicom``; shares nothing with Delineate's own client of DICOMweb.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from delineate.dicom.parts import pydicom

PREFIX: Final = "/dicom-web"
_SHOWN: Final = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "SeriesDescription", "SeriesDate", "SeriesTime")
_PIXELS: Final = "7FE00010"


@dataclass
class Stored:
    """One instance: its data set without pixels, and its bytes."""

    data: Any
    content: bytes

    def uid(self, name: str) -> str:
        """One of its UIDs, by keyword."""
        return str(self.data.get(name, ""))

    @property
    def series(self) -> str:
        """Where its series is below the service."""
        return f"studies/{self.uid('StudyInstanceUID')}/series/{self.uid('SeriesInstanceUID')}"


@dataclass
class Behaviour:
    """What is odd or wrong; all may be changed at any time.

    most : series of a page, whatever was asked for; largest : what may be asked for, else 400;
    keeps_offset : False answers every page as if it were the first;
    statuses : answered first, one request after the other; slow : seconds before each answer; cut : bytes after which a series
    breaks off, once for each of `cuts`; lost : instances of a series that are not sent; claimed : instances of a series that it
    says it has, 0 for the truth; length : a false Content-Length; refuses : STOW is answered with a reason; moved : where all is
    redirected to; authorization : the header that opens it; believes : where it believes to be, which then stands in its answers;
    hangs_up : so many requests more lose their connection.
    """

    most: int = 1000
    largest: int = 1000
    keeps_offset: bool = True
    statuses: list[int] = field(default_factory=list)
    slow: float = 0.0
    cut: int = 0
    cuts: int = 0
    lost: int = 0
    claimed: int = 0
    length: int = 0
    refuses: bool = False
    moved: str = ""
    authorization: str = ""
    believes: str = ""
    hangs_up: int = 0


class DicomWebServer:
    """Runs between ``with`` and its end. requests : lines of what was asked; stored : instances by UID."""

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.stored: dict[str, Stored] = {}
        self.requests: list[str] = []
        self.stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"peer": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://127.0.0.1:{self._http.server_port}{PREFIX}"

    def __enter__(self) -> DicomWebServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, paths: Iterable[Path]) -> None:
        """Give it files."""
        for path in paths:
            self.take(path.read_bytes())

    def take(self, content: bytes) -> str:
        """Give it one instance: its UID."""
        data = pydicom().dcmread(io.BytesIO(content), stop_before_pixels=True)
        self.stored[str(data.SOPInstanceUID)] = Stored(data, content)
        return str(data.SOPInstanceUID)

    def series(self, modality: str = "") -> dict[str, list[Stored]]:
        """Instances by series, in the order in which these came."""
        found: dict[str, list[Stored]] = {}
        for one in list(self.stored.values()):
            if not modality or one.uid("Modality") == modality:
                found.setdefault(one.uid("SeriesInstanceUID"), []).append(one)
        return found


class _Handler(BaseHTTPRequestHandler):
    peer: DicomWebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """QIDO and WADO."""
        if self._is_stopped_before():
            return
        address = urlsplit(self.path)
        path = address.path.removeprefix(PREFIX)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        if path == "/series" and int(query.get("limit", "0")) > self.peer.behaviour.largest:
            self._empty(400)
        elif path == "/series":
            self._json(self._page(query))
        elif path == "/studies":
            self._json(self._studies(query))
        elif found := re.fullmatch(r"/studies/([\d.]+)/metadata", path):
            self._json([self._metadata(one) for one in list(self.peer.stored.values()) if one.uid("StudyInstanceUID") == found[1]])
        elif found := re.fullmatch(r"/studies/[\d.]+/series/[\d.]+/instances/([\d.]+)/(?:frames/1|bulk/7FE00010)", path):
            pixels = pydicom().dcmread(io.BytesIO(self.peer.stored[found[1]].content)).PixelData
            self._parts([pixels], "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1")
        elif found := re.fullmatch(r"/studies/([\d.]+)/series/([\d.]+)(?:/instances/([\d.]+))?(/metadata)?", path):
            instances = [
                one
                for one in self.peer.series().get(found[2], [])
                if one.uid("StudyInstanceUID") == found[1] and found[3] in (None, one.uid("SOPInstanceUID"))
            ]
            if not instances:
                self._empty(404)
            elif found[4]:
                self._json([self._metadata(one) for one in instances])
            else:
                self._parts([one.content for one in instances][self.peer.behaviour.lost :])
        else:
            self._empty(404)

    def do_POST(self) -> None:
        """STOW."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self._is_stopped_before():
            return
        found = re.search(r"boundary=\"?([^\";]+)", self.headers["content-type"])
        parts = body.split(b"--" + found[1].encode() if found else b"")[1:-1]
        contents = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts]
        if self.peer.behaviour.refuses:
            self._json([{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}] * len(contents)}}], 409)
            return
        uids = [self.peer.take(content) for content in contents]
        self._json([{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]}}])

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _is_stopped_before(self) -> bool:
        """Whether a fault answered already."""
        peer, how = self.peer, self.peer.behaviour
        peer.requests.append(f"{self.command} {self.path}")
        peer.stopping.wait(how.slow)
        if how.authorization and self.headers.get("authorization") != how.authorization:
            self._empty(401)
        elif how.moved:
            self.send_response(302)
            self.send_header("Location", how.moved)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif how.hangs_up:
            how.hangs_up -= 1
            self.close_connection = True
        elif how.statuses:
            self._empty(how.statuses.pop(0))
        else:
            return False
        return True

    def _page(self, query: dict[str, str]) -> list[Any]:
        how = self.peer.behaviour
        wanted = query.get("SeriesInstanceUID", "")
        series = self.peer.series(query.get("Modality", "")).items()
        found = [self._shown(same) for uid, same in series if wanted in ("", uid)]
        first = int(query.get("offset", "0")) if how.keeps_offset else 0
        return found[first : first + min(how.most, int(query.get("limit", "100")))]

    def _shown(self, same: list[Stored]) -> dict[str, Any]:
        shown = {name: same[0].data[name] for name in _SHOWN if name in same[0].data}
        answer = {f"{element.tag:08X}": {"vr": element.VR, "Value": [str(element.value)]} for element in shown.values()}
        count, believes = self.peer.behaviour.claimed or len(same), self.peer.behaviour.believes
        if believes:
            answer["00081190"] = {"vr": "UR", "Value": [f"{believes}/{same[0].series}"]}
        return {**answer, "00201209": {"vr": "IS", "Value": [count]}}

    def _studies(self, query: dict[str, str]) -> list[Any]:
        studies = {one.uid("StudyInstanceUID"): self._shown([one]) for one in self.peer.stored.values()}
        wanted = query.get("StudyInstanceUID", "")
        return [shown for uid, shown in studies.items() if wanted in ("", uid)]

    def _metadata(self, one: Stored) -> Any:
        found, believes = one.data.to_json_dict(), self.peer.behaviour.believes
        place = f"{believes}/{one.series}/instances/{one.uid('SOPInstanceUID')}"
        found[_PIXELS] = {"vr": "OW", "BulkDataURI": f"{place}/bulk/{_PIXELS}" if believes else "bulk"}
        return found

    def _parts(self, contents: list[bytes], kind: str = "application/dicom") -> None:
        how = self.peer.behaviour
        boundary = secrets.token_hex(8)
        head = f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
        body = b"".join(part for content in contents for part in (head, content, b"\r\n"))
        body += f"--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="{kind}"; boundary={boundary}'
        if how.cut and how.cuts:
            how.cuts -= 1
            self._send(200, kind, body[: how.cut], len(body))
            self.close_connection = True
        else:
            self._send(200, kind, body, how.length or len(body))
            self.close_connection = bool(how.length)

    def _json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._send(status, "application/dicom+json", body, len(body))

    def _empty(self, status: int) -> None:
        self._send(status, "text/plain", b"", 0)

    def _send(self, status: int, kind: str, body: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
