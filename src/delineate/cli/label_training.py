"""``delineate label train``: start, stop, look at a training, watch it."""

from __future__ import annotations

import time
from typing import Any

import click

from delineate.cli.label_connection import JSON_OPTION, PARAMETERS_OPTION, QUIET_OPTION, label_options, read_parameters, say, speaking
from delineate.cli.progress import ProgressDisplay
from delineate.cli.table import print_table
from delineate.client.monai_label import MONAILabelClient
from delineate.errors import DeadlineError, TaskFailedError

INTERVAL = 1.0  # s between two questions


@click.group()
def train() -> None:
    """Start, stop, watch or look at a training."""


@train.command()
@click.argument("model", default="")
@click.option("--wait", is_flag=True, help="Wait for its end and show how far it is.")
@PARAMETERS_OPTION
@JSON_OPTION
@QUIET_OPTION
@label_options
def start(model: str, wait: bool, parameters: tuple[str, ...], as_json: bool, quiet: bool, **connection: Any) -> None:
    """Train MODEL, or all where none is named."""
    with speaking(**connection) as client:
        answer = client.train_start(model, read_parameters(parameters))
        if wait:
            return _say_end(_watched(client, quiet, connection["timeout"]), as_json)
    if model or as_json:
        return _say_task(answer, as_json)
    print_table(
        ["model", "state"], [[name, (task.get("result") or {}).get("status") or task.get("detail")] for name, task in answer.items()]
    )


@train.command(short_help="Wait for the end of the training that runs.")
@JSON_OPTION
@QUIET_OPTION
@label_options
def watch(as_json: bool, quiet: bool, **connection: Any) -> None:
    """Wait for the end of the training that runs, and show how far it is."""
    with speaking(**connection) as client:
        _say_end(_watched(client, quiet, connection["timeout"]), as_json)


@train.command()
@JSON_OPTION
@label_options
def stop(as_json: bool, **connection: Any) -> None:
    """Stop the training that runs."""
    with speaking(**connection) as client:
        _say_task(client.train_stop(), as_json)


@train.command()
@JSON_OPTION
@label_options
def status(as_json: bool, **connection: Any) -> None:
    """Print the state of the last training, and the end of its log."""
    with speaking(**connection) as client:
        task = client.train_status()
    say(task, as_json, "\n".join([str(task.get("status", "")), *map(str, task.get("details") or ())]))


def _watched(client: MONAILabelClient, quiet: bool, timeout: float) -> dict[str, Any]:
    """The last training once nothing runs any more. Raises `DeadlineError`."""
    deadline = time.monotonic() + timeout
    with ProgressDisplay(quiet) as show:
        while True:
            task: dict[str, Any] = client.train_status()
            if task.get("status") not in ("SUBMITTED", "RUNNING"):
                return task
            show(_share(client.info(), task), _last_line(task))
            if time.monotonic() > deadline:
                raise DeadlineError("the training did not end in time", "It goes on; watch it with `delineate label train watch`.")
            time.sleep(INTERVAL)


def _share(info: dict[str, Any], task: dict[str, Any]) -> float | None:
    """How far it is, as the server's statistics of this trainer have it; None where they say nothing of a run."""
    stats = (info.get("train_stats") or {}).get((task.get("request") or {}).get("model")) or {}
    epoch, total = stats.get("epoch"), stats.get("total_epochs")
    return None if not total or epoch is None or stats.get("total_time") else min(1.0, epoch / total)


def _last_line(task: dict[str, Any]) -> str:
    return str((task.get("details") or [task.get("status", "")])[-1])


def _say_task(task: dict[str, Any] | None, as_json: bool) -> None:
    say(task, as_json, "none" if task is None else str(task.get("status", "")))


def _say_end(task: dict[str, Any], as_json: bool) -> None:
    """The end of a training; one that was not done is the command's failure."""
    if task.get("status") != "DONE":
        raise TaskFailedError(f"the training ended as {task.get('status')}: {_last_line(task)}", "See `delineate label train status`.")
    say(task, as_json, "\n".join(["DONE", *map(str, task.get("details") or ())]))
