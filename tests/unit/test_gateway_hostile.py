"""What must not happen to series and results, whatever senders and receivers do: by rows and a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.gateway.holdings import Holdings
from delineate.gateway.watching import release
from delineate.gateway.work_rows import WorkRows


@pytest.fixture
def holdings(tmp_path: Path) -> Iterator[Holdings]:
    found = Holdings(tmp_path)
    yield found
    found.close()


def states(holdings: Holdings, table: str) -> list[str]:
    return [
        row["state"]
        for row in holdings.rows(
            f"SELECT state FROM {table} ORDER BY rowid" if table != "versions" else "SELECT state FROM versions ORDER BY number"
        )
    ]  # noqa: S608


def written(holdings: Holdings, rows: WorkRows) -> int:
    """A series whose results wait for two receivers; its number."""
    series = holdings.series("1.1", "CT", "CT")
    holdings.add(series, "1.2", "a.dcm", 10)
    version = holdings.make_version(series, "whole")
    rows.decided(series, version, ["lungs"])
    (job,) = rows.due_jobs(())
    rows.sent(job, "task")
    rows.written(job, ["pacs", "archive"], [])
    return series


def test_results_of_an_older_version_never_leave(holdings: Holdings) -> None:
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    series = written(holdings, rows)
    first, second = rows.due_deliveries(())
    rows.not_delivered(first, "it is away", "", is_final=False)
    holdings.add(series, "1.3", "b.dcm", 10)
    holdings.make_version(series, "whole")
    assert rows.due_deliveries(()) == []
    assert states(holdings, "deliveries") == ["replaced", "replaced"]
    rows.not_delivered(second, "it broke off", "", is_final=False)  # which was under way
    assert rows.due_deliveries(()) == []
    rows.delivered(second, [])
    assert states(holdings, "deliveries") == ["replaced", "done"]
    assert states(holdings, "jobs") == ["replaced"] and states(holdings, "versions") == ["replaced", "whole"]


def test_late_objects_that_are_released_end_what_waits_of_the_older_version(holdings: Holdings) -> None:
    rows = WorkRows(holdings, attempts=5, pause=0.0, longest=0.0)
    series = written(holdings, rows)
    holdings.add(series, "1.3", "b.dcm", 10)
    holdings.make_version(series, "noted", "objects came late")
    assert len(rows.due_deliveries(())) == 2
    assert release(holdings, series)
    assert rows.due_deliveries(()) == [] and states(holdings, "versions") == ["replaced", "whole"]
