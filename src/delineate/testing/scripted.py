"""Scripted inference servers: one per dialect, in this process, on the standard library alone.

They share no code with Delineate's own server or protocol modules, so that a client is tested against an
independent peer that behaves as the servers in use do: v1's row that is late by one poll, its doubly nested
``detail``, v2's tar with ``container.log``, its 500 for an unknown uid, headers on results that mean nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from delineate.testing.faults import Fault, FaultList
from delineate.testing.script import FINISHED, Script, ScriptedTask, Seen
from delineate.testing.scripted_archives import Upload, make_result
from delineate.testing.scripted_handler import ScriptedHandler


class ScriptedServer:
    """A scripted server on a free loopback port, running between ``with`` and its end.

    Parameters
    ----------
    script : how it behaves; faults : what goes wrong; tls : makes it speak TLS.

    Attributes
    ----------
    url : its address with the prefix; requests : what it has seen; faults : may be changed at any time;
    uploads : the archives posted, in order; handler : what answers, another one for another protocol.
    """

    handler: type[ScriptedHandler] = ScriptedHandler

    def __init__(self, script: Script, *faults: Fault, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.faults = FaultList(faults)
        self.requests: list[Seen] = []
        self.uploads: list[Upload] = []
        self.tasks: dict[str, ScriptedTask] = {}
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.open_sockets: set[socket.socket] = set()
        self._tls = tls
        self._folder = tempfile.TemporaryDirectory(prefix="scripted-")
        self._http: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def folder(self) -> Path:
        """Where it keeps uploads and results."""
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}{self.script.prefix}"

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Listen; after `stop` on the same port, with the tasks it had."""
        self.stopping.clear()
        http = _HTTPServer(("127.0.0.1", self._port), type("Handler", (self.handler,), {"peer": self}))
        if self._tls is not None:
            http.socket = self._tls.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        self._port = http.server_address[1]
        self._http = http
        self._thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from now on, and break those there are."""
        self.stopping.set()
        if self._http is None or self._thread is None:
            return
        self._http.shutdown()
        self._thread.join()
        with self.lock:
            for connection in self.open_sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._http = None

    def add_task(self, model: str, upload: Upload) -> ScriptedTask:
        """Take a task; its result is made at once and shown after `polls` polls."""
        outcome = self.script.models[model]
        uid = secrets.token_urlsafe(32)
        result = None
        if outcome == FINISHED:
            result = self.script.result or self.folder / f"{uid}.result"
            if self.script.result is None:
                make_result(upload, result, as_tar=self.script.dialect == "v2")
        with self.lock:
            task = ScriptedTask(uid, len(self.tasks) + 1, model, outcome, result)
            task.is_late = self.script.dialect == "v1" and self.script.late_row
            self.tasks[uid] = task
            self.uploads.append(upload)
        return task


@contextlib.contextmanager
def refusing_url() -> Iterator[str]:
    """An address where nothing listens: the port is taken, so that nobody else begins to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away, and handshakes that fail, are part of the play."""
