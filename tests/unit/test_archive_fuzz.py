"""Truncated and altered archives: an error of ours or an honest answer, and never a byte outside the folder."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delineate.errors import ArchiveError, GeometryError, ImageError
from delineate.geometry import Geometry
from delineate.protocols.archive import ArchiveReader, ResultWriter, read_result, request_images, tar_view

GRID = Geometry((5, 4, 3), (1.0, 2.0, 3.0))
KINDS = ("stored.zip", "deflated.zip", "plain.tar", "packed.tar.gz")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One result as each kind of archive."""
    folder = tmp_path_factory.mktemp("originals")
    labels = (np.arange(60) % 3).astype(np.uint8).reshape(GRID.shape)
    with ResultWriter(folder / "stored.zip") as writer:
        writer.add_layer("organs", labels, GRID, {1: "Heart", 2: "Liver"})
        writer.add_layer("sub/more", labels, GRID, {1: "Spleen"})
        writer.add_text("container.log", "done\n" * 100)
    with zipfile.ZipFile(folder / "stored.zip") as source, zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    tar = b"".join(tar_view(folder / "stored.zip"))
    (folder / "plain.tar").write_bytes(tar)
    (folder / "packed.tar.gz").write_bytes(gzip.compress(tar))
    return {name: (folder / name).read_bytes() for name in KINDS}


def everything(path: Path, folder: Path) -> list[str]:
    """All that may be done with a stranger's archive; the kinds of errors that came."""
    errors = []
    for action in (
        lambda: ArchiveReader(path).extract(folder),
        lambda: request_images(ArchiveReader(path)),
        lambda: [ArchiveReader(path).read(name) for name in ArchiveReader(path).names()],
        lambda: read_result(path, GRID),
        lambda: tar_view(path),
    ):
        try:
            action()
        except (ArchiveError, ImageError, GeometryError) as error:
            errors.append(type(error).__name__)
            assert error.message.isprintable() and len(error.message) < 600
    return errors


def only_inside(tmp_path: Path, path: Path) -> None:
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "out"}
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere(originals: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    """At every structural boundary, beside each, and at places between: no part passes for the whole."""
    whole = originals[kind]
    cuts = {0, 1, len(whole) - 1, *range(0, len(whole), 97)}
    for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"):
        found = whole.find(mark)
        while found >= 0:
            cuts |= {found, found + 4, found + 29, found + 30, found + 46}
            found = whole.find(mark, found + 1)
    if kind == "plain.tar":
        cuts |= {n + d for n in range(0, len(whole) - 1024, 512) for d in (-1, 0, 1) if n + d >= 0}
        cuts = {cut for cut in cuts if cut < len(whole) - 512}  # one of two end marks is enough
    path = tmp_path / kind
    for cut in sorted(cut for cut in cuts if cut < len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArchiveError):
            ArchiveReader(path).extract(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    only_inside(tmp_path, path)


@pytest.mark.parametrize("kind", KINDS)
def test_altered_bytes(originals: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    path = tmp_path / kind
    refused = 0
    for _ in range(120):
        raw = bytearray(originals[kind])
        for _ in range(chance.choice((1, 1, 1, 4, 40))):
            raw[chance.randrange(len(raw))] = chance.choice((0, 0xFF, chance.randrange(256)))
        path.write_bytes(raw)
        refused += bool(everything(path, tmp_path / "out"))
        only_inside(tmp_path, path)
    assert refused > 30


@pytest.mark.parametrize("kind", KINDS)
def test_altered_headers(originals: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    """Alterations aimed at the structures: tar headers with a right checksum, the tail of a zip."""
    chance = random.Random(kind)
    path = tmp_path / kind
    base = gzip.decompress(originals[kind]) if kind == "packed.tar.gz" else originals[kind]
    for _ in range(120):
        raw = bytearray(base)
        if kind.endswith(".zip"):
            first = raw.find(b"PK\x01\x02")
            raw[chance.randrange(first, len(raw))] = chance.choice((0, 0xFF, chance.randrange(256)))
        else:
            start = chance.choice([n for n in range(0, len(raw), 512) if raw[n + 257 : n + 262] == b"ustar"])
            raw[start + chance.randrange(512)] = chance.choice((0, 0x80, 0xFF, *b"LKxgSX57120-", chance.randrange(256)))
            header = raw[start : start + 512]
            raw[start + 148 : start + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
        path.write_bytes(gzip.compress(raw, 1) if kind == "packed.tar.gz" else raw)
        everything(path, tmp_path / "out")
        only_inside(tmp_path, path)
    assert path.exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12), max_size=4), packed=st.booleans())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_names_stay_inside(tmp_path: Path, names: list[str], packed: bool) -> None:
    path = tmp_path / "any"
    if packed:
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 1
                archive.addfile(info, io.BytesIO(b"x"))
    else:
        with zipfile.ZipFile(path, "w") as zipped:
            for name in names:
                zipped.writestr(zipfile.ZipInfo(name), b"" if name.endswith("/") else b"x")
    try:
        extracted = ArchiveReader(path).extract(tmp_path / "out")
    except ArchiveError:
        assert not (tmp_path / "out").exists()
    else:
        assert all((tmp_path / "out" / name).is_file() for name in extracted)
    only_inside(tmp_path, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", bytes(257) + b"ustar\0"]), tail=st.binary(max_size=1500))
def test_noise(tmp_path: Path, head: bytes, tail: bytes) -> None:
    path = tmp_path / "noise"
    path.write_bytes(head + tail)
    assert everything(path, tmp_path / "out")
    only_inside(tmp_path, path)
