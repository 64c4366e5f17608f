"""What is known of who asks, and how it is refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

from delineate.errors import AuthorizationError, SettingsError, UnavailableError
from delineate.protocols.monai_label import ROLES

LONGEST_TOKEN: Final = 16_384
"""Characters; longer ones are refused unread."""


class Role(enum.IntEnum):
    """Each may what those before it may."""

    NONE = 0
    USER = 1
    ANNOTATOR = 2
    REVIEWER = 3
    ADMIN = 4

    @property
    def word(self) -> str:
        """As it is written in settings and answers."""
        return self.name.lower()

    @property
    def words(self) -> list[str]:
        """This role and those that it holds, the least first."""
        return [role.word for role in Role if Role.NONE < role <= self]


def role_of(word: str) -> Role:
    """A role by its word. Raises `SettingsError`."""
    if word.lower() not in ROLES:
        raise SettingsError(f"{word[:32]!r} is no role", f"Roles are {', '.join(ROLES)}.")
    return Role[word.upper()]


@dataclass(frozen=True)
class Identity:
    """Who asks.

    Parameters
    ----------
    name : unique among those who ask; tasks, sessions and labels are owned by it
    role : the highest they have
    full_name, email : for people, empty where not known
    """

    name: str
    role: Role
    full_name: str = ""
    email: str = ""


class Accounts(Protocol):
    """One way to know users by tokens."""

    client_id: str
    realm: str

    async def identify(self, token: str) -> Identity | None:
        """Whose token this is, None where it is none of ours.

        Raises
        ------
        ExpiredTokenError, UnavailableError
            It was one; nobody can tell now.
        """

    async def log_in(self, name: str, password: str) -> str:
        """A token.

        Raises
        ------
        WrongPasswordError, UnavailableError
            Refused; nobody can tell now.
        """

    async def close(self) -> None:
        """Nobody asks any more."""


class InvalidTokenError(AuthorizationError):
    """A token that nobody here gave, or was changed (401)."""

    default_advice = "Log in again, or give a valid token."

    def __init__(self, message: str = "the token is not valid", advice: str = "") -> None:
        super().__init__(message, advice, 401)


class ExpiredTokenError(InvalidTokenError):
    """A token that was valid once (401)."""

    default_advice = "Log in again."

    def __init__(self) -> None:
        super().__init__("the token has expired")


class WrongPasswordError(AuthorizationError):
    """No such user, or another password: which of both is not said (401)."""

    default_advice = "Check both, and that the account is active."

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong", "", 401)


class RoleMissingError(AuthorizationError):
    """Known, but not allowed (403)."""

    def __init__(self, needed: Role, had: Role) -> None:
        has = f"you are {had.word}" if had else "you have no role here"
        super().__init__(f"this needs the role {needed.word}, {has}", "Ask the server's administrator for it.", 403)


class TooManyTriesError(AuthorizationError):
    """Too many wrong passwords (429). `seconds` : until another is looked at."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, round(seconds + 0.5))
        super().__init__("too many wrong passwords", f"Try again in {self.seconds} s.", 429)


class ProviderAwayError(UnavailableError):
    """The OpenID provider does not answer (503)."""

    default_advice = "Try again later, or tell the server's administrator."

    def __init__(self, what: str) -> None:
        super().__init__(f"the identity provider {what}", "", 503)
