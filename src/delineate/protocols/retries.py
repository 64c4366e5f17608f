"""Former place of what is in `delineate.protocols.messages`."""

from delineate.protocols.messages import Backoff, Clock, Deadline, Exchange

__all__ = ["Backoff", "Clock", "Deadline", "Exchange"]
