"""STOW-RS against a server that answers as it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

pytest.importorskip("pydicom")

from delineate.dicom.parts import pydicom
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import StowSettings
from delineate.gateway.destinations import make
from delineate.testing.pacs import RTSTRUCT, SEG
from delineate.testing.ports import free_port

UIDS = ("1.2.3.1", "1.2.3.2")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    library = pydicom()
    paths = []
    for uid, sop_class in zip(UIDS, (RTSTRUCT, SEG), strict=True):
        data = library.Dataset()
        data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID, data.PatientID = sop_class, uid, "1.2.9", "--boundary\r\n"
        data.file_meta = library.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        paths.append(tmp_path / f"{uid}.dcm")
        library.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths


class Server:
    """Answers every request with one status and body, and keeps what came."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"")
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.drips = False
        self.ended = threading.Event()


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    with serving() as found:
        yield found


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.seen.append((self.path, dict(self.headers.items()), body))
            status, content = state.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            pieces = [content] if not state.drips else [content[at : at + 1] for at in range(len(content))]
            for piece in pieces:
                self.wfile.write(piece)
                if state.drips and state.ended.wait(0.05):
                    break

        def do_GET(self) -> None:
            """A head, and a body that does not come."""
            self.send_response(state.answer[0])
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            state.ended.wait(60)

        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=lambda: http.serve_forever(0.02))
    thread.start()
    yield state, f"{'https' if tls else 'http'}://127.0.0.1:{http.server_address[1]}/web"
    http.shutdown()
    thread.join()
    http.server_close()


def answer(stored: dict[str, int], failed: dict[str, int]) -> bytes:
    def items(codes: dict[str, int], tag: str) -> dict[str, Any]:
        more = {uid: {tag: {"vr": "US", "Value": [code]}} if code else {} for uid, code in codes.items()}
        return {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}, **more[uid]} for uid in codes]}

    lists = {"00081199": items(stored, "00081196"), "00081198": items(failed, "00081197")}
    return json.dumps({tag: value for tag, value in lists.items() if value["Value"]}).encode()


def test_all_files_go_in_one_request_as_they_are(server: tuple[Server, str], files: list[Path]) -> None:
    state, url = server
    state.answer = 200, answer(dict.fromkeys(UIDS, 0), {})
    notes: list[str] = []
    make(StowSettings(name="web", url=url)).deliver(files, notes)
    ((path, headers, body),) = state.seen
    assert path == "/web/studies" and headers["Accept"] == "application/dicom+json" and not notes
    kind, _, boundary = headers["Content-Type"].rpartition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    parts = body.split(f"--{boundary}".encode())
    assert parts[0] == b"" and parts[-1] == b"--\r\n"
    contents = [part.removeprefix(b"\r\nContent-Type: application/dicom\r\n\r\n").removesuffix(b"\r\n") for part in parts[1:-1]]
    assert contents == [path.read_bytes() for path in files]


def test_secrets_are_read_anew_for_each_delivery(server: tuple[Server, str], files: list[Path], tmp_path: Path) -> None:
    state, url = server
    state.answer = 200, answer(dict.fromkeys(UIDS, 0), {})
    secret = tmp_path / "secret"
    place = make(StowSettings(name="web", url=url, token_file=secret))
    for text in ("one", "two\n"):
        secret.write_text(text)
        place.deliver(files)
    make(StowSettings(name="web", url=url, user="node", password_file=secret)).deliver(files)
    assert [headers["Authorization"] for _, headers, _ in state.seen] == ["Bearer one", "Bearer two", "Basic bm9kZTp0d28="]
    secret.unlink()
    with pytest.raises(DeliveryError, match="cannot be read") as caught:
        place.deliver(files)
    assert not caught.value.is_final and len(state.seen) == 3


def test_whether_it_is_there_the_head_of_an_answer_says(server: tuple[Server, str]) -> None:
    state, url = server
    place = make(StowSettings(name="web", url=url))
    try:
        for state.answer in ((200, b""), (404, b"")):
            place.ask()
        state.answer = 401, b""
        with pytest.raises(DeliveryError, match="web"):
            place.ask()
    finally:
        state.ended.set()


