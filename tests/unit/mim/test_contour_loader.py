"""Structures become contours: all of them, or the patient's image is as it was."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from delineate.errors import DelineateError, GeometryError, InputError
from delineate.geometry import Geometry
from delineate.mim.contour_loader import ContourLoader
from delineate.mim.task_input import PROBE, image_grid
from delineate.mim.task_output import LabelArrays, TaskOutput
from delineate.protocols.archive import ResultWriter
from delineate.testing.mimhost import CHOICES, MULTIPLIERS, Host, HostImage, JavaError

NAMES = {1: "Lung_L", 2: "Lung_R", 3: "Heart"}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        yield host
        assert host.misuses == []


def _labels(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)


def _result(path: Path, labels: np.ndarray, names: dict[int, str] | None = None) -> str:
    with ResultWriter(path) as writer:
        writer.add_layer("labels", labels, Geometry(labels.shape[::-1]), names or NAMES)
    return str(path)


def _load(host: Host, image: HostImage, path: str, overwrite: bool = False) -> list[str]:
    say = host.session.createLogger().info
    return ContourLoader(host.session, image.handle, say, overwrite=overwrite).load(TaskOutput(path))


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("orientation", ["LPS", "LPI", "RAS", "SLP"])
def test_the_right_voxels_are_set(host: Host, tmp_path: Path, multiplier: tuple[int, int, int], orientation: str) -> None:
    source = host.image().volume
    image = host.image_from_volume(source, multiplier=multiplier, orientation=orientation)
    labels = _labels(image.contour_geometry.shape)
    assert _load(host, image, _result(tmp_path / "r.zip", labels)) == list(NAMES.values())
    for label, name in NAMES.items():
        contour = image.contour(name)
        assert np.array_equal(contour.mask, labels == label)
        assert contour.redraws == 1
    assert len(image.contours) == 3
    assert "XMimContour.sanitize" not in host.calls  # what it does is not known


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_a_result_on_the_image_grid(host: Host, tmp_path: Path, multiplier: tuple[int, int, int]) -> None:
    image = host.image(multiplier=multiplier)
    labels = _labels(image.geometry.shape)
    _load(host, image, _result(tmp_path / "r.zip", labels))
    x, y, z = multiplier
    wanted = labels.repeat(z, axis=0).repeat(y, axis=1).repeat(x, axis=2)
    for label, name in NAMES.items():
        assert np.array_equal(image.contour(name).mask, wanted == label)


@pytest.mark.parametrize(("option", "choice"), [(option, choice) for option, choices in CHOICES.items() for choice in choices])
def test_whatever_is_unknown_of_the_workstation(tmp_path: Path, option: str, choice: str) -> None:
    with Host(**{option: choice}) as host:
        image = host.image()
        labels = _labels(image.contour_geometry.shape)
        image.add_contour("Lung_R")
        image.add_contour("Heart", labels == 0)
        _load(host, image, _result(tmp_path / "r.zip", labels))
        assert {contour.name: contour.count for contour in image.contours} == {
            "Lung_L": int((labels == 1).sum()),
            "Lung_R": int((labels == 2).sum()),
            "Heart": int((labels == 0).sum()),
            "Heart 2": int((labels == 3).sum()),
        }
        assert host.misuses == []


def test_another_grid_stops_before_anything_is_written(host: Host, tmp_path: Path) -> None:
    image = host.image()
    image.add_contour("Other")
    before = host.snapshot()
    with pytest.raises(GeometryError) as caught:
        _load(host, image, _result(tmp_path / "r.zip", _labels((4, 5, 6))))
    for size in ("6 x 5 x 4", "23 x 19 x 11", "46 x 38 x 11"):
        assert size in caught.value.sentence()
    assert host.snapshot() == before
    assert not {"XMimImage.createNewContour", "XMimContourData.setFromNPArray"} & set(host.calls)


def test_a_hand_drawn_contour_is_never_overwritten(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    drawn = image.add_contour("Heart", labels == 2)
    image.add_contour("heart 2")
    before = host.snapshot()
    assert _load(host, image, _result(tmp_path / "r.zip", labels)) == ["Lung_L", "Lung_R", "Heart 3"]
    assert drawn.writes == 0
    assert all("was added" in change for change in before.changes(host.snapshot()))
    assert any("Heart 3" in line.text for line in host.log)


def test_a_hand_drawn_contour_survives_an_empty_structure(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = np.zeros(image.contour_geometry.shape, np.uint8)
    image.add_contour("Heart", labels == 0)
    before = host.snapshot()
    for overwrite in (False, True):
        assert _load(host, image, _result(tmp_path / "r.zip", labels), overwrite) == []
        assert host.snapshot() == before
    assert any("Nothing was found of Lung_L, Lung_R, Heart" in line.text for line in host.log)


def test_empty_contours_that_a_workflow_prepared_are_filled(host: Host, tmp_path: Path) -> None:
    image = host.image()
    prepared = image.add_contour("Heart")
    labels = _labels(image.contour_geometry.shape)
    _load(host, image, _result(tmp_path / "r.zip", labels))
    assert image.contour("Heart") is prepared
    assert np.array_equal(prepared.mask, labels == 3)


def test_two_runs_at_once_do_not_overwrite_each_other(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one sets its first structure, the other sets all of its own; or a person draws."""
    image = host.image()
    prepared = {name: image.add_contour(name) for name in NAMES.values()}
    labels = _labels(image.contour_geometry.shape)
    first, other = _result(tmp_path / "r.zip", labels), _result(tmp_path / "other.zip", labels, {1: "Heart", 2: "Lung_R"})
    look_up, runs = LabelArrays.__getitem__, []

    def interrupted(masks: LabelArrays, name: str) -> np.ndarray:
        if not runs:
            runs.append("other")
            _load(host, image, other)
        return look_up(masks, name)

    monkeypatch.setattr(LabelArrays, "__getitem__", interrupted)
    with pytest.raises(InputError, match="Lung_R was drawn meanwhile"):
        _load(host, image, first)
    assert not prepared["Lung_L"].mask.any()
    assert np.array_equal(prepared["Lung_R"].mask, labels == 2)
    assert np.array_equal(prepared["Heart"].mask, labels == 1)


