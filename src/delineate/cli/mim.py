"""``delineate mim``: build the extension for the MIM workstation, verify one, try one without a workstation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import click

from delineate import __version__
from delineate.cli.mim_demo import demo
from delineate.cli.output import write_error
from delineate.cli.printable import printable
from delineate.cli.table import print_table
from delineate.client.packing import published
from delineate.errors import InputError
from delineate.mim.packaging.build import UNDATED, Built
from delineate.mim.packaging.build import build as build_extension
from delineate.mim.packaging.check import Finding, check_bytes
from delineate.mim.packaging.check import check as check_file

PYTHON_OPTION = click.option(
    "--python", default=sys.executable, help="The Python that loads it, with numpy, such as the workstation's; else the one that runs."
)


@click.group()
def mim() -> None:
    """Build, check or try the extension for the MIM workstation."""


@mim.command()
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="The zip to write.  [default: delineate-mim-VERSION.zip]"
)
@click.option(
    "--ca", "authorities", multiple=True, type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Certificate of a private authority that the extension shall trust as well, PEM or DER; repeatable.",
)  # fmt: skip
@click.option("--server", default="", metavar="URL", help="Where tasks go when a workflow names no server.")
@click.option(
    "--date", "seconds", type=click.IntRange(UNDATED, 4_102_444_800), default=UNDATED, envvar="SOURCE_DATE_EPOCH", metavar="SECONDS",
    help="Date of the build, seconds since 1970; SOURCE_DATE_EPOCH stands for it. Without it, 1 January 1980.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(output: Path | None, authorities: tuple[Path, ...], server: str, seconds: int, as_json: bool) -> None:
    """Build the zip that a workstation's administrator installs. The same sources give the same bytes."""
    built = build_extension(authorities=[path.read_bytes() for path in authorities], server=server, seconds=seconds)
    for finding in check_bytes(built.data):
        if finding.ok is False and finding.check == "size":  # starts more slowly, and works
            click.echo(f"note: {finding.detail}", err=True)
        elif finding.ok is False:
            raise InputError(f"the extension was not written: {finding.check}: {finding.detail}", "Correct its sources.")
    path = output or Path(f"delineate-mim-{__version__}.zip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with published(path) as file:
            file.write(built.data)
    except OSError as error:
        raise write_error(error, path) from error
    _say_built(path, built, as_json)


def _say_built(path: Path, built: Built, as_json: bool) -> None:
    digest = hashlib.sha256(built.data).hexdigest()
    total = sum(built.modules.values())
    if as_json:
        fields = {"path": str(path), "sha256": digest, "package": built.package, "bytes": total, "modules": built.modules}
        click.echo(printable(json.dumps({**fields, "entries": [entry.name for entry in built.entries]}, ensure_ascii=False)))
        return
    print_table(["bytes", "module"], [[f"{size:,}".rjust(7), name] for name, size in built.modules.items()])
    click.echo(f"{len([name for name in built.modules if not name.endswith('__init__.py')])} modules, {total:,} bytes")
    click.echo(f"entry points: {', '.join(entry.name for entry in built.entries)}")
    click.echo(f"wrote {printable(str(path))}, SHA-256 {digest}")


@mim.command(short_help="Verify an extension, of whatever make.")
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False), metavar="ZIP")
@click.option("--static", is_flag=True, help="Only look; do not load it, which runs its code.")
@PYTHON_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(archive: Path, static: bool, python: str, as_json: bool) -> None:
    """Verify the extension ZIP, of whatever make; exit code 4 when a check fails. Loading it runs its code with your rights."""
    findings = check_file(archive, loaded=not static, python=python)
    if as_json:
        click.echo(printable(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False)))
    else:
        print_table(["", "check", "seen"], [[_word(finding), finding.check, finding.detail] for finding in findings])
    sys.exit(4 if any(finding.ok is False for finding in findings) else 0)


def _word(finding: Finding) -> str:
    return {True: "pass", False: "FAIL", None: "-"}[finding.ok]


mim.add_command(demo)
