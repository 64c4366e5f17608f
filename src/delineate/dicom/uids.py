"""UIDs that are new, and UIDs that follow from something else (PS3.5, B.2: a UUID as a number)."""

from __future__ import annotations

import hashlib
import uuid
from typing import Final

_OF_NAMES: Final = 5  # the version of a UUID that was made of a name


def new_uid() -> str:
    """A UID that nothing has."""
    return f"2.25.{uuid.uuid4().int}"


def uid_of(*parts: str) -> str:
    """The same UID for the same parts, another one for any others; it does not tell the parts."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=_OF_NAMES).int}"


def follows(uid: str, part: str) -> str:
    """A UID for a part of what was given the UID `uid`, always the same; a new one where none was given."""
    return uid_of(uid, part) if uid else new_uid()
