"""The accounts that the settings want."""

from __future__ import annotations

from concurrent.futures import Executor

from delineate.server.accounts.identity import Accounts
from delineate.server.settings import Settings
from delineate.store.database import Database


def accounts_of(settings: Settings, database: Database, threads: Executor) -> Accounts | None:
    """None where they are off. Raises `MissingPartError`."""
    if settings.accounts == "local":
        from delineate.server.accounts.local import LocalAccounts

        return LocalAccounts(database, threads, settings.login_expiry)
    if settings.accounts == "oidc":
        from delineate.server.accounts.oidc import OidcAccounts

        return OidcAccounts(settings)
    return None