def test_of_two_contours_of_one_name_the_empty_one_is_filled(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    drawn, prepared = image.add_contour("Heart", labels == 0), image.add_contour("Heart")
    _load(host, image, _result(tmp_path / "r.zip", labels))
    assert np.array_equal(drawn.mask, labels == 0)
    assert np.array_equal(prepared.mask, labels == 3)


def test_names_are_matched_however_they_are_composed(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    prepared = image.add_contour("Bru\u0308cke ")
    _load(host, image, _result(tmp_path / "r.zip", labels, {1: "Br\u00fccke"}))
    assert prepared.writes == 1
    assert len(image.contours) == 1


def test_overwriting_has_to_be_asked_for(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    drawn = image.add_contour("Heart", labels == 0)
    assert _load(host, image, _result(tmp_path / "r.zip", labels), overwrite=True) == list(NAMES.values())
    assert np.array_equal(drawn.mask, labels == 3)


def test_which_of_two_to_overwrite_is_not_guessed(host: Host, tmp_path: Path) -> None:
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    for _ in range(2):
        image.add_contour("Heart", labels == 0)
    before = host.snapshot()
    with pytest.raises(InputError, match="2 contours"):
        _load(host, image, _result(tmp_path / "r.zip", labels), overwrite=True)
    assert host.snapshot() == before


def test_a_prepared_contour_of_another_resolution_stops_before_anything_is_written(host: Host, tmp_path: Path) -> None:
    image = host.image()
    image.add_contour("Other")
    image.add_contour("Heart", multiplier=(4, 4, 1))
    before = host.snapshot()
    with pytest.raises(GeometryError, match="Heart"):
        _load(host, image, _result(tmp_path / "r.zip", _labels(image.contour_geometry.shape)))
    assert host.snapshot() == before


def test_what_the_archive_holds_beside_structures_is_said(host: Host, tmp_path: Path) -> None:
    image = host.image()
    _load(host, image, _result(tmp_path / "r.zip", _labels(image.contour_geometry.shape), {1: "Lung_L"}))
    assert any("labels without a name: 2, 3" in line.text for line in host.log)


def _prepared(host: Host) -> HostImage:
    """An image with a contour to fill, one to leave, one to overwrite where that is asked for, and one that is nobody's business."""
    image = host.image()
    labels = _labels(image.contour_geometry.shape)
    image.add_contour("Lung_L")
    image.add_contour("Heart", labels == 0)
    image.add_contour("Drawn", labels == 1)
    return image


@pytest.mark.parametrize("reads", CHOICES["reads"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "bare"])
def test_the_workstation_throws_at_every_call_in_turn(tmp_path: Path, prepare: bool, after: bool, overwrite: bool, reads: str) -> None:
    path, survived = "", []
    for call in range(1, 500):
        with Host(reads=reads) as host:
            image = _prepared(host) if prepare else host.image()
            path = path or _result(tmp_path / "r.zip", _labels(image.contour_geometry.shape))
            before = host.snapshot()
            loader = ContourLoader(host.session, image.handle, host.session.createLogger().info, overwrite=overwrite)
            host.forget()
            host.fail_on(call, after=after)
            try:
                names = loader.load(TaskOutput(path))
            except (JavaError, DelineateError) as error:
                # What undoing it met does not hide the first error; that of the probe's deletion names the probe.
                assert ("NullPointer" if isinstance(error, JavaError) else PROBE) in str(error)
                assert before.changes(host.snapshot()) == [], f"call {call}, {host.calls[call - 1]}"
                continue
            if len(host.calls) < call:
                break
            survived.append(host.calls[call - 1])
            assert names == list(NAMES.values()) or prepare
            assert len(image.contours) == (len(NAMES) if not prepare else 4 if overwrite else 5)
    assert call > 40
    # The probe's deletion is tried again. An iterator's end is no call that throws afterwards.
    assert set(survived) <= {"ContourIterator.next" if after else "XMimContour.delete"}


@pytest.mark.parametrize("call", ["XMimContour.delete", "XMimContourData.setFromNPArray"])
def test_what_cannot_be_undone_does_not_stop_the_rest(host: Host, tmp_path: Path, call: str) -> None:
    image = _prepared(host)
    labels = _labels(image.contour_geometry.shape)
    labels[0] = 4
    path = _result(tmp_path / "r.zip", labels, {1: "Lung_L", 2: "Lung_R", 3: "Heart", 4: "Spine"})
    host.forget()
    first = ValueError("the first error")
    host.fail_on(4, "XMimContour.redrawCompletely", error=first)
    if call == "XMimContour.delete":
        host.fail_on(1, call, times=2)  # the last contour, and the second try at it
    else:
        host.fail_on(5, call, times=2)  # the filled one
    with pytest.raises(ValueError, match="the first error"):
        _load(host, image, path)
    left = {"XMimContour.delete": {"Spine"}, "XMimContourData.setFromNPArray": set()}[call]
    assert set(image.names) - {"Lung_L", "Heart", "Drawn"} == left
    said = [line.text for line in host.log if "Check it by hand" in line.text]
    assert len(said) == 1
    assert ("Spine" if left else "Lung_L") in said[0]


def test_the_probe_leaves_nothing_behind(host: Host) -> None:
    image = host.image(multiplier=(2, 3, 1))
    assert image_grid(host.session, image.handle).multiplier == (2, 3, 1)
    assert image.contours == []
    assert host.calls.count("XMimImage.createNewContour") == 1


def test_no_probe_where_a_contour_tells(host: Host) -> None:
    image = host.image(multiplier=(2, 3, 1))
    image.add_contour("Heart")
    assert image_grid(host.session, image.handle).multiplier == (2, 3, 1)
    assert "XMimImage.createNewContour" not in host.calls


def test_a_probe_that_cannot_be_deleted_is_said(host: Host) -> None:
    image = host.image()
    host.fail_on(1, "XMimContour.delete", times=-1)
    with pytest.raises(Exception, match=PROBE) as caught:
        image_grid(host.session, image.handle)
    assert "delete it" in caught.value.sentence()


def test_three_hundred_structures(host: Host, tmp_path: Path) -> None:
    image = host.image(Geometry((40, 30, 20), (1.0, 1.5, 2.0)), multiplier=(1, 1, 1))
    labels = np.random.default_rng(0).integers(0, 301, image.geometry.shape).astype(np.uint16)
    names = {label: f"Organ {label}" for label in range(1, 301)}
    assert _load(host, image, _result(tmp_path / "r.zip", labels, names)) == list(names.values())
    assert np.array_equal(image.contour("Organ 300").mask, labels == 300)


def test_thirty_structures_take_little_time_and_one_mask(tmp_path: Path) -> None:
    """A quarter of the size that is promised, in a quarter of the time and more, so that slow machines pass."""
    shape = (100, 512, 1024)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, 31):
        labels[2 * label : 2 * label + 30, 12 * label : 12 * label + 100, 100:900] = label
    path = _result(tmp_path / "r.zip", labels, {label: f"S{label}" for label in range(1, 31)})
    mask_bytes = labels.nbytes
    del labels
    with Host(keep="count") as host:
        image = host.image(Geometry((512, 256, 100), (0.9, 0.9, 1.5)), multiplier=(2, 2, 1))
        image.add_contour("Other")
        host.forget()
        begin = time.process_time()
        assert len(_load(host, image, path)) == 30
        assert time.process_time() - begin < 1.3  # a third of it is the host's
        tracemalloc.start()
        try:
            output = TaskOutput(path)
            tracemalloc.clear_traces()
            ContourLoader(host.session, image.handle, lambda text: None, overwrite=False).load(output)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1.1 * mask_bytes
        assert host.ledger.peak < mask_bytes
