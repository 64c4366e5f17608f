"""Rules: what matches what, in which order, and which sentence a wrong file gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom")

from click.testing import CliRunner

from delineate.cli.gateway_explain import explain
from delineate.dicom.series import scan
from delineate.errors import SettingsError
from delineate.gateway.destination_settings import DicomSettings, FolderSettings, StowSettings
from delineate.gateway.rules import NoRuleError, Rules, RulesAtOddsError
from delineate.gateway.rules_attributes import attributes_of
from delineate.gateway.rules_patterns import pattern
from delineate.geometry import Geometry
from delineate.testing.dicom import stack_of, write_frames, write_series

PLACES = """
[destinations.pacs]
kind = "dicom"
host = "pacs"
port = 104
ae = "PACS"

[destinations.copies]
kind = "folder"
path = "out"
"""


def rules(tmp_path: Path, text: str, places: str = PLACES) -> Rules:
    path = tmp_path / "rules.toml"
    path.write_text(text + places)
    return Rules.read(path)


def rule(name: str, more: str = "", match: str = 'Modality = "CT"', destinations: str = '["pacs"]') -> str:
    return f'[[rules]]\nname = "{name}"\nmodel = "lungs-ct"\nmatch = {{ {match} }}\ndestinations = {destinations}\n{more}\n'


@pytest.mark.parametrize(
    ("keyword", "wanted", "text", "holds"),
    [
        ("Modality", "CT", "CT", True),
        ("Modality", "ct", "CT", True),
        ("Modality", "CT", "CTX", False),
        ("Modality", ["CT", "MR"], "MR", True),
        ("Modality", "!CT", "MR", True),
        ("Modality", ["!CT", "!MR"], "MR", False),
        ("SeriesDescription", "Chest*", "Chest 1.0", True),
        ("SeriesDescription", "chest*", "Chest 1.0", False),
        ("SeriesDescription", "/chest/i", "a Chest 1.0", True),
        ("SeriesDescription", "/^chest/", "Chest", False),
        ("BodyPartExamined", "/^che/", "CHEST", True),
        ("ImageType", "AXIAL", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("ImageType", "!*LOCALIZER*", "ORIGINAL\\PRIMARY\\LOCALIZER", False),
        ("ImageType", "!LOCALIZER", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("ImageType", "ORIGINAL\\PRIMARY\\*", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("SliceThickness", "0.5..3", "3.0", True),
        ("SliceThickness", "0.5..3", "3.01", False),
        ("SliceThickness", "..3", "1", True),
        ("SliceThickness", "3..", "1", False),
        ("SliceThickness", 1, "1.000", True),
        ("SliceThickness", 1.25, "1.25", True),
        ("SliceThickness", "1..3", "thin", False),
        ("SliceThickness", "1..3", "", False),
        ("PatientAge", "18..", "045Y", True),
        ("PatientAge", "18..", "006M", False),
        ("SeriesDate", "20240101..", "20250607", True),
        ("ContrastBolusAgent", "absent", "", True),
        ("ContrastBolusAgent", "absent", "iodine", False),
        ("ContrastBolusAgent", "!absent", "iodine", True),
        ("ContrastBolusAgent", "*", "", False),
        ("SeriesDescription", "a[12]*", "a1", True),
    ],
)
def test_patterns(keyword: str, wanted: Any, text: str, holds: bool) -> None:
    assert pattern(keyword, wanted).holds(text) is holds


@pytest.mark.parametrize(
    ("keyword", "wanted", "words"),
    [
        ("Modalty", "CT", "Perhaps Modality"),
        ("PixelData", "1", "no text or number"),
        ("SliceThickness", "thin", "is a number"),
        ("SliceThickness", "3..1", "which is empty"),
        ("SeriesDescription", "/(/", "'/(/'"),
        ("SeriesDescription", "/chest", "no end"),
        ("Modality", ["CT", "!MR"], "mixes"),
        ("Modality", [], "empty list"),
        ("Modality", "", "empty pattern"),
        ("Modality", True, "no pattern"),
        ("Modality", {"a": 1}, "no pattern"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused(keyword: str, wanted: Any, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        pattern(keyword, wanted)
    assert words in caught.value.sentence() and caught.value.advice


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    text = """
[servers.clinic]
url = "https://server.example:8443/models/"
token_file = "token"
deidentify = "required"

