"""A DICOM node in a thread, and senders for it. Needs the extra ``dicom``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from delineate.dicom.parts import pydicom
from delineate.gateway.holdings import Holdings
from delineate.gateway.node import Node
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.rules import Rules, Server
from delineate.gateway.spool import meta
from delineate.testing.dicom import CT, EXPLICIT, ROOT

RULES: Final = """
[node]
port = 0
quiet_seconds = 0.2
broken_seconds = 0.6
pause_seconds = 0.05
longest_pause_seconds = 0.2
spare_gigabytes = 0

[destinations.kept]
kind = "folder"
path = "results"

[[rules]]
name = "bones"
model = "threshold"
match = { Modality = "CT" }
destinations = ["kept"]
"""
_LIMIT: Final = 60.0


class RunningNode:
    """A node at work in a thread, with what it holds to look at."""

    def __init__(self, node: Node, data: Path) -> None:
        self.node = node
        self.data = data
        self.port = node.port
        self.holdings = Holdings(data)
        self._thread = threading.Thread(target=node.run)
        self._thread.start()

    def count(self, table: str, where: str = "1") -> int:
        """Rows of a table."""
        return int(self.holdings.rows(f"SELECT count(*) FROM {table} WHERE {where}")[0][0])  # noqa: S608

    def until(self, condition: Callable[[], bool], seconds: float = _LIMIT) -> None:
        """Wait until something is so; `AssertionError` where it does not become so."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                events = [row["words"] for row in self.holdings.rows("SELECT words FROM events ORDER BY id")]
                raise AssertionError(f"it did not happen; what did: {events}")
            time.sleep(0.02)

    def state(self, series: int = 1) -> str:
        """Of the newest version of a series, empty where there is none."""
        words = "SELECT state FROM versions WHERE series = ? ORDER BY number DESC LIMIT 1"
        row = self.holdings.one(words, series)
        return "" if row is None else str(row["state"])

    def files(self) -> list[Path]:
        """Of all series, as they lie on the disk."""
        return sorted((self.data / "series").rglob("*.dcm"))

    def stop(self) -> None:
        """End it."""
        self.node.stop()
        self._thread.join(_LIMIT)
        self.holdings.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running_node(folder: Path, rules: str = RULES, server: str = "http://127.0.0.1:1") -> Iterator[RunningNode]:
    """A node with a rules file and data below `folder`; started again on the same folder it goes on."""
    path = folder / "rules.toml"
    path.write_text(rules, encoding="utf-8")
    node = Node(NodeSettings.read(path), Rules.read(path), Server(name="", url=server), folder / "node")
    running = RunningNode(node, folder / "node")
    try:
        yield running
    finally:
        running.stop()


def send(port: int, objects: Sequence[Any], *, calling: str = "SENDER", called: str = "DELINEATE", tls: Any = None) -> list[int]:
    """Send data sets by one association; the statuses, -1 where none was answered. `ConnectionError` where there is no association."""
    from pynetdicom import AE

    entity = AE(ae_title=calling)
    for sop_class, syntax in sorted({(item.SOPClassUID, item.file_meta.TransferSyntaxUID) for item in objects}):
        entity.add_requested_context(sop_class, syntax)
    link = entity.associate("127.0.0.1", port, ae_title=called, tls_args=None if tls is None else (tls, "localhost"))
    if not link.is_established:
        entity.shutdown()
        line = getattr(link.dul.socket, "socket", None)
        if line is not None:
            line.close()  # left open where the other end hung up first
        raise ConnectionError("rejected" if link.is_rejected else "aborted")
    try:
        return [int(link.send_c_store(item).get("Status", -1)) for item in objects]
    finally:
        link.release() if link.is_established else None
        entity.shutdown()


def read(paths: Sequence[Path]) -> list[Any]:
    """Data sets of files."""
    return [pydicom().dcmread(path) for path in paths]


def write_small(folder: Path, series: int, count: int) -> None:
    """Objects of a few hundred bytes, each with UIDs of its own: CT without pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        uids = {0x00080016: CT, 0x00080018: f"{ROOT}.{series}.{number + 1}"}
        later = {0x0020000D: f"{ROOT}.9", 0x0020000E: f"{ROOT}.{series}"}
        body = b"".join(_element(tag, b"UI", text) for tag, text in uids.items())
        body += _element(0x00080060, b"CS", "CT") + b"".join(_element(tag, b"UI", text) for tag, text in later.items())
        (folder / f"{number:05d}.dcm").write_bytes(meta(CT, uids[0x00080018], EXPLICIT, "SMALL") + body)


def _element(tag: int, vr: bytes, text: str) -> bytes:
    value = text.encode() + (b"" if len(text) % 2 == 0 else b" " if vr == b"CS" else b"\0")
    return tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2] + vr + len(value).to_bytes(2, "little") + value
