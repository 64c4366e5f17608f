"""docs/models.md runs as it is written and names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from delineate import runners
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
    assert set(FILES) == {"bright/model.toml", "bright/bright.py", "try.py", "twice/model.toml", "twice/twice.py", "lung-lobes/model.toml"}


def test_the_class_runs_as_shown(folder: Path) -> None:
    assert load(folder / "bright").parameters["level"] == 100.0
    done = subprocess.run([sys.executable, "try.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout == "['Bright'] 0.27 [(0.5, 'comparing')]\n", done.stderr


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
