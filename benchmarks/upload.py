"""An upload of 500 MB over loopback into a file with its digest, beside what could be had without any of it.

Each receiver is an application on the same uvicorn (httptools, uvloop) in a process of its own; each sender runs in
this process. Each round takes all receivers in an order of its own, so that a slow moment meets all of them.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request

from delineate.protocols.messages import Body, FileBody, Part, multipart

Receiver = Callable[[Request], Awaitable[str]]


def _receivers(folder: Path) -> dict[str, Receiver]:
    from delineate.server.upload import Upload
    from delineate.store.blobs import BlobStore

    threads = ThreadPoolExecutor(4)
    stores = {"/ours": BlobStore(folder / "fast", sync=False), "/ours-sync": BlobStore(folder / "safe")}

    async def ours(request: Request) -> str:
        store = stores[request.url.path]
        async with Upload(store.incoming, threads, 1 << 40, frozenset({"zip_file", "tar_file"})) as upload:
            await upload.read(request)
            return await upload.finish(lambda writer: (writer.seal(), writer.digest)[1])

    async def form(request: Request) -> str:
        async with request.form() as fields:
            return str(len(fields))

    async def raw(request: Request) -> str:
        with (folder / "raw").open("wb", buffering=0) as file:
            async for chunk in request.stream():
                file.write(chunk)
            if request.url.path == "/raw-sync":
                os.fsync(file.fileno())
        (folder / "raw").unlink()
        return ""

    return {"/ours": ours, "/ours-sync": ours, "/form": form, "/raw": raw, "/raw-sync": raw}


def _serve(folder: Path, ready: Connection) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from delineate.server.upload import SWITCH_SECONDS

    sys.setswitchinterval(SWITCH_SECONDS)
    tempfile.tempdir = str(folder)
    receivers = _receivers(folder)

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(await receivers[request.url.path](request))

    app = Starlette(routes=[Route(path, endpoint, methods=["POST"]) for path in receivers])
    config = uvicorn.Config(app, port=0, http="httptools", loop="uvloop", log_level="warning", access_log=False)
    listener = config.bind_socket()
    listener.listen(16)  # from now on nobody is refused
    ready.send(listener.getsockname()[1])
    uvicorn.Server(config).run(sockets=[listener])


def _send_httpx(url: str, kind: str, body: Body) -> None:
    with httpx.Client(timeout=120, trust_env=False) as client:
        headers = {"content-type": kind, "content-length": str(body.length)}
        client.post(url, content=iter(body), headers=headers).raise_for_status()


def _send_http_client(url: str, kind: str, body: Body) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    headers = {"content-type": kind, "content-length": str(body.length)}
    connection.request("POST", parts.path, body=_blocks(body), headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{url}: {answer.status}")


def _blocks(body: Body) -> Iterator[bytes]:
    return iter(body)


SENDERS = {"httpx": _send_httpx, "http.client": _send_http_client}
NAMES = {
    "/raw": "raw body to disk",
    "/raw-sync": "raw body to disk, fsync",
    "/form": "Starlette form parsing (spooled, no digest)",
    "/ours": "ours: multipart, digest",
    "/ours-sync": "ours: multipart, digest, fsync",
}


def _measure(base: str, archive: Path, rounds: int) -> dict[tuple[str, str], float]:
    seconds: dict[tuple[str, str], list[float]] = {}
    draw = random.Random(0)
    for round_ in range(rounds + 1):
        for sender, send in SENDERS.items():
            for path in draw.sample([*NAMES], len(NAMES)):  # whoever comes after a heavy one is a little slower
                kind, body = multipart([Part("zip_file", FileBody(str(archive)), "task.zip", "application/zip")])
                if path.startswith("/raw"):
                    kind, body = "application/zip", FileBody(str(archive))
                os.sync()  # or one pays for what the one before left to be written
                begin = time.perf_counter()
                send(base + path, kind, body)
                if round_:  # the first is for warming up
                    seconds.setdefault((sender, path), []).append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in seconds.items()}


def main(arguments: list[str]) -> None:
    """All receivers with all senders; medians and ratios to the raw body."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="folder on the file system to measure (default: the temporary folder)")
    parser.add_argument("--mb", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): ours uses both cores, raw bodies one, so the ratio comes out too low")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="delineate-bench-", dir=options.dir) as name:
        folder = Path(name)
        archive = folder / "archive"
        with archive.open("wb") as file:
            for _ in range(options.mb):
                file.write(os.urandom(1_000_000))
        receiver, sender = context.Pipe(False)
        server = context.Process(target=_serve, args=(folder, sender), daemon=True)
        server.start()
        try:
            results = _measure(f"http://127.0.0.1:{receiver.recv()}", archive, options.rounds)
        finally:
            server.terminate()
            server.join()
    for sender_name in SENDERS:
        for path, label in NAMES.items():
            took = results[sender_name, path]
            ratio = results[sender_name, "/raw-sync" if path.endswith("-sync") else "/raw"] / took
            bar = "  (bar 0.80)" if path.startswith("/ours") else ""
            print(f"{sender_name:<12}{label:<46}{options.mb / took:7.0f} MB/s   ratio to raw {ratio:5.2f}{bar}")


if __name__ == "__main__":
    main(sys.argv[1:])
