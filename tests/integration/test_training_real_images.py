"""Training on real images, where these are present: lungs from half the slices of one patient, found in another."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

try:
    import lightgbm  # noqa: F401
except (ImportError, OSError):  # the latter without the system's libgomp
    pytest.skip("LightGBM cannot be loaded: it needs the system's libgomp1", allow_module_level=True)

from delineate.files import read_volume
from delineate.pictures import preview
from delineate.segmentation import Segmentation
from delineate.training import applying
from delineate.training.files import Reservoir
from delineate.training.sampling import Case
from delineate.training.trainer import Example, train

DATA = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
TRUNK, CHEST = DATA / "S01_ct_body_nifti_seg41", DATA / "S04_ct_chest64_dicom_nrrd_lungs"
LEFT_LOBES, RIGHT_LOBES = (10, 11), (12, 13, 14)

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not (TRUNK.exists() and CHEST.exists()), reason="the real images are not here"),
]


def trunk() -> Case:
    image, labels = read_volume(TRUNK / "example_ct_sm.nii.gz"), read_volume(TRUNK / "example_seg.nii.gz").voxels
    masks = {"Lung_L": np.isin(labels, LEFT_LOBES), "Lung_R": np.isin(labels, RIGHT_LOBES)}
    return Case(image, Segmentation.from_masks(masks, image.geometry))


def chest() -> Case:
    image, lungs = read_volume(CHEST / "ct-64.nrrd"), read_volume(CHEST / "wholeLung-64.nrrd").voxels > 0
    parts, count = ndimage.label(lungs)
    assert count == 2 and image.geometry.axis_codes == "LPS"
    right, left = sorted((parts == label for label in (1, 2)), key=lambda part: np.argwhere(part)[:, 2].mean())
    return Case(image, Segmentation.from_masks({"Lung_L": left, "Lung_R": right}, image.geometry))


def half(case: Case, first: int) -> Case:
    """Every other slice, looked at from end to end: those without lungs say that there are none."""
    looked = (np.arange(case.image.geometry.shape[0]) % 2 == first)[:, None, None]
    labels = replace(case.labels, layers=tuple(layer * looked for layer in case.labels.layers))
    return replace(case, labels=labels, annotated=looked)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("first", [0, 1])
def test_lungs_of_another_patient_from_half_the_slices(tmp_path: Path, first: int) -> None:
    taught, other = half(chest(), first), trunk()
    began = time.process_time()
    forest = train([Example(image="chest", version="1", load=lambda: taught)], Reservoir(tmp_path))
    found = applying.segment(forest, other.image)
    assert time.process_time() - began < 60
    for name in ("Lung_L", "Lung_R"):
        assert dice(found.mask(name), other.labels.mask(name)) >= 0.9
    assert preview(other.image, found).startswith(b"\x89PNG")


@pytest.mark.parametrize("rest", [0, 1])
@pytest.mark.parametrize("teacher", ["chest", "trunk"])
def test_lungs_under_one_label_with_nothing_said(tmp_path: Path, teacher: str, rest: int) -> None:
    whole, other = (_as_one(case) for case in ((chest(), trunk()) if teacher == "chest" else (trunk(), chest())))
    taught = replace(half(whole, rest), annotated=None)
    forest = train([Example(image="one", version="1", load=lambda: taught)], Reservoir(tmp_path))
    assert dice(applying.segment(forest, other.image).mask("Lungs"), other.labels.mask("Lungs")) >= 0.9


@pytest.mark.parametrize("sides", [1, 2])
def test_slivers_behind_the_liver_teach_whole_lungs(tmp_path: Path, sides: int) -> None:
    """The lower half of the slices that hold lungs, nothing said; under one label, or left and right apart."""
    whole, other = (case if sides == 2 else _as_one(case) for case in (trunk(), chest()))
    lungs = np.logical_or.reduce([whole.labels.mask(name) for name in whole.labels.names]).any(axis=(1, 2))
    there = np.flatnonzero(lungs)
    lower = (np.arange(lungs.size) < (there[0] + there[-1] + 1) // 2)[:, None, None]
    taught = replace(whole, labels=replace(whole.labels, layers=tuple(layer * lower for layer in whole.labels.layers)))
    forest = train([Example(image="trunk", version="1", load=lambda: taught)], Reservoir(tmp_path))
    found = applying.segment(forest, other.image)
    assert min(dice(found.mask(name), other.labels.mask(name)) for name in found.names) >= 0.9


def _as_one(case: Case) -> Case:
    both = case.labels.mask("Lung_L") | case.labels.mask("Lung_R")
    return Case(case.image, Segmentation.from_masks({"Lungs": both}, case.image.geometry))


def test_an_image_teaches_its_other_half(tmp_path: Path) -> None:
    case = trunk()
    forest = train([Example(image="trunk", version="1", load=lambda: half(case, 0))], Reservoir(tmp_path))
    found = applying.segment(forest, case.image)
    for name in ("Lung_L", "Lung_R"):
        assert dice(found.mask(name)[1::2], case.labels.mask(name)[1::2]) >= 0.9
