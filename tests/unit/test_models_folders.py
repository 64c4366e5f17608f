"""The built-in models' folders: what they declare is what they return."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

import delineate.models
from delineate.errors import SettingsError
from delineate.model import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = sorted(path.parent for path in Path(delineate.models.__file__).parent.glob("*/model.toml"))


def test_all_are_there() -> None:
    names = {tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))["name"] for folder in FOLDERS}
    assert names == {"body-ct", "lungs-ct", "bones-ct", "body-mr", "region", "scribbles", "Histogram+GraphCut", "GMM+GraphCut", "nuclei"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_declared_and_returned_structures_agree(folder: Path) -> None:
    model = Model.from_dict(tomllib.loads((folder / "model.toml").read_text(encoding="utf-8")))
    module_name, class_name = model.parameters["class"].split(":")
    delineator = getattr(importlib.import_module(module_name), class_name)
    assert model.runner == "python" and model.spacing is None
    if model.prompts:  # takes any image as it is; names come with the request
        assert (model.orientation, model.labels, bool(model.config)) == ("as-sent", {"region": 1}, True)
    elif model.takes_slides:
        assert (model.orientation, model.labels, model.dimension) == ("as-sent", {delineator.label: 1}, 2)
    else:
        assert (model.orientation, model.structures) == ("LPS", delineator.structures)


@pytest.mark.parametrize(("key", "value"), [("kind", "magic"), ("dimension", 4), ("dimension", "3")])
def test_what_a_model_cannot_be(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=r"kind|dimension"):
        Model.from_dict({"name": "m", "runner": "python", key: value})


def test_a_record_over_http_keeps_what_a_model_is() -> None:
    model = Model(name="m", runner="python", kind="detection", dimension=2, config={"level": 1.5}, prompts=("roi",))
    assert Model.from_dict(json.loads(json.dumps(model.to_dict()))) == model
