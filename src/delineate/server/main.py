"""The server's process: data folder locked, database brought up to date, workers started, requests answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import uvicorn
from fastapi import FastAPI

from delineate.engines.local import LocalEngine
from delineate.errors import SettingsError
from delineate.server.app import create_app
from delineate.server.bounded_http import BoundedHttp
from delineate.server.data_lock import locked
from delineate.server.monai_label.annotation import image_folders
from delineate.server.service import archive_limits
from delineate.server.settings import Settings, is_safe_address
from delineate.server.upload import SWITCH_SECONDS
from delineate.store.database import Database

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; prints one line on standard output when it is ready.

    Raises
    ------
    SettingsError
        The port is taken, another server runs on the data folder, or certificate and key cannot be used.
    StoreError
        The data folder or database cannot be used.
    """
    _log_to_stderr(settings.log_level)
    _require_certificate(settings)
    warn_if_open(settings)
    # uvicorn raises the signal that stopped it once more when it is done: it must not end the process before the workers are stopped.
    signal.signal(signal.SIGTERM, _leave)
    sys.setswitchinterval(SWITCH_SECONDS)
    with locked(settings.data), contextlib.closing(_listen(settings.host, settings.port)) as listener:
        Database(settings.database_url, sync=settings.sync).migrate()
        engine = _engine(settings)
        app = create_app(settings, engine)
        engine.on_settled(app.state.watcher.poke)
        # Workers take a second to import what they need; the first answer does not wait for them.
        engine.start()
        try:
            _Server(_config(app, settings), app, lambda: _say_ready(settings, listener)).run(sockets=[listener])
        finally:
            engine.stop(settings.grace)


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def run_workers(settings: Settings, stop: threading.Event, on_ready: Callable[[], None]) -> None:
    """Run workers alone, on the data folder of a server, until `stop` is set."""
    _log_to_stderr(settings.log_level)
    database = Database(settings.database_url, sync=settings.sync)
    database.migrate()
    database.close()
    engine = _engine(settings)
    engine.start()
    try:
        on_ready()
        stop.wait()
    finally:
        engine.stop(settings.grace)


def _engine(settings: Settings) -> LocalEngine:
    return LocalEngine(
        settings.data, settings.models, settings.workers, settings.devices, settings.worker_memory_mb,
        database=settings.database, runner_parameters=settings.runners, log_level=settings.log_level, sync=settings.sync,
        limits=asdict(archive_limits(settings)), roots=image_folders(settings),
    )  # fmt: skip


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app, http=BoundedHttp, loop=_loop(), ws="none", log_config=None, access_log=False, proxy_headers=False, server_header=False,
        timeout_keep_alive=75, timeout_graceful_shutdown=max(1, int(settings.grace)), lifespan="on",
        ssl_certfile=settings.tls_certificate, ssl_keyfile=settings.tls_key,
    )  # fmt: skip


def _loop() -> Literal["asyncio", "uvloop"]:
    return "asyncio" if sys.platform == "win32" else "uvloop"


class _Server(uvicorn.Server):
    """Says when it is ready; ends long polls before it waits for open connections."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, say_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._say_ready = say_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.watcher.close()
        await asyncio.sleep(0)
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        listener = socket.socket(family, kind, number)
    except OSError as error:
        raise SettingsError(
            f"the address {host} cannot be used: {error.strerror or error}", "Give --host an address of this machine."
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
        return listener
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port {port} of {host} cannot be used: {error.strerror}", "Choose another with --port; --port 0 takes any free one."
        ) from None


def warn_if_open(settings: Settings) -> None:
    """Say so in the log where a server on the network knows nobody, or where passwords may be overheard."""
    is_known = settings.dicomweb_token_file is not None or settings.dicomweb_password_file is not None
    if settings.dicomweb and is_known and not is_safe_address(settings.dicomweb):
        _log.warning("the DICOMweb server's token or password goes there without TLS: give an https address")
    if settings.is_loopback:
        return
    if not settings.has_accounts:
        _log.warning("everybody who reaches %s, port %d, can post tasks: set a token (docs/server.md)", settings.host, settings.port)
    elif settings.accounts != "off" and settings.tls_certificate is None:
        _log.warning("passwords and tokens come to %s, port %d, without TLS (docs/accounts.md)", settings.host, settings.port)


def _require_certificate(settings: Settings) -> None:
    """Certificate and key fit: uvicorn says neither which file it means nor what to do."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None:
        return
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        if path is not None and not path.is_file():
            raise SettingsError(f"there is no file {path}", f"Check the setting {name}.")
    try:
        # An empty password in place of a question that nobody would answer.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError among them
        reason = f" ({error.reason})" if isinstance(error, ssl.SSLError) and error.reason else ""
        raise SettingsError(
            f"the certificate {certificate} and the key {key} cannot be used{reason}",
            "Give PEM files that belong together and can be read: the certificate with its chain, the key without a password.",
        ) from None


def _say_ready(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_certificate else "http"
    shown = f"[{host}]" if ":" in host else host
    print(f"delineate: ready at {scheme}://{shown}:{port}", flush=True)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("python_multipart", "uvicorn.error", "asyncio"):  # they tell of strangers' broken requests, with their bytes
        logging.getLogger(name).setLevel(max(logging.ERROR if name == "python_multipart" else logging.WARNING, logging.root.level))
