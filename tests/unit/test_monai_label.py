"""Messages of the MONAI Label API: read and written without loss, of every recorded exchange where they are at hand."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from delineate.errors import AnswerError, InputError
from delineate.protocols import monai_label as wire
from delineate.protocols import monai_label_datastore as store
from delineate.protocols.monai_label_fields import Message, by_name, listed

ROOT = Path(__file__).resolve().parents[2]
_PLACE = os.environ.get("DELINEATE_SHARED_DATA")
SPEC = (Path(_PLACE).parent if _PLACE else ROOT.parent / "shared") / "spec" / "monai-label-exchanges.jsonl"

INFO = {
    "name": "perf", "description": "d", "version": "1.0", "labels": ["bone"],
    "models": {
        "threshold": {"type": "segmentation", "labels": {"bone": 1}, "dimension": 3, "description": "t", "config": {"device": ["cpu"]}},
        "jsononly": {"type": "classification", "labels": ["normal"], "dimension": 3, "description": "c", "config": {}},
    },
    "trainers": {"tiny": {"description": "Train", "config": {"max_epochs": 50}, "labels": {"bone": 1}}},
    "strategies": {"random": {"description": "Random Strategy"}}, "scoring": {}, "train_stats": {"tiny": {}},
    "datastore": {"total": 1, "completed": 0, "label_tags": {"final": 3}},
}  # fmt: skip
INDEX = {
    "name": "new-dataset", "description": "New Dataset", "images_dir": ".", "labels_dir": "labels",
    "objects": {
        "ct": {
            "image": {"ext": ".nii.gz", "info": {"ts": 1, "name": "ct.nii.gz", "strategy": {"first": {"ts": 2}}, "k": "v"}},
            "labels": {"final": {"ext": ".nii.gz", "info": {"ts": 1, "segmentationMeta": {"status": "approved", "level": "easy"}}}},
        }
    },
}  # fmt: skip
TASK = {"id": "a", "status": "STOPPED", "request": {"model": "t"}, "start_ts": "2026-11-20 14:36:28", "details": ["x"], "exit_code": -15}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (wire.Info, INFO), (store.DatastoreIndex, INDEX), (wire.TaskView, TASK),
        (wire.Sample, {}), (wire.Sample, {"id": "ct", "weight": 7, "path": "/p", "ts": 1, "name": "ct.nii.gz", "SeriesInstanceUID": "1.2"}),
        (wire.NewSession, {"session_id": "c", "session_info": {"name": "c", "path": "/p", "image": "/p/i", "meta": {}, "expiry": 3600}}),
        (wire.AuthInfo, {"enabled": True, "client_id": "app", "realm": "r"}),
        (wire.StartedTask, {"result": TASK, "detail": None}),
        (wire.InferParams, {"result_extension": ".nrrd", "foreground": {"liver": [[1, 2, 3]]}, "roi": [0, 5], "threshold": 3}),
        (wire.ModelFileInfo, {"checksum": "SHA256:ab", "modified_time": 3}),
    ],
)  # fmt: skip
def test_what_is_read_is_written_again(kind: type[Message], value: dict[str, Any]) -> None:
    assert kind.from_json(value).to_json() == value


def test_members_are_typed() -> None:
    info = wire.Info.from_json(INFO)
    assert info.models["threshold"].config == {"device": ["cpu"]}
    assert wire.label_names(info.models["threshold"].labels) == ["bone"]
    assert wire.label_names(info.models["jsononly"].labels) == ["normal"]
    assert info.datastore is not None and info.datastore.label_tags == {"final": 3}
    meta = store.DatastoreIndex.from_json(INDEX).objects["ct"].labels["final"].info
    assert meta is not None and meta.segmentationMeta is not None and meta.segmentationMeta.status == "approved"
    assert wire.TaskView.from_json(TASK).has_ended and wire.Sample().is_empty


def test_null_says_nothing() -> None:
    """The original's client sends it as client_id where it was given none."""
    read = wire.SampleRequest.from_json({"client_id": None, "label_tag": "final"}, strict=True)
    assert (read.client_id, read.label_tag) == (None, "final")


def test_a_member_of_a_wrong_kind_is_kept_from_a_server_and_refused_from_a_client() -> None:
    strange = {"result_compress": "yes", "roi": True}
    read = wire.InferParams.from_json(strange)
    assert (read.result_compress, read.roi) == (None, None)
    assert read.to_json() == strange
    with pytest.raises(InputError, match="result_compress"):
        wire.InferParams.from_json(strange, strict=True)
    with pytest.raises(InputError, match="not an object"):
        wire.InferParams.from_json([1], strict=True)
    with pytest.raises(AnswerError):
        wire.Info.from_json("welcome")
    with pytest.raises(AnswerError):
        by_name(wire.TaskView, [1])
    with pytest.raises(AnswerError):
        listed(store.TrainPair, {})
    assert listed(store.TrainPair, [{"image": "i", "label": "l"}])[0].label == "l"


def test_defaults_are_those_of_the_api() -> None:
    assert wire.WsiRequest().to_json() == {
        "level": 0, "location": [0, 0], "size": [2048, 2048], "tile_size": [1024, 1024], "min_poly_area": 80, "params": {}
    }  # fmt: skip
    assert wire.InferParams().to_json() == {}
    assert list(wire.DsaAnswer(name="n").to_json())[-1] == "description"


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(wire.Token(access_token="secret", more={"refresh_token": "secret"}))


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_leave_its_path(name: str) -> None:
    with pytest.raises(InputError):
        wire.path_of(wire.SESSION_PATH, name)
    assert wire.path_of(wire.SESSION_PATH, "../x y") == "/session/..%2Fx%20y"


