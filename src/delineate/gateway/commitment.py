"""Storage commitment (PS3.4, annex J): a receiver says that it keeps what it was sent."""

from __future__ import annotations

from typing import Any


class Commitments:
    """What receivers were asked to commit to, and what they answered. For several threads."""

    def heard(self, dataset: Any) -> None:
        """The answer of a receiver: the data set of an N-EVENT-REPORT, on whatever association it came."""
