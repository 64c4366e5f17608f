"""Plain HTTP as clients of other makes speak it, and small archives by the standard library: no code of ours in between."""

from __future__ import annotations

import gzip
import io
import json
import ssl
import struct
import tarfile
import time
import unittest
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx

SIZE: Final = (9, 7, 5)  # x, y, z: all different, so that swapped axes show
SPACING: Final = (1.0, 1.5, 2.0)
PATIENCE: Final = 60.0  # seconds a small task may take
NOBODY: Final = ("nobody-was-ever-given-this-uid" + "-" * 43)[:43]

_HEADER, _OFFSET, _INT16 = 348, 352, 4


class NotConformingError(AssertionError):
    """The server does something else than the protocol says."""


class NotAnnouncedError(unittest.SkipTest):
    """The server does not say that it has what is to be checked: the check is left out, in pytest skipped."""


def expect(condition: object, detail: str) -> None:
    """`NotConformingError` with `detail` unless the condition holds."""
    if not condition:
        fail(detail)


def fail(detail: str) -> NoReturn:
    """Say what is not as it should be."""
    raise NotConformingError(detail)


@dataclass(frozen=True)
class Server:
    """A server under test.

    url : with its prefix; model : a name on it of a model that takes one image and ends soon; token : where it wants one;
    ca_file : PEM file of a private authority.
    """

    url: str
    model: str = "noop"
    token: str | None = None
    patience: float = PATIENCE
    ca_file: Path | None = None

    def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, files: Any = None, with_token: bool = True, **body: Any
    ) -> httpx.Response:
        """One request; `path` goes out as it is, dots and escapes included. Redirects are not followed.

        body : what httpx takes beside files: ``content``, ``data``, ``json``.
        """
        base = httpx.URL(self.url.rstrip("/"))
        target = httpx.QueryParams(dict(query or {}))
        raw = base.raw_path.rstrip(b"/") + path.encode("ascii") + (f"?{target}".encode() if query else b"")
        headers = {"X-Token": self.token, "Authorization": f"Bearer {self.token}"} if self.token and with_token else {}
        headers.update(body.pop("headers", {}))
        # Loading the authorities takes longer than most requests; plain HTTP needs none.
        verify = base.scheme == "https" and ssl.create_default_context(cafile=self.ca_file)
        with httpx.Client(timeout=self.patience, trust_env=False, verify=verify) as client:
            return client.request(method, base.copy_with(raw_path=raw), headers=headers, files=files, **body)

    def post(self, parameter: str, field: str, archive: bytes, model: str | None = None, filename: str = "input.zip") -> httpx.Response:
        """Post a task as a form of one file."""
        name = self.model if model is None else model
        return self.request("POST", "/api/tasks/", {parameter: name}, {field: (filename, archive, "application/octet-stream")})

    def settled(self, path: str, query: Mapping[str, str] | None, waiting: Mapping[int, int]) -> httpx.Response:
        """Poll until the answer is none that means waiting.

        waiting : status → how often it may come, -1 for ever; anything else ends the polling and is returned.
        """
        left = dict(waiting)
        end = time.monotonic() + self.patience
        pause = 0.02
        while time.monotonic() < end:
            answer = self.request("GET", path, query)
            if not left.get(answer.status_code):
                return answer
            left[answer.status_code] -= 1
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        fail(f"the task of model {self.model} did not end within {self.patience:g} s")


def image(size: tuple[int, int, int] = SIZE) -> bytes:
    """An int16 ``.nii.gz`` as a workstation writes it: spacing only; each voxel holds its own index."""
    x, y, z = size
    header = bytearray(_OFFSET)
    struct.pack_into("<i", header, 0, _HEADER)
    struct.pack_into("<8h", header, 40, 3, x, y, z, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _INT16, 16)
    struct.pack_into("<8f", header, 76, 1, *SPACING, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, _OFFSET)
    header[123] = 2  # mm
    header[344:348] = b"n+1\0"
    voxels = struct.pack(f"<{x * y * z}h", *range(x * y * z))
    return gzip.compress(bytes(header) + voxels, 1, mtime=0)


def request_entries(dialect: str, factor: tuple[int, int, int] = (1, 1, 1)) -> dict[str, bytes]:
    """The files of a request archive with one image, with the metadata of the dialect."""
    meta: dict[str, Any] = {"scaling_factor": list(factor), "spacing": list(SPACING)}
    if dialect != "seed":
        meta |= {"origin": [0.0, 0.0, 0.0], "direction": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]}
    name = "meta.json" if dialect == "seed" else "tmp_0000.meta.json"
    return {"tmp_0000.nii.gz": image(), name: json.dumps(meta).encode()}


def zipped(entries: Mapping[str, bytes]) -> bytes:
    """Files as a zip of stored entries."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return packed.getvalue()


def tarred(entries: Mapping[str, bytes], mode: str = "w") -> bytes:
    """Files as a tar, ``w:gz`` to compress it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    """The files of a zip, read as old clients do."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            expect(file.testzip() is None, "an entry of the result is damaged")
            return {name: file.read(name) for name in file.namelist()}
    except zipfile.BadZipFile as error:
        fail(f"the result is not a zip: {error}")


def untarred(data: bytes) -> dict[str, bytes]:
    """The files of a plain tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as file:
            found = {}
            for member in file:
                stream = file.extractfile(member)
                expect(stream is not None, f"{member.name} in the result is not a file")
                found[member.name] = stream.read() if stream else b""
            return found
    except tarfile.TarError as error:
        fail(f"the result is not a plain tar: {error}")


def expect_label_maps(entries: Mapping[str, bytes], factor: tuple[int, int, int] = (1, 1, 1)) -> None:
    """What a client of any age needs of a result: pairs of label map and names, on the image's or the contour grid, flat."""
    names = [name for name in entries if name.endswith(".json")]
    expect(any(name.endswith(".nii.gz") for name in entries), f"the result has no label map, only {sorted(entries)}")
    for name in entries:
        expect("/" not in name and "\\" not in name, f"{name} is in a folder; old clients look at the top only")
    for name in names:
        twin = name[: -len(".json")] + ".nii.gz"
        expect(twin in entries, f"{name} has no {twin}: old clients fail the whole result")
        labels = json.loads(entries[name])
        expect(isinstance(labels, dict) and labels, f"{name} names no label")
        expect(all(str(k).isdigit() and isinstance(v, str) and v for k, v in labels.items()), f"{name} is not {{label: name}}")
        _expect_grid(twin, entries[twin], factor)


def _expect_grid(name: str, data: bytes, factor: tuple[int, int, int]) -> None:
    try:
        head = gzip.decompress(data)[:_HEADER]
        dimensions = struct.unpack_from("<8h", head, 40)
    except (OSError, EOFError, struct.error) as error:
        fail(f"{name} is not a .nii.gz: {error}")
    found = tuple(dimensions[1:4])
    wanted = {SIZE, tuple(n * f for n, f in zip(SIZE, factor, strict=True))}
    expect(found in wanted, f"{name} has {found} voxels, the image {SIZE}")


def detail_of(answer: httpx.Response) -> str:
    """The reason in an error, in either nesting of ``detail``."""
    try:
        body = answer.json()
    except ValueError:
        fail(f"status {answer.status_code} came without a JSON body")
    for _ in range(2):
        if isinstance(body, dict) and "detail" in body:
            body = body["detail"]
    expect(isinstance(body, str | list) and body, f"status {answer.status_code} came without a reason in detail")
    return body if isinstance(body, str) else json.dumps(body)
