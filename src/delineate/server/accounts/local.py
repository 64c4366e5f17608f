"""Accounts of this server's own: passwords and tokens in its database."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Final

from delineate.errors import UnavailableError
from delineate.server.accounts.identity import ExpiredTokenError, Identity, Role, WrongPasswordError
from delineate.server.accounts.passwords import LONGEST, Passwords
from delineate.store.database import Database
from delineate.store.users import KnownToken, UnknownUserError, User, UserStore

REALM: Final = "delineate"
MOST_WAITING: Final = 32
"""Passwords that wait to be looked at; who comes then is told to come again."""

REMEMBERED: Final = 1024
"""Tokens that are not looked up again while nothing in the database changes."""

_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class LocalAccounts:
    """Users of the store. A token ends when its time is up, its user is removed, or the password changed.

    Parameters
    ----------
    threads : for reading the database.
    seconds : for which a token is valid.
    """

    client_id = REALM
    realm = REALM

    def __init__(
        self,
        database: Database,
        threads: Executor,
        seconds: float,
        *,
        passwords: Passwords | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.users = UserStore(database, clock)
        self._database = database
        self._threads = threads
        self._seconds = seconds
        self._passwords = passwords
        self._clock = clock
        # One password at a time: what it costs in memory and processor is bounded whoever asks.
        self._hashing = ThreadPoolExecutor(1, "delineate-passwords")
        self._waiting = 0
        self._known: OrderedDict[str, KnownToken] = OrderedDict()
        self._changes = -1

    async def identify(self, token: str) -> Identity | None:
        """See `Accounts`."""
        if not _FORM.fullmatch(token):
            return None
        known = self._remembered(token)
        if known is None:
            changes = self._changes
            known = await asyncio.get_running_loop().run_in_executor(self._threads, self.users.token, token)
            if known is None:
                return None
            if changes == self._changes:  # else what was read may be old already
                self._known[token] = known
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        if known.expires <= self._clock():
            raise ExpiredTokenError
        return _identity(known.user)

    def _remembered(self, token: str) -> KnownToken | None:
        # A look at whether anything changed takes some 10 µs, changing threads and a statement thirty times as long.
        changes = self._database.changes()
        if changes != self._changes:
            self._known.clear()
            self._changes = changes
        return self._known.get(token)

    async def log_in(self, name: str, password: str) -> str:
        """See `Accounts`."""
        if self._waiting >= MOST_WAITING:
            raise UnavailableError("too many log in at once", "Try again in a moment.", 503)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._hashing, partial(self._log_in, name, password))
        finally:
            self._waiting -= 1

    def _log_in(self, name: str, password: str) -> str:
        if self._passwords is None:
            self._passwords = Passwords()
        user = self.users.find(name)
        is_too_long = len(password.encode("utf-8", "replace")) > LONGEST
        if not self._passwords.is_right("" if is_too_long else password, user.password if user is not None else None) or user is None:
            raise WrongPasswordError
        if self._passwords.is_outdated(user.password):
            self.users.renew_hash(user, self._passwords.hash(password))
        try:
            return self.users.give_token(user, self._seconds)
        except UnknownUserError:
            raise WrongPasswordError from None

    async def close(self) -> None:
        """See `Accounts`."""
        self._hashing.shutdown(wait=False, cancel_futures=True)


def _identity(user: User) -> Identity:
    known = Role.__members__.get(user.role.upper(), Role.NONE)  # a word of a newer version gives no right here
    return Identity(user.name, known, user.full_name, user.email)
