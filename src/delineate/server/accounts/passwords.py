"""Passwords: argon2id, salted, slow on purpose. Everything here blocks for a tenth of a second."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from delineate.errors import InputError, MissingPartError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST: Final = 10
LONGEST: Final = 1024  # bytes

# Twice what OWASP asks for at least, in little memory: the server's process stays below 120 MB while somebody logs in.
PASSES: Final = 4
MEMORY_KIB: Final = 19 * 1024


class Passwords:
    """Makes and checks hashes."""

    def __init__(self, *, passes: int = PASSES, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = _hasher(passes, memory_kib)
        self._nobody = ""

    def hash(self, password: str) -> str:
        """The hash to keep, its salt and parameters in it."""
        return self._hasher.hash(password)

    def is_right(self, password: str, kept: str | None) -> bool:
        """Whether a password is the one that `kept` was made of; None for nobody's, which takes as long."""
        from argon2.exceptions import InvalidHashError, VerificationError

        if not self._nobody:
            self._nobody = self._hasher.hash(secrets.token_urlsafe())
        try:
            return self._hasher.verify(kept or self._nobody, password) and kept is not None
        except (VerificationError, InvalidHashError):
            return False

    def is_outdated(self, kept: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(kept)


def checked_password(password: str) -> str:
    """A password that somebody may take. Raises `InputError`."""
    if len(password) < SHORTEST:
        raise InputError(f"the password has fewer than {SHORTEST} characters", "Take a longer one, such as some words.")
    if len(password.encode("utf-8", "surrogatepass")) > LONGEST or not password.isprintable():
        raise InputError("the password is too long, or holds control characters", f"Take one of at most {LONGEST} bytes of text.")
    return password


def _hasher(passes: int, memory_kib: int) -> PasswordHasher:
    try:
        from argon2 import PasswordHasher, Type  # not above: loaded where there are accounts, and nowhere else
    except ModuleNotFoundError:
        raise MissingPartError("argon2-cffi, which local accounts need,", "accounts") from None
    return PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1, type=Type.ID)
