"""Clients: drivers of the protocol flows over httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from delineate.client.aio import AsyncClient
    from delineate.client.sync import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the client of the MONAI Label API stands here too, and needs no images and an older Python.
    if name == "Client":
        from delineate.client.sync import Client

        return Client
    if name == "AsyncClient":
        from delineate.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'delineate.client' has no attribute {name!r}")
