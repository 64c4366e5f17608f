"""The registry of runners, and the runner of Python classes."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from delineate import runners
from delineate.errors import ModelError, SettingsError
from delineate.model import Model
from delineate.runners import registry
from delineate.segmentation import Segmentation
from delineate.testing import models
from delineate.testing.models.jobs import Recorded, make_job

CLASS = """
class Toy:
    def __init__(self, parameters, folder):
        self.folder = folder
    def segment(self, job):
{body}
"""


def model_in(folder: Path, body: str, head: str = "", **files: str) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join("        " + line for line in body.splitlines())
    (folder / "model.py").write_text(head + CLASS.format(body=lines))
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return Model(name=folder.name, runner="python", parameters={"class": "model:Toy"})


def fail_start(model: Model, folder: Path | None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        runners.create(model, folder)
    assert caught.value.kind == "start"
    return caught.value


def fail_run(model: Model, folder: Path | None, job: Recorded) -> ModelError:
    runner = runners.create(model, folder)
    with pytest.raises(ModelError) as caught:
        runner.segment(job)
    runner.close()
    return caught.value


@pytest.fixture
def job(tmp_path: Path) -> Recorded:
    folder = tmp_path / "job"
    folder.mkdir()
    return make_job(folder)


# --- registry


def test_the_built_in_runners_are_known() -> None:
    assert {"python", "process", "container"} <= set(runners.known())


def test_an_unknown_runner_names_the_known() -> None:
    with pytest.raises(SettingsError, match="'torch'") as caught:
        runners.create(Model(name="toy", runner="torch"), None)
    assert "container, process, python" in caught.value.advice


@pytest.mark.parametrize(
    ("value", "said"),
    [("no_such_plugin:create", "No module named"), ("delineate.model:nothing", "nothing"), ("delineate.model:Model.to_dict", "to_dict"),
     ("builtins:dict", "could not be started"), ("delineate.testing.models:load", "could not be started")],
)  # fmt: skip
def test_a_broken_plugin_is_a_failed_start(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    entry = importlib.metadata.EntryPoint("plugin", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [entry])
    assert said in fail_start(Model(name="toy", runner="plugin"), None).message


def test_a_plugin_that_makes_no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("plugin_without_runner")
    module.create = lambda model, folder: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = importlib.metadata.EntryPoint("plugin", "plugin_without_runner:create", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [entry])
    assert "no segment() and close()" in fail_start(Model(name="toy", runner="plugin"), None).message


# --- python


def test_an_installed_class(job: Recorded) -> None:
    runner = runners.create(models.load("noop"), models.FOLDER / "noop")
    result = runner.segment(job)
    assert isinstance(result, Segmentation)
    assert result.geometry == job.images[0].geometry
    assert result.mask("Toy").sum() == 1


def test_a_class_in_the_folder_with_a_module_beside_it(job: Recorded) -> None:
    runner = runners.create(models.load("index-pattern"), models.FOLDER / "index-pattern")
    result = runner.segment(job)
    assert isinstance(result, Segmentation)
    assert result.mask("X_low")[:, :, :2].all()
    assert not result.mask("X_low")[:, :, 2:].any()
    assert result.mask("Odd")[0, 0, 1]
    assert "index_labels" not in sys.modules
    runner.close()


def test_two_folders_with_the_same_module_names(tmp_path: Path, job: Recorded) -> None:
    others = {name for name in sys.modules if name.startswith("delineate_model_")}  # of tests before, not closed
    made = []
    for name in ("one", "two"):
        body = "import late\njob.log(f'{beside.NAME} {late.NAME} {own.NAME}')"
        head = "import beside\nfrom . import own\n"
        model = model_in(tmp_path / name, body, head, beside=f"NAME = {name!r}", late=f"NAME = 'late {name}'", own=f"NAME = 'own {name}'")
        made.append(runners.create(model, tmp_path / name))
    for runner in (*made, *made):
        runner.segment(job)
    assert job.lines == ["one late one own one", "two late two own two"] * 2
    assert not {"beside", "late", "own"} & set(sys.modules)
    assert not [path for path in sys.path if str(tmp_path) in path]
    for runner in made:
        runner.close()
    assert {name for name in sys.modules if name.startswith("delineate_model_")} <= others


def test_a_module_of_the_folder_does_not_shadow_the_worker_s(tmp_path: Path, job: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = types.ModuleType("shadowed_by_the_toy")
    monkeypatch.setitem(sys.modules, "shadowed_by_the_toy", installed)
    body, head = "job.log(shadowed_by_the_toy.NAME)", "import shadowed_by_the_toy\n"
    model = model_in(tmp_path / "toy", body, head, shadowed_by_the_toy="NAME = 'toy'")
    runners.create(model, tmp_path / "toy").segment(job)
    assert job.lines == ["toy"]
    assert sys.modules["shadowed_by_the_toy"] is installed


def test_packages_in_the_folder(tmp_path: Path, job: Recorded) -> None:
    folder = tmp_path / "toy"
    model = model_in(folder, "from toynets.unet import NAME\nimport toynets\njob.log(NAME)")
    (folder / "toynets").mkdir()
    (folder / "toynets" / "unet.py").write_text("NAME = 'unet'")
    runners.create(model, folder).segment(job)
    assert job.lines == ["unet"]
    assert not [name for name in sys.modules if name.startswith("toynets")]


def test_changed_code_is_loaded_anew_and_the_folder_stays_as_it_is(tmp_path: Path, job: Recorded) -> None:
    for word in ("old", "new"):
        model = model_in(tmp_path / "toy", f"job.log({word!r})")
        runner = runners.create(model, tmp_path / "toy")
        runner.segment(job)
        runner.close()
    assert job.lines == ["old", "new"]
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["model.py"]


def test_the_object_is_kept_between_tasks_and_closed(tmp_path: Path, job: Recorded) -> None:
    head = "made = []\n"
    model = model_in(tmp_path / "toy", "made.append(1)\njob.log(str(len(made)))", head)
    with (tmp_path / "toy" / "model.py").open("a") as file:
        file.write("    def close(self):\n        (self.folder / 'closed').touch()\n        raise OSError('of no consequence')\n")
    runner = runners.create(model, tmp_path / "toy")
    runner.segment(job)
    runner.segment(job)
    runner.close()
    assert job.lines == ["1", "2"]
    assert (tmp_path / "toy" / "closed").exists()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("import no_such_framework\n", "no_such_framework"),
        ("x = = 1\n", "SyntaxError"),
        ("raise OSError('weights are missing')\n", "weights are missing"),
        ("import sys; sys.exit(4)\n", "4"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path: Path, head: str, said: str) -> None:
    model = model_in(tmp_path / "toy", "pass", head)
    with pytest.raises(ModelError) as caught:
        runners.create(model, tmp_path / "toy")
    assert said in caught.value.message
    assert caught.value.kind == ("exit" if "exit" in head else "start")
    assert "\n" not in caught.value.message


def test_missing_class_method_and_module(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    model_in(folder, "pass", "class Other:\n    def __init__(self, *_): pass\n")
    wrong = {"model:Nothing": "has no Nothing", "model:Other": "no method segment", "nowhere.at_all:Toy": "No module named"}
    for place, said in wrong.items():
        assert said in fail_start(Model(name="toy", runner="python", parameters={"class": place}), folder).message


@pytest.mark.parametrize("place", [None, 3, "model", ":Toy", "model:", "../model:Toy", "os; rm:Toy"])
def test_a_class_that_is_no_class(place: object) -> None:
    with pytest.raises(SettingsError, match=r"parameters\.class"):
        runners.create(Model(name="toy", runner="python", parameters={} if place is None else {"class": place}), None)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("raiser", "model", "RuntimeError: the toy was told to fail"),
        ("memory-refused", "memory", "Error"),
        ("wrong-type", "output", "ndarray"),
    ],
)
def test_what_goes_wrong_has_a_kind(job: Recorded, name: str, kind: str, said: str) -> None:
    error = fail_run(models.load(name), models.FOLDER / name, job)
    assert (error.kind, said in error.message) == (kind, True)
    if name == "raiser":
        assert "Traceback" in job.text
        assert "toys.py" in job.text


def test_a_model_may_say_itself_what_is_wrong(job: Recorded) -> None:
    error = fail_run(models.load("raiser", kind="input"), None, job)
    assert (error.kind, error.message, error.advice) == ("input", "the toy was told to fail", "Use another toy.")


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [("raise MemoryError", "memory", "ran out of memory"), ("import sys\nsys.exit(3)", "exit", "exit(3)"),
     ("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('GPU 0')", "memory", "GPU 0"),
     ("raise ValueError('first line\\nsecond line')", "model", "ValueError: first line"), ("assert False", "model", "AssertionError")],
)  # fmt: skip
def test_exceptions(tmp_path: Path, job: Recorded, body: str, kind: str, said: str) -> None:
    error = fail_run(model_in(tmp_path / "toy", body), tmp_path / "toy", job)
    assert (error.kind, said in error.message, "second" in error.message) == (kind, True, False)


def test_an_interrupt_is_not_the_model_s_failure(tmp_path: Path, job: Recorded) -> None:
    runner = runners.create(model_in(tmp_path / "toy", "raise KeyboardInterrupt"), tmp_path / "toy")
    with pytest.raises(KeyboardInterrupt):
        runner.segment(job)
    assert not [path for path in sys.path if str(tmp_path) in path]


# --- toys that the tests of others lean on


@pytest.mark.parametrize("name", models.names())
def test_every_toy_has_a_sound_description(name: str) -> None:
    model = models.load(name)
    assert model.name == name
    assert model.description
    if model.runner != "container":
        runners.create(model, models.FOLDER / name).close()


def test_toys_do_what_they_say(job: Recorded) -> None:
    def result(name: str, **parameters: object) -> Segmentation:
        answer = runners.create(models.load(name, **parameters), models.FOLDER / name).segment(job)
        assert isinstance(answer, Segmentation)
        return answer

    image = job.images[0]
    assert np.array_equal(result("threshold", level=60).mask("Bright"), image.voxels >= 60)
    assert result("overlapping").mask("All").all()
    assert result("overlapping").mask("Half").sum() == image.voxels.size // 2
    assert result("wrong-grid").geometry.size[0] == image.geometry.size[0] + 1
    assert set(np.unique(result("undeclared-label").layers[0])) == {7}
    result("sleeper", seconds=0.2)
    assert len(job.progress) >= 2
    assert runners.create(models.load("writer"), None).segment(job) is None
    assert (job.output_folder / "sub" / "folder" / "toy.nii.gz").exists()
    (job.output_folder / "scores.json").unlink()
    assert runners.create(models.load("empty"), None).segment(job) is None


def test_a_variant_of_a_toy(tmp_path: Path) -> None:
    folder = models.copy("sleeper", tmp_path, "nap", seconds=0.1)
    assert 'name = "nap"' in (folder / "model.toml").read_text()
    assert "seconds = 0.1" in (folder / "model.toml").read_text()
    with pytest.raises(KeyError):
        models.copy("sleeper", tmp_path, "other", colour="red")


def test_modules_of_the_same_name_are_there_again_after_the_model(tmp_path: Path, job: Recorded) -> None:
    model = model_in(tmp_path / "own", "import twin.part\nfrom delineate.errors import ModelError\nraise ModelError(twin.part.OF)")
    (tmp_path / "own" / "twin").mkdir()
    (tmp_path / "own" / "twin" / "__init__.py").write_text("")
    (tmp_path / "own" / "twin" / "part.py").write_text("OF = 'folder'")
    others = {name: types.ModuleType(name) for name in ("twin", "twin.part")}
    runner = runners.create(model, tmp_path / "own")
    sys.modules.update(others)
    try:
        for _ in range(2):
            with pytest.raises(ModelError, match="folder"):
                runner.segment(job)
            assert {name: sys.modules.get(name) for name in others} == others
    finally:
        for name in others:
            del sys.modules[name]
        runner.close()
    assert not [name for name in sys.modules if name.partition(".")[0] == "twin"]
