"""Sessions: uploaded, used, expired, removed; of nobody else, and nothing left behind."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delineate.datastore.faults import SessionExpiredError, UnknownSessionError
from delineate.datastore.sessions import Session, SessionStore
from delineate.errors import ArchiveError, InputError, StorageFullError
from delineate.store.database import Database


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SessionStore]:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    yield SessionStore(tmp_path / "sessions", database, longest=600.0, clock=clock, sync=False)
    database.close()


def made(store: SessionStore, files: dict[str, bytes] | None = None, **options: Any) -> Session:
    with store.incoming() as upload:
        for name, content in ({"ct.nii.gz": b"voxels"} if files is None else files).items():
            with upload.open(name) as file:
                file.write(content)
        return store.create(upload, **options)


def left(store: SessionStore) -> list[Path]:
    return sorted(store.folder.rglob("*"))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a disk without room would do to each file that grows longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_nothing_of_the_upload_stays(store: SessionStore) -> None:
    with store.incoming() as upload, upload.open("ct.nii.gz") as file:
        file.write(b"x" * 1000)
        with files_of_at_most(1500), pytest.raises(StorageFullError, match="no space"):
            file.write(memoryview(b"x" * 1000))
        with files_of_at_most(1500):
            file.close()
    assert left(store) == []


def test_a_disk_that_is_full_while_an_archive_is_unpacked_is_told(store: SessionStore) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ct.nii.gz", bytes(100_000))
    with store.incoming() as upload:
        with upload.open("ct.zip") as file:
            file.write(packed.getvalue())
        with files_of_at_most(10_000), pytest.raises(StorageFullError, match="no space"):
            store.create(upload, unpack=True)
    assert left(store) == []


def test_one_file(store: SessionStore, clock: Clock) -> None:
    session = made(store, owner="ann", meta={"a": 1}, expiry=60.0)
    assert session.image == store.folder / session.uid / "ct.nii.gz"
    assert session.image.read_bytes() == b"voxels"
    assert (session.owner, session.meta, session.size, session.expiry) == ("ann", {"a": 1}, 6, 60.0)
    assert (session.created, session.accessed) == (clock.now, clock.now)
    assert store.get(session.uid) == session
    assert session.path.stat().st_mode & 0o077 == 0, "nobody else on the machine reads it"


def test_many_files_are_a_folder(store: SessionStore) -> None:
    session = made(store, {"s1.dcm": b"1", "s2.dcm": b"2", "sub/s2.dcm": b"3"})
    assert session.image == session.path
    assert {path.name: path.read_bytes() for path in session.image.iterdir()} == {"s1.dcm": b"1", "s2.dcm": b"2", "2-s2.dcm": b"3"}


@pytest.mark.parametrize("name", ["../../evil", "a/../../evil", "..", "", "a\0b", ".hidden", "sub\\..\\evil"])
def test_names_that_lead_elsewhere_are_refused(store: SessionStore, name: str) -> None:
    with pytest.raises(InputError):
        made(store, {name: b"x"})
    assert left(store) == []


def test_an_archive_may_be_unpacked(store: SessionStore) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("series/s1.dcm", b"1")
        archive.writestr("series/s2.dcm", b"2")
    session = made(store, {"d.zip": buffer.getvalue()}, unpack=True)
    assert sorted(path.name for path in session.image.rglob("*.dcm")) == ["s1.dcm", "s2.dcm"]
    single = io.BytesIO()
    with zipfile.ZipFile(single, "w") as archive:
        archive.writestr("a/ct.nii.gz", b"voxels")
    assert made(store, {"d.zip": single.getvalue()}, unpack=True).image.read_bytes() == b"voxels"


def test_archives_that_are_none_leave_nothing(store: SessionStore) -> None:
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../evil", b"x")
    for content in (b"no archive", evil.getvalue()):
        with pytest.raises(ArchiveError):
            made(store, {"d.zip": content}, unpack=True)
    with pytest.raises(InputError, match="several"):
        made(store, {"a.zip": b"", "b.zip": b""}, unpack=True)
    with pytest.raises(InputError, match="no file"):
        made(store, {})
    assert left(store) == []


def test_names_cannot_be_guessed_and_others_are_unknown(store: SessionStore) -> None:
    uids = {made(store).uid for _ in range(20)}
    assert len(uids) == 20
    assert all(len(uid) >= 32 and not uid.startswith("-") for uid in uids)
    for uid in ("", "..", "../../etc", "00000000-dead", "x" * 32, "x" * 100):
        with pytest.raises(UnknownSessionError):
            store.get(uid)
        with pytest.raises(UnknownSessionError):
            store.remove(uid)


def test_somebody_elses_session_is_unknown(store: SessionStore) -> None:
    session = made(store, owner="ann")
    assert store.get(session.uid, owner="ann") == session
    for act in (store.get, store.remove):
        with pytest.raises(UnknownSessionError) as caught:
            act(session.uid, owner="bob")
        assert not isinstance(caught.value, SessionExpiredError)
    assert session.image.exists()


def test_use_makes_it_last(store: SessionStore, clock: Clock) -> None:
    session = made(store, expiry=100.0)
    clock.now += 90
    assert store.get(session.uid, touch=True).accessed == clock.now
    clock.now += 90
    assert store.get(session.uid).accessed == clock.now - 90, "looking is no use"
    clock.now += 11
    with pytest.raises(SessionExpiredError):
        store.get(session.uid)
    with pytest.raises(UnknownSessionError):
        store.get(session.uid)
    assert left(store) == []


@pytest.mark.parametrize(("asked", "given"), [(0.0, 600.0), (-5.0, 600.0), (99999.0, 600.0), (120.0, 120.0)])
def test_the_longest_is_the_most(store: SessionStore, asked: float, given: float) -> None:
    assert made(store, expiry=asked).expiry == given


def test_removed_once(store: SessionStore) -> None:
    session = made(store)
    assert store.remove(session.uid) == session
    assert left(store) == []
    with pytest.raises(UnknownSessionError):
        store.remove(session.uid)


def test_a_restart_keeps_sessions_and_sweeps_the_rest(store: SessionStore, clock: Clock, tmp_path: Path) -> None:
    old, kept = made(store, expiry=10.0), made(store, expiry=500.0)
    clock.now += 100
    (store.folder / ("x" * 32)).mkdir()
    (store.folder / ".incoming-dead").mkdir()
    again = SessionStore(tmp_path / "sessions", store.database, longest=600.0, clock=clock)
    with again.incoming() as living:
        with living.open("ct.nii") as file:
            file.write(b"x")
        assert again.sweep() == 3
        assert again.create(living).image.read_bytes() == b"x", "what is being uploaded is spared"
    assert again.get(kept.uid) == kept
    with pytest.raises(UnknownSessionError):
        again.get(old.uid)
    assert again.sweep() == 0


def test_files_that_somebody_removed(store: SessionStore) -> None:
    session = made(store)
    session.image.unlink()
    with pytest.raises(UnknownSessionError, match="gone"):
        store.get(session.uid)
    assert left(store) == []


def test_a_row_that_cannot_be_written_leaves_nothing(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Any:
        raise StorageFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", full)
        with pytest.raises(StorageFullError):
            made(store)
    assert left(store) == []


def test_many_at_once(store: SessionStore) -> None:
    found: list[Session] = []

    def work(number: int) -> None:
        for _ in range(5):
            found.append(made(store, {"a": bytes([number])}))
            store.sweep()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({session.uid for session in found}) == 20
    assert all(store.get(session.uid).image.exists() for session in found)
    assert len(os.listdir(store.folder)) == 20
