"""Gzip of what is mostly zero: any reader gets back what was written, and the same always comes to the same bytes."""

from __future__ import annotations

import gzip
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti, sparse
from delineate.geometry import Geometry

STRETCH = 1 << 18
WORDS = np.random.default_rng(3).integers(0, 4, STRETCH, dtype=np.uint8).tobytes()


def packed(blocks: list[bytes]) -> bytes:
    file = io.BytesIO()
    sparse.write(blocks, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [b""],
        [bytes(STRETCH)],
        [bytes(5 * STRETCH)],
        [bytes(STRETCH - 1)],
        [b"\1" + bytes(STRETCH - 1)],
        [bytes(STRETCH - 1) + b"\1"],
        [b"header of some bytes", bytes(3 * STRETCH), WORDS, bytes(STRETCH), WORDS],
        [WORDS, WORDS, bytes(2 * STRETCH + 17), WORDS[:5]],
        [bytes(3) + WORDS + bytes(3 * STRETCH) + WORDS[:1]],
    ],
)
@pytest.mark.parametrize("has_isal", [True, False])
def test_what_was_written_comes_back(blocks: list[bytes], has_isal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_isal:
        monkeypatch.setattr(sparse, "isal_zlib", None)
    data = packed(blocks)
    assert gzip.decompress(data) == b"".join(blocks)
    assert packed(blocks) == data


def test_any_mixture_of_full_and_empty() -> None:
    chance = np.random.default_rng(11)
    for _ in range(40):
        blocks = []
        for _ in range(chance.integers(1, 7)):
            size = int(chance.integers(0, 3 * STRETCH))
            block = chance.integers(0, 3, size, dtype=np.uint8) if chance.random() < 0.5 else np.zeros(size, np.uint8)
            blocks.append(block.tobytes())
        assert gzip.decompress(packed(blocks)) == b"".join(blocks)


def test_a_tool_of_the_system_finds_one_sound_member(tmp_path: Path) -> None:
    labels = np.zeros((40, 512, 512), np.uint8)
    labels[7:9, 100:300, 50:60] = 3
    path = tmp_path / "labels.nii.gz"
    nifti.write_labels(path, labels, Geometry((512, 512, 40)))
    subprocess.run(["gzip", "--test", path], check=True)
    assert np.array_equal(nifti.read_labels(path)[0], labels)
    assert path.stat().st_size < 25_000
