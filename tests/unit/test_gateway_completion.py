"""When a series is whole, by a clock of our own; and the settings of the node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from delineate.errors import SettingsError
from delineate.gateway.association import Link
from delineate.gateway.completion import Completion, Whole
from delineate.gateway.holdings import Holdings
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.rules import Rules

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def holdings(tmp_path: Path) -> Iterator[Holdings]:
    found = Holdings(tmp_path)
    yield found
    found.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def completion(holdings: Holdings, clock: Clock) -> Completion:
    return Completion(holdings, quiet=10, broken=60, clock=clock)


def arrived(holdings: Holdings, found: Completion, link: Link, uid: str = "1.2") -> int:
    series = holdings.series("1.1", "CT", "CT")
    found.arrived(series, link)
    holdings.add(series, uid, f"{uid}.dcm", 10)
    return series


def test_whole_after_the_association_and_a_quiet_time(holdings: Holdings, clock: Clock) -> None:
    found, link = completion(holdings, clock), Link("CT", "::1")
    assert found.pause() == float("inf")
    series = arrived(holdings, found, link)
    clock.now += 1000
    assert found.take() == []
    assert found.pause() == float("inf")
    found.ended(link, is_whole=True)
    clock.now += 9
    assert found.take() == []
    assert found.pause() == 1
    clock.now += 1
    assert found.take() == [Whole(series, False)]
    assert found.take() == []


def test_another_association_keeps_it_open(holdings: Holdings, clock: Clock) -> None:
    found, one, two = completion(holdings, clock), Link("CT", "::1"), Link("CT", "::1")
    series = arrived(holdings, found, one)
    arrived(holdings, found, two)
    found.ended(one, is_whole=True)
    clock.now += 20
    assert found.take() == []
    found.ended(two, is_whole=True)
    clock.now += 10
    assert found.take() == [Whole(series, False)]


def test_one_that_broke_off_waits_longer_and_is_told_so(holdings: Holdings, clock: Clock) -> None:
    found, link = completion(holdings, clock), Link("CT", "::1")
    series = arrived(holdings, found, link)
    found.ended(link, is_whole=False)
    clock.now += 59
    assert found.take() == []
    clock.now += 1
    assert found.take() == [Whole(series, True)]


def test_sent_again_it_is_mended(holdings: Holdings, clock: Clock) -> None:
    found, one, two = completion(holdings, clock), Link("CT", "::1"), Link("CT", "::1")
    series = arrived(holdings, found, one)
    found.ended(one, is_whole=False)
    arrived(holdings, found, two)
    found.ended(two, is_whole=True)
    clock.now += 10
    assert found.take() == [Whole(series, False)]


def test_a_refused_object_has_to_come_again(holdings: Holdings, clock: Clock) -> None:
    """Also where each object has an association of its own, and of the refused one nobody knows the series."""
    found = completion(holdings, clock)
    for uid in ("1.2", "1.3", "1.4"):
        link = Link("CT", "::1")
        if uid == "1.3":
            found.refused(link, uid)
        else:
            series = arrived(holdings, found, link, uid)
            found.taken(link, uid)
        found.ended(link, is_whole=True)
    clock.now += 59
    assert found.take() == []
    link = Link("CT", "::1")
    arrived(holdings, found, link, "1.3")
    found.taken(link, "1.3")
    found.ended(link, is_whole=True)
    clock.now += 10
    assert found.take() == [Whole(series, False)]


def test_a_refused_object_that_does_not_come_again_is_told_of_once(holdings: Holdings, clock: Clock) -> None:
    found, link = completion(holdings, clock), Link("CT", "::1")
    series = arrived(holdings, found, link)
    found.refused(link, "1.9")
    found.ended(link, is_whole=True)
    clock.now += 60
    assert found.take() == [Whole(series, True)]
    later = Link("CT", "::1")
    assert arrived(holdings, found, later) == series
    found.ended(later, is_whole=True)
    clock.now += 10
    assert found.take() == [Whole(series, False)]


def test_after_a_kill_it_counts_as_broken_off(holdings: Holdings, clock: Clock) -> None:
    first = completion(holdings, clock)
    series = arrived(holdings, first, Link("CT", "::1"))
    again = completion(holdings, clock)
    clock.now += 10
    assert again.take() == []
    clock.now += 50
    assert again.take() == [Whole(series, True)]


def test_after_a_kill_in_the_quiet_time_it_is_whole(holdings: Holdings, clock: Clock) -> None:
    first, link = completion(holdings, clock), Link("CT", "::1")
    series = arrived(holdings, first, link)
    first.ended(link, is_whole=True)
    again = completion(holdings, clock)
    clock.now += 10
    assert again.take() == [Whole(series, False)]


def test_a_person_may_release_it(holdings: Holdings, clock: Clock) -> None:
    found, link = completion(holdings, clock), Link("CT", "::1")
    series = arrived(holdings, found, link)
    found.ended(link, is_whole=False)
    found.release(series)
    assert found.take() == [Whole(series, False)]


def rules_file(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nquiet = 3", "quiet is unknown"),
        ("[node]\nport = 70000", "port"),
        ('[node]\nae = "much too long a title"', "ae"),
        ('[node]\nnetworks = ["10.0.0.0/99"]', "networks"),
        ('[node.tls]\nkey_file = "k"', "certificate_file is missing"),
        ('[node.tls]\ncertificate_file = "c"\nclients = "required"', "ca_file is missing"),
        ("[node.limits]\nassociations = 0", "associations"),
        ('[node]\nlate = "never"', "late"),
    ],
)
def test_settings_that_make_no_sense_name_their_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        NodeSettings.read(rules_file(tmp_path, text))


def test_without_settings_there_are_defaults(tmp_path: Path) -> None:
    assert NodeSettings.read(rules_file(tmp_path, "")) == NodeSettings()


def test_the_file_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = rules_file(tmp_path, text)
    settings = NodeSettings.read(path)
    assert settings.callers == ("CT1", "CT2", "PACS")
    assert settings.tls is not None
    assert settings.tls.ca_file == tmp_path / "clinic-authority.pem"
    assert [rule.model for rule in Rules.read(path).rules] == ["lungs-ct"]


def test_the_page_has_every_setting() -> None:
    source = (PAGE.parents[1] / "src" / "delineate" / "gateway" / "node_settings.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'table\.(?:number|whole|truth|texts|text|one_of|path)\("(\w+)"|title\(table, "(\w+)"', source))
    missing = [key for pair in keys for key in pair if key and f"`{key}`" not in PAGE.read_text(encoding="utf-8")]
    assert missing == []
