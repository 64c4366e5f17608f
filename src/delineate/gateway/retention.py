"""What is done with goes after a while; so does what nobody decided about, later."""

from __future__ import annotations

import logging
import time
from typing import Final

from delineate.gateway.holdings import Holdings
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.spool import Spool

_LOG: Final = logging.getLogger("delineate.gateway")

_RUNNING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_LEAP: Final = 3600.0  # seconds by which a clock may be corrected

_OVER: Final = """
SELECT series.id, series.uid FROM series
WHERE fresh = 0 AND NOT is_open AND last < :before
  AND NOT EXISTS (SELECT 1 FROM versions WHERE series = series.id AND (state IN ('whole', 'working') OR at >= :before))
  AND EXISTS (SELECT 1 FROM versions WHERE series = series.id AND state = 'held') = :is_held
"""
_IDLE: Final = "SELECT series, number FROM versions WHERE state IN ('done', 'replaced', 'noted')"


class Retention:
    """Removes series that are done with for as long as the settings say."""

    def __init__(self, holdings: Holdings, spool: Spool, settings: NodeSettings) -> None:
        self._holdings, self._spool, self._settings = holdings, spool, settings
        self._began = holdings.clock(), time.clock_gettime(_RUNNING)

    def _now(self) -> float:
        """The time, but no later than it can be: were the clock set to next year by mistake, all would be removed at once."""
        now, (then, began) = self._holdings.clock(), self._began
        latest = then + time.clock_gettime(_RUNNING) - began + _LEAP
        if now > latest:
            _LOG.warning(
                "the clock was set %.0f hours ahead; nothing is removed earlier for that: restart the node if it is right",
                (now - latest) / 3600,
            )
        return float(min(now, latest))

    def sweep(self) -> int:
        """Remove what is due; the count of series removed."""
        now, count = self._now(), 0
        for is_held, keep in ((0, self._settings.keep), (1, self._settings.keep_held)):
            for row in self._holdings.rows(_OVER, {"before": now - keep, "is_held": is_held}):
                count += self._remove(row["id"], "its time was up" + (", and nobody had decided about it" if is_held else ""))
        for row in self._holdings.rows(_IDLE):
            self._spool.forget_version(row["series"], row["number"])
        if count:
            self._holdings.prune_events()
            _LOG.info("%d series were removed from the disk", count)
        return count

    def _remove(self, series: int, words: str) -> bool:
        """Rows first: files without rows are removed at the next start. What something came of meanwhile stays."""
        jobs = [row["id"] for row in self._holdings.rows("SELECT id FROM jobs WHERE series = ?", series)]
        with self._holdings.change() as line:
            if not line.execute("DELETE FROM series WHERE id = ? AND fresh = 0 AND NOT is_open", (series,)).rowcount:
                return False
            self._holdings.event(line, f"removed: {words}", series)
        self._spool.forget_series(series)
        for job in jobs:
            self._spool.forget_job(job)
        return True
