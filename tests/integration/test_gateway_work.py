"""What becomes of whole series: tried again, held with a reason, gone on with after a kill, and removed when their time is up."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from delineate.cli.main import cli
from delineate.gateway import work
from delineate.geometry import Geometry
from delineate.protocols import messages
from delineate.protocols.messages import Backoff
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.gateway import RULES, RunningNode, read, running_node, send, write_small
from delineate.testing.orthanc import orthanc, orthanc_program
from delineate.testing.ports import free_port

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: senders are made of it")

GEOMETRY = Geometry((24, 20, 8), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


def slices(folder: Path, count: int = 8, **more: Any) -> list[Any]:
    """A CT with a block in it, as data sets."""
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    voxels[2:6, 5:15, 6:18] = 1800
    return read(write_series(folder, stack_of(voxels, GEOMETRY, **more)))[:count]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are seconds elsewhere."""
    monkeypatch.setattr(work, "_SLICE", 0.5)
    monkeypatch.setattr(work, "Backoff", partial(Backoff, 0.01))
    monkeypatch.setattr(messages, "FIRST_CONTACT", 0.1)


@pytest.fixture
def objects(tmp_path: Path) -> list[Any]:
    return slices(tmp_path / "source")


def with_model(name: str, rules: str = RULES) -> str:
    return rules.replace('model = "threshold"', f'model = "{name}"')


def reason(node: RunningNode) -> str:
    return str(node.holdings.rows("SELECT reason FROM versions")[0]["reason"])


