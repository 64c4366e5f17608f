"""Lanes of tasks; versions of models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    op.add_column("tasks", sa.Column("lane", sa.String(16), nullable=False, server_default="front"))
    op.drop_index("ix_tasks_state_rank_turn_id", "tasks")
    op.create_index("ix_tasks_state_lane_rank_turn_id", "tasks", ["state", "lane", "rank", "turn", "id"])
    op.create_index("ix_tasks_protocol_model_id", "tasks", ["protocol", "model", "id"])
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("archive", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("info", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
    )
    op.create_index("ix_model_versions_archive", "model_versions", ["archive"])
