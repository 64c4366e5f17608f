"""Strategies and leases: who gets which image next, and that two never have the same."""

from __future__ import annotations

import io
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import nifti
from delineate.datastore.faults import UnknownStrategyError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.records import ImageRecord
from delineate.datastore.strategies import STRATEGIES, Choice, First, Random, Situation
from delineate.geometry import Geometry
from delineate.store.database import Database

GRID = Geometry((2, 2, 2))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[LocalDatastore]:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    with LocalDatastore(tmp_path / "studies", database, interval=0.0, settle=-1e9, clock=clock, sync=False, lease_seconds=600.0) as store:
        for name in ("c", "a", "b"):
            nifti.write_labels(store.layout.images / f"{name}.nii.gz", np.zeros(GRID.shape), GRID)
        store.look()
        yield store
    database.close()


def save(store: LocalDatastore, id: str, tag: str = "final") -> None:
    buffer = io.BytesIO()
    nifti.write_labels(buffer, np.ones(GRID.shape), GRID)
    store.save_label(id, tag, store.received(io.BytesIO(buffer.getvalue()), "l.nii.gz"))


def ask(store: LocalDatastore, holder: str, strategy: str = "first", **options: Any) -> str | None:
    sample = store.next_sample(strategy, holder, **options)
    return None if sample is None else sample.image.id


def image(id: str, info: dict[str, Any]) -> ImageRecord:
    return ImageRecord(id=id, extension=".nii", path=Path(id), is_series=False, size=0, mtime=0.0, version=1, added=0.0, who="", info=info)


def draw(chooser: Random, candidates: Sequence[ImageRecord], now: float) -> Choice:
    return chooser.choose(Situation(candidates=candidates, name="random", now=now))


def test_each_annotator_has_an_own_image_until_nothing_is_left(store: LocalDatastore) -> None:
    assert [ask(store, who) for who in ("ann", "bob", "cid", "dan")] == ["a", "b", "c", None]
    assert ask(store, "bob") == "b", "who has one gets it again"
    assert {lease.image: lease.holder for lease in store.leases()} == {"a": "ann", "b": "bob", "c": "cid"}


def test_a_label_of_the_tag_ends_the_lease(store: LocalDatastore) -> None:
    assert ask(store, "ann") == "a"
    save(store, "a", "original")
    assert ask(store, "bob") == "b", "a model's label is not what ann is drawing"
    save(store, "a")
    assert [lease.image for lease in store.leases()] == ["b"]
    assert ask(store, "ann") == "c"
    store.remove_label("a", "final")
    assert ask(store, "cid") == "a", "it is to be labelled again"


def test_leases_expire_and_are_renewed_by_asking(store: LocalDatastore, clock: Clock) -> None:
    first = store.next_sample("first", "ann")
    assert first is not None
    assert first.lease.expires == clock.now + 600.0
    clock.now += 500
    assert ask(store, "ann") == "a"
    clock.now += 500
    assert ask(store, "bob") == "b", "renewed"
    clock.now += 101
    assert ask(store, "bob") == "a", "expired"


def test_leases_survive_a_restart_and_can_be_given_back(store: LocalDatastore, clock: Clock) -> None:
    ask(store, "ann")
    with LocalDatastore(store.layout.folder, store.database, interval=0.0, clock=clock, sync=False) as again:
        assert ask(again, "bob") == "b"
        assert again.release("ann") == 1
        assert ask(again, "cid") == "a"


def test_an_image_that_is_gone_is_nobodys(store: LocalDatastore) -> None:
    assert ask(store, "ann") == "a"
    store.remove_image("a")
    assert store.leases() == []
    assert ask(store, "ann") == "b"


def test_other_tags_have_other_unlabelled_images(store: LocalDatastore) -> None:
    for id in ("a", "b", "c"):
        save(store, id)
    assert ask(store, "ann") is None
    assert ask(store, "ann", tag="review") == "a"


def test_that_it_was_handed_out_is_kept_with_the_image(store: LocalDatastore, clock: Clock) -> None:
    sample = store.next_sample("first", "ann")
    assert sample is not None
    assert sample.image.info["strategy"] == {"first": {"ts": int(clock.now), "client_id": "ann"}}
    store.update_image_info("a", {"strategy": "nonsense"})
    assert ask(store, "ann") == "a"
    assert store.image("a").info["strategy"] == {"first": {"ts": int(clock.now), "client_id": "ann"}}


def test_an_unknown_strategy_names_those_there_are(store: LocalDatastore) -> None:
    with pytest.raises(UnknownStrategyError) as caught:
        store.next_sample("no such", "ann")
    assert "first, random" in caught.value.advice


def test_a_strategy_of_ones_own(store: LocalDatastore) -> None:
    class Last:
        def choose(self, situation: Situation) -> Choice:
            return Choice(max(situation.candidates, key=lambda image: image.id), 0.5, {"why": "it is the last"})

    store.strategies = {**STRATEGIES, "last": Last()}
    sample = store.next_sample("last", "ann")
    assert sample is not None
    assert (sample.image.id, sample.weight, sample.lease.strategy) == ("c", 0.5, "last")
    assert sample.image.info["strategy"]["last"]["why"] == "it is the last"


def test_annotators_at_once_never_get_the_same(store: LocalDatastore) -> None:
    for number in range(40):
        nifti.write_labels(store.layout.images / f"more{number}.nii.gz", np.zeros(GRID.shape), GRID)
    store.look()
    given: dict[str, list[str]] = {}

    def work(who: str) -> None:
        given[who] = [id for _ in range(8) if (id := ask(store, who, "random"))]

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(id for ids in given.values() for id in set(ids))
    assert max(counts.values()) == 1


# ---- strategies


def test_first_is_the_first_in_the_order_of_ids() -> None:
    assert First().choose(Situation(candidates=[image(id, {}) for id in ("b", "B", "a1", "a")])).image.id == "B"


def test_random_prefers_what_was_handed_out_long_ago() -> None:
    now = 1_800_000_000.0
    candidates = [
        image("new", {"strategy": {"random": {"ts": now - 10}}}),
        image("old", {"strategy": {"random": {"ts": now - 1000}}}),
        image("other", {"strategy": {"first": {"ts": now}}}),
    ]
    chooser = Random(random.Random(1))
    counts = Counter(draw(chooser, candidates[:2], now).image.id for _ in range(2000))
    assert 5 < counts["new"] < 50
    choice = draw(chooser, candidates[2:], now)
    assert choice.weight == now, "never handed out by this strategy: seconds since 1970"
    assert draw(chooser, candidates[:1], now).weight == 10


@pytest.mark.parametrize("ts", [1_800_000_000, 1e300, -1e300, "text", None, True, [1], float("nan"), float("inf"), 10**400])
def test_random_never_fails(ts: object) -> None:
    candidates = [image(str(number), {"strategy": {"random": {"ts": ts}}}) for number in range(3)]
    chooser = Random(random.Random(1))
    found = {draw(chooser, candidates, 1_800_000_000.0).image.id for _ in range(100)}
    assert found == {"0", "1", "2"}, "all weights are equal"
