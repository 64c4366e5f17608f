"""Clients: drivers of the protocol flows over httpx."""

from delineate.client.aio import AsyncClient
from delineate.client.sync import Client

__all__ = ["AsyncClient", "Client"]
