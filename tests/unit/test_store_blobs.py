"""Blobs: written once, named by their digest, never believed without a look."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from delineate.errors import BlobError, StorageFullError, StoreError
from delineate.store import writer as writer_module
from delineate.store.blobs import BlobStore
from delineate.store.writer import BlobWriter


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def stored(blobs: BlobStore, data: bytes) -> str:
    with blobs.incoming() as writer:
        writer.write(data)
        writer.seal()
        blobs.place(writer)
    return writer.digest


def incoming(blobs: BlobStore) -> list[Path]:
    return list((blobs.folder / "incoming").iterdir())


@pytest.mark.parametrize("parts", [[], [b""], [b"a"], [b"abc", bytearray(b"de"), memoryview(b"f" * 100_000)]])
def test_what_is_written_is_what_is_there(blobs: BlobStore, parts: list[bytes]) -> None:
    whole = b"".join(bytes(part) for part in parts)
    with blobs.incoming() as writer:
        for part in parts:
            assert writer.write(part) == len(part)
        writer.seal()
        path = blobs.place(writer)
    assert writer.digest == blake3(whole).hexdigest()
    assert writer.size == len(whole)
    assert path == blobs.path(writer.digest) == blobs.verified(writer.digest)
    assert path.read_bytes() == whole
    assert path.stat().st_mode & 0o777 == 0o600
    assert incoming(blobs) == []


def test_wide_elements_count_in_bytes(blobs: BlobStore) -> None:
    with blobs.incoming() as writer:
        assert writer.write(memoryview(b"12345678").cast("I")) == 8
        assert (writer.size, writer.digest) == (8, blake3(b"12345678").hexdigest())


def test_what_is_not_placed_is_discarded(blobs: BlobStore) -> None:
    with blobs.incoming() as writer:
        writer.write(b"x")
        assert incoming(blobs) == [writer.path]
    writer.discard()
    assert incoming(blobs) == []
    for forbidden in (lambda: writer.write(b"y"), writer.seal, lambda: blobs.place(writer)):
        with pytest.raises(ValueError):
            forbidden()


def test_a_sealed_blob_takes_no_more(blobs: BlobStore) -> None:
    with blobs.incoming() as writer:
        with pytest.raises(ValueError):
            blobs.place(writer)
        writer.seal()
        writer.seal()
        with pytest.raises(ValueError):
            writer.write(b"x")


def test_the_same_content_is_one_file(blobs: BlobStore) -> None:
    assert stored(blobs, b"same") == stored(blobs, b"same")
    assert [len(group) for group in blobs.digests()] == [1]


def test_placing_heals_an_altered_twin(blobs: BlobStore) -> None:
    digest = stored(blobs, b"right")
    blobs.path(digest).write_bytes(b"wrong")
    stored(blobs, b"right")
    assert blobs.verified(digest).read_bytes() == b"right"


def test_adopted_files_are_moved_not_copied(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "result.zip"
    source.write_bytes(b"result" * 1000)
    inode = source.stat().st_ino
    with blobs.adopt(source, "result.zip") as writer:
        writer.seal()
        path = blobs.place(writer)
    assert not source.exists()
    assert path.stat().st_ino == inode
    assert blobs.verified(blake3(b"result" * 1000).hexdigest()) == path


def test_adopting_refuses_links_and_what_is_missing(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("link", "missing"):
        with pytest.raises(StoreError):
            blobs.adopt(tmp_path / name)


def test_large_files_are_written_out_on_the_way(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(writer_module, "WRITE_OUT", 1 << 20)
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), real(fd)))
    with blobs.incoming() as writer:
        for _ in range(8):
            writer.write(b"x" * (1 << 19))
        writer.seal()
        blobs.place(writer)
    assert calls
    assert blobs.verified(writer.digest).stat().st_size == 4 << 20


def test_an_error_of_the_early_write_out_is_not_forgotten(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writer_module, "WRITE_OUT", 1)
    monkeypatch.setattr(os, "fdatasync", broken)
    with blobs.incoming() as writer:
        writer.write(b"x")
        with pytest.raises(StoreError, match="Input/output"):
            writer.seal()
    assert incoming(blobs) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_nothing(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    writer = blobs.incoming()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageFullError), writer:
        writer.write(b"x")
        writer.seal()
        blobs.place(writer)
    monkeypatch.undo()
    assert incoming(blobs) == []
    assert stored(blobs, b"afterwards")


def test_the_real_limit_of_the_system_is_storage_full(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom delineate.errors import StorageFullError\n"
        "from delineate.store.blobs import BlobStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "blobs = BlobStore(Path(sys.argv[1]))\n"
        "try:\n"
        "    with blobs.incoming() as writer:\n"
        "        while True: writer.write(bytes(30_000))\n"
        "except StorageFullError: print(list((blobs.folder / 'incoming').iterdir()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "blobs"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_altered_missing_and_healed(blobs: BlobStore) -> None:
    digest = stored(blobs, b"0123456789")
    path = blobs.verified(digest)
    times = path.stat()
    path.write_bytes(b"0123456780")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(BlobError, match="altered"):
        blobs.verified(digest)
    path.write_bytes(b"01234")
    with pytest.raises(BlobError, match="altered"):
        blobs.verified(digest)
    path.write_bytes(b"0123456789")
    assert blobs.verified(digest) == path
    path.unlink()
    with pytest.raises(BlobError, match="missing"):
        blobs.verified(digest)


def test_a_file_seen_to_be_right_is_not_read_again(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = stored(blobs, b"x")
    blobs.verified(digest)

    def read_again(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("delineate.store.blobs.blake3", read_again)
    assert blobs.verified(digest) == blobs.path(digest)


@pytest.mark.parametrize("digest", ["", "..", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "/x", "a" * 64 + "\n"])
def test_digests_are_never_paths(blobs: BlobStore, digest: str) -> None:
    for ask in (blobs.path, blobs.verified, blobs.remove):
        with pytest.raises(BlobError):
            ask(digest)


def test_cleaning_spares_the_living(blobs: BlobStore) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom delineate.store.blobs import BlobStore\n"
        "BlobStore(Path(sys.argv[1])).incoming().write(b'dead'); os._exit(0)"
    )
    living = blobs.incoming()
    subprocess.run([sys.executable, "-c", code, blobs.folder], check=True)
    assert len(incoming(blobs)) == 2
    assert blobs.clean_incoming(older_than=3600) == 0
    assert blobs.clean_incoming() == 1
    assert incoming(blobs) == [living.path]
    living.discard()


def test_a_writer_whose_file_was_swept_in_the_instant_makes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = writer_module.fcntl.flock, []

    def sweep_first(descriptor: int, flags: int) -> None:
        if not taken:
            taken.append(1)
            (tmp_path / "x").unlink()
        real(descriptor, flags)

    monkeypatch.setattr(writer_module.fcntl, "flock", sweep_first)
    with BlobWriter.create(tmp_path / "x") as writer:
        assert writer.path.exists()
        assert taken
