"""What every suite is: checks of one dialect, and how they are run without pytest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import httpx

from delineate.testing.conformance.plain import NotAnnouncedError, NotConformingError, Server

UNSPOKEN: Final = "the server could not be spoken to"
"""What the detail of a check begins with that did not get as far as an answer."""


@dataclass(frozen=True)
class Check:
    """What came of one check; `detail` says what was wrong, or of one that passed why it was left out."""

    name: str
    passed: bool
    detail: str = ""


class Checks:
    """Checks of one dialect: methods ``test_*`` that take the server. Subclass it in a pytest module with a fixture ``server``."""

    dialect: ClassVar[str]

    def names(self) -> list[str]:
        """Names of the checks, in words."""
        return [name.removeprefix("test_").replace("_", " ") for name in sorted(dir(self)) if name.startswith("test_")]

    def run(self, server: Server) -> list[Check]:
        """All checks of the suite, in the order of their names."""
        return [self.check(name, server) for name in self.names()]

    def check(self, name: str, server: Server) -> Check:
        """One check, by its name in words; whatever goes wrong is its detail."""
        label = f"{self.dialect}: {name}"
        method: Callable[[Server], None] = getattr(self, "test_" + name.replace(" ", "_"))
        try:
            method(server)
        except NotAnnouncedError as error:
            return Check(label, True, f"left out: {error}")
        except NotConformingError as error:
            return Check(label, False, str(error))
        except httpx.HTTPError as error:
            return Check(label, False, f"{UNSPOKEN}: {type(error).__name__}: {error}")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            return Check(label, False, f"an answer could not be read: {type(error).__name__}: {error}")
        return Check(label, True)
