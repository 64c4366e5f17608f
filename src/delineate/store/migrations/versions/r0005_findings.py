"""What was found out about images in the background."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "image_findings",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("image", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("source", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("image_version", sa.Integer, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("vector", sa.LargeBinary),
        sa.Column("at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["image"], ["images.id"], name="fk_image_findings_image", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_image_findings"),
        sa.UniqueConstraint("image", "kind", "source", name="uq_image_findings_image_kind_source"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_image_findings_kind_id", "image_findings", ["kind", "id"])
