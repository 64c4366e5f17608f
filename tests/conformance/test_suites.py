"""The conformance suites themselves: servers that conform pass, and each check fails on a server that does what it forbids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from delineate.testing.conformance import SUITES, Server, run
from delineate.testing.conformance.plain import image, tarred, zipped
from delineate.testing.faults import Fault
from delineate.testing.script import Script
from delineate.testing.scripted import ScriptedServer

DIALECTS = ("seed", "v1", "v2")
PAIR = {"a.nii.gz": image(), "a.json": b'{"1": "A"}'}
LOG = {"container.log": b""}


@pytest.mark.parametrize("prefix", ["", "/a/prefix"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_conforming_servers_pass(dialect: str, prefix: str) -> None:
    with ScriptedServer(Script(dialect=dialect, prefix=prefix, token="t")) as server:
        checks = run(server.url, dialect, token="t")
    assert [check for check in checks if not check.passed] == []
    assert len(checks) >= 10


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("spoken", DIALECTS)
def test_no_dialect_passes_for_another(dialect: str, spoken: str) -> None:
    with ScriptedServer(Script(dialect=spoken, polls=0)) as server:
        passed = all(check.passed for check in SUITES[dialect]().run(Server(server.url, patience=0.5)))
    assert passed is (dialect == spoken or (dialect, spoken) == ("seed", "v1")), "a v1 server serves clients of seed"


def _constant(status: int, method: str, path: str = "") -> Fault:
    return Fault(action="status", status=status, method=method, path=path, times=-1)


GOOD = Script(polls=0, late_row=False, token="t")

ANY_POST = {"method": "POST", "times": -1}
ANY_POLL = {"method": "GET", "path": "/api/tasks/", "times": -1}
RESULT = {"seed": "result is a zip of pairs", "v1": "result is a zip of pairs", "v2": "result is a flat tar with log"}

# What is wrong with a server of any dialect, its result where that is wrong, and the check that must notice.
ANY: list[tuple[str, tuple[Fault, ...], Mapping[str, bytes] | None, str]] = [
    ("polls are answered with a page", (Fault(action="html", **ANY_POLL),), None, "RESULT"),
    ("the result breaks off", (Fault(action="break", **ANY_POLL),), None, "RESULT"),
    ("posts are answered with a page", (Fault(action="html", **ANY_POST),), None, "two posts get two uids"),
    ("posts are dropped", (Fault(action="drop", **ANY_POST),), None, "post without file"),
    ("posts are forbidden", (_constant(403, "POST"),), None, "post without model"),
    ("posts are redirected", (Fault(action="redirect", location="/login", **ANY_POST),), None, "unknown model gets no task"),
    ("anything is found", (_constant(200, "GET", "/api/tasks/"),), None, "unknown uid"),
    ("anything is found", (_constant(200, "GET", "/api/tasks/"),), None, "paths in place of uids"),
    ("results can be had once", (Fault(action="status", status=410, after=1, **ANY_POLL),), None, "result can be fetched again"),
    ("garbage gets a result", (), {**PAIR, **LOG}, "garbage gives no result"),
    ("names without a label map", (), {**PAIR, **LOG, "log.json": b'{"1": "x"}'}, "RESULT"),
    ("no label map", (), LOG, "RESULT"),
    ("a label map in a folder", (), {"sub/a.nii.gz": image(), "sub/a.json": b'{"1": "A"}', **LOG}, "RESULT"),
    ("swapped axes", (), {"a.nii.gz": image((7, 9, 5)), "a.json": b'{"1": "A"}', **LOG}, "RESULT"),
    ("names that are a list", (), {"a.nii.gz": image(), "a.json": b'["A"]', **LOG}, "RESULT"),
    ("a label map that is no NIfTI", (), {"a.nii.gz": b"nothing", "a.json": b'{"1": "A"}', **LOG}, "RESULT"),
]

# The same for what one dialect alone has; the script says what is wrong.
OWN: list[tuple[str, Script, tuple[Fault, ...], Mapping[str, bytes] | None, str]] = [
    ("seed", GOOD, (), {"a.nii.gz": image((9, 7, 6)), "a.json": b'{"1": "A"}'}, "finer contour grid"),
    ("v1", GOOD, (), {"a.nii.gz": image((9, 7, 6)), "a.json": b'{"1": "A"}'}, "finer contour grid"),
    ("v1", GOOD, (_constant(422, "POST", "no-such-model"),), None, "unknown model is 550"),
    ("v1", replace(GOOD, keep_nesting=False), (), None, "errors are nested twice"),
    ("v1", GOOD, (_constant(200, "DELETE"),), None, "delete"),
    ("v1", GOOD, (_constant(403, "DELETE"),), None, "delete"),
    ("v1", replace(GOOD, models={"other": "finished"}), (), None, "models are listed"),
    ("v2", replace(GOOD, token=None), (), None, "token guards administration"),
    ("v2", replace(GOOD, token="another"), (), None, "models are listed"),
    ("v2", GOOD, (), PAIR, "result is a flat tar with log"),
    ("v2", GOOD, (_constant(200, "DELETE"),), None, "delete"),
    ("v2", GOOD, (_constant(200, "DELETE"),), None, "delete of unknown uid"),
    ("v2", GOOD, (Fault(action="json", **ANY_POST),), None, "answer is a task object"),
    ("v2", GOOD, (_constant(422, "POST"),), None, "compressed tar is taken"),
]

BROKEN = [
    (dialect, what, GOOD, faults, result, RESULT[dialect] if check == "RESULT" else check)
    for dialect in DIALECTS
    for what, faults, result, check in ANY
] + [(dialect, "", script, faults, result, check) for dialect, script, faults, result, check in OWN]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_for_each_check_there_is_a_server_that_fails_it(dialect: str) -> None:
    assert set(SUITES[dialect]().names()) == {check for spoken, _, _, _, _, check in BROKEN if spoken == dialect}


@pytest.mark.parametrize(
    ("dialect", "what", "script", "faults", "result", "check"), BROKEN, ids=[f"{case[0]}-{case[5]}-{case[1]}" for case in BROKEN]
)
def test_each_check_can_fail(
    dialect: str, what: str, script: Script, faults: tuple[Fault, ...], result: Mapping[str, bytes] | None, check: str, tmp_path: Path
) -> None:
    script = replace(script, dialect=dialect)
    if result is not None:
        path = tmp_path / "result"
        path.write_bytes(tarred(result) if dialect == "v2" else zipped(result))
        script = replace(script, result=path)
    with ScriptedServer(script, *faults) as server:
        found = SUITES[dialect]().check(check, Server(server.url, token="t", patience=0.5))
    assert not found.passed, what
    assert found.detail


def test_a_task_that_never_ends_is_told() -> None:
    with ScriptedServer(Script(models={"noop": "never"})) as server:
        found = SUITES["v1"]().check("result is a zip of pairs", Server(server.url, patience=0.3))
    assert "did not end" in found.detail


def test_a_server_that_is_not_there_fails_every_check() -> None:
    with ScriptedServer(Script()) as server:
        server.stop()
        checks = run(server.url, "v1")
    assert not any(check.passed for check in checks)