def command(*words: str) -> Any:
    done = CliRunner().invoke(cli, ["gateway", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


def test_a_failed_model_is_held_with_its_reason_and_can_be_tried_again(
    label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]
) -> None:
    server = label_server(workers=1)
    with running_node(tmp_path, with_model("raiser"), server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert "bones" in reason(node)
        first = node.holdings.rows("SELECT task FROM jobs")[0]["task"]
    with running_node(tmp_path, RULES, server.url) as node:  # the rule names another model now
        assert command("retry", "1", "--data", str(node.data))["tried_again"] == 1
        node.until(lambda: node.state() == "done")
        assert node.holdings.rows("SELECT task FROM jobs")[0]["task"] != first
    found = read(sorted((tmp_path / "results").rglob("*.dcm")))
    assert [item.SeriesDescription for item in found] == ["threshold"] * 2  # who sees several of a study knows which is which


@pytest.mark.parametrize(("outputs", "count"), [('["rtstruct"]', 0), ('["rtstruct", "seg"]', 1)])
def test_where_nothing_is_found_there_are_no_contours(label_server: Callable[..., Any], tmp_path: Path, outputs: str, count: int) -> None:
    server = label_server(workers=1)
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    nothing = read(write_series(tmp_path / "source", stack_of(voxels, GEOMETRY)))
    with running_node(tmp_path, RULES + f"outputs = {outputs}\n", server.url) as node:
        send(node.port, nothing)
        node.until(lambda: node.state() in ("done", "held"))
        assert node.state() == "done", reason(node)
        assert node.count("events", "words LIKE '%no RTSTRUCT%'") == 1
    found = read(sorted((tmp_path / "results").rglob("*.dcm")))
    assert [item.Modality for item in found] == ["SEG"] * count


def test_an_unknown_model_is_held(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server()
    with running_node(tmp_path, with_model("nobody"), server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert "nobody" in reason(node)


def test_a_server_that_is_not_there_is_tried_again_until_it_is(
    label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]
) -> None:
    with running_node(tmp_path) as node:
        send(node.port, objects)
        node.until(lambda: node.count("jobs", "state = 'waiting' AND attempts > 0") == 1)
        found = command("show", "1", "--data", str(node.data))
        assert found["jobs"][0]["reason"]
        assert found["state"] == "working" and found["reason"] == found["jobs"][0]["reason"]  # the list says why it takes long
    server = label_server(workers=1)
    with running_node(tmp_path, RULES, server.url) as node:
        node.until(lambda: node.state() == "done")


def test_a_job_that_was_tried_often_enough_is_held(tmp_path: Path, objects: list[Any]) -> None:
    rules = RULES.replace("[node]\n", "[node]\nattempts = 2\npause_seconds = 0.02\n").replace("pause_seconds = 0.05\n", "", 1)
    with running_node(tmp_path, rules) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert "2 times" in reason(node)


def test_a_stopped_node_goes_on_with_a_task_that_it_had_sent(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server()  # without workers: the task stays
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.count("jobs", "state = 'sent'") == 1)
        task = node.holdings.rows("SELECT task FROM jobs")[0]["task"]
    folder = server.settings.data.parent
    server.stop()
    again = label_server(folder=folder, workers=1)
    with running_node(tmp_path, RULES, again.url) as node:
        node.until(lambda: node.state() == "done")
        assert node.holdings.rows("SELECT task FROM jobs")[0]["task"] == task


def test_a_rule_that_was_changed_meanwhile_is_asked_anew(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server()  # without workers: the task stays
    with running_node(tmp_path, with_model("noop"), server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.count("jobs", "state = 'sent'") == 1)
    server.stop()
    again = label_server(folder=server.settings.data.parent, workers=1)
    with running_node(tmp_path, RULES, again.url) as node:
        node.until(lambda: node.state() == "done")
        assert node.holdings.rows("SELECT round FROM jobs")[0]["round"] == 1
    found = [item for item in read(sorted((tmp_path / "results").rglob("*.dcm"))) if item.Modality == "SEG"]
    assert [segment.SegmentAlgorithmName for item in found for segment in item.SegmentSequence] == ["threshold"]


def test_a_server_that_lost_the_task_gets_it_again(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server()
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.count("jobs", "state = 'sent'") == 1)
    other = label_server(workers=1)
    with running_node(tmp_path, RULES, other.url) as node:
        node.until(lambda: node.state() == "done")
        assert node.holdings.rows("SELECT round FROM jobs")[0]["round"] == 1


def test_a_newer_version_replaces_what_waits(label_server: Callable[..., Any], tmp_path: Path) -> None:
    server = label_server()
    objects = slices(tmp_path / "source")
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, objects[:5])
        node.until(lambda: node.count("jobs", "state = 'sent'") == 1)
        send(node.port, objects[5:])
        node.until(lambda: node.count("jobs") == 2)
        states = [row["state"] for row in node.holdings.rows("SELECT state FROM jobs ORDER BY id")]
        assert states[0] == "replaced"


def test_a_destination_that_refuses_holds_the_job_until_it_is_tried_again(
    label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]
) -> None:
    server = label_server(workers=1)
    (tmp_path / "results").write_text("in the way")
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, objects)
        node.until(lambda: node.count("deliveries", "attempts > 0") == 1)
        assert node.holdings.rows("SELECT reason FROM deliveries")[0]["reason"]
        (tmp_path / "results").unlink()
        command("retry", "1", "--data", str(node.data))
        node.until(lambda: node.state() == "done")
    assert len(list((tmp_path / "results").rglob("*.dcm"))) == 2


COMMITTED = """
[node]
port = {port}
quiet_seconds = 0.2

[destinations.pacs]
kind = "dicom"
host = "127.0.0.1"
port = {peer}
ae = "{title}"
commitment = true
commitment_timeout = 20

[[rules]]
name = "bones"
model = "threshold"
destinations = ["pacs"]
"""


@pytest.mark.skipif(orthanc_program() is None, reason="Orthanc is not installed (.ci/run does)")
def test_an_archive_commits_on_an_association_of_its_own(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server, port = label_server(workers=1), free_port()
    with orthanc(tmp_path / "orthanc", {"delineate": ("DELINEATE", port)}) as peer:
        with running_node(tmp_path, COMMITTED.format(port=port, peer=peer.port, title=peer.title), server.url) as node:
            send(node.port, objects)
            node.until(lambda: node.state() in ("done", "held"))
            assert node.state() == "done", reason(node)
            assert node.count("deliveries", "attempts = 0") == 1
        assert len(peer.instances("RTSTRUCT")) == len(peer.instances("SEG")) == 1


def test_missing_slices_are_held_and_not_guessed(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server()
    with running_node(tmp_path, RULES, server.url) as node:
        send(node.port, [*objects[:3], *objects[5:]])
        node.until(lambda: node.state() == "held")
        assert "slices are missing" in reason(node)


def test_a_full_disk_in_between_loses_nothing(tmp_path: Path, objects: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when a series becomes whole nor when its rules are looked at."""
    from delineate.errors import StorageFullError
    from delineate.gateway.holdings import Holdings
    from delineate.gateway.spool import Spool

    failed: list[str] = []

    def once(name: str, error: Exception, real: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*given: Any) -> Any:
            if name in failed:
                return real(*given)
            failed.append(name)
            raise error

        return fail

    monkeypatch.setattr(Holdings, "make_version", once("version", StorageFullError("full"), Holdings.make_version))
    monkeypatch.setattr(Spool, "version", once("links", OSError(errno.ENOSPC, "No space left on device"), Spool.version))
    with running_node(tmp_path, RULES.replace('"CT"', '"MR"')) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert failed == ["version", "links"]
        assert "no rule" in reason(node)


def test_what_is_no_image_is_noted(tmp_path: Path) -> None:
    write_small(tmp_path / "small", 5, 3)  # without pixels
    with running_node(tmp_path, RULES) as node:
        assert send(node.port, read(sorted((tmp_path / "small").iterdir()))) == [0, 0, 0]
        node.until(lambda: node.state() == "noted")
        assert "no image" in reason(node)


def test_what_a_rule_leaves_alone_is_noted(tmp_path: Path, objects: list[Any]) -> None:
    left = '[[rules]]\nname = "not ours"\nmatch = { Modality = "CT" }\nleave = true\n'
    with running_node(tmp_path, left + RULES) as node:
        assert set(send(node.port, objects)) == {0}
        node.until(lambda: node.state() == "noted")
        assert reason(node) == "left alone by the rule 'not ours'"


def test_what_must_not_be_known_elsewhere_stays(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any]) -> None:
    server = label_server(workers=1)
    rules = RULES + f'\n[servers.elsewhere]\nurl = "{server.url}"\ndeidentify = "required"\n'
    with running_node(tmp_path, rules) as node:
        for item in objects:
            item.BurnedInAnnotation = "YES"
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        assert "nothing is sent" in reason(node)
        assert "Phantom" not in reason(node)
        send(node.port, slices(tmp_path / "other", series=2))
        node.until(lambda: node.state(2) == "done")


def test_commands_tell_what_is_there(tmp_path: Path, objects: list[Any]) -> None:
    with running_node(tmp_path, RULES.replace('"CT"', '"MR"')) as node:
        send(node.port, objects)
        node.until(lambda: node.state() == "held")
        data = ["--data", str(node.data)]
        (found,) = command("list", *data)
        assert (found["series"], found["sender"], found["modality"], found["instances"], found["state"]) == (1, "SENDER", "CT", 8, "held")
        assert "no rule matches" in found["reason"]
        assert command("list", "--state", "done", *data) == []
        shown = command("show", "1", *data)
        assert shown["uid"] == objects[0].SeriesInstanceUID
        assert "Phantom" not in json.dumps(shown)
        for words in (["list"], ["show", "1"], ["retry", "1"], ["release", "1"]):
            text = CliRunner().invoke(cli, ["gateway", *words, *data], catch_exceptions=False).output
            assert "1" in text
        node.until(lambda: node.count("events", "words LIKE 'held%'") >= 2)
    wrong = CliRunner().invoke(cli, ["gateway", "show", "7", *data])
    assert "no series 7" in str(wrong.exception)


def test_a_series_is_released_before_its_time(tmp_path: Path, objects: list[Any]) -> None:
    rules = RULES.replace('"CT"', '"MR"').replace("quiet_seconds = 0.2", "quiet_seconds = 1000")
    with running_node(tmp_path, rules) as node:
        send(node.port, objects)
        node.until(lambda: node.count("series", "is_open = 0") == 1)
        assert node.state() == ""
        assert command("release", "1", "--data", str(node.data))["released"]
        node.until(lambda: node.state() == "held")


def test_what_is_done_goes_when_its_time_is_up(tmp_path: Path, objects: list[Any]) -> None:
    from delineate.gateway.holdings import Holdings
    from delineate.gateway.node_settings import NodeSettings
    from delineate.gateway.retention import Retention
    from delineate.gateway.spool import Spool

    with running_node(tmp_path, RULES.replace('"CT"', '"MR"')) as node:
        send(node.port, objects)
        send(node.port, slices(tmp_path / "other", series=2))
        node.until(lambda: node.state(1) == node.state(2) == "held")
        data = node.data
    now = time.time()
    holdings = Holdings(data, clock=lambda: now + 8 * 86400)
    with holdings.change() as line:
        line.execute("UPDATE versions SET state = 'done' WHERE series = 1")
    retention = Retention(holdings, Spool(data), NodeSettings())
    assert retention.sweep() == 1
    assert [row["id"] for row in holdings.rows("SELECT id FROM series")] == [2]
    assert not (data / "series" / "1").exists()
    assert len(list((data / "series" / "2").iterdir())) == 8
    holdings.clock = lambda: now + 31 * 86400
    assert Retention(holdings, Spool(data), NodeSettings()).sweep() == 1
    assert holdings.rows("SELECT count(*) FROM instances")[0][0] == 0
    holdings.close()


@pytest.mark.parametrize("moment", ["sent", "delivering"])
def test_killed_at_any_step_it_goes_on(label_server: Callable[..., Any], tmp_path: Path, objects: list[Any], moment: str) -> None:
    from delineate.gateway.holdings import Holdings

    server = label_server(workers=1)
    if moment == "delivering":
        (tmp_path / "results").write_text("in the way")
    rules = with_model("threshold" if moment == "delivering" else "sleeper")
    (tmp_path / "rules.toml").write_text(rules, encoding="utf-8")
    words = [sys.executable, "-m", "delineate.cli", "gateway", "serve", "--rules", "rules.toml", "--data", "node", "--server", server.url]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    send(int(process.stdout.readline().rsplit(":", 1)[1]), objects)
    holdings = Holdings(tmp_path / "node")
    end = time.monotonic() + 60
    while not holdings.rows("SELECT 1 FROM jobs WHERE state = ?", moment):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    holdings.close()
    if moment == "delivering":
        (tmp_path / "results").unlink()
    with running_node(tmp_path, rules, server.url) as node:
        node.until(lambda: node.state() in ("done", "held"))
        assert node.state() == "done"
        assert node.count("jobs", "round = 0") == 1
    assert len(list((tmp_path / "results").rglob("*.dcm"))) == 2
