"""The rows of jobs and deliveries: what is due, and what became of it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from delineate.gateway.holdings import Holdings, Row

_LEAP: Final = 60.0  # seconds
_HELD_BY_DELIVERY: Final = "a result was not delivered"


class WorkRows:
    """Jobs and deliveries. For several threads; whatever is changed here is on the disk afterwards.

    attempts, pause, longest : how often a step is tried, seconds before the second time, and the longest between two.
    """

    def __init__(self, holdings: Holdings, attempts: int, pause: float, longest: float) -> None:
        self._holdings = holdings
        self._attempts, self._pause, self._longest = attempts, pause, longest

    # Versions

    def undecided(self) -> list[Row]:
        """Versions for which no rule was looked at."""
        return self._holdings.rows("SELECT series, number FROM versions WHERE state = 'whole' ORDER BY series")

    def decided(self, series: int, version: int, rules: Sequence[str]) -> None:
        """A version gets a job for each rule."""
        now = self._holdings.clock()
        with self._holdings.change() as line:
            for rule in rules:
                line.execute(
                    "INSERT INTO jobs (series, version, rule, state, due, changed) VALUES (?, ?, ?, 'waiting', ?, ?)"
                    " ON CONFLICT DO NOTHING",
                    (series, version, rule, now, now),
                )
            line.execute(
                "UPDATE versions SET state = 'working', reason = '', advice = '' WHERE series = ? AND number = ?", (series, version)
            )
            self._holdings.event(line, f"goes by {', '.join(rules)}", series)

    def hold_version(self, series: int, version: int, reason: str, advice: str) -> None:
        """A version waits for a person."""
        with self._holdings.change() as line:
            line.execute(
                "UPDATE versions SET state = 'held', reason = ?, advice = ? WHERE series = ? AND number = ?",
                (reason, advice, series, version),
            )
            self._holdings.event(line, f"held: {reason}", series, level=logging.WARNING)

    def note_version(self, series: int, version: int, reason: str) -> None:
        """Nothing is to be done with a version."""
        with self._holdings.change() as line:
            words = "UPDATE versions SET state = 'noted', reason = ?, advice = '' WHERE series = ? AND number = ?"
            line.execute(words, (reason, series, version))
            self._holdings.event(line, f"noted: {reason}", series)

    # Jobs

    def due_jobs(self, busy: Collection[int]) -> list[int]:
        """Jobs that can go on now."""
        return self._due("jobs", "('waiting', 'sent')", busy)

    def due_deliveries(self, busy: Collection[int]) -> list[int]:
        """Deliveries that can be tried now."""
        return self._due("deliveries", "('waiting')", busy)

    def _due(self, table: str, states: str, busy: Collection[int]) -> list[int]:
        now = self._holdings.clock()
        far = now + 2 * self._longest + _LEAP  # nothing is due as late as that: the clock was set back
        words = f"SELECT id FROM {table} WHERE state IN {states} AND (due <= ? OR due > ?) ORDER BY due, id"  # noqa: S608
        found = self._holdings.rows(words, now, far)
        return [row["id"] for row in found if row["id"] not in busy]

    def pause(self) -> float:
        """Seconds until something is due that is not now; infinite where nothing waits."""
        now = self._holdings.clock()
        ahead = [
            self._holdings.one(f"SELECT min(due) AS due FROM {table} WHERE state IN {states} AND due > ?", now)  # noqa: S608
            for table, states in (("jobs", "('waiting', 'sent')"), ("deliveries", "('waiting')"))
        ]
        return min((row["due"] - now for row in ahead if row is not None and row["due"] is not None), default=float("inf"))

    def job(self, job: int) -> Row | None:
        """A job."""
        return self._holdings.one("SELECT * FROM jobs WHERE id = ?", job)

    def delivery(self, delivery: int) -> Row | None:
        """A delivery."""
        return self._holdings.one("SELECT * FROM deliveries WHERE id = ?", delivery)

    def sent(self, job: int, task: str) -> None:
        """The server has it; its answer may be long in coming."""
        with self._holdings.change() as line:
            now = self._holdings.clock()
            line.execute(
                "UPDATE jobs SET state = 'sent', task = ?, attempts = 0, reason = '', advice = '', changed = ?"
                " WHERE id = ? AND state = 'waiting'",
                (task, now, job),
            )
            self._event(line, job, "sent to the server")

    def goes_on(self, job: int) -> None:
        """What kept it is over: the server, perhaps, is there again. It was tried as often as it was."""
        with self._holdings.change() as line:
            line.execute("UPDATE jobs SET reason = '', advice = '' WHERE id = ? AND state = 'sent'", (job,))

    def written(self, job: int, destinations: Sequence[str], notes: Sequence[str]) -> None:
        """The results lie on the disk."""
        now = self._holdings.clock()
        with self._holdings.change() as line:
            changed = line.execute(
                "UPDATE jobs SET state = 'delivering', attempts = 0, reason = '', advice = '', changed = ? WHERE id = ? AND state = 'sent'",
                (now, job),
            )
            if changed.rowcount == 0:
                return  # replaced meanwhile
            for name in destinations:
                line.execute(
                    "INSERT INTO deliveries (job, destination, state, due, changed) VALUES (?, ?, 'waiting', ?, ?)", (job, name, now, now)
                )
            self._event(line, job, "results are written" + "".join(f"; {note}" for note in notes))
            if not destinations:
                self._settle_job(line, job)

    def later(self, job: int, reason: str, advice: str, is_new: bool = False) -> None:
        """Try again after a while, or hold it where that was done often enough; `is_new`: with a new task."""
        with self._holdings.change() as line:
            row = line.execute("SELECT attempts, state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is None or row["state"] not in ("waiting", "sent"):
                return
            if row["attempts"] + 1 >= self._attempts:
                self._hold(line, job, f"{reason} ({row['attempts'] + 1} times)", advice)
                return
            more = ", state = 'waiting', task = '', round = round + 1" if is_new else ""
            line.execute(
                f"UPDATE jobs SET attempts = attempts + 1, due = ?, reason = ?, advice = ?{more} WHERE id = ?",  # noqa: S608
                (self._next(row["attempts"]), reason, advice, job),
            )
            if row["attempts"] == 0:
                self._event(line, job, f"will be tried again: {reason}", logging.WARNING)

    def hold(self, job: int, reason: str, advice: str) -> None:
        """A job waits for a person."""
        with self._holdings.change() as line:
            row = line.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is not None and row["state"] in ("waiting", "sent"):
                self._hold(line, job, reason, advice)

    def _hold(self, line: sqlite3.Connection, job: int, reason: str, advice: str) -> None:
        now = self._holdings.clock()
        line.execute("UPDATE jobs SET state = 'held', reason = ?, advice = ?, changed = ? WHERE id = ?", (reason, advice, now, job))
        self._event(line, job, f"held: {reason}", logging.WARNING)
        self._settle_version(line, job)

    # Deliveries

    def delivered(self, delivery: int, notes: Sequence[str]) -> None:
        """A destination has all of it."""
        with self._holdings.change() as line:
            now = self._holdings.clock()
            line.execute("UPDATE deliveries SET state = 'done', reason = '', advice = '', changed = ? WHERE id = ?", (now, delivery))
            job, name = line.execute("SELECT job, destination FROM deliveries WHERE id = ?", (delivery,)).fetchone()
            self._event(line, job, f"delivered to {name}" + "".join(f"; {note}" for note in notes))
            self._settle_job(line, job)

    def not_delivered(self, delivery: int, reason: str, advice: str, is_final: bool) -> None:
        """Try again after a while, or hold it."""
        with self._holdings.change() as line:
            row = line.execute("SELECT job, destination, attempts, state FROM deliveries WHERE id = ?", (delivery,)).fetchone()
            if row is None or row["state"] != "waiting":  # replaced meanwhile
                return
            is_held = is_final or row["attempts"] + 1 >= self._attempts
            line.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, due = ?, reason = ?, advice = ?, changed = ? WHERE id = ?",
                ("held" if is_held else "waiting", self._next(row["attempts"]), reason, advice, self._holdings.clock(), delivery),
            )
            if is_held or row["attempts"] == 0:
                words = f"{'not' if is_held else 'not yet'} delivered to {row['destination']}: {reason}"
                self._event(line, row["job"], words, logging.WARNING)
            self._settle_job(line, row["job"])

    def _next(self, attempts: int) -> float:
        return float(self._holdings.clock() + min(self._longest, self._pause * 2.0 ** min(attempts, 30)))

    # What follows

    def _settle_job(self, line: sqlite3.Connection, job: int) -> None:
        states = [row["state"] for row in line.execute("SELECT state FROM deliveries WHERE job = ?", (job,))]
        if "waiting" in states:
            return
        now = self._holdings.clock()
        if "held" in states:
            row = line.execute("SELECT destination, reason, advice FROM deliveries WHERE job = ? AND state = 'held'", (job,)).fetchone()
            reason = f"{_HELD_BY_DELIVERY} to {row['destination']}: {row['reason']}"
            line.execute(
                "UPDATE jobs SET state = 'held', reason = ?, advice = ?, changed = ? WHERE id = ? AND state = 'delivering'",
                (reason, row["advice"], now, job),
            )
        else:
            words = "UPDATE jobs SET state = 'done', reason = '', advice = '', changed = ? WHERE id = ? AND state = 'delivering'"
            line.execute(words, (now, job))
        self._settle_version(line, job)

    def _settle_version(self, line: sqlite3.Connection, job: int) -> None:
        series, version = line.execute("SELECT series, version FROM jobs WHERE id = ?", (job,)).fetchone()
        rows = line.execute("SELECT state, rule, reason, advice FROM jobs WHERE series = ? AND version = ?", (series, version)).fetchall()
        if any(row["state"] in ("waiting", "sent", "delivering") for row in rows):
            return
        held = next((row for row in rows if row["state"] == "held"), None)
        state, reason, advice = ("held", f"{held['rule']}: {held['reason']}", held["advice"]) if held else ("done", "", "")
        line.execute(
            "UPDATE versions SET state = ?, reason = ?, advice = ?, at = ? WHERE series = ? AND number = ? AND state != 'replaced'",
            (state, reason, advice, self._holdings.clock(), series, version),
        )

    def _event(self, line: sqlite3.Connection, job: int, words: str, level: int = logging.INFO) -> None:
        row = line.execute("SELECT series, rule FROM jobs WHERE id = ?", (job,)).fetchone()
        self._holdings.event(line, f"{row['rule']}: {words}", row["series"], job, level)
