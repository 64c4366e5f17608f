"""The built-in models on real images, where these are present: against reference labels and against anatomy."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from delineate.files import read_volume
from delineate.models.body_ct.model import BodyCT
from delineate.models.body_mr.model import BodyMR
from delineate.models.bones_ct.model import BonesCT
from delineate.models.lungs_ct.model import LungsCT
from delineate.orientation import reorientation
from delineate.pictures import preview
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.volume import Volume

DATA = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
TRUNK, TRUNK_LABELS = "S01_ct_body_nifti_seg41/example_ct_sm.nii.gz", "S01_ct_body_nifti_seg41/example_seg.nii.gz"
CHEST, CHEST_LABELS = "S04_ct_chest64_dicom_nrrd_lungs/ct-64.nrrd", "S04_ct_chest64_dicom_nrrd_lungs/wholeLung-64.nrrd"
ABDOMEN_MR, ABDOMEN_MR_LABELS = "S03_mr_body_nifti_seg/example_mr_sm.nii.gz", "S03_mr_body_nifti_seg/example_seg_mr.nii.gz"
PELVIS = "S06_sarcoma_STS003_ct_mr_pet_rtstruct/CT/nifti/CT_image.nii.gz"
MR = (
    ABDOMEN_MR,
    "S11_spine_mr_nifti_seg_4d/t1w.nii.gz",
    "S11_spine_mr_nifti_seg_4d/t2.nii.gz",
    "S11_spine_mr_nifti_seg_4d/t2s.nii.gz",
    "S12_nrrd_brain_breast/brain1_image.nrrd",
    "S12_nrrd_brain_breast/breast1_image.nrrd",
)
# TotalSegmentator's lobes in S01: left upper and lower; right upper, middle and lower.
LEFT_LOBES, RIGHT_LOBES = (10, 11), (12, 13, 14)

pytestmark = pytest.mark.shared


def present(*names: str) -> list[str]:
    return [name for name in names if (DATA / name).exists()]


def lps(name: str) -> Volume:
    volume = read_volume(DATA / name)
    mapped = volume.mapped(reorientation(volume.geometry, "LPS"))
    return replace(mapped, voxels=np.ascontiguousarray(mapped.voxels))


def segment(model: type[Any], volume: Volume) -> Segmentation:
    job = Job(
        images=(volume,),
        input_folder=Path(),
        output_folder=Path(),
        prompts={},
        report=lambda fraction, message: None,
        log=lambda text: None,
        deadline=time.monotonic() + 600,
        task="test",
    )
    result = model({}, None).segment(job)
    assert isinstance(result, Segmentation)
    assert preview(volume, result).startswith(b"\x89PNG")
    return result


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("name", present(TRUNK))
def test_lobes_joined(name: str) -> None:
    labels, found = lps(TRUNK_LABELS).voxels, segment(LungsCT, lps(name))
    assert dice(found.mask("Lung_L"), np.isin(labels, LEFT_LOBES)) >= 0.95
    assert dice(found.mask("Lung_R"), np.isin(labels, RIGHT_LOBES)) >= 0.95


@pytest.mark.parametrize("name", present(TRUNK))
def test_body_holds_every_organ_and_no_table(name: str) -> None:
    labels, volume = lps(TRUNK_LABELS).voxels, lps(name)
    body = segment(BodyCT, volume).mask("Body")
    assert not ((labels > 0) & ~body).any()
    # The couch's boards are dense lines across the whole image; the last rows hold the lower one.
    assert not body[:, -5:].any()


@pytest.mark.parametrize("name", present(TRUNK))
def test_bones_hold_the_vertebrae(name: str) -> None:
    labels, volume = lps(TRUNK_LABELS).voxels, lps(name)
    bones = segment(BonesCT, volume).mask("Bone")
    vertebrae = (labels >= 26) & (labels <= 50)
    assert np.count_nonzero(bones & vertebrae) > 0.9 * np.count_nonzero(vertebrae)
    found, there = (bones & vertebrae).sum(axis=(1, 2)), vertebrae.sum(axis=(1, 2))
    assert (found[[0, 1, -2, -1]] > 0.9 * there[[0, 1, -2, -1]]).all(), "marrow of the vertebrae that the image cuts"
    soft = np.isin(labels, (1, 2, 3, 5, 6))  # spleen, kidneys, liver, stomach
    assert np.count_nonzero(bones & soft) < 0.001 * np.count_nonzero(soft)


@pytest.mark.parametrize("name", present(CHEST))
def test_lungs_of_large_voxels(name: str) -> None:
    reference, volume = lps(CHEST_LABELS).voxels > 0, lps(name)
    found = segment(LungsCT, volume)
    left, right = found.mask("Lung_L"), found.mask("Lung_R")
    assert dice(left | right, reference) >= 0.95
    parts, count = ndimage.label(reference)
    assert count == 2, "the reference has no sides, but its lungs do not touch"
    by_side = sorted((parts == label for label in (1, 2)), key=lambda part: np.argwhere(part)[:, 2].mean(), reverse=True)
    assert dice(left, by_side[0]) >= 0.97 and dice(right, by_side[1]) >= 0.97
    assert not (left & by_side[1]).any()


@pytest.mark.parametrize("name", present(PELVIS))
def test_no_lungs_in_a_pelvis(name: str) -> None:
    assert not segment(LungsCT, lps(name)).layers[0].any()


@pytest.mark.parametrize("name", present(PELVIS))
def test_no_couch_under_a_pelvis_that_the_image_cuts_off(name: str) -> None:
    volume = lps(name)
    body = segment(BodyCT, volume).mask("Body")
    tissue = volume.values() > -200
    assert np.count_nonzero(tissue & ~body) > 1000  # the couch's boards are there
    assert np.count_nonzero(body & ~tissue) < 0.03 * np.count_nonzero(body)
    assert not body[:10, 130:].any()


@pytest.mark.parametrize("name", present(*MR))
def test_body_in_mr(name: str) -> None:
    volume = lps(name)
    body = segment(BodyMR, volume).mask("Body")
    values = volume.values()
    bright = values > np.percentile(values, 80)
    assert np.count_nonzero(bright & body) > 0.97 * np.count_nonzero(bright)


@pytest.mark.parametrize("name", present(ABDOMEN_MR))
def test_body_in_mr_holds_every_organ(name: str) -> None:
    labels = lps(ABDOMEN_MR_LABELS).voxels
    assert not ((labels > 0) & ~segment(BodyMR, lps(name)).mask("Body")).any()
