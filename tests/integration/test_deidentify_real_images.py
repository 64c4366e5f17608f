"""De-identification of files that real scanners wrote, where they are present: the same images, without whom they show."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

import pydicom

from delineate.dicom.deidentify import Deidentifier, Policy
from delineate.dicom.reader import looked_at, read_group
from delineate.dicom.series import Group

DATA = Path(os.environ.get("DELINEATE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
FOLDERS = (
    "S02_ct_upper_abdomen_dicom_j2k_seg",
    "S05_ct_3slice_dicom_seg",
    "S08_oblique_geometry_imagedata",
    "S09_enhanced_mr_xa30_multiframe",
    "S14_ct_head_tilt_study_scout_and_colour_sc",
)

pytestmark = pytest.mark.shared


def errors(path: Path) -> set[str]:
    """What dciodvfy complains of."""
    done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, errors="replace", check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def is_same(group: Group, other: Group) -> bool:
    """Whether two images are the same but for the patient."""
    if group.header.texts("ImageType") != other.header.texts("ImageType"):
        return False
    one, two = (read_group(part, gaps="fill", doubled="first").volume for part in (group, other))
    same_scale = (one.geometry, one.slope, one.intercept) == (two.geometry, two.slope, two.intercept)
    return same_scale and np.array_equal(one.voxels, two.voxels)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_images_without_the_patient(name: str, tmp_path: Path) -> None:
    if not (DATA / name).is_dir():
        pytest.skip("the real images are not here")
    with Deidentifier(tmp_path / "map.sqlite") as keeper:
        made = keeper.series(DATA / name, tmp_path / "out", policy=Policy.ON)
    for path in made:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        assert data.PatientIdentityRemoved == "YES" and str(data.PatientID).startswith("ANON")
        assert not any(tag.is_private for tag in data)
    with looked_at(DATA / name) as before, looked_at(tmp_path / "out") as after:
        assert len(before.groups) == len(after.groups)
        rest = list(after.groups)
        for group in before.groups:
            other = next(candidate for candidate in rest if is_same(group, candidate))
            rest.remove(other)
            if shutil.which("dciodvfy"):
                assert errors(other.header.path) - errors(group.header.path) == set()
