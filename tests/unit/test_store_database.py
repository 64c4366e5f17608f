"""The database: migrations, transactions, the change signal, and what it says when something is wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from delineate.errors import SettingsError, StorageFullError, StoreBusyError, StoreError
from delineate.store import migrations, statements
from delineate.store.database import Database
from delineate.store.tables import HEAD, METADATA, QUEUE


def made(folder: Path, **options: float) -> Database:
    database = Database(f"sqlite:///{folder}/delineate.db", **options)
    database.migrate()
    return database


def test_the_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = made(tmp_path)
        with database.write() as connection:
            connection.execute(sa.insert(METADATA.tables["models"]), {"name": "m", "record": {}, "created": 0.0})
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert modes["delineate.db"] == 0o600
    assert set(modes.values()) == {0o600}, modes


def schema(path: Path) -> dict[str, object]:
    with sqlite3.connect(path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        columns = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
        keys = {name: connection.execute(f"PRAGMA foreign_key_list({name})").fetchall() for name in names}
        indices = {}
        for name in names:
            for index in connection.execute(f"PRAGMA index_list({name})").fetchall():
                parts = tuple(part[2] for part in connection.execute(f"PRAGMA index_info({index[1]})"))
                indices[(name, parts)] = index[2:]
        counters = {
            name: "AUTOINCREMENT" in sql for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        }
    connection.close()
    return {"columns": columns, "keys": keys, "indices": indices, "counters": counters}


def migrated_by_alembic(folder: Path) -> Database:
    database = Database(f"sqlite:///{folder}/migrated.db")
    with database.write() as connection:
        migrations.upgrade(connection)
    return database


def test_migrations_equal_the_tables(tmp_path: Path) -> None:
    database = migrated_by_alembic(tmp_path)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []
    database.close()
    direct = made(tmp_path)
    direct.close()
    assert schema(database.path) == schema(direct.path)
    assert migrations.head() == HEAD


def test_migrate_goes_on_from_what_alembic_wrote_and_is_repeatable(tmp_path: Path) -> None:
    database = migrated_by_alembic(tmp_path)
    before = schema(database.path)
    database.migrate()
    database.migrate()
    assert schema(database.path) == before
    database.close()


def test_start_does_not_import_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from delineate.store.database import Database\n"
        f"Database('sqlite:///{tmp_path}/x.db').migrate(); Database('sqlite:///{tmp_path}/x.db').migrate()\n"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_processes_that_migrate_at_once_do_not_clash(tmp_path: Path) -> None:
    code = f"from delineate.store.database import Database; Database('sqlite:///{tmp_path}/a/b/x.db').migrate()"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 4


def test_foreign_and_newer_databases_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE patients (id)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        Database(f"sqlite:///{foreign}").migrate()
    database = made(tmp_path)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer version"):
        database.migrate()
    database.close()


@pytest.mark.parametrize("url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "postgresql://host/name"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Database(url)
    assert "sqlite:///" in caught.value.advice


def test_durability_settings(tmp_path: Path) -> None:
    database = made(tmp_path)
    with database.read() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]
    database.close()


def test_write_commits_or_rolls_back(tmp_path: Path) -> None:
    database = made(tmp_path)
    with database.write() as connection:
        connection.execute(sa.insert(QUEUE), {"rank": 1, "turn": 1})
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(sa.insert(QUEUE), {"rank": 2, "turn": 1})
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute(sa.select(QUEUE.c.rank)).scalars().all() == [1]
    database.close()


def test_changes_grow_with_every_commit_of_anybody(tmp_path: Path) -> None:
    database, other = made(tmp_path), made(tmp_path)
    seen = [database.changes()]
    for number, writer in enumerate((database, other, database)):
        assert database.changes() == seen[-1], "nothing happened"
        with writer.write() as connection:
            connection.execute(sa.insert(QUEUE), {"rank": number, "turn": 0})
        seen.append(database.changes())
    assert seen == sorted(set(seen))
    database.close()
    assert database.changes() > seen[-1], "after a pause it cannot know"
    database.close()
    other.close()


def test_changes_is_cheap_and_safe_for_threads(tmp_path: Path) -> None:
    database = made(tmp_path)
    database.changes()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(500):
                database.changes()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(50):
            database.changes()
        rounds.append((time.perf_counter() - start) / 50)
    assert min(rounds) < 50e-6  # about 7 µs; the rest is a busy machine's
    database.close()


def test_a_locked_database_is_busy_and_heals(tmp_path: Path) -> None:
    database = made(tmp_path, busy_timeout=0.1)
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError), database.write():
        pass
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(QUEUE)).scalar() == 0, "readers do not wait"
    holder.execute("ROLLBACK")
    holder.close()
    with database.write() as connection:
        connection.execute(sa.insert(QUEUE), {"rank": 1, "turn": 1})
    database.close()


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    database = made(tmp_path, busy_timeout=0.1)
    failures: list[str] = []

    def write() -> None:
        try:
            with database.write():
                pass
        except StoreBusyError as error:
            failures.append(str(error))

    with database.write():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(failures) == 1
    database.close()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    with pytest.raises(StoreError) as caught:
        Database(f"sqlite:///{path}").migrate()
    assert str(path) in str(caught.value)
    assert "backup" in caught.value.advice


def test_a_database_damaged_inside_is_named(tmp_path: Path) -> None:
    database = made(tmp_path)
    with database.write() as connection:
        for number in range(2000):
            connection.execute(sa.insert(QUEUE), {"rank": number, "turn": 0})
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    database.close()
    with sqlite3.connect(database.path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(database.path.read_bytes())
    data[8192:] = bytes(255 for _ in data[8192:])
    database.path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged") as caught, database.read() as connection:
        connection.execute(sa.select(QUEUE)).all()
    assert str(database.path) in str(caught.value)
    database.close()


def test_a_full_disk_is_storage_full_and_heals(tmp_path: Path) -> None:
    database = made(tmp_path)
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    event = sa.event
    limited: list[int] = [int(pages)]

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        if limited:
            connection.execute(f"PRAGMA max_page_count={limited[0]}")

    event.listen(database._engine, "connect", limit)
    database.close()
    with pytest.raises(StorageFullError), database.write() as connection:
        for number in range(5000):
            connection.execute(sa.insert(QUEUE), {"rank": number, "turn": 0})
    limited.clear()
    database.close()
    with database.write() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(QUEUE)).scalar() == 0
        connection.execute(sa.insert(QUEUE), {"rank": 1, "turn": 1})
    database.close()


def test_a_transaction_that_fails_leaves_nothing_and_its_connection_is_used_again(tmp_path: Path) -> None:
    database, opened = made(tmp_path), list[object]()
    database.close()
    sa.event.listen(database._engine, "connect", lambda connection, _: opened.append(connection))
    for _ in range(3):
        with pytest.raises(KeyError), database.write() as connection:
            connection.execute(sa.insert(QUEUE), {"rank": 1, "turn": 1})
            raise KeyError
        with pytest.raises(StoreError), database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM nothing")
        with database.lightly().read() as connection:
            assert connection.execute(sa.select(QUEUE)).all() == []
    assert len(opened) == 2  # one that reads and one that writes
    database.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="folder"):
        Database(f"sqlite:///{tmp_path}/file/x.db").migrate()


def test_nothing_in_the_statements_is_of_sqlite_alone() -> None:
    dialect = postgresql.dialect()
    for table in METADATA.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect))
        assert all(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
    for name in dir(statements):
        statement = getattr(statements, name)
        statement = getattr(statement, "statement", statement)
        if name.isupper() and not isinstance(statement, (str, sa.Table)):
            assert str(statement.compile(dialect=dialect))
