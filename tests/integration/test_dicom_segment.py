"""DICOM in, structures where they belong: a phantom's chest as slices, upright and tilted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from delineate.dicom.reader import read
from delineate.dicom.stack import labels_on_planes
from delineate.files import read_segmentation
from delineate.geometry import Geometry
from delineate.models.lungs_ct.model import LungsCT
from delineate.orientation import reorientation
from delineate.resampling import to_model_grid
from delineate.runners.base import Job
from delineate.segmentation import Segmentation
from delineate.testing.dicom import sheared, stack_of, write_series
from delineate.testing.phantoms import chest_ct, chest_ct_on

SIZE, SPACING = (86, 76, 56), (4.8, 5.0, 6.0)


def delineate(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "delineate.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_zip_of_two_series_and_the_choice(tmp_path: Path) -> None:
    phantom = chest_ct(SIZE, SPACING)
    chest = phantom.volume
    stored = (chest.voxels + 1024).astype(np.uint16)
    write_series(tmp_path / "in", stack_of(stored, chest.geometry, series=2, stored=12))
    write_series(tmp_path / "in", stack_of(stored[:5], replace(chest.geometry, size=(*SIZE[:2], 5)), series=1, stored=12))
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in sorted((tmp_path / "in").iterdir()):
            archive.write(path, f"study/{path.name}")
    told = delineate("segment", tmp_path / "study.zip", "-m", "lungs-ct", "-o", tmp_path / "out", code=2).stderr
    assert "study.zip holds 2 images: (1) CT, 86 x 76, 5 slices, series number 1; (2) CT, 86 x 76, 56 slices" in told
    done = delineate("segment", tmp_path / "study.zip", "-m", "lungs-ct", "-o", tmp_path / "out", "--series", "2", "--json")
    assert [structure["name"] for structure in json.loads(done.stdout)["structures"]] == ["Lung_L", "Lung_R"]
    found = read_segmentation(tmp_path / "out" / "lungs-ct.nii.gz")
    turned = found.mapped(reorientation(found.geometry, "LPS"))
    assert turned.geometry.matches(chest.geometry)
    for name in ("Lung_L", "Lung_R"):
        assert dice(turned.mask(name), phantom.segmentation.mask(name)) > 0.9


def test_a_tilted_chest(tmp_path: Path) -> None:
    """The lungs of a sheared stack, found on the orthogonal grid and brought back, are those of the phantom on the very slices."""
    size, spacing = (64, 56, 34), (6.4, 6.7, 9.9)
    upright = stack_of(np.zeros(size[::-1], np.uint16), Geometry(size, spacing, (-205.1, -360.5, -1036.3)), stored=12)
    places = sheared(upright, 12.0)
    truths = [chest_ct_on(Geometry((*size[:2], 1), spacing, tuple(place))) for place in places]
    voxels = np.concatenate([truth.volume.voxels for truth in truths])
    write_series(tmp_path, replace(upright, positions=places, voxels=(voxels + 1024).astype(np.uint16)))
    image = read(tmp_path)
    assert image.series.planes.tilt == pytest.approx(12.0)
    real = to_model_grid(replace(image.volume, voxels=image.volume.values(), slope=1.0, intercept=0.0), "LPS")
    job = Job(
        images=(real,), input_folder=Path(), output_folder=Path(), prompts={}, report=lambda *_: None, log=lambda _: None,
        deadline=time.monotonic() + 600, task="test",
    )  # fmt: skip
    found = LungsCT({}, None).segment(job)
    assert isinstance(found, Segmentation)
    (labels,) = labels_on_planes(image.series.planes, found)
    for structure in found:
        masks = [truth.segmentation.mask(structure.name) for truth in truths]
        assert dice(labels == structure.label, np.concatenate(masks)) > 0.9, structure.name


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
