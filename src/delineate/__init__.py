"""Delineate: images leave the workstation, a model delineates, structures come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delineate.client.aio import AsyncClient
    from delineate.client.sync import Client

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the vocabulary must load without httpx, and on Python 3.7.
    if name == "Client":
        from delineate.client.sync import Client

        return Client
    if name == "AsyncClient":
        from delineate.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError("module 'delineate' has no attribute %r" % name)
