"""Migrations of the database, run from inside the package: no ``alembic.ini`` is needed."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's settings for this folder; also what ``alembic revision`` needs when a migration is written."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head() -> str | None:
    """Newest migration in this folder."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def is_known(version: str) -> bool:
    """Whether this program knows the migration."""
    try:
        return ScriptDirectory.from_config(configuration()).get_revision(version) is not None
    except CommandError:
        return False


def upgrade(connection: Connection) -> None:
    """Run what is missing, in the transaction of `connection`."""
    command.upgrade(configuration(connection), "head")
