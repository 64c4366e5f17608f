"""The command ``delineate``: its sub-commands, and errors as one sentence with an exit code.

Exit codes: 0 done, 1 unexpected, 2 wrong usage or input, 3 server not reachable or refused,
4 the task failed, 5 timed out, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from typing import NoReturn

import click

from delineate import __version__
from delineate.cli.printable import printable
from delineate.errors import (
    DeadlineError,
    DelineateError,
    InputError,
    MissingPartError,
    ModelError,
    ServerError,
    TaskEndedError,
    UnknownModelError,
    UnknownTaskError,
)

EXIT_CODES: tuple[tuple[type[DelineateError], int], ...] = (
    (DeadlineError, 5),
    (ServerError, 3),
    (TaskEndedError, 4),
    (ModelError, 4),
    (InputError, 2),
    (UnknownModelError, 2),
    (UnknownTaskError, 2),
    (MissingPartError, 2),
)

COMMANDS = {
    "segment": ("delineate.cli.segment", "segment", "Delineate images and write the structures."),
    "serve": ("delineate.cli.serve", "serve", "Run the server with its workers."),
    "work": ("delineate.cli.serve", "work", "Run workers alone, on the data folder of a server."),
    "submit": ("delineate.cli.tasks", "submit", "Send images to a server; prints the task's uid."),
    "wait": ("delineate.cli.tasks", "wait", "Wait until a task has ended."),
    "fetch": ("delineate.cli.tasks", "fetch", "Fetch the structures of a finished task."),
    "cancel": ("delineate.cli.tasks", "cancel", "Cancel a task."),
    "delete": ("delineate.cli.tasks", "delete", "Delete a task and its files from the server."),
    "log": ("delineate.cli.tasks", "log", "Print the log the model left."),
    "tasks": ("delineate.cli.tasks", "tasks", "List the tasks of a server."),
    "models": ("delineate.cli.models", "models", "List the models of a server, or what a folder of models holds."),
    "label": ("delineate.cli.label", "label", "Annotate with a MONAI Label server."),
    "user": ("delineate.cli.user", "user", "Local accounts of a server: add, list, change, remove."),
    "preview": ("delineate.cli.preview", "preview", "Draw structures on an image, as a picture."),
    "convert": ("delineate.cli.convert", "convert", "Convert images and structures, DICOM too."),
    "compare": ("delineate.cli.compare", "compare", "Compare two sets of structures of one image."),
    "dicom": ("delineate.cli.dicom", "dicom", "List the images in DICOM folders and files."),
    "gateway": ("delineate.cli.gateway", "gateway", "Run a DICOM node, and see what it holds."),
    "deidentify": ("delineate.cli.deidentify", "deidentify", "Write DICOM without the patient."),
    "reidentify": ("delineate.cli.deidentify", "reidentify", "Give structures of de-identified DICOM back to the patient."),
    "mim": ("delineate.cli.mim", "mim", "Build, check or try the extension for the MIM workstation."),
    "doctor": ("delineate.cli.doctor", "doctor", "Check the installation and a server."),
    "conformance": ("delineate.cli.conformance", "conformance", "Check a server against a dialect of the protocol."),
}

EXTRAS = {"compare": "dicom", "convert": "dicom", "deidentify": "dicom", "reidentify": "dicom", "dicom": "dicom", "gateway": "gateway"}
"""Which part of the installation a command needs, where its module cannot be imported without one; else all of them are named."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is called, so that ``--help`` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        if sys.version_info < (3, 10) and cmd_name != "label":
            advice = "On 3.9 there are `delineate label` and delineate.monai_label."
            raise InputError(f"delineate {cmd_name} needs Python 3.10 or newer", advice)
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line per command, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="delineate")
def cli() -> None:
    """Send images to a segmentation model and bring the structures back.

    DELINEATE_SERVER, DELINEATE_TOKEN and DELINEATE_CA in the environment stand for the options of the same names.
    """


def exit_code(error: DelineateError) -> int:
    """The exit code for an error: the first class in `EXIT_CODES` it belongs to, else 1."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def fail(error: DelineateError, as_json: bool) -> NoReturn:
    """Say what happened and what to do, then leave."""
    if as_json:
        fields = {"error": type(error).__name__, "message": error.message, "advice": error.advice}
        click.echo(printable(json.dumps(fields, ensure_ascii=False)))
    click.echo(f"delineate: {printable(error.sentence(), lines=True)}", err=True)
    sys.exit(exit_code(error))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one sentence on standard error and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # Ended from outside, a command still stops what it started and removes its temporary files.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        result = cli.main(args=given, prog_name="delineate", standalone_mode=False)
    except DelineateError as error:
        fail(error, as_json="--json" in given)
    except ModuleNotFoundError as error:
        if (error.name or "delineate").partition(".")[0] == "delineate":
            raise
        extra = next((EXTRAS[word] for word in given if word in EXTRAS), "all")
        fail(MissingPartError(f"{error.name}, which this command needs,", extra), as_json="--json" in given)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("delineate: interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone, as with `| head`; Python would complain at exit
        sys.exit(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"delineate: {place}{error.strerror or error}.", err=True)
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)