[destinations.web]
kind = "stow"
url = "https://web.example/dicom-web"
user = "node"
password_file = "/etc/secret"

[[rules]]
name = "lungs"
model = "lungs-ct"
match = { Modality = "CT", SliceThickness = "..5" }
parameters = { margin = 2 }
outputs = "rtstruct"
rtstruct = { short_names = true, holes = "xor" }
destinations = ["pacs", "web"]

[[rules]]
name = "all"
priority = 7
model = "body-ct"
seg = { kind = "labelmap" }
destinations = "copies"
"""
    found = rules(tmp_path, text)
    whole, lungs = found.rules
    assert (whole.name, whole.outputs, whole.seg.kind, whole.conditions) == ("all", ("rtstruct", "seg"), "labelmap", ())
    assert (lungs.server, lungs.outputs, lungs.destinations) == ("clinic", ("rtstruct",), ("pacs", "web"))
    assert lungs.rtstruct.short_names and lungs.rtstruct.holes == "xor" and lungs.parameters == {"margin": 2}
    server = found.servers["clinic"]
    assert server.url == "https://server.example:8443/models" and server.deidentify == "required"
    assert server.token_file == tmp_path / "token"
    pacs, web, copies = (found.destinations[name] for name in ("pacs", "web", "copies"))
    assert isinstance(pacs, DicomSettings) and (pacs.host, pacs.port, pacs.ae, pacs.calling) == ("pacs", 104, "PACS", "DELINEATE")
    assert isinstance(web, StowSettings) and web.password_file == Path("/etc/secret")
    assert isinstance(copies, FolderSettings) and copies.path == tmp_path / "out"
    assert found.keywords == {"Modality", "SliceThickness"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rules]\n", "line 1"),
        (rule("a", "modle = 1"), "rule 'a'.modle is unknown. Perhaps model"),
        (rule("a", match="Modalty = 'CT'"), "rule 'a'.match: 'Modalty' is no attribute"),
        (rule("a", destinations='["pacz"]'), "destinations names 'pacz', which is none. There are pacs, copies"),
        (rule("a", destinations="[]"), "destinations is missing or empty"),
        (rule("a", destinations='["pacs", "pacs"]'), "names something twice"),
        (rule("a", 'outputs = ["nifti"]'), "outputs names 'nifti'"),
        (rule("a", 'outputs = ["seg"]\nrtstruct = { short_names = true }'), "rtstruct has options, but is not among the outputs"),
        (rule("a", 'rtstruct = { hole = "xor" }'), "rule 'a'.rtstruct.hole is unknown. Perhaps holes"),
        (rule("a", 'seg = { kind = "bits" }'), "Write one of binary, labelmap, fractional"),
        (rule("a", 'server = "clinic"'), "server is 'clinic', which is none"),
        (rule("a", "continue = 1"), "Write true or false"),
        (rule("a") + rule("a"), "two rules have the name 'a'"),
        ('[[rules]]\nname = "a"\n', "model is missing"),
        ('[[rules]]\nname = "a"\nmodell = "lungs-ct"\n', "Perhaps modell is meant"),
        ("[rules]\n", "Begin each with [[rules]]"),
        ("[ruels]\n", "ruels is unknown. Perhaps rules"),
        ('[servers.a]\nurl = "server"\n', "servers.a.url is 'server'"),
        ('[servers.a]\nurl = "https://me:secret@server"\n', "holds a password"),
        ('[destinations.a]\nkind = "ftp"\n', "Write one of dicom, stow, folder"),
        ('[destinations.a]\nkind = "dicom"\nhost = "x"\nport = 0\nae = "A"\n', "port is 0"),
        ('[destinations.a]\nkind = "dicom"\nhost = "x"\nport = 104\nae = "AN AE TITLE OF TOO MANY"\n', "no AE title"),
        ('[destinations.a]\nkind = "dicom"\nhost = "x"\nport = 104\nae = "A"\nca_file = "ca.pem"\n', "tls is not true"),
        ('[destinations.a]\nkind = "stow"\nurl = "https://x"\nuser = "u"\n', "belong together"),
        ('[destinations.a]\nkind = "folder"\n', "path is missing"),
        ('[servers.a]\nurl = "http://a"\n[servers.b]\nurl = "http://b"\n' + rule("r"), "there are several. Name one of a, b"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rules(tmp_path, text)
    assert words in caught.value.sentence() and "rules.toml" in caught.value.message and caught.value.advice


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Rules.read(tmp_path / "none.toml")


def names(found: Rules, **attributes: str) -> list[str]:
    return [item.name for item in found.choose(attributes)]


def test_the_first_that_matches_is_taken_and_others_after_one_that_continues(tmp_path: Path) -> None:
    first = rule("a", match='Modality = "CT", SliceThickness = "..2"')
    found = rules(tmp_path, first + rule("b") + rule("c"))
    assert names(found, Modality="CT", SliceThickness="1") == ["a"]
    assert names(found, Modality="CT", SliceThickness="3") == ["b"]
    further = rules(tmp_path, rule("a", "continue = true") + rule("b", destinations='["copies"]') + rule("c"))
    assert names(further, Modality="CT") == ["a", "b"]


def test_a_rule_may_leave_images_alone(tmp_path: Path) -> None:
    left = '[[rules]]\nname = "scouts"\nmatch = { ImageType = "*LOCALIZER*" }\nleave = true\n'
    found = rules(tmp_path, left + rule("a"))
    assert [item.leaves for item in found.choose({"Modality": "CT", "ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"})] == [True]
    assert names(found, Modality="CT", ImageType="ORIGINAL\\PRIMARY\\AXIAL") == ["a"]
    with pytest.raises(SettingsError, match=r"rule 'scouts'\.model is unknown"):
        rules(tmp_path, left + 'model = "lungs-ct"\n')
    (tmp_path / "rules.toml").write_text(left.replace("*LOCALIZER*", "*"))
    write_series(tmp_path / "in", stack_of(np.zeros((4, 8, 8), np.int16), Geometry((8, 8, 4))))
    done = CliRunner().invoke(explain, [str(tmp_path / "in"), "--rules", str(tmp_path / "rules.toml")])
    assert done.exit_code == 0, done.output
    assert "→ left alone by the rule 'scouts'" in done.output


def test_priorities_go_before_the_order_of_the_file(tmp_path: Path) -> None:
    found = rules(tmp_path, rule("a") + rule("b", "priority = 5") + rule("c", "priority = 9", match='Modality = "MR"'))
    assert names(found, Modality="CT") == ["b"]
    assert names(found, Modality="MR") == ["c"]


def test_nothing_matches_names_the_nearest_rule_and_no_patient(tmp_path: Path) -> None:
    near = rule("near", match='Modality = "CT", SliceThickness = "..2", PatientName = "X*"')
    found = rules(tmp_path, rule("far", match='Modality = "MR", SliceThickness = "..2", BodyPartExamined = "HEAD", StudyID = "1"') + near)
    with pytest.raises(NoRuleError) as caught:
        found.choose({"Modality": "CT", "SliceThickness": "5", "PatientName": "Doe^Jane", "StudyID": "7"})
    sentence = caught.value.sentence()
    assert "'near'" in sentence and "SliceThickness, '5' instead of ..2" in sentence and "PatientName, another value" in sentence
    assert "Doe" not in sentence and "explain" in sentence
    with pytest.raises(NoRuleError, match="BodyPartExamined, absent instead of HEAD"):
        rules(tmp_path, rule("far", match='BodyPartExamined = "HEAD"')).choose({})
    with pytest.raises(NoRuleError, match="there are no rules"):
        rules(tmp_path, "").choose({"Modality": "CT"})


def test_two_rules_at_odds_are_an_error(tmp_path: Path) -> None:
    tied = rules(tmp_path, rule("a", "priority = 5") + rule("b", "priority = 5"))
    with pytest.raises(RulesAtOddsError, match="'a' and 'b' match the same image with the same priority, 5"):
        tied.choose({"Modality": "CT"})
    options = rules(tmp_path, rule("a", "continue = true") + rule("b", "rtstruct = { short_names = true }"))
    with pytest.raises(RulesAtOddsError, match="both bring lungs-ct to pacs, by different options") as caught:
        options.choose({"Modality": "CT"})
    assert caught.value.advice


def test_the_same_for_one_destination_is_done_once(tmp_path: Path) -> None:
    both = rule("a", "continue = true", destinations='["pacs", "copies"]')
    assert names(rules(tmp_path, both + rule("b", "continue = true") + rule("c")), Modality="CT") == ["a"]
    partly = rules(tmp_path, rule("a", "continue = true") + rule("b", destinations='["pacs", "copies"]'))
    with pytest.raises(RulesAtOddsError, match="they differ in their other destinations"):
        partly.choose({"Modality": "CT"})


def series(folder: Path, **other: Any) -> Path:
    geometry = Geometry((6, 5, 4), (1.0, 2.0, 3.0))
    write_series(folder, stack_of(np.zeros(geometry.shape, np.int16), geometry, **other))
    return folder


def test_attributes_are_read_from_the_file_its_head_and_shared_groups(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.BodyPartExamined = "CHEST"

    (group,) = scan(series(tmp_path / "a", change=change)).groups
    wanted = {"Modality", "ImageType", "BodyPartExamined", "PixelSpacing", "NumberOfSeriesRelatedInstances", "StudyID"}
    assert attributes_of(group, wanted) == {
        "Modality": "CT",
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
        "BodyPartExamined": "CHEST",
        "PixelSpacing": "2.0\\1.0",
        "NumberOfSeriesRelatedInstances": "4",
    }
    geometry = Geometry((6, 5, 4), (1.0, 2.0, 3.0))
    write_frames(tmp_path / "b.dcm", stack_of(np.zeros(geometry.shape, np.int16), geometry))
    (frames,) = scan(tmp_path / "b.dcm").groups
    found = attributes_of(frames, {"SliceThickness", "TransferSyntaxUID", "StackID", "NumberOfSlices", "StudyID"})
    assert found == {"SliceThickness": "1.0", "TransferSyntaxUID": "1.2.840.10008.1.2.1", "StackID": "1", "NumberOfSlices": "4"}


def test_explain_shows_every_condition(tmp_path: Path) -> None:
    source = series(tmp_path / "in")
    path = tmp_path / "rules.toml"
    path.write_text(rule("thin", match='Modality = "CT", NumberOfSeriesRelatedInstances = "10.."') + rule("any") + PLACES)
    done = CliRunner().invoke(explain, [str(source), "--rules", str(path)])
    assert done.exit_code == 0, done.output
    assert "NO   NumberOfSeriesRelatedInstances = 4, wanted: 10.." in done.output
    assert "yes  Modality = CT, wanted: CT" in done.output and "→ lungs-ct → rtstruct, seg → pacs" in done.output
    told = json.loads(CliRunner().invoke(explain, [str(source), "--rules", str(path), "--json"]).output)
    assert [item["rule"] for item in told["images"][0]["chosen"]] == ["any"]
    assert [item["matches"] for item in told["images"][0]["rules"]] == [False, True]
    path.write_text(rule("thin", match='SliceThickness = "..2"') + PLACES)
    done = CliRunner().invoke(explain, [str(source), "--rules", str(path)])
    assert done.exit_code == 2 and "no rule matches" in done.output


def test_the_rules_file_of_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gateway-rules.md").read_text(encoding="utf-8")
    found = rules(tmp_path, page.split("```toml\n")[1].split("```")[0], places="")
    chosen = found.choose({"Modality": "CT", "BodyPartExamined": "CHEST", "SliceThickness": "1", "NumberOfSlices": "99"})
    assert [item.model for item in chosen] == ["lungs-ct", "body-ct"]
    assert [item.model for item in found.choose({"Modality": "CT", "NumberOfSlices": "99"})] == ["body-ct"]
