"""A MONAI Label client stays small while an image goes up and a mask comes down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from delineate.testing.monai_label import LabelScript, ScriptedLabelServer

UP, DOWN = 120 << 20, 60 << 20
ALLOWED_MIB = 30

CLIENT = """
import asyncio, json, re, sys
from pathlib import Path
from delineate.monai_label import AsyncMONAILabelClient, MONAILabelClient

def peak():  # MiB
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def blocking(url, image, folder):
    with MONAILabelClient(url, folder) as client:
        client.info()
        before = peak()
        path, params = client.infer("threshold", "", {}, file=image)
    return before, peak(), Path(path).stat().st_size

async def awaited(url, image, folder):
    async with AsyncMONAILabelClient(url, folder) as client:
        await client.info()
        before = peak()
        path, params = await client.infer("threshold", "", {}, file=image)
    return before, peak(), Path(path).stat().st_size

kind, *arguments = sys.argv[1:]
print(json.dumps(blocking(*arguments) if kind == "blocking" else asyncio.run(awaited(*arguments))))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
def test_120_mb_up_and_60_down(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "large.nii"
    with image.open("wb") as file:
        file.truncate(UP)
    with ScriptedLabelServer(LabelScript(mask=bytes(DOWN))) as server:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, kind, server.url, str(image), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert len(server.forms[0].files[0][3]) == UP
    before, after, size = json.loads(done.stdout)
    assert size == DOWN
    assert after - before < ALLOWED_MIB, f"{after - before:.0f} MiB"
