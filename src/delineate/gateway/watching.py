"""What a person sees and decides of a node, from another process: its list, one series, trying again, letting go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from delineate.errors import InputError
from delineate.gateway.holdings import FILE, Holdings, Row

_LIST: Final = """
SELECT series.*, (SELECT count(*) FROM instances WHERE series = series.id) AS instances,
  versions.state, versions.reason, versions.advice, versions.at,
  (SELECT max(coalesce(nullif(jobs.reason, ''), deliveries.reason, '')) FROM jobs
     LEFT JOIN deliveries ON deliveries.job = jobs.id AND deliveries.state = 'waiting'
   WHERE jobs.series = series.id AND jobs.version = series.version AND jobs.state IN ('waiting', 'sent', 'delivering')) AS waits_for
FROM series LEFT JOIN versions ON versions.series = series.id AND versions.number = series.version
"""
_EVENTS: Final = 50


def open_holdings(data: Path) -> Holdings:
    """The file of a node; `InputError` where there is none."""
    if not (data / FILE).is_file():
        raise InputError(f"there is no node in {data}", "Give the --data of `delineate gateway serve`.")
    return Holdings(data)


def listed(holdings: Holdings, state: str = "") -> list[dict[str, Any]]:
    """Every series, newest last, or those in a state."""
    found = [_series(row) for row in holdings.rows(_LIST + " ORDER BY series.id")]
    return [item for item in found if state in ("", item["state"])]


def shown(holdings: Holdings, number: int) -> dict[str, Any]:
    """All about one series."""
    row = _one(holdings, number)
    jobs = []
    for job in holdings.rows("SELECT * FROM jobs WHERE series = ? ORDER BY id", number):
        item = {name: job[name] for name in ("id", "version", "rule", "state", "attempts", "due", "reason", "advice", "changed")}
        words = "SELECT destination, state, attempts, due, reason, advice, changed FROM deliveries WHERE job = ? ORDER BY id"
        item["deliveries"] = [dict(delivery) for delivery in holdings.rows(words, job["id"])]
        jobs.append(item)
    versions = holdings.rows("SELECT number, instances, at, state, reason, advice FROM versions WHERE series = ? ORDER BY number", number)
    aside = holdings.rows("SELECT file, reason, at FROM aside WHERE series = ?", number)
    events = holdings.rows("SELECT at, words FROM events WHERE series = ? ORDER BY id DESC LIMIT ?", number, _EVENTS)
    return {
        **_series(row),
        "uid": row["uid"],
        "versions": [dict(item) for item in versions],
        "jobs": jobs,
        "aside": [dict(item) for item in aside],
        "events": [dict(item) for item in reversed(events)],
    }


def retry(holdings: Holdings, number: int) -> int:
    """What failed of a series is tried again now, and what waits to be tried; the count of things."""
    _one(holdings, number)
    now = holdings.clock()
    with holdings.change() as line:
        deliveries = line.execute(
            "UPDATE deliveries SET state = 'waiting', attempts = 0, due = ? WHERE state IN ('held', 'waiting')"
            " AND job IN (SELECT id FROM jobs WHERE series = ? AND state IN ('held', 'delivering'))",
            (now, number),
        ).rowcount
        line.execute(
            "UPDATE jobs SET state = 'delivering', reason = '', advice = '' WHERE series = ? AND state = 'held'"
            " AND EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.id)",
            (number,),
        )
        jobs = line.execute(
            "UPDATE jobs SET task = '', round = round + 1, state = 'waiting', attempts = 0, due = ? WHERE series = ? AND state = 'held'",
            (now, number),
        ).rowcount
        jobs += line.execute(
            "UPDATE jobs SET attempts = 0, due = ? WHERE series = ? AND state IN ('waiting', 'sent') AND attempts > 0", (now, number)
        ).rowcount
        versions = 0
        if jobs + deliveries:
            line.execute("UPDATE versions SET state = 'working', reason = '', advice = '' WHERE series = ? AND state = 'held'", (number,))
        else:
            versions = line.execute("UPDATE versions SET state = 'whole' WHERE series = ? AND state = 'held'", (number,)).rowcount
        holdings.event(line, "tried again by a person", number)
    return int(jobs + deliveries + versions)


def release(holdings: Holdings, number: int) -> bool:
    """A series goes on as it is: one that is arriving, whose sender broke off, or of which late arrivals were only noted."""
    row = _one(holdings, number)
    with holdings.change() as line:
        if row["fresh"] or row["is_open"]:
            line.execute("UPDATE series SET is_released = 1 WHERE id = ?", (number,))
        elif row["state"] in ("held", "noted") and not _has_jobs(holdings, row):
            holdings.replace(line, number)  # of the older ones
            line.execute("UPDATE versions SET state = 'whole' WHERE series = ? AND number = ?", (number, row["version"]))
        else:
            return False
        holdings.event(line, "released by a person", number)
    return True


def _has_jobs(holdings: Holdings, row: Row) -> bool:
    return holdings.one("SELECT 1 FROM jobs WHERE series = ? AND version = ?", row["id"], row["version"]) is not None


def _one(holdings: Holdings, number: int) -> Row:
    row = holdings.one(_LIST + " WHERE series.id = ?", number)
    if row is None:
        raise InputError(f"the node holds no series {number}", "`delineate gateway list` shows them with their numbers.")
    return row


def _series(row: Row) -> dict[str, Any]:
    is_arriving = row["fresh"] or row["is_open"] or row["state"] is None
    return {
        "series": row["id"],
        "sender": row["sender"],
        "modality": row["modality"],
        "instances": row["instances"],
        "megabytes": round(row["bytes"] / 1e6, 1),
        "version": row["version"],
        "state": "arriving" if is_arriving else row["state"],
        "reason": "" if is_arriving else row["reason"] or (row["waits_for"] or "" if row["state"] == "working" else ""),
        "advice": "" if is_arriving else row["advice"],
        "last": row["last"],
    }
