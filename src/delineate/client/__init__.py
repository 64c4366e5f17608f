"""Clients: drivers of the protocol flows over httpx."""
