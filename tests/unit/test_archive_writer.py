"""Archives of our own: the same bytes for the same content, readable by others, and as a tar without a copy."""

from __future__ import annotations

import io
import os
import resource
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from delineate.errors import ArchiveError
from delineate.protocols.archive import ArchiveReader, StoredZipWriter, tar_view
from delineate.protocols.result_archive import flat_names


def written(path: Path) -> Path:
    source = path.with_suffix(".source")
    source.write_bytes(b"from a file" * 1000)
    with StoredZipWriter(path) as writer:
        writer.add_bytes("a.bin", b"\0\1")
        writer.add_bytes("Größe.txt", "µ".encode())
        writer.add_file("sub/file.dat", source)
    return path


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first, second = written(tmp_path / "1.zip"), written(tmp_path / "2.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.bin", "Größe.txt", "sub/file.dat"]
        assert archive.read("Größe.txt") == "µ".encode()
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.create_system == 3 and info.external_attr >> 16 == 0o100644
    assert ArchiveReader(first).names() == ["a.bin", "Größe.txt", "sub/file.dat"]


def test_local_headers_hold_sizes_and_checksums(tmp_path: Path) -> None:
    """So that others can read it as a stream, without the directory at its end."""
    raw = written(tmp_path / "a.zip").read_bytes()
    flags, method, _, _, crc, packed, size = struct.unpack_from("<2H2H3L", raw, 6)
    assert flags & 0x8 == 0 and method == 0 and (packed, size) == (2, 2) and crc


def test_names_are_composed_and_not_used_twice(tmp_path: Path) -> None:
    with StoredZipWriter(tmp_path / "a.zip") as writer:
        writer.add_bytes("e\u0301.txt", b"")
        assert writer.has("É.TXT")
        with pytest.raises(ArchiveError, match="one name"):
            writer.add_bytes("É.txt", b"")
        with pytest.raises(ArchiveError, match="leads out"):
            writer.add_bytes("../x", b"")
    assert ArchiveReader(tmp_path / "a.zip").names() == ["é.txt"]


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    writer = StoredZipWriter(path)
    writer.add_bytes("good", b"1")
    with pytest.raises(RuntimeError, match="halfway"), writer.entry("bad", 10) as file:
        file.write(b"12345")
        raise RuntimeError("halfway")
    assert not path.exists()
    with pytest.raises(ValueError, match="closed"):
        writer.add_bytes("more", b"")
    writer.close()
    assert not path.exists()
    with pytest.raises(KeyError), StoredZipWriter(path) as other:
        other.add_bytes("a", b"")
        raise KeyError("elsewhere")
    assert not path.exists()


def test_a_closed_archive_stays(tmp_path: Path) -> None:
    writer = StoredZipWriter(tmp_path / "a.zip")
    writer.add_bytes("a", b"1")
    writer.close()
    writer.close()
    writer.discard()
    assert ArchiveReader(tmp_path / "a.zip").read("a") == b"1"


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for the full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError), StoredZipWriter(tmp_path / "a.zip") as writer:
            writer.add_bytes("a", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "a.zip").exists()


def test_room_for_sizes_beyond_32_bits(tmp_path: Path) -> None:
    with StoredZipWriter(tmp_path / "a.zip") as writer, writer.entry("large", 5 << 30) as file:
        file.write(b"not so large after all")
    assert ArchiveReader(tmp_path / "a.zip").read("large") == b"not so large after all"
    assert b"".join(tar_view(tmp_path / "a.zip"))[512:534] == b"not so large after all"


# ---- as a tar


def test_the_tar_is_what_others_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip")
    body = tar_view(path)
    raw = b"".join(body)
    assert len(raw) == body.length and body.length % 512 == 0
    assert b"".join(body) == raw, "it can be sent again"
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r|") as archive:
        contents = {}
        for info in archive:
            assert info.isreg() and info.mtime == 0 and info.mode == 0o644
            contents[info.name] = archive.extractfile(info).read()  # type: ignore[union-attr]
    assert contents == {"a.bin": b"\0\1", "Größe.txt": "µ".encode(), "file.dat": b"from a file" * 1000}
    (tmp_path / "a.tar").write_bytes(raw)
    assert {name: stream.read() for name, stream in ArchiveReader(tmp_path / "a.tar").files()} == contents


def test_an_empty_zip_is_an_empty_tar(tmp_path: Path) -> None:
    StoredZipWriter(tmp_path / "a.zip").close()
    assert b"".join(tar_view(tmp_path / "a.zip")) == bytes(1024)


def test_long_names_in_the_tar(tmp_path: Path) -> None:
    name = "Ä" * 100 + ".txt"
    with StoredZipWriter(tmp_path / "a.zip") as writer:
        writer.add_bytes(name, b"x")
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_view(tmp_path / "a.zip")))) as archive:
        assert archive.getnames() == [name]


@pytest.mark.parametrize(
    ("names", "flat"),
    [
        (["a.nii.gz", "a.json"], ["a.nii.gz", "a.json"]),
        (["s/a.nii.gz", "s/a.json"], ["a.nii.gz", "a.json"]),
        (["s/a.nii.gz", "s/a.json", "a.nii.gz", "a.json"], ["s__a.nii.gz", "s__a.json", "a.nii.gz", "a.json"]),
        (["s/a.nii.gz", "s/a.json", "t/A.nii.gz"], ["a.nii.gz", "a.json", "t__A.nii.gz"]),
        (["s/a.json", "t/a.nii.gz", "t/a.json", "s/a.nii.gz"], ["a.json", "t__a.nii.gz", "t__a.json", "a.nii.gz"]),
        (["s/t/a", "s__t/a", "a", "s__t__a"], ["s__t__2__a", "s__t__3__a", "a", "s__t__a"]),
        (["sub/run.log", "x"], ["container.log", "x"]),
        (["sub/run.log", "model.log"], ["run.log", "container.log"]),
        (["container.log", "sub/container.log"], ["container.log", "sub__container.log"]),
        (["sub/container.log", "run.log"], ["sub__container.log", "container.log"]),
    ],
)
def test_flat_names(names: list[str], flat: list[str]) -> None:
    found = flat_names(names)
    assert [found[name] for name in names] == flat


def test_a_log_where_there_is_none(tmp_path: Path) -> None:
    def names(**options: bool) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(b"".join(tar_view(tmp_path / "a.zip", **options)))) as archive:
            return archive.getnames()

    with StoredZipWriter(tmp_path / "a.zip") as writer:
        writer.add_bytes("a", b"")
    assert names() == ["a"] and names(with_log=True) == ["a", "container.log"]
    with StoredZipWriter(tmp_path / "a.zip") as writer:
        writer.add_bytes("a.log", b"")
    assert names(with_log=True) == ["container.log"]


def test_packed_entries_and_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"1" * 100)
    with pytest.raises(ArchiveError, match="packed"):
        tar_view(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    with pytest.raises(ArchiveError, match="zip"):
        tar_view(tmp_path / "a.tar")


def test_the_tar_is_streamed_without_a_copy(tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    with StoredZipWriter(tmp_path / "a.zip") as writer, writer.entry("big", 100 << 20) as file:
        for _ in range(100):
            file.write(block)
    tracemalloc.start()
    try:
        body = tar_view(tmp_path / "a.zip")
        total = sum(len(part) for part in body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == body.length == (100 << 20) + 512 + 1024
    assert peak < 6 << 20
