"""What names of structures mean."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from delineate.dicom import codes
from delineate.dicom.codes import Meaning, lookup, named_by_fma, side_of

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
    assert lookup("kidney left") == Meaning("Kidney", "Kidney", "64033007", "ORGAN", (0xB1, 0x59, 0x28), "7205")
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
    names = [name.lower() for row in TABLE for name in filter(None, (row["name"], row["both"], *row["synonyms"].split("|")))]
    assert sorted(names) == sorted(set(names))
    assert all(len(row["name"]) <= 16 and bool(row["code"]) == bool(row["organ"]) for row in TABLE)
    kinds = {"ORGAN", "EXTERNAL", "PTV", "CTV", "GTV", "SUPPORT", "BOLUS"}
    assert {row["kind"] for row in TABLE} == kinds and len({row["colour"] for row in TABLE}) == len(TABLE)


def test_left_and_right_are_told_apart_by_their_colours() -> None:
    left, right = lookup("Lung_L"), lookup("right lung")
    assert left._replace(colour=None, fma="") == right._replace(colour=None, fma="")
    for row in TABLE:
        if row["name"].endswith(("_L", "_R")):
            continue  # each has a line of its own
        one, other = lookup(row["name"]).colour, lookup(f"{row['name']}_R").colour
        assert one and other and max(abs(a - b) for a, b in zip(one, other, strict=True)) > 24, row["name"]
    assert lookup("Lung").colour == left.colour and lookup("Rectum").colour == lookup("rectum").colour


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("Lung_L", "7310"),
        ("right lung", "7309"),
        ("Lungs", "68877"),
        ("Lung", "7195"),
        ("heart_atrium_right", "7096"),
        ("Ventricle_L", "7101"),
        ("Glnd_Submands", "320442"),
        ("SpinalCord", "7647"),
        ("Glnd_Adrenal_L", ""),  # TG-263 and the FMA disagree on which side it is
        ("SeminalVes", ""),
        ("External", ""),
        ("tumour", ""),
    ],
)
def test_fma_numbers(name: str, number: str) -> None:
    assert lookup(name).fma == number


def test_fma_numbers_are_read() -> None:
    assert named_by_fma("7310") == ("Lung_L", lookup("Lung_L")) and named_by_fma("FMA:7309")[0] == "Lung_R"
    assert named_by_fma("68877")[0] == "Lungs" and named_by_fma("7097")[0] == "Atrium_L"
    assert named_by_fma("15629") == named_by_fma("") == named_by_fma("x") == ("", Meaning())


def test_every_fma_number_is_one_structure() -> None:
    """In the FMA what is on the right has the smaller number of the two, which a swapped pair breaks."""
    columns = ("fma", "fma_left", "fma_right", "fma_both")
    numbers = [row[column] for row in TABLE for column in columns if row[column]]
    assert len(numbers) == len(set(numbers)) > 100 and all(number.isdigit() for number in numbers)
    for row in TABLE:
        assert bool(row["fma_left"]) == bool(row["fma_right"]) and bool(row["fma_both"]) == bool(row["both"]), row
        assert not row["fma_left"] or int(row["fma_right"]) < int(row["fma_left"]), row
        for column, ending in zip(columns[:3], ("", "_L", "_R"), strict=True):
            if row[column]:
                assert lookup(row["name"] + ending).fma == row[column] and named_by_fma(row[column])[0] == row["name"] + ending


@pytest.mark.parametrize(
    ("name", "side"), [("Lung_L", "L"), ("LeftLung", "L"), ("lung right", "R"), ("Lung", ""), ("Lung_L_R", ""), ("VB_L", ""), ("VB_L1", "")]
)
def test_sides(name: str, side: str) -> None:
    assert side_of(name) == side
