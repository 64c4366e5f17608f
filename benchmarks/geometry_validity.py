"""What validators say of the files that are written for the tables of ``docs/geometry.md``."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

KINDS: Final = {
    "rtstruct-keyhole": "RTSTRUCT keyhole",
    "rtstruct-xor": "RTSTRUCT XOR",
    "seg-binary": "SEG binary",
    "seg-labelmap": "SEG LABELMAP",
}
# Both have parts that are older than these.
UNKNOWN: Final = re.compile("CLOSEDPLANAR_XOR|LABELMAP|Information Object")

Checked = dict[str, dict[str, int]]


def kind_of(path: Path) -> str:
    """What a file is, by its name; empty for those of others."""
    return next((name for prefix, name in KINDS.items() if path.name.startswith(prefix)), "")


def counted(said: dict[Path, list[str]]) -> Checked:
    """Files, errors, and files with what the validator does not know yet, by kind."""
    found: dict[str, Counter[str]] = {kind: Counter(files=0, errors=0, unknown=0) for kind in KINDS.values()}
    for path, errors in said.items():
        unknown = [line for line in errors if UNKNOWN.search(line)]
        found[kind_of(path)].update(files=1, errors=len(errors) - len(unknown), unknown=int(bool(unknown)))
    return {kind: dict(counts) for kind, counts in found.items() if counts["files"]}


def files_in(folder: Path) -> list[Path]:
    """Those that Delineate wrote."""
    return [path for path in sorted(folder.glob("*.dcm")) if kind_of(path)]


def by_dciodvfy(folder: Path) -> Checked:
    """All files of a folder; nothing without the program."""
    program = shutil.which("dciodvfy")
    said = {}
    for path in files_in(folder) if program else ():
        done = subprocess.run([str(program), "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
        lines = (done.stdout + done.stderr).splitlines()
        said[path] = [line for line in lines if line.startswith("Error")]
    return counted(said)


def by_dicom_validator(environment: Path, folders: Sequence[Path]) -> Checked:
    """All files of the folders; nothing without the environment."""
    program = environment / "bin" / "validate_iods"
    paths = [path for folder in folders for path in files_in(folder)]
    if not program.exists() or not paths:
        return {}
    given = [program, "--standard-path", environment / "standard", "--edition", "local", *paths]
    done = subprocess.run([str(item) for item in given], capture_output=True, text=True, errors="replace", check=False)
    said: dict[Path, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("Validating DICOM file "):
            lines = said.setdefault(Path(line.removeprefix("Validating DICOM file ")), [])
        elif re.match(r"\s*Tag \(", line):
            lines.append(line)
    if set(said) != set(paths):
        raise RuntimeError(f"dicom-validator looked at {len(said)} of {len(paths)} files: {done.stderr[-500:]}")
    return counted(said)
