"""The MONAI Label API as clients of other makes speak it: forms, answers, and images that are there while a check runs."""

from __future__ import annotations

import gzip
import json
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from delineate.testing.conformance.plain import SIZE, NotAnnouncedError, Server, expect, fail, image

VOXELS: Final = SIZE[0] * SIZE[1] * SIZE[2]
LAYERS: Final = ".nii.gz"
OBJECT, TEXT, LIST, WHOLE, NUMBER = dict, str, list, int, (int, float)
TASK_STATES: Final = ("SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED")

_UINT8, _OFFSET = 2, 352

Kind = type | tuple[type, ...]


def mask(size: tuple[int, int, int] = SIZE) -> bytes:
    """A label map, ``.nii.gz``, on the grid of `image`: the first half of the voxels is 1."""
    head = bytearray(gzip.decompress(image(size))[:_OFFSET])
    struct.pack_into("<2h", head, 70, _UINT8, 8)
    count = size[0] * size[1] * size[2]
    return gzip.compress(bytes(head) + b"\1" * (count // 2) + bytes(count - count // 2), 1, mtime=0)


def picture(width: int = 64, height: int = 48) -> bytes:
    """A PNG in colour: purple discs on pink, as nuclei in a slide."""
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        for x in range(width):
            is_inside = (x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 < 20
            rows += bytes((70, 40, 130)) if is_inside else bytes((235, 190, 215))
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(rows))) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def new_name() -> str:
    """An id that nobody has."""
    return f"conformance-{uuid.uuid4().hex[:12]}"


# ---------------------------------------------------------------- answers


def read_json(answer: httpx.Response, what: str) -> Any:
    """The JSON of an answer with 200, sent as such."""
    expect(answer.status_code == 200, f"{what} was answered with {answer.status_code}: {answer.text[:200]}")
    kind = answer.headers.get("content-type", "")
    expect(kind.split(";")[0] == "application/json", f"{what} came as {kind!r}, not as application/json")
    return answer.json()


def expect_members(value: Any, what: str, needed: Mapping[str, Kind], allowed: Mapping[str, Kind] | None = None) -> None:
    """An object has members of these kinds; those of `allowed` may be missing or null."""
    expect(isinstance(value, dict), f"{what} is {type(value).__name__}, not an object")
    for name, kind in {**needed, **(allowed or {})}.items():
        if name not in needed and value.get(name) is None:
            continue
        expect(name in value, f"{what} has no {name}")
        # JSON's true is no number, although Python's is
        is_right = isinstance(value[name], kind) and not (isinstance(value[name], bool) and kind in (WHOLE, NUMBER))
        expect(is_right, f"{name} of {what} is {type(value[name]).__name__}")


def expect_refused(answer: httpx.Response, statuses: tuple[int, ...], what: str) -> None:
    """One of these statuses, and JSON whose ``detail`` says why."""
    expect(answer.status_code in statuses, f"{what} was answered with {answer.status_code}, not {' or '.join(map(str, statuses))}")
    try:
        detail = answer.json().get("detail")
    except (ValueError, AttributeError):
        fail(f"{what} was refused without a JSON body")
    expect(detail, f"{what} was refused without a reason in detail")


def expect_file(answer: httpx.Response, what: str) -> bytes:
    """A file, named by a quoted ``filename``."""
    expect(answer.status_code == 200, f"{what} was answered with {answer.status_code}: {answer.text[:200]}")
    disposition = answer.headers.get("content-disposition", "")
    expect('filename="' in disposition or "filename*=" in disposition, f"{what} came without a quoted file name: {disposition!r}")
    return answer.content


def expect_task(value: Any, what: str) -> None:
    """A task of training, scoring or batch inference."""
    expect_members(value, what, {"id": TEXT, "status": TEXT, "request": OBJECT, "start_ts": TEXT}, {"details": LIST, "exit_code": WHOLE})
    expect(value["status"] in TASK_STATES, f"status of {what} is {value['status']!r}, none of {', '.join(TASK_STATES)}")
    for name in ("start_ts", "end_ts"):
        words = value.get(name, "2000-01-01 00:00:00")
        expect(len(words) == 19 and words[10] == " ", f"{name} of {what} is {words!r}, not as 2000-01-31 12:00:00")


def parts_of(answer: httpx.Response) -> list[tuple[list[str], bytes]]:
    """The parts of a form that was answered: header lines and content, found by searching, as some clients do."""
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("multipart/form-data"), f"the answer came as {kind!r}, not as multipart/form-data")
    _, found, boundary = kind.partition("boundary=")
    expect(
        found and boundary and '"' not in boundary and ";" not in boundary, f"the boundary is quoted, or not the last parameter: {kind!r}"
    )
    pieces = answer.content.split(b"--" + boundary.strip().encode())
    expect(pieces[-1].strip() == b"--", "the form has no end")
    found_parts = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        found_parts.append((head.decode("utf-8", "replace").strip().split("\r\n"), content.removesuffix(b"\r\n")))
    return found_parts


# ---------------------------------------------------------------- what the server has


def info_of(server: Server) -> dict[str, Any]:
    """What it says of itself."""
    info = read_json(server.request("GET", "/info/"), "/info/")
    expect(isinstance(info, dict), "/info/ is no object")
    return dict(info)


def require_datastore(server: Server) -> None:
    """Leave the check out where there are no images to annotate."""
    if server.request("GET", "/datastore/").status_code == 404:
        raise NotAnnouncedError("the server has no datastore")


def form(data: bytes, field: str, params: Any = None, filename: str = "image.nii.gz") -> dict[str, Any]:
    """A form with a file and ``params``."""
    return {"params": (None, params if isinstance(params, str) else json.dumps(params or {})), field: (filename, data)}


@contextmanager
def stored_image(server: Server, name: str = "") -> Iterator[str]:
    """An image that is in the datastore meanwhile: its id."""
    require_datastore(server)
    wanted = name or new_name()
    answer = read_json(server.request("PUT", "/datastore/", {"image": wanted}, form(image(), "file")), "an upload")
    expect(answer == {"image": wanted}, f"an upload as {wanted} was answered with {answer}")
    try:
        yield wanted
    finally:
        server.request("DELETE", "/datastore/", {"id": wanted})


@contextmanager
def session(server: Server) -> Iterator[dict[str, Any]]:
    """A session of one image: the answer to its making."""
    answer = server.request("PUT", "/session/", files={"files": ("image.nii.gz", image())})
    if answer.status_code == 406:
        raise NotAnnouncedError("sessions are switched off")
    made = read_json(answer, "a new session")
    expect_members(made, "a new session", {"session_id": TEXT, "session_info": OBJECT})
    try:
        yield dict(made)
    finally:
        server.request("DELETE", f"/session/{made['session_id']}")
