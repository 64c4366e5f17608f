"""docs/models.md runs as it is written and names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti, runners
from delineate.errors import ModelError
from delineate.files import read_segmentation
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.runners import container, output_log, process
from delineate.testing.models import tomllib
from delineate.testing.models.jobs import make_job
from delineate.volume import Volume

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
FILES = {name: text for text, name in re.findall(r"^```\w+\n(# (\S+)\n.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every file of the page, where the page says."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def load(folder: Path) -> Model:
    return Model.from_dict(tomllib.loads((folder / "model.toml").read_text(encoding="utf-8")))


def test_the_page_has_its_examples() -> None:
    python = {"bright/model.toml", "bright/bright.py", "try.py"}
    commands = {"twice/model.toml", "twice/twice.py", "total/model.toml", "total/total.py"}
    assert set(FILES) == python | commands | {"lung-lobes/model.toml", "lung-lobes/Containerfile", "lung-lobes/lobes.py"}


def test_the_class_runs_as_shown(folder: Path) -> None:
    assert load(folder / "bright").parameters["level"] == 100.0
    done = subprocess.run([sys.executable, "try.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "['Bright'] 0.27 [(0.5, 'comparing')]\n", done.stderr


def test_the_package_of_an_environment_of_its_own_runs_as_shown(folder: Path) -> None:
    package = folder / "elsewhere" / "totalsegmentator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "map_to_binary.py").write_text('class_map = {"total": {1: "spleen", 2: "kidney_right"}}\n', encoding="utf-8")
    (package / "python_api.py").write_text(
        "import nibabel\ndef totalsegmentator(image):\n"
        "    return nibabel.Nifti1Image((image.get_fdata() > 0).astype('uint8'), image.affine)\n",
        encoding="utf-8",
    )
    model = load(folder / "total")
    command = ["{python}", *model.parameters["command"][1:]]
    here = replace(model, parameters={"command": command, "environment": {"PYTHONPATH": str(package.parent)}})
    (folder / "job").mkdir()
    job = make_job(folder / "job", [Volume(np.array([-1, 0, 3], np.int16).reshape(1, 1, 3), Geometry((3, 1, 1)))])
    runners.create(here, folder / "total").segment(job)
    found = read_segmentation(job.output_folder / "total.nii.gz")
    assert found.layers[0].ravel().tolist() == [0, 0, 1]
    assert found.names == ["spleen", "kidney_right"]


def test_the_script_of_the_container_runs_as_shown(folder: Path) -> None:
    for name in ("input", "output"):
        (folder / name).mkdir()
    text = FILES["lung-lobes/lobes.py"].replace('"/input', f'"{folder}/input').replace('"/output', f'"{folder}/output')
    nifti.write(folder / "input" / "tmp_0000.nii.gz", Volume(np.array([-1000, 0, 3], np.int16).reshape(1, 1, 3), Geometry((3, 1, 1))))
    subprocess.run([sys.executable, "-c", text], check=True, capture_output=True)
    assert read_segmentation(folder / "output" / "lobes.nii.gz").layers[0].ravel().tolist() == [1, 0, 0]


def test_the_command_runs_as_shown(folder: Path) -> None:
    (folder / "job").mkdir()
    voxels = np.array([-1000, -1000, 40, 40, 40, 700], np.float32).reshape(1, 1, 6)  # as a CT: below zero, and not whole after its slope
    job = make_job(folder / "job", [Volume(voxels, Geometry((6, 1, 1)), slope=1.01)])
    runners.create(load(folder / "twice"), folder / "twice").segment(job)
    assert sorted(path.name for path in job.output_folder.iterdir()) == ["labels.json", "labels.nii.gz"]
    assert job.progress == [(0.5, "comparing")]
    found = read_segmentation(job.output_folder / "labels.nii.gz")
    assert found.layers[0].ravel().tolist() == [0, 0, 1, 1, 1, 2]
    assert found.names == ["Soft tissue", "Bone"]


def test_the_container_is_described_soundly(folder: Path) -> None:
    model = load(folder / "lung-lobes")
    assert set(model.parameters) <= set(container.KEYS)
    # It cannot run here; it must fail for the image (or the engine), and say so.
    with pytest.raises(ModelError) as caught:
        runners.create(model, folder / "lung-lobes")
    assert caught.value.kind == "start"


def test_every_key_and_kind_is_on_the_page() -> None:
    keys = {field.name for field in fields(Model)} | set(container.KEYS) | set(process.KEYS)
    missing = [key for key in keys if not re.search(rf"`{key}`|\b{key} = ", TEXT)]
    assert missing == []
    assert [kind for kind in ModelError.KINDS if f"| `{kind}` |" not in TEXT] == ["lost", "stored"]  # the server's, not a model's
    assert f"first {output_log.HEAD_BYTES >> 10} KiB and the last {output_log.TAIL_BYTES >> 10} KiB" in TEXT
    assert f"| {1024} |" in TEXT
