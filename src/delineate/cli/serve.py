"""``delineate serve`` and ``delineate work``: the long-running processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from delineate.cli.printable import printable
from delineate.errors import MissingPartError, SettingsError

if TYPE_CHECKING:
    from delineate.server.settings import Settings

_DATA = click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data folder.  [default: delineate-data]")
_MODELS = click.option(
    "--models", multiple=True, type=click.Path(path_type=Path, file_okay=False), help="A folder of model folders; repeatable."
)
_STUDIES = click.option("--studies", help="The folder of images to annotate, or the address of a DICOMweb server.")
_WORKERS = click.option("--workers", type=click.IntRange(0, 256), help="Worker processes.  [default: 1]")
_SETTINGS = click.option("--settings", "settings_file", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file with settings.")
_LOG = click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much to say on standard error.")


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port, 0 for any free one.  [default: 8000]")
@_DATA
@_MODELS
@_STUDIES
@_WORKERS
@click.option("--root-path", help="Path under which a reverse proxy shows the server, such as /delineate.")
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="PEM file; with --tls-key the server speaks https.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file.")
@_SETTINGS
@_LOG
@click.option("--ephemeral", is_flag=True, hidden=True)  # for `delineate segment`
def serve(settings_file: Path | None, models: tuple[Path, ...], ephemeral: bool, **given: Any) -> None:
    """Run the server with its workers; prints one line when it is ready.

    Settings come from options, then DELINEATE_NAME in the environment, then the file; docs/server.md lists them.
    """
    try:
        from delineate.server.main import serve as run
        from delineate.server.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingPartError(f"the server's part {error.name}", "server") from None
    settings = Settings.load(settings_file, models=models or None, **given)
    _require_models(settings)
    say_new_folder(settings)
    with _ended_with_input(settings.data) if ephemeral else contextlib.nullcontext():
        run(settings)


def _require_models(settings: Settings) -> None:
    """`SettingsError` for a folder of models that is not there: a typing mistake would be a server without models."""
    for folder in settings.models:
        if not folder.is_dir():
            raise SettingsError(f"there is no folder of models at {folder}", "Check --models, DELINEATE_MODELS and the settings file.")


def say_new_folder(settings: Settings) -> None:
    """Say that the folder of images will be made: a typing mistake is a project without images."""
    if settings.studies is not None and not settings.studies.exists():
        click.echo(f"delineate: there is no folder {printable(str(settings.studies))} for images yet; an empty one is made.", err=True)


@contextlib.contextmanager
def _ended_with_input(folder: Path) -> Iterator[None]:
    """Stop when standard input closes, because who started this has gone; remove `folder` at the end, whatever ended it."""

    def watch() -> None:
        # Not by sys.stdin: Python aborts where a thread is within its reader while the interpreter ends.
        while os.read(sys.stdin.fileno(), 1):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@click.command()
@_DATA
@_MODELS
@_STUDIES
@_WORKERS
@_SETTINGS
@_LOG
def work(settings_file: Path | None, models: tuple[Path, ...], **given: Any) -> None:
    """Run workers alone, on the data folder of a server on this machine or on a shared disk.

    They end with SIGTERM or Ctrl-C; what they were at is finished within the grace time or given back.
    """
    try:
        from delineate.server.main import run_workers
        from delineate.server.settings import Settings
    except ModuleNotFoundError as error:
        raise MissingPartError(f"the server's part {error.name}", "server") from None
    settings = Settings.load(settings_file, models=models or None, **given)
    _require_models(settings)
    if not settings.database and not (settings.data / "delineate.db").is_file():
        raise SettingsError(
            f"there is no server's data in {settings.data}", "Give --data the folder of a server that was started with `delineate serve`."
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_workers(settings, stop, lambda: click.echo("delineate: workers ready"))
