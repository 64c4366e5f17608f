"""At the start: what a killed process, or a machine without power, left half done between files and database."""

from __future__ import annotations

import logging
from typing import Final

from delineate.dicom.header import NotDicomError, read_header
from delineate.errors import ImageError
from delineate.gateway.holdings import Holdings
from delineate.gateway.spool import Spool, is_whole

_LOG: Final = logging.getLogger("delineate.gateway")


def adopt(holdings: Holdings, spool: Spool) -> int:
    """Note whole files of which the database does not know, remove others, and forget instances whose file is gone.

    Returns
    -------
    int
        Instances that were noted: their rows were lost with the machine's power, or the process died before it wrote them.
    """
    spool.clear()
    series, jobs = ({row["id"] for row in holdings.rows(f"SELECT id FROM {table}")} for table in ("series", "jobs"))  # noqa: S608
    spool.forget_others(series, jobs)
    aside = {row["file"] for row in holdings.rows("SELECT file FROM aside")}
    for path in spool.aside.iterdir():
        if path.name not in aside:  # its sender was told nothing, and sends it again
            path.unlink()
    adopted = _adopted(holdings, spool)
    if adopted:
        _LOG.warning("%d objects were found on the disk that the database did not know", adopted)
    return adopted


def _adopted(holdings: Holdings, spool: Spool) -> int:
    known = {(row["series"], row["file"]) for row in holdings.rows("SELECT series, file FROM instances")}
    adopted, there = 0, set()
    for series, path in spool.found():
        there.add((series, path.name))
        if (series, path.name) in known:
            continue
        try:
            uid = read_header(path).text("SOPInstanceUID") if is_whole(path) else ""
        except (ImageError, NotDicomError):
            uid = ""
        if not uid or holdings.add(series, uid, path.name, path.stat().st_size) != path.name:
            path.unlink()
        else:
            adopted += 1
    if lost := known - there:
        _forget(holdings, lost)
    return adopted


def _forget(holdings: Holdings, lost: set[tuple[int, str]]) -> None:
    _LOG.error("the files of %d objects are gone from the disk", len(lost))
    with holdings.change() as line:
        line.executemany("DELETE FROM instances WHERE series = ? AND file = ?", sorted(lost))
        for series in sorted({series for series, _ in lost}):
            holdings.event(line, "files are gone from the disk; send the series again", series)
