"""The tables. `HEAD` names the migration that makes them; a test holds both equal."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

HEAD: Final = "0005"
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
    Column("lane", String(16), nullable=False, server_default="front"),
    UniqueConstraint("uid"),
    UniqueConstraint("owner", "key"),
    Index(None, "state", "lane", "rank", "turn", "id"),  # claim
    Index(None, "protocol", "model", "id"),  # what the server gave itself, newest first
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

MODEL_VERSIONS: Final = Table(
    "model_versions",
    METADATA,
    Column("model", String(128), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("record", JSON, nullable=False),
    Column("archive", String(64), nullable=False),  # digest of the blob
    Column("size", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("who", String(255), nullable=False),
    Column("info", JSON, nullable=False),  # what is known of how it was made
    Index(None, "archive"),
)
"""Versions of models that are published; the current one is the row in `MODELS`, too."""

DATASTORES: Final = Table(
    "datastores",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("uid", String(43), nullable=False),  # also in the folder: whose the kept files there are
    Column("folder", String(4096), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("images_dir", String(4096), nullable=False),
    Column("labels_dir", String(4096), nullable=False),
    Column("revision", BigInteger, nullable=False),  # grows with every change of an image or label
    Column("written", BigInteger, nullable=False),  # revision that the folder's datastore_v2.json holds
    Column("written_size", BigInteger, nullable=False),  # of that file as it was written, to see whether others wrote it
    Column("written_mtime", BigInteger, nullable=False),
    Column("writing_size", BigInteger, nullable=False),  # of the one that is to take its place
    Column("writing_mtime", BigInteger, nullable=False),
    UniqueConstraint("folder"),
)

IMAGES: Final = Table(
    "images",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("datastore", Integer, ForeignKey("datastores.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),  # what callers know as the id
    Column("extension", String(16), nullable=False),  # empty for a series
    Column("path", String(4096), nullable=False),  # below the datastore's folder
    Column("is_series", Boolean, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime", BigInteger, nullable=False),  # ns
    Column("version", Integer, nullable=False),
    Column("added", Float, nullable=False),
    Column("who", String(255), nullable=False),
    Column("sha256", String(64)),
    Column("info", JSON, nullable=False),
    Column("removed", Float),  # the row stays, so that a version of an id never comes twice
    Column("revision", BigInteger, nullable=False),  # the datastore's, when this image or a label of it changed last
    UniqueConstraint("datastore", "name"),
    Index(None, "datastore", "revision"),
    Index(None, "datastore", "path"),
)

IMAGE_VERSIONS: Final = Table(
    "image_versions",
    METADATA,
    Column("image", Integer, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("extension", String(16), nullable=False),
    Column("digest", String(64)),  # of the kept file; none for one that lies only where people put it
    Column("size", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("who", String(255), nullable=False),
    Index(None, "digest"),
)

LABELS: Final = Table(
    "labels",
    METADATA,
    Column("image", Integer, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(255), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("is_current", Boolean, nullable=False),
    Column("extension", String(16), nullable=False),
    Column("digest", String(64)),  # as of an image's version
    Column("size", BigInteger, nullable=False),
    Column("mtime", BigInteger, nullable=False),  # ns, of the file under labels/
    Column("at", Float, nullable=False),
    Column("who", String(255), nullable=False),
    Column("image_version", Integer, nullable=False),  # on which it was drawn
    Column("info", JSON, nullable=False),
    Index(None, "digest"),
)

ANNOTATION_LEASES: Final = Table(
    "annotation_leases",
    METADATA,
    Column("image", Integer, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("strategy", String(128), nullable=False),
    Column("tag", String(255), nullable=False),  # of the label that ends it
    Column("expires", Float, nullable=False),
)

ANNOTATION_EVENTS: Final = Table(
    "annotation_events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("datastore", Integer, nullable=False),  # no foreign keys: events outlive what they tell of
    Column("image", String(255), nullable=False),
    Column("tag", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("who", String(255), nullable=False),
    Index(None, "datastore", "image", "id"),
    sqlite_autoincrement=True,
)

IMAGE_FINDINGS: Final = Table(
    "image_findings",
    METADATA,
    Column("id", Integer, primary_key=True),  # grows: a reader asks for what came after
    Column("image", Integer, ForeignKey("images.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("source", String(128), nullable=False),  # the model that found it, or how it was computed
    Column("version", Integer, nullable=False),  # of the source
    Column("image_version", Integer, nullable=False),
    Column("value", Float),  # neither value nor vector: it cannot be found
    Column("vector", LargeBinary),
    Column("at", Float, nullable=False),
    UniqueConstraint("image", "kind", "source"),
    Index(None, "kind", "id"),
    sqlite_autoincrement=True,
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("uid", String(43), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("name", String(255), nullable=False),  # of the file, empty for a folder of them
    Column("size", BigInteger, nullable=False),
    Column("meta", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("accessed", Float, nullable=False),
    Column("expiry", Float, nullable=False),  # seconds after the last access
)

USERS: Final = Table(
    "users",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("password", String(255), nullable=False),  # argon2's text: salt, parameters and hash
    Column("role", String(16), nullable=False),
    Column("full_name", String(255), nullable=False),
    Column("email", String(255), nullable=False),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
)

ACCESS_TOKENS: Final = Table(
    "access_tokens",
    METADATA,
    Column("digest", String(64), primary_key=True),  # SHA-256: who reads the database has no token
    Column("user", String(64), ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index(None, "user"),
    Index(None, "expires"),
)

VERSION: Final = Table(
    "alembic_version",  # Alembic's own table, written here without importing Alembic
    MetaData(),
    Column("version_num", String(32), primary_key=True),
)
