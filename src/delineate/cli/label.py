"""``delineate label``: every call to a MONAI Label server, of whatever make."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from delineate.cli.connection import PASSWORD_STDIN_OPTION, piped_password
from delineate.cli.kept_tokens import keep_token
from delineate.cli.label_connection import JSON_OPTION, PARAMETERS_OPTION, QUIET_OPTION, label_options, read_parameters, say, speaking
from delineate.cli.label_names import with_names, write_names
from delineate.cli.label_training import train
from delineate.cli.printable import as_file_name, printable
from delineate.cli.progress import ProgressDisplay
from delineate.cli.table import print_table
from delineate.errors import InputError
from delineate.protocols.monai_label import WSI_OUTPUTS, label_names
from delineate.protocols.monai_label_answers import suffix_of

_FILE = click.Path(path_type=Path)
_OUTPUT = click.option("--output", "-o", default=Path(), type=_FILE, help="A file, or a folder that is there.  [default: here]")
_RESULTS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".tif", ".tiff")  # by names of files, the longer ones first
_LONGEST = 10_000  # characters that are printed where nobody asked for them


@click.group()
def label() -> None:
    """Annotate with a MONAI Label server: images, samples, inference, training, sessions."""


# ---------------------------------------------------------------- the server, samples


@label.command(short_help="Show models, trainers and strategies of the server.")
@JSON_OPTION
@label_options
def info(as_json: bool, **connection: Any) -> None:
    """Show what the server is, and its models, trainers and strategies."""
    with speaking(**connection) as client:
        answer = client.info()
    if as_json:
        return say(answer, True, "")
    stats = answer.get("datastore") or {}
    click.echo(
        printable(f"{answer['name']} {answer['version']}: {stats.get('completed', 0)} of {stats.get('total', 0)} images are labelled")
    )
    rows = [["model", name, model.get("type"), ", ".join(label_names(model.get("labels")))] for name, model in answer["models"].items()]
    rows += [["trainer", name, "", ", ".join(label_names(trainer.get("labels")))] for name, trainer in answer["trainers"].items()]
    rows += [["strategy", name, "", strategy.get("description")] for name, strategy in answer["strategies"].items()]
    print_table(["kind", "name", "type", "labels or description"], rows)


@label.command(short_help="Print the id of the image to annotate next.")
@click.option("--strategy", "-s", default="first", show_default=True, help="By which it is chosen.")
@PARAMETERS_OPTION
@JSON_OPTION
@label_options
def next(strategy: str, parameters: tuple[str, ...], as_json: bool, **connection: Any) -> None:
    """Print the id of the image to annotate next; nothing where none is left."""
    with speaking(**connection) as client:
        sample = client.next_sample(strategy, read_parameters(parameters))
    if as_json or sample:
        say(sample, as_json, str(sample.get("id", "")))
    else:  # a shell variable stays empty, and the person knows why
        click.echo("no image is left: each has a label, or somebody else has it in hand; `delineate label datastore` lists them", err=True)


# ---------------------------------------------------------------- datastore


@label.command()
@click.argument("image", type=_FILE)
@click.option("--id", "image_id", help="The image's id; the server makes one of the file's name where none is given.")
@PARAMETERS_OPTION
@JSON_OPTION
@QUIET_OPTION
@label_options
def upload(image: Path, image_id: str | None, parameters: tuple[str, ...], as_json: bool, quiet: bool, **connection: Any) -> None:
    """Add IMAGE to the datastore and print its id."""
    with ProgressDisplay(quiet) as show, speaking(**connection, progress=show) as client:
        saved = client.upload_image(image, image_id, read_parameters(parameters))
    say(saved, as_json, str(saved.get("image", "")))


@label.command()
@click.argument("image_id")
@click.argument("file", type=_FILE, metavar="LABEL")
@click.option("--tag", default="", help="Under which it is saved; `final` where none is given.")
@PARAMETERS_OPTION
@JSON_OPTION
@QUIET_OPTION
@label_options
def save(image_id: str, file: Path, tag: str, parameters: tuple[str, ...], as_json: bool, quiet: bool, **connection: Any) -> None:
    """Save the file LABEL as the label of the image IMAGE_ID.

    Names of its structures are read from LABEL's table of names, such as heart.json beside heart.nii.gz with {"1": "Heart"}.
    """
    params = with_names(read_parameters(parameters), file)
    with ProgressDisplay(quiet) as show, speaking(**connection, progress=show) as client:
        saved = client.save_label(image_id, file, tag, params)
    say(saved, as_json, str(saved.get("label", "")))


@label.command()
@click.argument("image_id")
@click.option("--tag", default="final", show_default=True, help="Which label.")
@click.option("--image", "is_image", is_flag=True, help="The image instead of a label.")
@_OUTPUT
@JSON_OPTION
@QUIET_OPTION
@label_options
def download(image_id: str, tag: str, is_image: bool, output: Path, as_json: bool, quiet: bool, **connection: Any) -> None:
    """Fetch the label of the image IMAGE_ID, or the image."""
    folder = _folder(output)
    with ProgressDisplay(quiet) as show, speaking(**connection, folder=folder, progress=show) as client:
        fetched = Path(client.download_image(image_id) if is_image else client.download_label(image_id, tag))
    target = _placed(fetched, output, image_id)
    say({"file": str(target)}, as_json, f"wrote {target}")


@label.command()
@JSON_OPTION
@label_options
def datastore(as_json: bool, **connection: Any) -> None:
    """List the images with the tags of their labels."""
    with speaking(**connection) as client:
        answer = client.datastore()
    if as_json:
        return say(answer, True, "")
    print_table(["image", "labels"], [[name, ", ".join(record.get("labels") or {})] for name, record in answer["objects"].items()])


# ---------------------------------------------------------------- inference


@label.command(short_help="Run MODEL on an image of the server, or on a file.")
@click.argument("model")
@click.argument("image_id", default="")
@click.option("--file", type=_FILE, help="An image that is sent along, instead of IMAGE_ID.")
@click.option("--session", "session_id", help="A session with an image, instead of IMAGE_ID.")
@click.option("--label", "label_in", type=_FILE, help="A file with scribbles, or with the mask so far.")
@_OUTPUT
@PARAMETERS_OPTION
@JSON_OPTION
@QUIET_OPTION
@label_options
def infer(
    model: str, image_id: str, file: Path | None, session_id: str | None, label_in: Path | None, output: Path,
    parameters: tuple[str, ...], as_json: bool, quiet: bool, **connection: Any,
) -> None:  # fmt: skip
    """Run MODEL on the image IMAGE_ID; writes the result's file, and prints the JSON that came with it.

    Where the file cannot hold the structures' names, a table of names is written beside it, for `delineate label save`.
    """
    if not (image_id or file or session_id):
        raise InputError("an infer needs an image", "Give an image's id, --file or --session.")
    params = read_parameters(parameters)
    wanted = [suffix for suffix in _RESULTS if output.name.lower().endswith(suffix)]
    if wanted and not output.is_dir():
        params.setdefault("result_extension", wanted[0])
    with ProgressDisplay(quiet) as show, speaking(**connection, folder=_folder(output), progress=show) as client:
        result, answer = client.infer(model, image_id, params, label_in, file, session_id)
    target = None if result is None else _placed(Path(result), output, f"{image_id or session_id or _stem(file)}-{model}")
    text = json.dumps(answer, indent=1, ensure_ascii=False)
    if target and len(text) > _LONGEST:  # outlines of a slide
        text = f"{len(text)} characters of JSON came with it; --json prints them"
    wrote = [target, write_names(target, answer.get("label_names"))] if target else []
    text += "".join(f"\nwrote {path}" for path in wrote if path)
    say({"file": str(target) if target else None, "params": answer}, as_json, text)


@label.command("wsi-infer")
@click.argument("model")
@click.argument("image_id", default="")
@click.option("--session", "session_id", help="A session with an image, instead of IMAGE_ID.")
@click.option("--format", "output_format", type=click.Choice(WSI_OUTPUTS), default="dsa", show_default=True, help="Of the answer.")
@click.option("--output", "-o", type=_FILE, help="A file for the answer.  [default: standard output]")
@PARAMETERS_OPTION
@QUIET_OPTION
@label_options
def wsi_infer(
    model: str, image_id: str, session_id: str | None, output_format: str, output: Path | None,
    parameters: tuple[str, ...], quiet: bool, **connection: Any,
) -> None:  # fmt: skip
    """Run MODEL on the slide IMAGE_ID. Parameters: level, location, size, tile_size, min_poly_area, params."""
    if output is not None:
        _folder(output)  # a wrong path should not cost an infer
    with ProgressDisplay(quiet) as show, speaking(**connection, progress=show) as client:
        _, answer = client.wsi_infer(model, image_id, read_parameters(parameters), output_format, session_id)
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False)
    if output is None:
        click.echo(printable(text, lines=True))
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"wrote {printable(str(output))}")


def _folder(output: Path) -> Path:
    """Where a file arrives, so that it can be given its name at once; `InputError` where there is no such folder."""
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", "Make it, or give another place.")
    return folder


def _stem(file: Path | None) -> str:
    return "" if file is None else file.name.removesuffix(suffix_of(file.name))


def _placed(fetched: Path, output: Path, name: str) -> Path:
    """Give a file that arrived the name that was asked for, in a folder one after the image."""
    target = output
    if output.is_dir():
        suffix = suffix_of(fetched.name)
        target = output / (as_file_name(name).removesuffix(suffix) + suffix)
    mask = os.umask(0)  # there is no other way to ask for it
    os.umask(mask)
    fetched.chmod(0o666 & ~mask)  # it arrived for this user alone; here it is a file like any other
    fetched.replace(target)
    return target


label.add_command(train)


# ---------------------------------------------------------------- sessions


@label.group()
def session() -> None:
    """Send an image ahead, once for many infers."""


@session.command(short_help="Send an image, and print the session's id.")
@click.argument("image", type=_FILE)
@click.option("--expiry", type=click.IntRange(1), help="Seconds without use until the server forgets it.")
@PARAMETERS_OPTION
@JSON_OPTION
@QUIET_OPTION
@label_options
def create(image: Path, expiry: int | None, parameters: tuple[str, ...], as_json: bool, quiet: bool, **connection: Any) -> None:
    """Send IMAGE, a file or the folder of a series, and print the session's id."""
    with ProgressDisplay(quiet) as show, speaking(**connection, progress=show) as client:
        made = client.create_session(image, read_parameters(parameters), expiry=expiry)
    say(made, as_json, str(made.get("session_id", "")))


