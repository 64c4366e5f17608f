"""Keeps what is said to a server out of the application's logs.

httpx logs whole URLs, and its transport the headers of answers. In them stand uids, which are keys to results, and ids
and file names of images, which may name a patient. Only our own requests are silent: other users of httpx log as before.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")

_is_ours: ContextVar[bool] = ContextVar("delineate_request", default=False)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record may be written: it is of somebody else's request."""
        return not _is_ours.get()


_SILENCE = _Silence()


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """While this lasts, in this thread or task, httpx and its transport log nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_SILENCE)  # once, however often it is asked for
    before = _is_ours.set(True)
    try:
        yield
    finally:
        _is_ours.reset(before)
