"""The tables. `HEAD` names the migration that makes them; a test holds both equal."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

HEAD: Final = "0001"
"""Newest migration."""

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("uid", String(43), nullable=False),
    Column("model", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("protocol", String(64), nullable=False),
    Column("key", String(255)),  # of idempotent submits
    Column("rank", Integer, nullable=False),  # priority negated, so that one ascending index is the queue
    Column("turn", BigInteger, nullable=False),  # start tag of fair queueing, see tasks.py
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("attempt", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("lease_holder", String(255)),
    Column("lease_expires", Float),
    Column("cancel_requested", Boolean, nullable=False),
    Column("fraction", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("prompts", JSON, nullable=False),
    Column("grids", JSON, nullable=False),
    Column("failure", JSON(none_as_null=True)),
    Column("provenance", JSON, nullable=False),
    UniqueConstraint("uid"),
    UniqueConstraint("owner", "key"),
    Index(None, "state", "rank", "turn", "id"),  # claim
    Index(None, "state", "id"),  # lists, newest first
    Index(None, "owner", "rank", "turn"),  # an owner's last turn
    Index(None, "finished"),  # retention
    sqlite_autoincrement=True,  # the id of a deleted task is never given again: its events stay
)

BLOBS: Final = Table(
    "blobs",
    METADATA,
    Column("task", Integer, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(16), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Index(None, "digest"),
)

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("task", Integer, nullable=False),  # no foreign key: events outlive their task
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("who", String(255), nullable=False),
    Column("why", Text, nullable=False),
    Index(None, "task", "id"),
    sqlite_autoincrement=True,  # ids only grow, so that a reader can ask for what came after
)

QUEUE: Final = Table(
    "queue",
    METADATA,
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("turn", BigInteger, nullable=False),  # virtual time: the highest turn claimed so far
)

MODELS: Final = Table(
    "models",
    METADATA,
    Column("name", String(128), primary_key=True),
    Column("record", JSON, nullable=False),
    Column("archive", String(64)),  # digest of the blob
    Column("size", BigInteger),
    Column("created", Float, nullable=False),
    Index(None, "archive"),
)

VERSION: Final = Table(
    "alembic_version",  # Alembic's own table, written here without importing Alembic
    MetaData(),
    Column("version_num", String(32), primary_key=True),
)
