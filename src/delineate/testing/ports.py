"""Ports of loopback for servers that are to begin, or to begin again, at a port that is known before."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below those that systems give to whoever asks for any: what another process is given meanwhile is never one of these.
_LOWEST, _HIGHEST = 10_000, 32_000
_TRIES: Final = 100


def free_port() -> int:
    """A port of loopback at which nothing listens.

    Raises
    ------
    OSError
        A hundred ports were tried, and all of them are taken.
    """
    chance = random.SystemRandom()  # whoever else looks for one at this moment is to find another
    for _ in range(_TRIES):
        port = chance.randint(_LOWEST, _HIGHEST)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError("No free port was found on loopback. End some of the programs that listen there.")
