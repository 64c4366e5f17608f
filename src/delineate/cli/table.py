"""Rows for a person."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from delineate.cli.printable import printable


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under column names; wide enough for a log file, wrapped on a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    count = 0
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
        count += 1
    if count and console.is_terminal:
        console.print(table)
    elif count:  # a log file has no use for blanks at the ends of its lines
        with console.capture() as printed:
            console.print(table)
        click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
    else:
        console.print("none")


def when(seconds: float | None) -> str:
    """Local date and time of Unix seconds."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
