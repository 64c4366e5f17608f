"""``delineate deidentify`` and ``delineate reidentify``: DICOM without the patient, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from delineate.cli.output import write_error
from delineate.cli.printable import printable
from delineate.dicom.deidentify import DeidentificationError, Deidentifier, Options, Policy, save
from delineate.dicom.parts import pydicom
from delineate.errors import InputError

_NOTHING: Final = "nothing is sent"
_LEAVE: Final = "--leave-out writes the others; --burned-in lets images through on whose pixels a name may be written: look at them first."

MAP_OPTION = click.option(
    "--map",
    "identities",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file that leads back to the patients. Keep it, and keep it to yourself.",
)


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="An empty folder, or a new one.")
@MAP_OPTION
@click.option("--keep-dates", is_flag=True, help="Keep days, all of one patient's shifted by as much, and times.")
@click.option("--keep-characteristics", is_flag=True, help="Keep sex, age, size and weight.")
@click.option("--burned-in", is_flag=True, help="Let through images on whose pixels a name may be written. Look at them first.")
@click.option("--leave-out", is_flag=True, help="Leave out what cannot be de-identified, instead of writing nothing.")
def deidentify(
    source: Path, output: Path, identities: Path, keep_dates: bool, keep_characteristics: bool, burned_in: bool, leave_out: bool
) -> None:
    """Write the DICOM files in SOURCE, a folder, a zip or a file, without the patient.

    By the Basic profile of PS3.15, annex E. UIDs are replaced consistently; what leads back is in the file --map alone.
    """
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"the folder {output.name} is not empty", "Give an empty one, so that nothing of a patient lies among the files.")
    notes: list[str] = []
    options = Options(dates=keep_dates, characteristics=keep_characteristics, burned_in=burned_in)
    with Deidentifier(identities, options) as keeper:
        try:
            made = keeper.series(source, output, policy=Policy.ON if leave_out else Policy.REQUIRED, notes=notes)
        except DeidentificationError as error:
            if leave_out or not error.message.startswith(_NOTHING):
                raise
            raise DeidentificationError(f"nothing is written{error.message[len(_NOTHING) :]}", _LEAVE) from None
    click.echo(f"wrote {len(made)} file{'' if len(made) == 1 else 's'} to {printable(str(output))}")
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE...")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder for the files.")
@MAP_OPTION
def reidentify(files: tuple[Path, ...], output: Path, identities: Path) -> None:
    """Give RTSTRUCT and SEG files that were made of de-identified images back to their patients.

    References, patient and study become the original's. Files that refer to anything else are refused.
    """
    if not identities.is_file():
        raise InputError(f"there is no file {identities.name}", "Give the map that the images were de-identified with.")
    if len({path.name for path in files}) < len(files):
        raise InputError("several files have the same name", "Re-identify them one after the other, into folders of their own.")
    with Deidentifier(identities) as keeper:
        for path in files:
            target = output / path.name
            data = _read(path)
            try:
                back = keeper.restore(data)
                output.mkdir(parents=True, exist_ok=True)
                save(back, target)
            except DeidentificationError as error:
                raise DeidentificationError(f"{path.name}: {error.message}", error.advice) from None
            except OSError as error:
                raise write_error(error, target) from None
            click.echo(f"wrote {printable(str(target))}")


def _read(path: Path) -> object:
    library = pydicom()
    try:
        return library.dcmread(path)
    except OSError:
        raise
    except Exception:  # a library's, of files of other formats and damaged ones
        raise InputError(f"{path.name} is no DICOM file, or a damaged one", "Give an RTSTRUCT or SEG file.") from None