def test_warnings_are_kept(server: tuple[Server, str], files: list[Path]) -> None:
    state, url = server
    state.answer = 202, answer({UIDS[0]: 0xB000, UIDS[1]: 0}, {})
    notes: list[str] = []
    make(StowSettings(name="web", url=url)).deliver(files, notes)
    assert notes == ["web took RT Structure Set with a warning: attributes were changed (0xB000)"]
    state.answer = 409, answer({UIDS[0]: 0}, {UIDS[1]: 0x0111})
    make(StowSettings(name="web", url=url)).deliver(files)
    for silent in (b"", b"{}", b"[]"):
        state.answer = 200, silent
        make(StowSettings(name="web", url=url)).deliver(files, notes)
        assert "without saying what became of each object" in notes.pop()


@pytest.mark.parametrize(
    ("status", "content", "words", "is_final"),
    [
        (409, answer({}, {UIDS[0]: 0xA900, UIDS[1]: 0xC000}), "Segmentation was refused: it was not understood (0xC000)", True),
        (202, answer({UIDS[0]: 0}, {UIDS[1]: 0x0122}), "does not take objects of this class (0x0122)", True),
        (202, answer({UIDS[0]: 0}, {UIDS[1]: 0xA700}), "resources are used up (0xA700)", False),
        (200, answer({UIDS[0]: 0}, {}), "the answer says nothing of Segmentation", False),
        (200, b"<html>log in</html>", "something else than DICOM", False),
        (200, b"[" * 100_000, "something else than DICOM", False),
        (202, answer({}, {UIDS[0]: 31337}).replace(b"31337", b"Infinity"), "answered 202", False),
        (401, b"", "another or any token", False),
        (404, b"", "answered 404", False),
        (413, b"", "it is too large", True),
        (415, b"", "does not take DICOM files", True),
        (503, b"", "answered 503", False),
        (202, b"{}", "answered 202", False),
        (409, b"[" * 100_000, "answered 409", False),
        (200, b"x" * (17 << 20), "the answer has no end", False),
    ],
)
def test_what_went_wrong_is_told_apart(
    server: tuple[Server, str], files: list[Path], status: int, content: bytes, words: str, is_final: bool
) -> None:
    state, url = server
    state.answer = status, content
    with pytest.raises(DeliveryError) as caught:
        make(StowSettings(name="web", url=url)).deliver(files)
    assert words in caught.value.message and caught.value.is_final is is_final and caught.value.advice
    assert not any(uid in caught.value.sentence() for uid in UIDS)


def test_an_answer_that_drips_is_given_up(server: tuple[Server, str], files: list[Path]) -> None:
    state, url = server
    state.answer, state.drips = (200, answer(dict.fromkeys(UIDS, 0), {})), True
    try:
        with pytest.raises(DeliveryError, match="the answer has no end") as caught:
            make(StowSettings(name="web", url=url, timeout=0.5)).deliver(files)
    finally:
        state.ended.set()
    assert not caught.value.is_final


def test_a_server_that_is_not_there_is_tried_again(files: list[Path]) -> None:
    with pytest.raises(DeliveryError, match="nothing listens there") as caught:
        make(StowSettings(name="web", url=f"http://127.0.0.1:{free_port()}")).deliver(files)
    assert not caught.value.is_final


def test_a_private_authority_is_trusted_where_it_is_named_and_no_other(files: list[Path], tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "another.pem"))
    with serving(context) as (state, url):
        state.answer = 200, answer(dict.fromkeys(UIDS, 0), {})
        for ca_file in (None, tmp_path / "another.pem"):
            with pytest.raises(DeliveryError, match=r"certificate of https://127.0.0.1.* could not be verified") as caught:
                make(StowSettings(name="web", url=url, ca_file=ca_file)).deliver(files)
            assert not caught.value.is_final and not state.seen
        make(StowSettings(name="web", url=url, ca_file=tmp_path / "ours.pem")).deliver(files)
        assert len(state.seen) == 1
