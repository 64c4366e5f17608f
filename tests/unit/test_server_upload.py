from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from starlette.requests import ClientDisconnect, Request

from delineate.errors import ArchiveError, ArchiveLimitError, InputError, StorageFullError
from delineate.protocols.messages import Body, Part, multipart
from delineate.server.upload import BUFFER, FIELD_BYTES, PARTS, Upload
from delineate.store.blobs import BlobStore
from delineate.store.writer import BlobWriter

FIELDS = frozenset({"zip_file", "tar_file"})


def request(chunks: Iterable[bytes], kind: str, length: int | None = None, *, cut: bool = False) -> Request:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    headers = [(b"content-type", kind.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return Request({"type": "http", "method": "POST", "headers": headers, "path": "/", "query_string": b""}, receive)


def form(data: bytes, field: str = "zip_file", extra: Iterable[Part] = ()) -> tuple[str, bytes]:
    kind, body = multipart([*extra, Part(field, Body(data), "a.zip", "application/zip")])
    return kind, b"".join(body)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


class Bench:
    def __init__(self, folder: Path, limit: int = 1 << 30) -> None:
        self.store = BlobStore(folder, sync=False)
        self.folder = folder
        self.limit = limit
        self.fields: dict[str, str] = {}
        self.field = ""

    def take(self, sent: Request) -> bytes:
        """What arrived in the file; kept nowhere."""

        async def go() -> bytes:
            with ThreadPoolExecutor(2) as threads:
                async with Upload(self.store.incoming, threads, self.limit, FIELDS) as upload:
                    await upload.read(sent)
                    self.fields, self.field = dict(upload.fields), upload.file_field
                    return await upload.finish(check)

        return asyncio.run(go())

    def left(self) -> list[str]:
        return os.listdir(self.folder / "incoming")


def check(writer: BlobWriter) -> bytes:
    data = writer.path.read_bytes()
    assert writer.size == len(data)
    assert writer.digest == blake3(data).hexdigest()
    return data


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "blobs")


@pytest.mark.parametrize("size", [1, 100, BUFFER - 1, BUFFER, 3 * BUFFER + 17])
@pytest.mark.parametrize("piece", [65536, 1 << 20])
def test_every_byte_arrives(bench: Bench, size: int, piece: int) -> None:
    data = os.urandom(size)
    kind, body = form(data)
    assert bench.take(request(pieces(body, piece), kind, len(body))) == data
    assert bench.field == "zip_file"
    assert bench.left() == []


def test_boundaries_may_be_cut_anywhere(bench: Bench) -> None:
    data = b"\r\n--delineate-" * 20 + b"\r\n-" + b"\r" * 7
    kind, body = form(data, "tar_file", [Part("prompts", Body(b'{"a": 1}'))])
    for piece in (1, 2, 3, 7, 50):
        assert bench.take(request(pieces(body, piece), kind)) == data
        assert bench.fields == {"prompts": '{"a": 1}'}


@pytest.mark.parametrize("kind", ["application/zip", "application/x-tar", "application/gzip", "application/octet-stream; x=y"])
def test_a_raw_body(bench: Bench, kind: str) -> None:
    data = os.urandom(2 * BUFFER + 5)
    assert bench.take(request(pieces(data, 100_000), kind)) == data


def test_form_of_an_old_client_without_filename(bench: Bench) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="zip_file"\r\n\r\nPK\r\n--x--\r\n'
    assert bench.take(request([body], "multipart/form-data; boundary=x")) == b"PK"


BAD = {
    "no content type": (b"PK", "", InputError, "no file"),
    "JSON": (b"{}", "application/json", InputError, "no file"),
    "no boundary": (b"", "multipart/form-data", InputError, "boundary"),
    "nothing": (b"", "multipart/form-data; boundary=x", InputError, "no file"),
    "no parts": (b"--x--\r\n", "multipart/form-data; boundary=x", InputError, "no file|broken"),
    "not multipart": (b"hello", "multipart/form-data; boundary=x", InputError, "broken"),
    "empty raw": (b"", "application/zip", ArchiveError, "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bodies_that_hold_no_file(bench: Bench, name: str) -> None:
    body, kind, error, word = BAD[name]
    with pytest.raises(error, match=word):
        bench.take(request([body], kind))
    assert bench.left() == []


def test_wrong_field_is_named(bench: Bench) -> None:
    kind, body = form(b"PK", "image")
    with pytest.raises(InputError, match="'image'") as caught:
        bench.take(request([body], kind))
    assert "zip_file or tar_file" in caught.value.advice


def test_two_files_are_refused(bench: Bench) -> None:
    kind, body = form(b"PK", "zip_file", [Part("tar_file", Body(b"PK"), "b.tar")])
    with pytest.raises(InputError, match="more than one"):
        bench.take(request([body], kind))


def test_empty_file_in_the_form(bench: Bench) -> None:
    kind, body = form(b"")
    with pytest.raises(ArchiveError, match="empty"):
        bench.take(request([body], kind))


@pytest.mark.parametrize("where", [10, 200, BUFFER + 300, -1, -40])
def test_a_form_that_ends_early(bench: Bench, where: int) -> None:
    kind, body = form(os.urandom(2 * BUFFER))
    cut = body[:where].removesuffix(b"--\r")
    with pytest.raises(InputError, match=r"cut off|broken"):
        bench.take(request(pieces(cut if where != -1 else body[:-4], 65536), kind))
    assert bench.left() == []


@pytest.mark.parametrize("size", [100, 5 * BUFFER])
def test_a_sender_that_goes_away_leaves_nothing(bench: Bench, size: int) -> None:
    kind, body = form(os.urandom(size))
    with pytest.raises(ClientDisconnect):
        bench.take(request(pieces(body[: size // 2], 65536), kind, cut=True))
    assert bench.left() == []


def test_over_the_limit_announced_or_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "b", limit=2 << 20)
    kind, body = form(bytes(3 << 20))
    for length in (len(body), None):
        with pytest.raises(ArchiveLimitError, match=r"2 MiB \(max_upload_mb\)"):
            bench.take(request(pieces(body, 65536), kind, length))
    assert bench.left() == []


def test_fields_have_a_limit(bench: Bench) -> None:
    kind, body = form(b"PK", extra=[Part("prompts", Body(bytes(FIELD_BYTES + 1)))])
    with pytest.raises(ArchiveLimitError, match="fields"):
        bench.take(request(pieces(body, 65536), kind))


def test_parts_have_a_limit(bench: Bench) -> None:
    kind, body = form(b"PK", extra=[Part(f"field{number}", Body(b"")) for number in range(PARTS)])
    with pytest.raises(ArchiveLimitError, match="256 parts"):
        bench.take(request([body], kind))
    assert bench.left() == []


def test_more_than_announced(bench: Bench) -> None:
    with pytest.raises(InputError, match="longer"):
        bench.take(request([bytes(1000)], "application/zip", 10))


def test_encoded_bodies_are_refused(bench: Bench) -> None:
    sent = request([b"x"], "application/zip")
    sent.scope["headers"].append((b"content-encoding", b"gzip"))
    with pytest.raises(InputError, match="encoding"):
        bench.take(sent)


class Slow:
    """A writer that shows how far ahead of it the receiver runs."""

    def __init__(self) -> None:
        self.size = 0
        self.discarded = False
        self.gate = threading.Event()

    def write(self, data: memoryview, /) -> int:
        self.gate.wait(60)
        self.size += len(data)
        return len(data)

    def discard(self) -> None:
        self.discarded = True


def test_a_slow_disk_slows_the_sender_down() -> None:
    writer, sent = Slow(), []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(400):
            sent.append(1)
            yield bytes(65536)

    class Sent(Request):
        def stream(self) -> AsyncIterator[bytes]:
            return chunks()

    async def go() -> None:
        with ThreadPoolExecutor(1) as threads:
            async with Upload(lambda: writer, threads, 1 << 30, FIELDS) as upload:
                reading = asyncio.create_task(upload.read(Sent(request([], "application/zip").scope)))
                await asyncio.sleep(0.2)
                assert len(sent) * 65536 <= 2 * (BUFFER + 65536)
                writer.gate.set()
                await reading
                assert await upload.finish(lambda done: done.size) == 400 * 65536

    asyncio.run(go())
    assert writer.discarded


def test_a_full_disk_is_told_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: BlobWriter, data: object) -> int:
        self.discard()
        raise StorageFullError("no space left")

    monkeypatch.setattr(BlobWriter, "write", full)
    kind, body = form(os.urandom(4 * BUFFER))
    with pytest.raises(StorageFullError):
        bench.take(request(pieces(body, 65536), kind))
    assert bench.left() == []


def test_cancelled_while_finishing_waits_for_the_thread(bench: Bench) -> None:
    began = threading.Event()

    def slow(writer: BlobWriter) -> None:
        began.set()
        time.sleep(0.2)
        writer.write(b"more")  # would fail if the file were gone already

    async def go() -> None:
        with ThreadPoolExecutor(1) as threads:
            async with Upload(bench.store.incoming, threads, 1 << 30, FIELDS) as upload:
                await upload.read(request([b"PK"], "application/zip"))
                finishing = asyncio.create_task(upload.finish(slow))
                while not began.is_set():
                    await asyncio.sleep(0.01)
                finishing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await finishing

    asyncio.run(go())
    assert bench.left() == []
