"""Local accounts, and the tokens that were given for their passwords. Hashing is somebody else's."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from delineate.errors import InputError
from delineate.store.database import Database
from delineate.store.tables import ACCESS_TOKENS, USERS

KEEP_EXPIRED: Final = 7 * 86400.0
"""Seconds for which an expired token is still known as one."""

MOST_TOKENS: Final = 100
"""Of one user; who logs in once more loses the oldest."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class UnknownUserError(InputError):
    """No user of that name."""

    default_advice = "List them with `delineate user list`."


@dataclass(frozen=True)
class User:
    """An account.

    Parameters
    ----------
    password : the hash, as text
    role : as a word
    created, changed : Unix seconds; changed with password and role
    """

    name: str
    password: str = field(repr=False)
    role: str
    full_name: str
    email: str
    created: float
    changed: float


@dataclass(frozen=True)
class KnownToken:
    """A token that was given: to whom, and until when (Unix seconds)."""

    user: User
    expires: float


class UserStore:
    """All accounts of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @property
    def file(self) -> Path:
        """Where they are kept."""
        return self._database.path

    def add(self, name: str, password: str, role: str, full_name: str = "", email: str = "") -> User:
        """A new account. Raises `InputError` as `require_free`, and for texts that cannot be kept."""
        _require_name(name)
        for text in (full_name, email):
            if len(text) > 255 or not text.isprintable():
                raise InputError(
                    "the full name or the e-mail address is too long, or holds control characters", "Write at most 255 letters."
                )
        now = self._clock()
        user = User(name, password, role, full_name, email, now, now)
        with self._database.write() as connection:
            _require_free(connection, name)
            connection.execute(sa.insert(USERS).values(**vars(user)))
        return user

    def require_free(self, name: str) -> None:
        """Raises `InputError` for a name that is taken, also in letters of another case, or cannot be one."""
        _require_name(name)
        with self._database.read() as connection:
            _require_free(connection, name)

    def require(self, name: str) -> User:
        """The account of a name. Raises `UnknownUserError`."""
        found = self.find(name)
        if found is None:
            raise UnknownUserError(f"there is no user {name[:64]!r}")
        return found

    def find(self, name: str) -> User | None:
        """The account of a name, as it is written."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(USERS).where(USERS.c.name == name)).first()
        return None if row is None else _user(row)

    def users(self) -> list[User]:
        """All accounts, by name."""
        with self._database.read() as connection:
            return [_user(row) for row in connection.execute(sa.select(USERS).order_by(USERS.c.name))]

    def remove(self, name: str) -> None:
        """Remove an account; its tokens end. Raises `UnknownUserError`."""
        with self._database.write() as connection:
            _one(connection.execute(sa.delete(USERS).where(USERS.c.name == name)).rowcount, name)

    def set_password(self, name: str, password: str) -> None:
        """Another password; the tokens that were given for the old one end. Raises `UnknownUserError`."""
        with self._database.write() as connection:
            self._change(connection, name, password=password)
            connection.execute(sa.delete(ACCESS_TOKENS).where(ACCESS_TOKENS.c.user == name))

    def set_role(self, name: str, role: str) -> None:
        """Another role, from the next request on. Raises `UnknownUserError`."""
        with self._database.write() as connection:
            self._change(connection, name, role=role)

    def renew_hash(self, user: User, password: str) -> None:
        """Another hash of the same password, unless the password was changed meanwhile."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(USERS).where(USERS.c.name == user.name, USERS.c.password == user.password).values(password=password)
            )  # fmt: skip

    def give_token(self, user: User, seconds: float) -> str:
        """A token for who knew the password of `user`: 256 random bits, of which the digest alone is kept.

        Raises
        ------
        UnknownUserError
            The account was removed, or its password changed, since it was read.
        """
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._database.write() as connection:
            same = sa.select(USERS.c.name).where(USERS.c.name == user.name, USERS.c.changed == user.changed)
            _one(int(connection.execute(same).scalar() is not None), user.name)
            connection.execute(sa.delete(ACCESS_TOKENS).where(ACCESS_TOKENS.c.expires < now - KEEP_EXPIRED))
            oldest = (
                sa.select(ACCESS_TOKENS.c.digest).where(ACCESS_TOKENS.c.user == user.name)
                .order_by(ACCESS_TOKENS.c.created.desc(), ACCESS_TOKENS.c.digest).offset(MOST_TOKENS - 1).limit(MOST_TOKENS)
            )  # fmt: skip
            connection.execute(sa.delete(ACCESS_TOKENS).where(ACCESS_TOKENS.c.digest.in_(oldest)))
            connection.execute(sa.insert(ACCESS_TOKENS).values(digest=_digest(token), user=user.name, created=now, expires=now + seconds))
        return token

    def token(self, token: str) -> KnownToken | None:
        """What is known of a token, also of one that has expired; None for one that nobody was given, or that ended."""
        statement = sa.select(USERS, ACCESS_TOKENS.c.expires).join(ACCESS_TOKENS, ACCESS_TOKENS.c.user == USERS.c.name)
        with self._database.read() as connection:
            row = connection.execute(statement.where(ACCESS_TOKENS.c.digest == _digest(token))).first()
        return None if row is None else KnownToken(_user(row), row.expires)

    def _change(self, connection: Connection, name: str, **values: Any) -> None:
        statement = sa.update(USERS).where(USERS.c.name == name).values(**values, changed=self._clock())
        _one(connection.execute(statement).rowcount, name)


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:64]!r} is no name of a user", "Take at most 64 of a to z, digits and . _ @ + -, a letter or digit first.")


def _require_free(connection: Connection, name: str) -> None:
    taken = connection.execute(sa.select(USERS.c.name).where(sa.func.lower(USERS.c.name) == name.lower())).scalar()
    if taken is not None:
        raise InputError(f"there is a user {taken!r} already", "Take another name, or change that account.")


def _one(count: int, name: str) -> None:
    if count != 1:
        raise UnknownUserError(f"there is no user {name[:64]!r}")


def _user(row: Row[Any]) -> User:
    return User(row.name, row.password, row.role, row.full_name, row.email, row.created, row.changed)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
