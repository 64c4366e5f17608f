"""Images, labels and sessions for annotation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    _datastores()
    _images()
    _labels()
    _events_and_sessions()


def _datastores() -> None:
    op.create_table(
        "datastores",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("uid", sa.String(43), nullable=False),
        sa.Column("folder", sa.String(4096), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("images_dir", sa.String(4096), nullable=False),
        sa.Column("labels_dir", sa.String(4096), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("written", sa.BigInteger, nullable=False),
        sa.Column("written_size", sa.BigInteger, nullable=False),
        sa.Column("written_mtime", sa.BigInteger, nullable=False),
        sa.Column("writing_size", sa.BigInteger, nullable=False),
        sa.Column("writing_mtime", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_datastores"),
        sa.UniqueConstraint("folder", name="uq_datastores_folder"),
    )


def _images() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("datastore", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("extension", sa.String(16), nullable=False),
        sa.Column("path", sa.String(4096), nullable=False),
        sa.Column("is_series", sa.Boolean, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("added", sa.Float, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("info", sa.JSON, nullable=False),
        sa.Column("removed", sa.Float),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["datastore"], ["datastores.id"], name="fk_images_datastore", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
        sa.UniqueConstraint("datastore", "name", name="uq_images_datastore_name"),
    )
    op.create_index("ix_images_datastore_path", "images", ["datastore", "path"])
    op.create_index("ix_images_datastore_revision", "images", ["datastore", "revision"])
    op.create_table(
        "image_versions",
        sa.Column("image", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("extension", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name="fk_image_versions_image", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image", "version", name="pk_image_versions"),
    )
    op.create_index("ix_image_versions_digest", "image_versions", ["digest"])


def _labels() -> None:
    op.create_table(
        "labels",
        sa.Column("image", sa.Integer, nullable=False),
        sa.Column("tag", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("extension", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("image_version", sa.Integer, nullable=False),
        sa.Column("info", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name="fk_labels_image", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image", "tag", "version", name="pk_labels"),
    )
    op.create_index("ix_labels_digest", "labels", ["digest"])
    op.create_table(
        "annotation_leases",
        sa.Column("image", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("strategy", sa.String(128), nullable=False),
        sa.Column("tag", sa.String(255), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name="fk_annotation_leases_image", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("image", name="pk_annotation_leases"),
    )


def _events_and_sessions() -> None:
    op.create_table(
        "annotation_events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("datastore", sa.Integer, nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("tag", sa.String(255), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_annotation_events_datastore_image_id", "annotation_events", ["datastore", "image", "id"])
    op.create_table(
        "sessions",
        sa.Column("uid", sa.String(43), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("meta", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("accessed", sa.Float, nullable=False),
        sa.Column("expiry", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_sessions"),
    )
