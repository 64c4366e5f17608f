"""Statements given to the driver as they are: the same values and rows as by SQLAlchemy's own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from delineate.store.database import Database
from delineate.store.ready import Change, Query
from delineate.store.tables import QUEUE, TASKS

ROW: dict[str, Any] = {
    "uid": "u", "model": "m", "state": "pending", "owner": "o", "protocol": "p", "rank": 0, "turn": 1, "created": 1.5, "attempt": 0,
    "lost": 0, "not_before": 0.0, "cancel_requested": True, "fraction": 0.0, "message": "ä", "prompts": {"a": [1, None]}, "grids": [],
    "failure": None, "provenance": {},
}  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Any:
    made = Database(f"sqlite:///{tmp_path / 'x.db'}", sync=False)
    made.migrate()
    yield made
    made.close()


def test_what_goes_in_comes_out_by_either_way(database: Database) -> None:
    every, insert = sa.select(TASKS), Change(sa.insert(TASKS))
    with database.write() as connection:
        id = insert.insert(connection, **ROW)
        by_sqlalchemy = connection.execute(every).one()
        connection.execute(sa.insert(TASKS), ROW | {"uid": "v", "failure": {"kind": "x"}})
        rows = Query(every.order_by(TASKS.c.id)).all(connection)
    assert (
        rows[0]._asdict()
        == dict(by_sqlalchemy._mapping)
        == ROW
        | {"id": id}
        | {name: rows[0]._asdict()[name] for name in ("key", "started", "finished", "lease_holder", "lease_expires", "lane")}
    )
    assert rows[0].cancel_requested is True and rows[0].prompts == {"a": [1, None]} and rows[0].failure is None
    assert rows[1].failure == {"kind": "x"}


def test_a_change_sets_what_is_named_and_counts(database: Database) -> None:
    change = Change(sa.update(QUEUE).where(QUEUE.c.rank == sa.bindparam("which"), QUEUE.c.turn < 10))
    insert, first = Change(sa.insert(QUEUE)), Query(sa.select(QUEUE).where(QUEUE.c.rank == sa.bindparam("which")))
    with database.write() as connection:
        assert first.first(connection, which=1) is None
        insert.run(connection, rank=1, turn=9)
        assert change.run(connection, which=1, turn=10) == 1
        assert change.run(connection, which=1, turn=11) == 0  # what stands in the statement counts
        assert change.run(connection, which=2, turn=3) == 0
        assert first.first(connection, which=1).turn == 10


def test_a_value_that_is_missing_is_an_error_and_not_null(database: Database) -> None:
    query = Query(sa.select(QUEUE).where(QUEUE.c.rank == sa.bindparam("which")))
    with database.read() as connection, pytest.raises(TypeError, match="which"):
        query.first(connection)
