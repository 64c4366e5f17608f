"""Statements that are compiled once and then given to the driver as they are.

SQLAlchemy's way from a statement to its rows takes several times as long as SQLite takes for those of the way every task goes.
Texts and conversions of values are SQLAlchemy's all the same, for whatever database the connection is of.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

Convert = Callable[[Any], Any]
S = TypeVar("S", bound="sa.Select[Any] | sa.sql.dml.UpdateBase")

_MOST: Final = 64
"""Texts kept of one statement: an UPDATE has one for each set of columns that it sets."""


class _Text(NamedTuple):
    """What the driver gets: SQL, the names of its values in their order, those that stand in the statement itself, and how given
    ones are converted that are not taken as they are."""

    sql: str
    names: tuple[str, ...]
    fixed: dict[str, Any]
    converts: tuple[tuple[str, Convert], ...]


class _Ready(Generic[S]):
    """statement : as SQLAlchemy has it, its values bound to names that are no Python keywords."""

    def __init__(self, statement: S) -> None:
        self.statement: S = statement
        self._texts: dict[tuple[str, ...], _Text] = {}

    def _run(self, connection: Connection, values: dict[str, Any]) -> Any:
        """A cursor of the driver."""
        known = tuple(values)
        text = self._texts.get(known)
        if text is None:
            if len(self._texts) >= _MOST:
                self._texts.clear()
            text = self._texts[known] = _text(self.statement, known, connection.dialect)
        for name, convert in text.converts:
            values[name] = convert(values[name])
        values.update(text.fixed)
        cursor = connection.connection.cursor()
        cursor.execute(text.sql, tuple([values[name] for name in text.names]))
        return cursor


class Query(_Ready[sa.Select[Any]]):
    """A SELECT: its rows have their columns as attributes. Raises what the driver raises, as everything here."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        super().__init__(statement)
        self._row = _row_of(statement.selected_columns.keys())
        self._converts: list[tuple[int, Convert]] | None = None

    def first(self, connection: Connection, **values: Any) -> Any:
        """The first row, None where there is none."""
        row = self._run(connection, values).fetchone()
        return None if row is None else self._made(connection, row)

    def all(self, connection: Connection, **values: Any) -> list[Any]:
        """All rows."""
        return [self._made(connection, row) for row in self._run(connection, values)]

    def _made(self, connection: Connection, row: tuple[Any, ...]) -> Any:
        converts = self._converts
        if converts is None:
            converts = self._converts = _conversions(self.statement, connection.dialect)
        if converts:
            changed = list(row)
            for place, convert in converts:
                changed[place] = convert(changed[place])
            return self._row._make(changed)
        return self._row._make(row)


class Change(_Ready[sa.sql.dml.UpdateBase]):
    """An INSERT, UPDATE or DELETE; columns that it sets are named with their values."""

    def run(self, connection: Connection, **values: Any) -> int:
        """Do it: how many rows it was."""
        return int(self._run(connection, values).rowcount)

    def insert(self, connection: Connection, **values: Any) -> int:
        """Do it: the number that the database gave the new row."""
        return int(self._run(connection, values).lastrowid)


def _row_of(names: Sequence[str]) -> Any:
    return namedtuple("Row", names)


def _text(statement: Any, known: tuple[str, ...], dialect: Dialect) -> _Text:
    is_change = isinstance(statement, sa.sql.dml.UpdateBase)
    compiled = statement.compile(dialect=dialect, column_keys=list(known) if is_change else None)
    if compiled.positiontup is None:
        raise NotImplementedError("a driver that takes values by name")
    names = tuple(compiled.positiontup)
    converts = {
        name: convert
        for bind, name in compiled.bind_names.items()
        if (convert := bind.type.dialect_impl(dialect).bind_processor(dialect)) is not None
    }
    inside = {name: compiled.params[name] for name in names if name not in known}
    fixed = {name: converts[name](value) if name in converts else value for name, value in inside.items()}
    missing = [bind.key for bind, name in compiled.bind_names.items() if bind.required and name not in known]
    if missing:
        raise TypeError(f"the statement wants {', '.join(missing)}, too")
    return _Text(compiled.string, names, fixed, tuple((name, convert) for name, convert in converts.items() if name in known))


def _conversions(statement: sa.Select[Any], dialect: Dialect) -> list[tuple[int, Convert]]:
    """What is done with the values of a row, by their places; most are as they are to be."""
    columns = enumerate(statement.selected_columns)
    found = ((place, column.type.dialect_impl(dialect).result_processor(dialect, None)) for place, column in columns)
    return [(place, convert) for place, convert in found if convert is not None]
