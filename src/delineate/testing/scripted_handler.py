"""How a scripted server answers: routes, codes and nesting of each dialect, and the faults."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from delineate.testing.faults import LOGIN_PAGE
from delineate.testing.script import FAILED, FAILURE, FINISHED, LOST, NEVER, ScriptedTask, Seen
from delineate.testing.scripted_archives import Upload, UploadError, read_upload

if TYPE_CHECKING:
    from delineate.testing.scripted import ScriptedServer

BLOCK: Final = 1 << 18


class ScriptedHandler(BaseHTTPRequestHandler):
    """One connection to a scripted server; `peer` is set in a subclass of its own for each server."""

    peer: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def setup(self) -> None:
        """Be known to the server, so that it can break the connection."""
        super().setup()
        with self.peer.lock:
            self.peer.open_sockets.add(self.request)

    def finish(self) -> None:
        """Be forgotten."""
        with self.peer.lock:
            self.peer.open_sockets.discard(self.request)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a request of any method."""
        self._handle()

    do_POST = do_DELETE = do_PUT = do_HEAD = do_GET  # noqa: N815 - names that http.server looks for

    # -------------------------------------------------------- one request

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        self.peer.requests.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, size))
        self._fault = self.peer.faults.match(self.command, self.path)
        if self._fault and self._fault.action == "drop-early":
            self.close_connection = True
            return
        body = self.peer.folder / secrets.token_hex(8)
        try:
            if not self._receive(body, size):
                return
            if not self._misbehave():
                self._route(body)
        finally:
            body.unlink(missing_ok=True)

    def _receive(self, target: Path, size: int) -> bool:
        with target.open("wb") as file:
            while size:
                block = self.rfile.read(min(size, BLOCK))
                if not block:
                    self.close_connection = True
                    return False
                file.write(block)
                size -= len(block)
        return True

    def _misbehave(self) -> bool:
        """Whether a fault took the place of the answer; ``break``, ``short`` and ``drip`` spoil the true one instead."""
        fault = self._fault
        if fault is None or fault.action in ("break", "short", "drip"):
            return False
        if fault.action in ("drop", "hang"):
            self.peer.stopping.wait(fault.seconds)
            self.close_connection = True
        elif fault.action == "html":
            self._answer(fault.status, LOGIN_PAGE, "text/html; charset=utf-8", fault.headers)
        elif fault.action == "redirect":
            self._answer(fault.status if fault.status != 200 else 302, b"", "text/html", (("Location", fault.location), *fault.headers))
        elif fault.action == "json":
            self._answer(fault.status, b'{"welcome": [1, 2, 3]}', "application/json", fault.headers)
        elif fault.action == "empty":
            self._answer(fault.status, b"", "application/octet-stream", fault.headers)
        else:
            self._answer(fault.status, b"", "text/plain", fault.headers)
        return True

    def _route(self, body: Path) -> None:
        script, target = self.peer.script, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(target.query, keep_blank_values=True).items()}
        path = unquote(target.path)
        if not path.startswith(script.prefix):
            return self._json(404, {"detail": "Not Found"})
        path = path[len(script.prefix) :]
        if path == "/openapi.json" and script.describes:
            return self._json(200, _description(script.dialect))
        if self.command == "POST" and path == "/api/tasks/":
            return self._post(query, body)
        if path == "/api/models/" and self.command == "GET" and script.dialect != "seed":
            return self._models()
        if script.dialect == "v2":
            return self._route_v2(path, query)
        uid = path.removeprefix("/api/tasks/")
        if path.startswith("/api/tasks/") and "/" not in uid and uid:
            if self.command == "GET":
                return self._poll(uid)
            if self.command == "DELETE" and script.dialect == "v1":
                return self._delete(uid)
            return self._json(405, {"detail": "Method Not Allowed"})
        self._json(404, {"detail": "Not Found"})

    def _route_v2(self, path: str, query: dict[str, str]) -> None:
        if path == "/api/tasks/outputs/" and self.command == "GET":
            return self._poll(query.get("uid", ""))
        if path == "/api/tasks/" and self.command == "DELETE":
            return self._delete(query.get("uid", ""))
        if path == "/api/tasks/" and self.command == "GET":
            if not self._may():
                return self._json(401, {"detail": "Not authenticated"})
            return self._json(200, [_object(task) for task in self.peer.tasks.values()])
        self._json(404, {"detail": "Not Found"})

    # -------------------------------------------------------- the protocol

    def _post(self, query: dict[str, str], body: Path) -> None:
        script = self.peer.script
        parameter, name = ("human_readable_id", "tar_file") if script.dialect == "v2" else ("model_human_readable_id", "zip_file")
        upload = read_upload(body, self.headers.get("Content-Type", ""), name)
        missing = [["query", parameter]] if parameter not in query else []
        missing += [["body", name]] if upload is None else []
        if missing or upload is None:
            return self._json(
                422, {"detail": [{"loc": place, "msg": "field required", "type": "value_error.missing"} for place in missing]}
            )
        if query[parameter] not in script.models:
            return self._refuse(550 if script.dialect != "seed" else 422, "no such model: " + query[parameter])
        kept = self.peer.folder / f"{secrets.token_hex(8)}.input"
        body.rename(kept)
        upload = Upload(kept, upload.offset, upload.size, upload.fields)
        try:
            task = self.peer.add_task(query[parameter], upload)
        except UploadError as error:
            return self._refuse(422, str(error))
        self._json(200, _object(task) if script.dialect == "v2" else task.uid)

    def _poll(self, uid: str) -> None:
        script, task = self.peer.script, self.peer.tasks.get(uid)
        if script.dialect == "seed":
            if task is None or task.result is None or self._is_early(task):
                return self._json(404, {"detail": "TaskOutputZipNotFound"})
            return self._result(task.result)
        if task is None:
            return self._text_500() if script.dialect == "v2" else self._refuse(554, "no such task")
        if task.is_late:
            task.is_late = False
            return self._refuse(554, "no such task")
        if task.outcome == NEVER or self._is_early(task):
            return self._refuse(551, "the task is pending or running")
        if task.outcome == FAILED:
            return self._refuse(552, FAILURE)
        if task.outcome == LOST or task.result is None:
            return self._refuse(553, "the output is gone")
        self._result(task.result)

    def _is_early(self, task: ScriptedTask) -> bool:
        task.polls += 1
        return task.polls <= self.peer.script.polls

    def _delete(self, uid: str) -> None:
        if self.peer.tasks.pop(uid, None) is None:
            return self._text_500() if self.peer.script.dialect == "v2" else self._refuse(554, "no such task")
        self._json(200, uid)

    def _models(self) -> None:
        if not self._may():
            return self._json(401, {"detail": "Not authenticated"})
        rows = [{"id": i, "human_readable_id": name, "description": "scripted"} for i, name in enumerate(self.peer.script.models, start=1)]
        self._json(200, rows)

    def _may(self) -> bool:
        script = self.peer.script
        return script.dialect != "v2" or script.token is None or self.headers.get("X-Token") == script.token

    # -------------------------------------------------------- answers

    def _refuse(self, status: int, reason: str) -> None:
        nested = self.peer.script.dialect == "v1" and self.peer.script.keep_nesting
        self._json(status, {"detail": {"detail": reason}} if nested else {"detail": reason})

    def _text_500(self) -> None:
        self._answer(500, b"Internal Server Error", "text/plain; charset=utf-8")

    def _json(self, status: int, value: Any) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json")

    def _result(self, path: Path) -> None:
        size, tag = path.stat().st_size, f'"{path.stat().st_mtime_ns:x}"'
        kind = "application/x-tar" if self.peer.script.dialect == "v2" else "application/zip"
        headers: tuple[tuple[str, str], ...] = (("Accept-Ranges", "bytes"), ("ETag", tag)) if self.peer.script.ranges else ()
        start, asked = 0, self.headers.get("Range", "")
        if self.peer.script.ranges and asked and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers += (("Content-Range", f"bytes {start}-{size - 1}/{size}"),)
        self._send_head(206 if start else 200, size - start, kind, headers)
        with path.open("rb") as file:
            file.seek(start)
            self._send_body(iter(lambda: file.read(BLOCK), b""), size - start)

    def _answer(self, status: int, body: bytes, kind: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._send_head(status, len(body), kind, headers)
        if self.command != "HEAD":
            self._send_body(iter((body,)), len(body))

    def _send_head(self, status: int, size: int, kind: str, headers: tuple[tuple[str, str], ...]) -> None:
        self.send_response(status)
        is_short = self._fault is not None and self._fault.action == "short"
        self.send_header("Content-Length", str(max(size - 10, 0) if is_short else size))
        self.send_header("Content-Type", kind)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, blocks: Iterator[bytes], size: int) -> None:
        action = self._fault.action if self._fault else ""
        self.close_connection = self.close_connection or action in ("short", "break", "drip")
        left = size // 2 if action == "break" else size
        for block in blocks:
            if action == "drip" and self._fault:
                if not self._drip(block, self._fault.seconds):
                    return
                continue
            self.wfile.write(block[:left])
            left -= len(block[:left])
            if not left:
                return

    def _drip(self, block: bytes, seconds: float) -> bool:
        for value in block:
            self.wfile.write(bytes((value,)))
            if self.peer.stopping.wait(seconds):
                return False
        return True


def _object(task: ScriptedTask) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(0))
    return {
        "id": task.number, "uid": task.uid, "model_id": 1, "model": {"id": 1, "human_readable_id": task.model},
        "datetime_created": now, "datetime_dispatched": now, "datetime_finished": None, "input_tar": "input.tar", "output_tar": None,
        "status": {FAILED: 0, FINISHED: 1}.get(task.outcome, -1), "is_deleted": False,
    }  # fmt: skip


def _description(dialect: str) -> dict[str, Any]:
    parameter = "human_readable_id" if dialect == "v2" else "model_human_readable_id"
    paths: dict[str, Any] = {"/api/tasks/": {"post": {"parameters": [{"name": parameter, "in": "query", "required": True}]}}}
    if dialect == "v2":
        paths["/api/tasks/outputs/"] = {"get": {}}
    else:
        paths["/api/tasks/{uid}"] = {"get": {}, **({"delete": {}} if dialect == "v1" else {})}
    return {"openapi": "3.0.2", "info": {"title": "inference server"}, "paths": paths}
