"""Run by Alembic: hands it the connection, whose transaction is the caller's."""

from __future__ import annotations

from alembic import context

from delineate.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
