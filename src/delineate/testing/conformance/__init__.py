"""Conformance suites: does a server, of whatever make, speak a dialect of the inference-server protocol, or the MONAI Label API?

`run` checks a server by its address. In pytest, subclass a suite where a fixture ``server`` gives a `Server`::

    class TestMine(V1Suite):
        pass

The suites speak plain HTTP and build their archives with the standard library: they share no code with
Delineate's client or server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from delineate.testing.conformance.checks import Check, Checks
from delineate.testing.conformance.monai_label import MonaiLabelSuite, StrictMonaiLabelSuite
from delineate.testing.conformance.plain import NotAnnouncedError, NotConformingError, Server
from delineate.testing.conformance.seed import SeedSuite
from delineate.testing.conformance.suite import Suite
from delineate.testing.conformance.v1 import V1Suite
from delineate.testing.conformance.v2 import V2Suite

SUITES: Final[Mapping[str, type[Checks]]] = MappingProxyType(
    {"seed": SeedSuite, "v1": V1Suite, "v2": V2Suite, "monai-label": MonaiLabelSuite, "monai-label-strict": StrictMonaiLabelSuite}
)


def run(url: str, dialect: str, model: str = "noop", token: str | None = None, ca_file: Path | None = None) -> list[Check]:
    """Run the suite of a dialect against the server at `url`; it posts small tasks, adds images and removes them.

    Parameters
    ----------
    url : with path prefix, where there is one.
    dialect : ``seed``, ``v1`` or ``v2``; ``monai-label`` for what its clients need, ``monai-label-strict`` for what servers
        of that API are known to get wrong as well.
    model : a model on that server that takes one image and ends soon.
    token : where the server wants one; ca_file : PEM file of a private authority.
    """
    return SUITES[dialect]().run(Server(url, model, token, ca_file=ca_file))


__all__ = [
    "SUITES", "Check", "Checks", "MonaiLabelSuite", "NotAnnouncedError", "NotConformingError", "SeedSuite", "Server",
    "StrictMonaiLabelSuite", "Suite", "V1Suite", "V2Suite", "run",
]  # fmt: skip
