"""Progress of long work: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from delineate.cli.printable import printable


class ProgressDisplay:
    """Call it with (fraction or None, message); use it as a context manager.

    On a terminal it draws one bar; in a log it prints a line when the message changes or a tenth of the way has passed.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._said = ""
        self._tenth = -1
        self._begin = time.monotonic()
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description:<32}", markup=False), BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
                console=self._console,
            )  # fmt: skip
            self._row = self._bar.add_task("", total=1.0)

    def __enter__(self) -> ProgressDisplay:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, fraction: float | None, message: str) -> None:
        """Show how far it is."""
        message = printable(message)  # a server's words
        if self._bar:
            self._bar.update(self._row, description=message, completed=fraction, total=1.0 if fraction is not None else None)
            return
        tenth = int((fraction or 0.0) * 10)
        if message != self._said or tenth > self._tenth:
            share = "" if fraction is None else f" {fraction:4.0%}"
            self._console.print(f"{time.monotonic() - self._begin:6.1f} s{share}  {message}", markup=False)
            self._said, self._tenth = message, tenth
