"""Tokens that stand in the settings: for programs."""

from __future__ import annotations

import hmac

from delineate.server.accounts.identity import Identity, Role, role_of
from delineate.server.settings import Settings


class StaticTokens:
    """Each has a name, which what it posts is owned by, and a role: `admin` where the settings say nothing."""

    def __init__(self, settings: Settings) -> None:
        self._known = [
            (secret.encode(), Identity(name, role_of(settings.token_roles.get(name, Role.ADMIN.word))))
            for name, secret in settings.named_tokens.items()
        ]

    def __bool__(self) -> bool:
        return bool(self._known)

    def identify(self, token: str) -> Identity | None:
        """Whose token this is."""
        given = token.encode("latin-1", "replace")
        found = None
        for secret, identity in self._known:  # all of them, always: the time tells nothing
            if hmac.compare_digest(given, secret):
                found = identity
        return found
