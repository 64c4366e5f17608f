"""Servers and destinations that are away, or not as the rules name them; and rules that are read anew."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from click.testing import CliRunner

from delineate.cli.main import cli
from delineate.gateway import work
from delineate.gateway.reach import missing
from delineate.gateway.room import room
from delineate.gateway.rules import Rules, Server
from delineate.geometry import Geometry
from delineate.protocols import messages
from delineate.protocols.messages import Backoff
from delineate.testing.dicom import stack_of, write_series
from delineate.testing.gateway import RULES, read, running_node, send
from delineate.testing.pacs import Pacs
from delineate.testing.script import FINISHED, Script
from delineate.testing.scripted import ScriptedServer, refusing_url

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: senders are made of it")

GEOMETRY = Geometry((16, 12, 4), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


def slices(folder: Path, series: int) -> list[Any]:
    """A CT with a block in it, as data sets."""
    voxels = np.full(GEOMETRY.shape, 24, np.int16)
    voxels[1:3, 2:9, 3:9] = 1800
    return read(write_series(folder, stack_of(voxels, GEOMETRY, series=series)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are seconds elsewhere."""
    monkeypatch.setattr(work, "_SLICE", 0.3)
    monkeypatch.setattr(work, "Backoff", partial(Backoff, 0.01))
    monkeypatch.setattr(messages, "FIRST_CONTACT", 0.1)


TWO_SERVERS = """
[node]
port = 0
quiet_seconds = 0.1
pause_seconds = 0.05
longest_pause_seconds = 0.2
spare_gigabytes = 0
at_once = 1

[servers.first]
url = "{first}"

[servers.other]
url = "{other}"
ca_file = "authority.pem"

[destinations.kept]
kind = "folder"
path = "results"

[[rules]]
name = "bones"
model = "threshold"
server = "first"
match = {{ SeriesNumber = 1 }}
destinations = ["kept"]

[[rules]]
name = "nothing"
model = "noop"
server = "other"
destinations = ["kept"]
"""


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A private one, in a file."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return made


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """Of a server of that authority on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_server_that_goes_away_in_between_is_told_and_keeps_nobody_waiting(tmp_path: Path, certified: ssl.SSLContext) -> None:
    """The other one speaks TLS with an authority of its own."""
    slow = Script(models={"threshold": FINISHED}, polls=10**9, late_row=False)
    with ScriptedServer(slow) as first, ScriptedServer(Script(polls=0, late_row=False), tls=certified) as other:
        with running_node(tmp_path, TWO_SERVERS.format(first=first.url, other=other.url)) as node:
            send(node.port, slices(tmp_path / "source", 1))
            node.until(lambda: node.count("jobs", "state = 'sent'") == 1)
            first.stop()
            node.until(lambda: node.count("jobs", "state = 'sent' AND reason != ''") == 1)
            (told,) = json.loads(CliRunner().invoke(cli, ["gateway", "list", "--data", str(node.data), "--json"]).output)
            assert told["state"] == "working" and "127.0.0.1" in told["reason"]
            send(node.port, slices(tmp_path / "more", 2))
            node.until(lambda: node.state(2) == "done")
            first.start()
            node.until(lambda: node.count("jobs", "state = 'sent' AND reason = ''") == 1)  # it is waited for again
            first.script = replace(slow, polls=0)
            node.until(lambda: node.state(1) == "done")
            assert len(first.tasks) == 1 and node.count("jobs", "round = 0") == 2


MISSING = """
[servers.away]
url = "{away}"
token_file = "token"

[servers.there]
url = "{there}"
ca_file = "authority.pem"

[destinations.pacs]
kind = "dicom"
host = "127.0.0.1"
port = {pacs}
ae = "PACS"

[destinations.viewer]
kind = "stow"
url = "http://viewer.invalid/dicom-web"
token_file = "token"

[destinations.kept]
kind = "folder"
path = "not/there"

[destinations.unused]
kind = "stow"
url = "http://unused.invalid"

[[rules]]
name = "one"
model = "bones"
server = "away"
destinations = ["pacs", "viewer", "kept"]

[[rules]]
name = "other"
model = "noop@3"
server = "there"
destinations = ["pacs"]

