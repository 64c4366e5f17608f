"""``delineate doctor``: is everything here that is needed, and if not, what to do."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from delineate import __version__
from delineate.cli.connection import connect, connection_options
from delineate.cli.printable import printable
from delineate.errors import DelineateError

PARTS = (
    ("isal", "ISA-L codec", "", "pip install isal (images are packed four times slower without it)"),
    ("SimpleITK", "NRRD and MetaImage files", "images", ""),
    ("pydicom", "DICOM images", "dicom", ""),
    ("tifffile", "slides", "slides", ""),
    ("matplotlib", "pictures", "pictures", ""),
    ("fastapi", "server", "server", ""),
    ("sqlalchemy", "store", "server", ""),
    ("scipy", "built-in models and resampling", "server", ""),
    ("lightgbm", "training", "train", ""),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level` is ``ok``, ``note`` (works without) or ``problem``."""

    level: str
    subject: str
    detail: str
    advice: str = ""


def examine_installation() -> Iterator[Finding]:
    """Python, the optional parts, a container engine."""
    version = platform.python_version()
    yield Finding(
        "ok" if sys.version_info >= (3, 10) else "problem", "delineate", f"{__version__} on Python {version}, {platform.system()}"
    )
    for module, purpose, extra, advice in PARTS:
        try:
            importlib.import_module(module)
            yield Finding("ok", module, f"{importlib.metadata.version(module)} ({purpose})")
        except (ImportError, OSError) as error:  # OSError: LightGBM without libgomp
            yield Finding("note", module, f"not usable ({purpose}): {error}", advice or f'pip install "delineate[{extra}]"')
    engine = next((path for path in map(shutil.which, ("podman", "docker")) if path), None)
    if engine:
        yield Finding("ok", "container engine", engine)
    else:
        yield Finding("note", "container engine", "neither podman nor docker found", "Install podman to run models in containers.")


def examine_folder(data: Path) -> Iterator[Finding]:
    """A server's data folder: writable, with space left."""
    place = next(path for path in (data, *data.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    yield Finding(
        "ok" if free > 5 else "problem",
        "disk",
        f"{free:.1f} GB free at {place}",
        "" if free > 5 else "Free space, or move the data folder.",
    )
    if not data.exists():
        yield Finding("note", "data folder", f"{data} does not exist yet", "`delineate serve` makes it.")
    elif not (data / "delineate.db").is_file():
        yield Finding("note", "data folder", f"{data} holds no database", "Check the path, or start `delineate serve` with it.")


def examine_models(data: Path | None, folders: Sequence[Path]) -> Iterator[Finding]:
    """The models that a server on this data folder would offer, and those that it cannot use."""
    try:
        from delineate.server.service import model_folders
        from delineate.server.settings import Settings
        from delineate.store.blobs import BlobStore
        from delineate.store.database import Database
        from delineate.store.folders import ModelFolders
        from delineate.store.models import ModelStore
    except ImportError as error:
        yield Finding("note", "models", f"cannot be looked at: {error}", 'pip install "delineate[server]"')
        return
    stack = contextlib.ExitStack()
    try:
        settings = Settings.load(models=tuple(folders) or None, data=data)
        for folder in settings.models:
            if not folder.is_dir():
                yield Finding("problem", "models", f"there is no folder {folder}", "Check --models and DELINEATE_MODELS.")
        places = model_folders(settings)
        store: ModelStore | ModelFolders = ModelFolders(places)
        if data is not None and (data / "delineate.db").is_file() and (data / "blobs").is_dir():  # nothing is made here
            database = stack.enter_context(contextlib.closing(Database(settings.database_url)))
            store = ModelStore(places, database, BlobStore(data / "blobs"))
        for problem in store.problems():
            yield Finding("problem", "model", f"{problem.path}: {problem.reason}", "Correct it; the server notices at once.")
        yield Finding("ok", "models", f"{len(store.models())} can be used")
    except DelineateError as error:
        yield Finding("problem", "models", error.message, error.advice)
    finally:
        stack.close()


def examine_server(**connection: Any) -> Iterator[Finding]:
    """Reach it, and ask for its models."""
    try:
        with connect(**connection, timeout=10.0) as client:
            models = client.models()
            yield Finding("ok", "server", f"answers as dialect {client.dialect}; {len(models)} models")
    except DelineateError as error:
        yield Finding("problem", "server", error.message, error.advice)


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Also look at this data folder of a server.")
@click.option(
    "--models", multiple=True, type=click.Path(path_type=Path, file_okay=False), help="Also look at this folder of models; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def doctor(data: Path | None, models: tuple[Path, ...], as_json: bool, **connection: Any) -> None:
    """Check the installation and, with --server, a server. Exit code 2 when there is a problem."""
    findings = list(examine_installation())
    if data is not None:
        findings += examine_folder(data)
    if data is not None or models:
        findings += examine_models(data, models)
    if connection["server"]:
        findings += examine_server(**connection)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.level:<8}{finding.subject:<18}{printable(finding.detail)}")
            if finding.advice:
                click.echo(f"{'':<26}-> {printable(finding.advice)}")
    sys.exit(2 if any(finding.level == "problem" for finding in findings) else 0)