# ---------------------------------------------------------------- recorded exchanges


def _kind(method: str, path: str, query: dict[str, str]) -> Callable[[Any], Any] | None:
    """What reads the answer of an exchange, None where it is no message."""
    one = {
        "/info/": wire.Info.from_json, "/auth/": wire.AuthInfo.from_json, "/auth/token": wire.Token.from_json,
        "/datastore/image/info": store.ImageInfo.from_json, "/datastore/label/info": store.LabelInfo.from_json,
    }.get(path)  # fmt: skip
    if one is not None:
        return one if method != "PUT" else None
    if path.startswith("/activelearning/"):
        return wire.Sample.from_json
    if path == "/session/":
        return wire.NewSession.from_json
    if path.startswith("/session/"):
        return wire.Session.from_json
    if path.startswith(("/train/", "/scoring/", "/batch/infer")):
        return None if query.get("run_sync") else _tasks
    if path == "/datastore/" and method == "GET":
        return {"all": store.DatastoreIndex.from_json, "train": _pairs}.get(query.get("output", ""), store.DatastoreStats.from_json)
    if path.startswith("/datastore/") and method == "PUT":
        return store.Saved.from_json
    return wire.WsiAnswer.from_json if "/wsi" in path and query.get("output") != "dsa" else None


def _tasks(value: Any) -> Any:
    if isinstance(value, list):
        return listed(wire.TaskView, value)
    return wire.TaskView.from_json(value) if "status" in value else by_name(wire.StartedTask, value)


def _pairs(value: Any) -> Any:
    return listed(store.TrainPair, value)


def _written(value: Any) -> Any:
    if isinstance(value, list):
        return [entry.to_json() for entry in value]
    return {name: entry.to_json() for name, entry in value.items()} if isinstance(value, dict) else value.to_json()


@pytest.mark.shared
@pytest.mark.skipif(not SPEC.exists(), reason="the recordings are not here")
def test_every_recorded_answer_goes_through_its_message() -> None:
    read = 0
    for line in SPEC.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        request, response = exchange["request"], exchange["response"]
        value = (response["body"] or {}).get("json")
        kind = _kind(request["method"], request["path"], {name: text for name, text in request["query"]})
        if response["status"] != 200 or value is None or kind is None:
            continue
        assert _written(kind(value)) == value, exchange["step"]
        read += 1
    assert read > 60


@pytest.mark.shared
@pytest.mark.skipif(not SPEC.exists(), reason="the recordings are not here")
def test_every_recorded_request_body_is_a_message() -> None:
    kinds = {
        "/infer/wsi": wire.WsiRequest,
        "/infer/": wire.InferParams,
        "/activelearning/": wire.SampleRequest,
        "/batch/": wire.BatchParams,
    }
    read = 0
    for line in SPEC.read_text(encoding="utf-8").splitlines():
        exchange = json.loads(line)
        request, body = exchange["request"], exchange["request"]["body"] or {}
        kind = next((kind for prefix, kind in kinds.items() if request["path"].startswith(prefix)), None)
        params = [part["text"] for part in body.get("multipart", []) if 'name="params"' in part["headers"]["Content-Disposition"]]
        value = body.get("json", json.loads(params[0]) if params and params[0] != "{bad" else None)
        if kind is None or not isinstance(value, dict) or exchange["response"]["status"] == 422:
            continue
        message = kind.from_json(value, strict=True)
        assert {name: message.to_json()[name] for name in value} == value, exchange["step"]
        read += 1
    assert read > 25


# ---------------------------------------------------------------- the Python of the door


@pytest.mark.parametrize("modules", ["delineate.monai_label", "delineate.cli.main, delineate.cli.label"])
def test_the_whole_client_runs_on_python_3_9_and_needs_little(modules: str) -> None:
    """All modules that the import brings in, checked by vermin; nothing heavy among them."""
    code = (
        f"import sys; import {modules}\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'delineate'), sep='\\n')\n"
        "heavy = {'torch', 'fastapi', 'sqlalchemy', 'scipy', 'SimpleITK', 'requests', 'cgi'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    files = done.stdout.split()
    assert len(files) > 15
    assert done.stderr.strip() == ""
    vermin = Path(sys.executable).with_name("vermin")
    checked = subprocess.run([vermin, "-t=3.9-", "--violations", "--no-tips", *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert [file for file in files if _has_union_at_run_time(Path(file).read_text(encoding="utf-8"))] == []


def _has_union_at_run_time(source: str) -> bool:
    """Whether types are joined by ``|`` where Python 3.9 would do it: in ``isinstance``, or in an alias. Vermin does not see these."""
    for node in ast.walk(ast.parse(source)):
        values = [node.args[1]] if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance" else []
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
            values.append(node.value)
        for value in values:
            if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr) and not isinstance(value.left, ast.Constant):
                return True
    return False


def test_the_check_for_unions_is_not_blind() -> None:
    assert _has_union_at_run_time("isinstance(x, int | str)")
    assert _has_union_at_run_time("Source = str | PathLike[str]")
    assert not _has_union_at_run_time("def f(x: int | None) -> None: y = 1 | x")
