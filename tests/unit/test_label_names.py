"""What the labels of a label map are called, where a client says it and where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from delineate.datastore.records import ImageRecord, LabelRecord
from delineate.datastore.snapshot import Entry
from delineate.server.monai_label.label_names import AnsweredNames, likely_names_of, names_in, names_of


def entry(version: int = 1, **labels: LabelRecord) -> Entry:
    made = Entry.__new__(Entry)
    made.image = ImageRecord(
        id="a", extension=".nii.gz", path=Path("a.nii.gz"), is_series=False, size=1, mtime=1, version=version, added=1, who="", info={}
    )
    made.labels = labels
    return made


def label(image_version: int = 1, **info: Any) -> LabelRecord:
    return LabelRecord(
        image="a", tag="original", version=1, extension=".nii.gz", path=None, size=1, is_current=True, at=1, who="",
        image_version=image_version, info=info,
    )  # fmt: skip


@pytest.mark.parametrize(
    "info",
    [
        {"label_info": [{"name": "Heart", "idx": 1}, {"name": "Heart", "idx": 2}, {"name": " ", "idx": 3}, 4, {"name": "No", "idx": True}]},
        {"label_names": {"Heart": 1, "background": 0, "far": 1 << 20, "half": 1.5}},
        {"params": {"label_names": {"Heart": 1}}, "model": "m"},
        {"label_info": [], "label_names": {"Heart": 1}, "params": {"label_names": {"Lung": 1}}},
    ],
)
def test_names_that_came_with_a_label(info: dict[str, Any]) -> None:
    assert names_in(info) == names_of(label(**info)) == {"1": "Heart"}


@pytest.mark.parametrize(
    "info", [{}, {"label_info": {"Heart": 1}}, {"label_names": ["Heart"]}, {"params": "x"}, {"likely_names": {"Heart": 1}}]
)
def test_no_names_came(info: dict[str, Any]) -> None:
    assert names_in(info) == {}


def test_answers_are_remembered_as_far_as_they_agree() -> None:
    answered = AnsweredNames()
    assert answered.likely(entry()) == {}
    answered.note("a", 1, "ct", {"Liver": 1, "Spleen": 2, "Heart": 3})
    assert answered.likely(entry()) == {"Liver": 1, "Spleen": 2, "Heart": 3}
    answered.note("a", 1, "other", {"Kidney": 1, "Spleen": 2, "Heart": 4})
    assert answered.likely(entry()) == {"Spleen": 2}, "1 is called two things, and the heart is two labels"
    answered.note("a", 1, "other", {"Liver": 1})
    assert answered.likely(entry()) == {"Liver": 1, "Spleen": 2, "Heart": 3}, "the last answer of a model counts"
    answered.note("a", 1, "words", None)
    assert answered.likely(entry(version=2)) == {}, "another image by now"


def test_labels_by_models_are_answers_too() -> None:
    kept = label(model="ct", params={"label_names": {"Liver": 1, "Spleen": 2}})
    answered = AnsweredNames()
    assert answered.likely(entry(original=kept)) == {"Liver": 1, "Spleen": 2}
    answered.note("a", 1, "ct@2", {"Liver": 2})
    assert answered.likely(entry(original=kept)) == {}
    by_hand = label(label_info=[{"name": "Liver", "idx": 1}])
    of_before = label(image_version=2, model="ct", params={"label_names": {"Liver": 1}})
    assert AnsweredNames().likely(entry(final=by_hand, original=of_before)) == {}


def test_only_the_last_images_are_remembered() -> None:
    answered = AnsweredNames(images=1)
    answered.note("a", 1, "ct", {"Liver": 1})
    answered.note("b", 1, "ct", {"Liver": 1})
    assert answered.likely(entry()) == {}


def test_likely_names_are_read_back() -> None:
    assert likely_names_of(label(likely_names={"Liver": 1})) == {"1": "Liver"}
    assert likely_names_of(label()) == {}
