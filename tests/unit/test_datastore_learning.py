"""Strategies that use what was found out about the images: what they choose, and that they are quick and share nothing."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from delineate import nifti
from delineate.datastore.findings import DOUBT, LOOKS, Finding, Findings
from delineate.datastore.local import LocalDatastore
from delineate.datastore.strategies_learning import Cover
from delineate.geometry import Geometry
from delineate.scoring.looks import COARSE
from delineate.store.database import Database

GRID = Geometry((2, 2, 2))
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalDatastore]:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    database.migrate()
    with LocalDatastore(tmp_path / "studies", database, interval=0.0, settle=-1e9, sync=False) as store:
        put(store, NAMES)
        yield store
    database.close()


def put(store: LocalDatastore, names: Sequence[str], value: int = 0) -> None:
    for name in names:
        nifti.write_labels(store.layout.images / f"{name}.nii.gz", np.full(GRID.shape, value), GRID)
    store.look()


def label(store: LocalDatastore, *names: str) -> None:
    (store.layout.labels / "final").mkdir(parents=True, exist_ok=True)
    for name in names:
        nifti.write_labels(store.layout.labels / "final" / f"{name}.nii.gz", np.ones(GRID.shape), GRID)
    store.look()


def doubt(image: str, value: float | None, model: str = "forest", version: int = 1, image_version: int = 1) -> Finding:
    return Finding(image=image, image_version=image_version, kind=DOUBT, source=model, version=version, value=value)


def looks(image: str, *vector: float, image_version: int = 1) -> Finding:
    return Finding(image=image, image_version=image_version, kind=LOOKS, source=COARSE, version=1, vector=np.array(vector, np.float32))


def ask(store: LocalDatastore, strategy: str, holder: str = "ann") -> str | None:
    sample = store.next_sample(strategy, holder)
    return None if sample is None else sample.image.id


# ---- uncertainty


def test_what_is_doubted_most_comes_first(store: LocalDatastore) -> None:
    store.findings.keep([doubt("a", 0.2), doubt("b", 0.9), doubt("c", 0.5)])
    sample = store.next_sample("uncertainty", "ann")
    assert sample is not None
    assert (sample.image.id, sample.weight) == ("b", 0.9)
    said = sample.image.info["strategy"]["uncertainty"]
    assert (said["model"], said["model_version"], said["client_id"]) == ("forest", 1, "ann")
    assert [ask(store, "uncertainty", who) for who in ("bob", "cid", "dan", "eve")] == ["c", "a", "d", None]
    label(store, "b")
    assert ask(store, "uncertainty") is None, "all others are somebody's"


def test_before_any_model_looked_it_is_by_chance_and_says_so(store: LocalDatastore) -> None:
    sample = store.next_sample("uncertainty", "ann")
    assert sample is not None
    said = sample.image.info["strategy"]["uncertainty"]
    assert said["chosen_by"] == "random"
    assert "no trained model" in said["why"]
    assert "model" not in said


def test_images_that_could_not_be_looked_at_come_last(store: LocalDatastore) -> None:
    store.findings.keep([doubt("a", None), doubt("b", 0.1)])
    assert ask(store, "uncertainty") == "b"
    assert store.findings.doubts()[1]["a"].value is None


def test_the_model_that_looked_last_counts_and_its_older_versions_until_it_looked_again(store: LocalDatastore) -> None:
    store.findings.keep([doubt("a", 0.9, "old"), doubt("b", 0.1), doubt("c", 0.8)])
    store.findings.keep([doubt("c", 0.05, version=2)])
    assert ask(store, "uncertainty") == "b"
    assert store.findings.doubts("old")[1]["a"].value == 0.9
    assert store.findings.doubts("nobody") == ("nobody", {})


def test_what_was_found_of_another_version_of_the_image_does_not_count(store: LocalDatastore) -> None:
    store.findings.keep([doubt("a", 0.9), doubt("b", 0.1), looks("a", 9.0), looks("b", 1.0)])
    put(store, ["a"], value=1)
    assert store.image("a").version == 2
    assert ask(store, "uncertainty") == "b"
    assert store.findings.keep([doubt("a", 0.9), doubt("nobody", 0.9)]) == 0
    assert store.findings.keep([doubt("a", 0.95, image_version=2)]) == 1
    assert ask(store, "uncertainty") == "a"


def test_other_processes_see_what_was_found(store: LocalDatastore, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False)
    seen = Findings(other, store.findings._datastore)
    assert seen.doubts() == ("", {})
    store.findings.keep([doubt("a", 0.2), looks("a", 1.0, 2.0)])
    assert seen.doubts()[1]["a"].value == 0.2
    before = seen.looks(COARSE)
    vector = before["a"].vector
    assert vector is not None and vector.tolist() == [1.0, 2.0]
    assert seen.looks(COARSE) is before, "nothing was read again"
    other.close()


# ---- diversity


def test_what_is_least_like_the_labelled_ones_comes_first(store: LocalDatastore) -> None:
    store.findings.keep([looks("a", 0.0, 0.0), looks("b", 0.1, 0.0), looks("c", 3.0, 4.0), looks("d", 0.0, 1.0)])
    label(store, "a")
    sample = store.next_sample("diversity", "ann")
    assert sample is not None
    assert (sample.image.id, sample.weight) == ("c", 5.0)
    assert ask(store, "diversity", "bob") == "d", "what ann has counts as labelled"
    label(store, "c")
    assert ask(store, "diversity") == "b"
    store.remove_label("c", "final")
    assert ask(store, "diversity") == "c", "it is missing again"


def test_with_nothing_labelled_the_most_usual_comes_first(store: LocalDatastore) -> None:
    store.findings.keep([looks("a", 0.0), looks("b", 1.0), looks("c", 1.2), looks("d", 9.0)])
    sample = store.next_sample("diversity", "ann")
    assert sample is not None and sample.image.id == "c"
    assert "usual" in sample.image.info["strategy"]["diversity"]["chosen_by"]
    assert ask(store, "diversity", "bob") == "d"


def test_undescribed_images_come_by_chance(store: LocalDatastore) -> None:
    sample = store.next_sample("diversity", "ann")
    assert sample is not None
    assert sample.image.info["strategy"]["diversity"]["chosen_by"] == "random"
    store.findings.keep([looks("b", 1.0)])
    label(store, "a")
    assert ask(store, "diversity", "bob") in {"b", "c", "d"}


def test_images_described_later_and_anew(store: LocalDatastore) -> None:
    store.findings.keep([looks("a", 0.0), looks("b", 1.0)])
    label(store, "a")
    assert ask(store, "diversity") == "b"
    store.findings.keep([looks("c", 2.0)])
    assert ask(store, "diversity") == "c"
    store.findings.keep([looks("a", 2.0)])
    assert ask(store, "diversity") == "b"


def test_the_nearest_centre_is_kept_up_to_date() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(600, 5)).astype(np.float32)
    cover = Cover()
    cover.update(vectors[:100], set())
    assert np.isinf(cover.distances(set())).all()
    cover.update(vectors[:100], {3, 50})
    cover.update(vectors, {3, 50, 70})
    cover.update(vectors, set(range(0, 600, 2)) | {3})
    centres = vectors[[*range(0, 600, 2), 3, 5]]
    expected = np.linalg.norm(vectors[:, None] - centres[None], axis=2).min(axis=1)
    assert cover.distances({5}) == pytest.approx(expected, abs=5e-3)


# ---- both


@pytest.mark.parametrize("strategy", ["uncertainty", "diversity"])
def test_annotators_at_once_never_get_the_same(store: LocalDatastore, strategy: str) -> None:
    names = [f"more{number}" for number in range(40)]
    put(store, names)
    generator = random.Random(1)
    store.findings.keep([doubt(name, generator.random()) for name in names[:30]])
    store.findings.keep([looks(name, generator.random(), generator.random()) for name in names[:30]])
    label(store, *names[:3])
    given: dict[str, list[str]] = {}

    def work(who: str) -> None:
        given[who] = [id for _ in range(6) if (id := ask(store, strategy, who))]

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(id for ids in given.values() for id in set(ids))
    assert len(given) == 5 and counts
    assert max(counts.values()) == 1
    assert not set(counts) & set(names[:3]), "labelled ones are not handed out"
