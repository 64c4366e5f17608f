"""A client stays small while much goes up and comes down."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from delineate.testing.script import Script
from delineate.testing.scripted import ScriptedServer

MANY = 200 << 20
ALLOWED_MIB = 60

CLIENT = """
import asyncio, json, re, sys
from pathlib import Path
from delineate.client import AsyncClient, Client

def peak():  # MiB
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def blocking(url, image, target):
    with Client(url, interval=0.05) as client:
        client.models()
        before = peak()
        uid = client.submit(image, "noop")
        up = peak()
        client.fetch_archive(uid, target)
    return before, up, peak()

async def awaited(url, image, target):
    async with AsyncClient(url, interval=0.05) as client:
        await client.models()
        before = peak()
        uid = await client.submit(image, "noop")
        up = peak()
        await client.fetch_archive(uid, target)
    return before, up, peak()

kind, *arguments = sys.argv[1:]
print(json.dumps(blocking(*arguments) if kind == "sync" else asyncio.run(awaited(*arguments))))
"""


@pytest.mark.parametrize("dialect", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_200_mb_up_and_down(kind: str, dialect: str, tmp_path: Path) -> None:
    image, result = tmp_path / "large.nii.gz", tmp_path / "result"
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 512, 512, 400, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    for path, start in ((image, gzip.compress(bytes(header) + bytes(1 << 20))), (result, b"PK")):
        with path.open("wb") as file:  # what follows is a hole: neither side looks inside
            file.write(start)
            file.truncate(MANY)
    with ScriptedServer(Script(dialect=dialect, result=result)) as server:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, kind, server.url, str(image), str(tmp_path / "got")],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert server.uploads[0].size > MANY
    before, up, down = json.loads(done.stdout)
    assert (tmp_path / "got").stat().st_size == MANY
    assert up - before < ALLOWED_MIB
    assert down - before < ALLOWED_MIB
    print(f"{kind} {dialect}: idle {before:.0f} MiB, up +{up - before:.1f}, down +{down - before:.1f}")
