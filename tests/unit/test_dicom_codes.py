"""What names of structures mean."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from delineate.dicom import codes
from delineate.dicom.codes import Meaning, lookup

TABLE = list(csv.DictReader(Path(codes.__file__).with_name("codes.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Lung_L", "Lung"),
        ("left lung", "Lung"),
        ("LUNG-RIGHT", "Lung"),
        ("LeftLung", "Lung"),
        ("Lungs", "Lung"),
        ("Spinal Cord", "SpinalCord"),
        ("spinal_cord", "SpinalCord"),
        ("SpinalCord", "SpinalCord"),
        ("oesophagus", "Esophagus"),
        ("Left Atrium", "Atrium_L"),
        ("heart_atrium_right", "Atrium_R"),
        ("Atrium_L", "Atrium_L"),
        ("inferior_vena_cava", "V_Venacava_I"),
        ("Femur_Head_R", "Femur_Head"),
        ("Glnd_Submand_L", "Glnd_Submand"),
        ("PTV_60Gy", "PTV"),
        ("PTV60", "PTV"),
        ("GTVp", "GTV"),
        ("iGTV", "IGTV"),
        ("CTVn_L", "CTV"),
        ("BODY", "External"),
        ("Lung_L_upper", ""),
        ("GTVolume", ""),
        ("l", ""),
        ("", ""),
        ("tumour", ""),
    ],
)
def test_lookup(name: str, found: str) -> None:
    assert lookup(name).name == found


def test_what_is_known() -> None:
    assert lookup("kidney left") == Meaning("Kidney", "Kidney", "64033007", "ORGAN", (0xB1, 0x59, 0x28))
    assert lookup("External").kind == "EXTERNAL" and lookup("CTV1").kind == "CTV" and lookup("Bolus").kind == "BOLUS"


def test_codes_are_those_of_the_standard() -> None:
    """As pydicom carries PS3.16: every code means the organ, in the standard's own words."""
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings: dict[str, set[str]] = {}
    for entry in concepts.values():
        for code, (meaning, *_) in entry.items():
            meanings.setdefault(code, set()).add(meaning.lower())
    for row in TABLE:
        assert not row["code"] or row["organ"].lower() in meanings[row["code"]], row


def test_the_table_is_sound() -> None:
    names = [name.lower() for row in TABLE for name in (row["name"], *filter(None, row["synonyms"].split("|")))]
    assert sorted(names) == sorted(set(names))
    assert all(len(row["name"]) <= 16 and bool(row["code"]) == bool(row["organ"]) for row in TABLE)
    kinds = {"ORGAN", "EXTERNAL", "PTV", "CTV", "GTV", "SUPPORT", "BOLUS"}
    assert {row["kind"] for row in TABLE} == kinds and len({row["colour"] for row in TABLE}) == len(TABLE)


def test_left_and_right_are_told_apart_by_their_colours() -> None:
    left, right = lookup("Lung_L"), lookup("right lung")
    assert left._replace(colour=None) == right._replace(colour=None)
    for row in TABLE:
        if row["name"].endswith(("_L", "_R")):
            continue  # each has a line of its own
        one, other = lookup(row["name"]).colour, lookup(f"{row['name']}_R").colour
        assert one and other and max(abs(a - b) for a, b in zip(one, other, strict=True)) > 24, row["name"]
    assert lookup("Lung").colour == left.colour and lookup("Rectum").colour == lookup("rectum").colour