@session.command("show")
@click.argument("session_id")
@label_options
def show_session(session_id: str, **connection: Any) -> None:
    """Print what the server knows of a session, as JSON."""
    with speaking(**connection) as client:
        say(client.get_session(session_id), True, "")


@session.command()
@click.argument("session_id")
@JSON_OPTION
@label_options
def remove(session_id: str, as_json: bool, **connection: Any) -> None:
    """Let the server forget a session."""
    with speaking(**connection) as client:
        say(client.remove_session(session_id), as_json, "removed")


# ---------------------------------------------------------------- accounts


@label.command(short_help="Ask for your password, and keep the token.")
@click.option("--user", "-u", help="Your name at the server; asked for where it is not given.")
@click.option("--print", "is_printed", is_flag=True, help="Print the token instead of keeping it.")
@PASSWORD_STDIN_OPTION
@label_options
def login(user: str | None, is_printed: bool, is_piped: bool, **connection: Any) -> None:
    """Ask for your password and get a token; later commands send it to this server."""
    with speaking(**connection) as client:
        if not client.auth_enabled():
            raise InputError("this server has no accounts", "Use it without logging in.")
        name = user or click.prompt("User", err=True)
        token = client.auth_token(name, piped_password() if is_piped else click.prompt("Password", hide_input=True, err=True))
        client.update_auth(token)  # refuses what is no token
        url = client.get_server_url()
    if is_printed:
        click.echo(printable(str(token["access_token"])))
    else:
        click.echo(f"logged in; the token is kept in {printable(str(keep_token(url, token)))}")
