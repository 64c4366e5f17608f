"""Ids, tags and file names: what is refused, and what becomes of the names that people give their files."""

from __future__ import annotations

import pytest

from delineate.datastore import names
from delineate.errors import InputError


@pytest.mark.parametrize(
    "text", ["a", "pat.1", "up 2+x", "1.2.840.113619.2.55", "Müller_2", "図", "a'b\"c", "con_", "x" * 200, "%2e%2e", "a..b"]
)
def test_ids_that_are_fine(text: str) -> None:
    assert names.check_id(text) == text
    assert names.check_tag(text) == text


@pytest.mark.parametrize(
    "text",
    ["..", ".", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b", "a\nb", "\x7f", ".hidden", "x.", " x", "x ", "CON", "nul.nii",
     "com1", "x" * 201, "é" * 101, "\ud800", "a\u2028b"],
)  # fmt: skip
def test_what_could_be_more_than_a_name_is_refused(text: str) -> None:
    for check in (names.check_id, names.check_tag):
        with pytest.raises(InputError) as caught:
            check(text)
        assert caught.value.advice
        assert caught.value.message.isprintable()


def test_an_empty_tag_is_final_and_an_empty_id_is_none() -> None:
    assert names.check_tag("") == "final"
    with pytest.raises(InputError, match="empty"):
        names.check_id("")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pat.1.nii.gz", ("pat.1", ".nii.gz")),
        ("pat.1.NRRD", ("pat.1", ".NRRD")),
        ("x.seg.nrrd", ("x.seg", ".nrrd")),
        ("slide.svs", ("slide", ".svs")),
        (".nii.gz", (".nii.gz", "")),
        ("notes.txt", ("notes.txt", "")),
    ],
)
def test_split(name: str, parts: tuple[str, str]) -> None:
    assert names.split(name) == parts


def test_the_whole_path_of_a_client_is_no_harm_but_leading_out_is() -> None:
    assert names.upload_parts("/local/small.nii.gz", names.IMAGE_EXTENSIONS) == ("small", ".nii.gz")
    assert names.upload_parts("C:\\Users\\a\\Small.NII.GZ", names.IMAGE_EXTENSIONS) == ("Small", ".nii.gz")
    for name in ("../../evil.nii.gz", "..\\evil.nii.gz", "a/../b.nii.gz"):
        with pytest.raises(InputError, match="lead out"):
            names.upload_parts(name, names.IMAGE_EXTENSIONS)
    for name in ("x.exe", "x", "x.bin"):
        with pytest.raises(InputError, match="extension"):
            names.upload_parts(name, names.IMAGE_EXTENSIONS)


def test_ids_of_found_files_are_never_one() -> None:
    taken: list[str] = []
    for name, parents in [
        ("pat.1.nii.gz", ()), ("pat.1.nrrd", ()), ("pat.1.nii.gz", ("a",)), ("pat.1.nii.gz", ("b", "a")),
        ("pat.1.nrrd", ("a",)), ("pat.1.nii", ()), ("a:b.nii", ()), ("con.nii", ()), ("x" * 240 + ".nii", ()), ("..nii", ()),
    ]:  # fmt: skip
        id = names.id_of_file(name, parents, taken)
        assert id not in taken
        assert names.check_id(id) == id
        taken.append(id)
    assert taken[:8] == ["pat.1", "pat.1.nrrd", "a_pat.1", "a_pat.1.nii.gz", "a_pat.1.nrrd", "pat.1.nii", "a_b", "con_"]


def test_numbers_are_the_last_resort() -> None:
    assert names.id_of_file("x.nii", (), {"x", "x.nii", "x-2"}) == "x-3"