[[rules]]
name = "third"
model = "unheard-of"
server = "there"
destinations = ["pacs"]
"""


def test_what_rules_name_and_is_not_there_is_told(tmp_path: Path, certified: ssl.SSLContext) -> None:
    (tmp_path / "token").write_text("secret\n")
    path = tmp_path / "rules.toml"
    with refusing_url() as away, ScriptedServer(Script(), tls=certified) as there:
        with Pacs().running() as pacs:
            path.write_text(MISSING.format(away=away, there=there.url, pacs=pacs.port))
            assert not pacs.came
            told = missing(Rules.read(path), None)
            assert len(told) == 5 and "secret" not in " ".join(told)
            for number, words in enumerate(
                [
                    "server away: http://127.0.0.1",
                    "server there has no model unheard-of.",
                    "destination viewer: the name viewer.invalid",
                    "destination kept: there is no folder",
                    "destination viewer is sent a token or password without TLS",
                ]
            ):
                assert told[number].startswith(words), told
        told = json.loads(CliRunner().invoke(cli, ["gateway", "check", "--rules", str(path), "--json"]).output)["missing"]
        assert len(told) == 6 and any(words.startswith("destination pacs") and "nothing listens there" in words for words in told)
        done = CliRunner().invoke(cli, ["gateway", "check", "--rules", str(path)])
        assert done.exit_code == 2 and "unheard-of" in done.output


def test_where_all_is_there_nothing_is_missing(tmp_path: Path) -> None:
    with ScriptedServer(Script(models={"threshold": "finished"})) as server:
        path = tmp_path / "rules.toml"
        path.write_text(RULES)
        assert missing(Rules.read(path), Server(name="", url=server.url)) == []
        done = CliRunner().invoke(cli, ["gateway", "check", "--rules", str(path), "--server", server.url])
        wrong = CliRunner().invoke(cli, ["gateway", "check", "--rules", str(path), "--server", "server.example"])
        assert "has no scheme" in str(wrong.exception)
        assert done.exit_code == 0 and done.output == "all servers, models and destinations of the rules are there\n"


def test_a_running_node_warns_and_reads_its_rules_anew(tmp_path: Path) -> None:
    """Rules that make no sense stay out."""
    (tmp_path / "rules.toml").write_text(RULES)
    words = ["gateway", "serve", "--rules", "rules.toml", "--data", "node"]
    with refusing_url() as away, (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "delineate.cli", *words, "--server", away]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rsplit(":", 1)[1])

            def until(words: str) -> None:
                end = time.monotonic() + 60
                while words not in (tmp_path / "log").read_text():
                    assert time.monotonic() < end, (tmp_path / "log").read_text()
                    time.sleep(0.02)

            until("WARNING server of the node: http://127.0.0.1")
            (tmp_path / "rules.toml").write_text(RULES + "nonsense = 1\n")
            process.send_signal(signal.SIGHUP)
            until("ERROR the rules stay as they were: rules.toml: rule 'bones'.nonsense is unknown")
            (tmp_path / "rules.toml").write_text('[[rules]]\nname = "not ours"\nleave = true\n')
            process.send_signal(signal.SIGHUP)
            until("the rules were read anew")
            send(port, slices(tmp_path / "source", 1))
            until("left alone by the rule 'not ours'")
        finally:
            process.kill()
            process.communicate(timeout=30)


def test_a_series_larger_than_memory_is_held_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = 4 * 12 * 16
    monkeypatch.setattr("delineate.gateway.room.room", lambda: 3.0 * voxels - 1)
    with running_node(tmp_path, RULES) as node:
        send(node.port, slices(tmp_path / "source", 1))
        node.until(lambda: node.state() == "held")
        assert node.count("jobs") == 0
        assert "GB of memory" in node.holdings.rows("SELECT reason FROM versions")[0]["reason"]
        monkeypatch.setattr("delineate.gateway.room.room", lambda: 3.0 * voxels)
        CliRunner().invoke(cli, ["gateway", "retry", "1", "--data", str(node.data)])
        node.until(lambda: node.count("jobs") == 1)
    assert 2**28 < room() < 2**50
