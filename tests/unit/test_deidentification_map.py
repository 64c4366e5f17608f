"""A map that is damaged leads to nobody else, and gives nobody a second pseudonym: it is refused, or answers as before."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("pydicom")

from delineate.dicom.deidentification_map import IdentityMap
from delineate.errors import StoreError

OF = {"PatientName": "NAME", "PatientID": "NUMBER"}


def asked(path: Path) -> tuple[str, ...]:
    """What a map says of two patients, known or not."""
    kept = IdentityMap(path)
    try:
        found: list[str] = []
        with kept.writing():
            for who in ("one", "two"):
                patient = kept.patient(who)
                study = kept.uid(f"1.2.{who}", patient.sent)
                kept.keep_study(study, {**OF, "PatientID": who})
                found += patient.sent, str(patient.days), study
        for study in found[2::3]:
            found += *(kept.origin(study) or ()), *(f"{name}={text}" for name, text in (kept.study(study) or {}).items())
        return tuple(found)
    finally:
        kept.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "map.sqlite"


def answers_of(path: Path, damaged: list[bytes]) -> set[tuple[str, ...]]:
    """What damaged files answer, those that are refused left out."""
    found = set()
    for content in damaged:
        path.write_bytes(content)
        try:
            found.add(asked(path))
        except StoreError as error:
            assert "NUMBER" not in str(error) and "one" not in str(error).split()
    return found


def test_where_there_are_no_links_it_is_made_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refused)
    assert asked(path) == asked(path)
    assert list(path.parent.iterdir()) == [path] and path.stat().st_mode & 0o777 == 0o600


def test_cut_off_anywhere_it_is_refused(path: Path) -> None:
    asked(path)
    whole = path.read_bytes()
    assert list(path.parent.iterdir()) == [path]  # nothing waits beside it
    assert answers_of(path, [whole[:size] for size in (*range(0, 200, 7), *range(200, len(whole) - 4096, 3001))]) == set()


def test_whatever_bit_is_wrong_nobody_is_taken_for_another(path: Path) -> None:
    truth = asked(path)
    whole = path.read_bytes()
    chance = random.Random(3)
    used = [at for at, byte in enumerate(whole) if byte]
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :] for at in chance.sample(used, 150)]
    assert answers_of(path, damaged) <= {truth}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE patients SET original = 'three' WHERE original = 'one'",
        "UPDATE patients SET days = days - 1",
        "UPDATE uids SET original = '1.2.x' WHERE original = '1.2.one'",
        "UPDATE studies SET attributes = replace(attributes, 'one', 'two')",
    ],
)
def test_rows_that_nobody_wrote_are_not_believed(path: Path, change: str) -> None:
    asked(path)
    line = sqlite3.connect(path)
    line.execute(change)
    line.commit()
    line.close()
    if "UPDATE uids" in change:  # a row as it may be, without its proof
        kept = IdentityMap(path)
        (sent,) = sqlite3.connect(path).execute("SELECT sent FROM uids WHERE original = '1.2.x'").fetchone()
        with pytest.raises(StoreError, match="damaged"):
            kept.origin(sent)
        kept.close()
    else:
        with pytest.raises(StoreError, match="damaged"):
            asked(path)


def test_a_map_of_the_first_version_goes_on(path: Path) -> None:
    truth = asked(path)
    line = sqlite3.connect(path)
    for table in ("uids", "patients", "studies"):
        line.execute(f"ALTER TABLE {table} DROP COLUMN proof")
    line.execute("PRAGMA user_version = 1")
    line.execute("PRAGMA journal_mode = WAL")
    line.close()
    assert asked(path) == truth == asked(path)


def test_an_empty_file_is_no_new_map(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="empty"):
        IdentityMap(path)
    assert path.stat().st_size == 0


def test_another_database_is_no_map(path: Path) -> None:
    line = sqlite3.connect(path)
    line.execute("CREATE TABLE notes (words TEXT)")
    line.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another file"):
        IdentityMap(path)
    assert path.read_bytes() == before
