"""The accounts that the settings want."""

from __future__ import annotations

import logging
from concurrent.futures import Executor

from delineate.server.accounts.identity import Accounts
from delineate.server.settings import Settings
from delineate.store.database import Database

_log = logging.getLogger(__name__)


def accounts_of(settings: Settings, database: Database, threads: Executor) -> Accounts | None:
    """None where they are off; `database` is migrated. Raises `MissingPartError`."""
    if settings.accounts == "local":
        from delineate.server.accounts.local import LocalAccounts

        accounts = LocalAccounts(database, threads, settings.login_expiry)
        if not accounts.users.users():
            _log.warning("nobody can log in: there is no user yet. Add one with `delineate user add NAME --role admin` (docs/accounts.md)")
        return accounts
    if settings.accounts == "oidc":
        from delineate.server.accounts.oidc import OidcAccounts

        return OidcAccounts(settings)
    return None
