"""Every verb of the task store, and every way it can say no."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delineate.errors import InputError, LeaseLostError, StorageFullError, StoreBusyError, UnknownTaskError
from delineate.store.blobs import BlobStore
from delineate.store.database import Database
from delineate.store.leases import RESERVED
from delineate.store.records import sweep
from delineate.store.tasks import TaskStore
from delineate.store.writer import BlobWriter
from delineate.task import BACKGROUND, BATCH, FRONT, INTERACTIVE, NORMAL, WORK, Failure, Task, TaskState

CRASH = Failure(kind="crash", message="It crashed.", advice="Try less.")
LOST = Failure(kind="lost", message="The worker was killed.")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[TaskStore]:
    database = Database(f"sqlite:///{tmp_path}/delineate.db", sync=False, busy_timeout=0.2)
    database.migrate()
    yield TaskStore(database, BlobStore(tmp_path / "blobs", sync=False), clock)
    database.close()


def blob(store: TaskStore, data: bytes) -> BlobWriter:
    writer = store.blobs.incoming()
    writer.write(data)
    return writer


def submit(store: TaskStore, data: bytes = b"input", **options: Any) -> Task:
    return store.submit(**{"model": "m", "archive": blob(store, data), "owner": "a", "protocol": "v1"} | options)


def claim(store: TaskStore, worker: str = "w", **options: Any) -> Task:
    task = store.claim(worker, **options)
    assert task is not None
    return task


def files(store: TaskStore) -> list[str]:
    """What is on the disk, incoming included."""
    return sorted(path.read_bytes().decode() for path in store.blobs.folder.rglob("*") if path.is_file())


def kinds(store: TaskStore, uid: str) -> list[str]:
    return [event.kind for event in store.events(uid)]


def test_submit_and_get(store: TaskStore) -> None:
    task = submit(store, b"archive", prompts={"foreground": [[1, 2, 3]]}, priority=INTERACTIVE)
    assert task == store.get(task.uid) == store.find(task.id)
    assert (len(task.uid), task.state, task.owner, task.protocol, task.priority) == (43, TaskState.PENDING, "a", "v1", INTERACTIVE)
    assert (task.created, task.attempt, task.lost, task.prompts) == (1000.0, 0, 0, {"foreground": [[1, 2, 3]]})
    found = task.blob("input")
    assert found is not None and store.blobs.verified(found.digest).read_bytes() == b"archive"
    (event,) = store.events(task.uid)
    assert (event.kind, event.at, event.who, event.why, event.uid) == ("submitted", 1000.0, "a", "v1", task.uid)


@pytest.mark.parametrize("uid", ["", "..", "x" * 43, "x" * 42, "x" * 44, "%2e%2e", "é" * 43, "x" * 42 + "\n", "x" * 10_000, "a' OR '1'='1"])
def test_unknown_and_malformed_uids(store: TaskStore, uid: str) -> None:
    for verb in (store.get, store.events, store.cancel, store.delete, store.replay):
        with pytest.raises(UnknownTaskError):
            verb(uid)
    assert store.get_many([uid]) == {} == store.last_events([uid])


@pytest.mark.parametrize("id", [0, -1, 5, 1 << 70])
def test_unknown_ids(store: TaskStore, id: int) -> None:
    with pytest.raises(UnknownTaskError):
        store.find(id)
    with pytest.raises(UnknownTaskError):
        store.set_state(id, TaskState.FAILED, "admin")
    with pytest.raises(UnknownTaskError):
        store.put_result(id, blob(store, b"r"), "admin")
    assert files(store) == []


def test_a_key_makes_submit_idempotent(store: TaskStore) -> None:
    task = submit(store, key="k")
    assert submit(store, key="k") == task
    assert submit(store, key="k", owner="b").uid != task.uid, "a key is its owner's"
    assert submit(store).uid != submit(store).uid, "without a key every submit is new"
    for other in ({"data": b"other"}, {"model": "n"}, {"prompts": {"roi": [1]}}):
        with pytest.raises(InputError, match="another request"):
            submit(store, key="k", **other)
    assert files(store) == ["input"], "nothing of the refused ones is left, equal content is stored once"
    store.delete(task.uid)
    assert submit(store, b"other", key="k").uid != task.uid, "the key is free again"


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_bad_keys(store: TaskStore, key: str) -> None:
    with pytest.raises(InputError, match="key"):
        submit(store, key=key)


def test_files_beside_the_input_live_as_long_as_it(store: TaskStore) -> None:
    task = submit(store, b"reference", beside={"image": blob(store, b"image"), "label": blob(store, b"label")})
    assert files(store) == ["image", "label", "reference"]
    assert sorted(one.role for one in task.blobs) == ["image", "input", "label"]
    sweep(store.database, store.blobs)
    claim(store)
    store.cancel(task.uid)
    store.cancelled(task.uid, "w")
    store.replay(task.uid)
    assert sorted(one.role for one in store.get(task.uid).blobs) == ["image", "input", "label"]
    store.delete(task.uid)
    assert files(store) == []


def test_a_repeated_submit_takes_nothing_beside_it_twice(store: TaskStore) -> None:
    first = submit(store, b"reference", key="k", beside={"image": blob(store, b"image")})
    assert submit(store, b"reference", key="k", beside={"image": blob(store, b"image")}) == first
    with pytest.raises(InputError, match="another request"):
        submit(store, b"other reference", key="k", beside={"image": blob(store, b"other")})
    assert files(store) == ["image", "reference"]


def test_what_is_written_lightly_is_the_same_store(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/delineate.db")
    database.migrate()
    store = TaskStore(database, BlobStore(tmp_path / "blobs"))
    task = submit(store.lightly(), b"input")
    assert store.get(task.uid) == task
    assert files(store) == ["input"]
    other = Database(f"sqlite:///{tmp_path}/delineate.db")
    assert TaskStore(other, store.blobs).get(task.uid) == task
    other.close()
    assert claim(store).uid == task.uid
    store.lightly().finish(task.uid, "w", result=blob(store.lightly(), b"result"))
    assert store.get(task.uid).state is TaskState.FINISHED
    database.close()


def test_claim_finish(store: TaskStore, clock: Clock) -> None:
    uid = submit(store).uid
    clock.now = 1001.0
    task = claim(store, "w", lease=5.0)
    assert (task.uid, task.state, task.attempt, task.started) == (uid, TaskState.RUNNING, 1, 1001.0)
    assert (task.lease_holder, task.lease_expires) == ("w", 1006.0)
    assert store.claim("v") is None
    clock.now = 1004.0
    assert store.heartbeat(uid, "w", 5.0, 0.5, "half") is True
    now = store.get(uid)
    assert (now.lease_expires, now.fraction, now.message) == (1009.0, 0.5, "half")
    clock.now = 1010.0  # over time, but nobody noticed: still the worker's
    grids = [{"size": [1, 2, 3]}]
    done = store.finish(uid, "w", result=blob(store, b"result"), log=blob(store, b"log"), provenance={"runner": "python"}, grids=grids)
    assert done == store.get(uid)
    assert done.grids == tuple(grids)
    assert (done.state, done.finished, done.fraction, done.lease_holder, done.failure) == (TaskState.FINISHED, 1010.0, 1.0, None, None)
    assert [found.role for found in done.blobs] == ["input", "log", "result"]
    assert done.provenance == {"runner": "python"}
    assert kinds(store, uid) == ["submitted", "claimed", "finished"]
    assert files(store) == ["input", "log", "result"]


def test_events_after(store: TaskStore) -> None:
    first, second = submit(store).uid, submit(store).uid
    claim(store)
    events = store.events(first)
    assert store.events(first, after=events[0].id) == events[1:]
    assert store.last_events([first, second, "x" * 43]) == {first: events[-1].id, second: store.events(second)[-1].id}
    assert set(store.get_many([first, second, second])) == {first, second}


def test_only_the_holder_of_this_attempt_settles(store: TaskStore) -> None:
    uid = submit(store).uid
    claim(store)
    store.release("w", "gone", counted=False)
    claim(store, "v")
    attempts: list[Any] = [
        lambda who, **more: store.heartbeat(uid, who, **more),
        lambda who, **more: store.finish(uid, who, result=blob(store, b"late"), log=blob(store, b"late log"), **more),
        lambda who, **more: store.fail(uid, who, CRASH, log=blob(store, b"late log"), **more),
        lambda who, **more: store.cancelled(uid, who, **more),
    ]
    before = store.get(uid)
    for verb in attempts:
        with pytest.raises(LeaseLostError):
            verb("w")
        with pytest.raises(LeaseLostError):
            verb("v", attempt=2)
    assert store.get(uid) == before
    assert files(store) == ["input"]
    store.finish(uid, "v", result=blob(store, b"result"), provenance={}, attempt=1)
    with pytest.raises(LeaseLostError):
        store.finish(uid, "v", result=blob(store, b"second"), provenance={})
    assert files(store) == ["input", "result"]


def test_fail_keeps_reason_and_log(store: TaskStore) -> None:
    uid = submit(store).uid
    claim(store)
    failure = Failure(kind="input", message="Not an image.", advice="Send one.")
    task = store.fail(uid, "w", failure, log=blob(store, b"log"), provenance={"seconds": 1})
    assert (task.state, task.failure, task.provenance) == (TaskState.FAILED, failure, {"seconds": 1})
    assert store.events(uid)[-1].why == "Not an image. Send one."
    assert files(store) == ["input", "log"]


def test_what_a_task_that_failed_did_nevertheless_is_kept(store: TaskStore) -> None:
    uid = submit(store).uid
    claim(store)
    store.fail(uid, "w", Failure(kind="model", message="Half of it failed."), result=blob(store, b"the other half"))
    assert files(store) == ["input", "the other half"]
    other = submit(store).uid
    claim(store)
    store.cancel(other)
    assert store.fail(other, "w", CRASH, result=blob(store, b"dropped")).state is TaskState.CANCELLED
    assert files(store) == ["input", "the other half"]


def test_fail_with_retry_replaces_the_log_and_ends(store: TaskStore, clock: Clock) -> None:
    uid = submit(store).uid
    for number in range(3):
        claim(store)
        task = store.fail(uid, "w", CRASH, log=blob(store, b"log %d" % number), retry_after=7.0)
        if number < 2:
            assert (task.state, task.not_before, task.failure) == (TaskState.PENDING, clock.now + 7, CRASH)
            assert store.claim("w") is None
            clock.now += 7
    assert (task.state, task.failure, task.attempt, task.lost) == (TaskState.FAILED, CRASH, 3, 0)
    assert files(store) == ["input", "log 2"]


def test_losses_and_crashes_are_counted_apart(store: TaskStore, clock: Clock) -> None:
    uid = submit(store).uid
    waits = []
    for number in range(20):
        claim(store)
        (task,) = store.release("w", "killed from outside" if number else LOST)
        waits.append(task.not_before - clock.now)
        clock.now += 60
        if number == 18:
            claim(store)
            (task,) = store.release("w", CRASH)
            assert (task.state, task.attempt, task.lost) == (TaskState.PENDING, 20, 19)
            assert task.not_before - clock.now == pytest.approx(1.0)
            clock.now += 60
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[12] == pytest.approx(30.0)
    assert task.state is TaskState.FAILED
    assert task.failure is not None and "killed from outside" in task.failure.message
    assert task.lost == 20
    assert store.release("w", LOST) == []
    assert store.get(uid) == task


def test_crashes_back_off_and_end(store: TaskStore, clock: Clock) -> None:
    submit(store)
    waits = []
    for _ in range(3):
        claim(store)
        (task,) = store.release("w", CRASH)
        waits.append(task.not_before - clock.now)
        clock.now += 10
    assert waits[:2] == pytest.approx([1.0, 2.0])
    assert (task.state, task.failure) == (TaskState.FAILED, CRASH)


def test_an_orderly_stop_counts_nothing(store: TaskStore) -> None:
    submit(store)
    for _ in range(30):
        claim(store)
        (task,) = store.release("w", "stopping", counted=False)
    assert (task.state, task.attempt, task.lost, task.not_before) == (TaskState.PENDING, 0, 0, 0.0)


def test_release_is_for_the_tasks_of_one_worker(store: TaskStore) -> None:
    submit(store), submit(store)
    mine, other = claim(store, "w"), claim(store, "v")
    assert [task.uid for task in store.release("w", LOST)] == [mine.uid]
    assert store.get(other.uid) == other


def test_leases_over_time_come_back(store: TaskStore, clock: Clock) -> None:
    uid = submit(store).uid
    claim(store, lease=30.0)
    clock.now += 29
    assert store.expire() == []
    clock.now += 2
    (task,) = store.expire()
    assert (task.uid, task.state, task.lost) == (uid, TaskState.PENDING, 1)
    with pytest.raises(LeaseLostError):
        store.heartbeat(uid, "w")


def test_cancel_waiting_running_and_final(store: TaskStore) -> None:
    waiting = store.cancel(submit(store, priority=BATCH).uid, "me")
    assert (waiting.state, waiting.finished) == (TaskState.CANCELLED, 1000.0)
    assert store.cancel(waiting.uid) == waiting
    uid = submit(store).uid
    claim(store)
    assert store.cancel(uid, "me").cancel_requested
    assert store.heartbeat(uid, "w") is False
    task = store.cancelled(uid, "w", log=blob(store, b"log"))
    assert (task.state, task.cancel_requested) == (TaskState.CANCELLED, False)
    assert kinds(store, uid) == ["submitted", "claimed", "cancel-requested", "cancelled"]
    assert [event.who for event in store.events(uid)][2] == "me"


def test_whoever_settles_a_cancelled_task_cancels_it(store: TaskStore, clock: Clock) -> None:
    settle: list[Any] = [
        lambda uid: store.finish(uid, "w", result=blob(store, b"result"), provenance={}),
        lambda uid: store.fail(uid, "w", CRASH),
        lambda uid: store.fail(uid, "w", CRASH, retry_after=0.0),
        lambda uid: store.release("w", CRASH),
        lambda uid: store.release("w", LOST, counted=False),
        lambda uid: setattr(clock, "now", clock.now + 100) or store.expire(),
    ]
    for verb in settle:
        uid = submit(store).uid
        claim(store)
        store.cancel(uid)
        verb(uid)
        task = store.get(uid)
        assert (task.state, task.failure, task.blob("result")) == (TaskState.CANCELLED, None, None)
    assert files(store) == ["input"]


def test_delete_keeps_the_events_and_shared_files(store: TaskStore) -> None:
    first, second = submit(store, b"same"), submit(store, b"same")
    store.delete(first.uid, "me")
    with pytest.raises(UnknownTaskError):
        store.get(first.uid)
    assert files(store) == ["same"]
    with sqlite3.connect(store.database.path) as connection:
        rows = connection.execute("SELECT kind, who FROM events WHERE task = ?", (first.id,)).fetchall()
    connection.close()
    assert rows == [("submitted", "a"), ("deleted", "me")]
    store.delete(second.uid)
    assert files(store) == []
    assert submit(store).id > second.id, "an id is never given again"


def test_a_worker_of_a_deleted_task_loses_it(store: TaskStore) -> None:
    uid = submit(store).uid
    claim(store)
    store.delete(uid)
    with pytest.raises(LeaseLostError):
        store.heartbeat(uid, "w")
    with pytest.raises(LeaseLostError):
        store.finish(uid, "w", result=blob(store, b"result"), provenance={})
    assert files(store) == []


def test_replay(store: TaskStore) -> None:
    uid = submit(store).uid
    with pytest.raises(InputError, match="pending"):
        store.replay(uid)
    claim(store)
    with pytest.raises(InputError, match="running"):
        store.replay(uid)
    store.fail(uid, "w", CRASH, log=blob(store, b"log"))
    task = store.replay(uid, "admin")
    assert (task.state, task.attempt, task.lost, task.failure, task.finished) == (TaskState.PENDING, 0, 0, None, None)
    assert files(store) == ["input"]
    claim(store)
    store.finish(uid, "w", result=blob(store, b"result"), provenance={})
    with pytest.raises(InputError, match="finished"):
        store.replay(uid)
    assert kinds(store, uid)[2:5] == ["failed", "replayed", "claimed"]


@pytest.mark.parametrize("state", list(TaskState))
def test_set_state_takes_the_task_from_its_worker(store: TaskStore, state: TaskState) -> None:
    task = submit(store)
    claim(store)
    changed = store.set_state(task.id, state, "admin")
    assert changed.state is state
    assert (changed.failure is not None) == (state is TaskState.FAILED)
    assert (changed.finished is not None) == state.is_final
    with pytest.raises(LeaseLostError):
        store.heartbeat(task.uid, "w")
    assert store.events(task.uid)[-1].who == "admin"


def test_administration_from_outside(store: TaskStore, clock: Clock) -> None:
    task = submit(store)
    store.set_state(task.id, TaskState.RUNNING, "admin")
    clock.now += 1e6
    assert store.expire() == []
    for data in (b"first", b"second"):
        store.put_result(task.id, blob(store, data), "admin")
    done = store.set_state(task.id, TaskState.FINISHED, "admin")
    assert done.blob("result") is not None
    assert files(store) == ["input", "second"]
    store.set_state(task.id, TaskState.RUNNING, "admin")
    assert store.cancel(task.uid).state is TaskState.CANCELLED, "no worker would hear of it"


def test_purge_by_age(store: TaskStore, clock: Clock) -> None:
    old = [submit(store, b"old %d" % number).uid for number in range(250)]
    for uid in old:
        store.cancel(uid)
    clock.now += 100
    fresh, waiting = submit(store, b"fresh").uid, submit(store, b"waiting").uid
    store.cancel(fresh)
    assert store.purge(clock.now - 50) == 250
    assert store.purge(clock.now - 50) == 0
    assert set(store.get_many([*old, fresh, waiting])) == {fresh, waiting}
    assert files(store) == ["fresh", "waiting"]


def test_priority_then_age(store: TaskStore) -> None:
    order = [submit(store, priority=priority).uid for priority in (BATCH, NORMAL, INTERACTIVE, INTERACTIVE)]
    assert [claim(store, str(n)).uid for n in range(4)] == [order[2], order[3], order[1], order[0]]


def test_owners_take_turns(store: TaskStore) -> None:
    for _ in range(6):
        submit(store, owner="many")
    for _ in range(3):
        claim(store)
    for _ in range(2):
        submit(store, owner="few")
    assert [claim(store).owner for _ in range(5)] == ["many", "few", "many", "few", "many"]


def test_urgent_work_of_one_does_not_push_others_back(store: TaskStore) -> None:
    for _ in range(5):
        submit(store, owner="many")
    submit(store, owner="many", priority=INTERACTIVE)
    assert claim(store).priority == INTERACTIVE
    submit(store, owner="other")
    assert [claim(store).owner for _ in range(3)] == ["many", "other", "many"]


def test_urgent_work_of_one_does_not_hold_up_their_own_other_work(store: TaskStore) -> None:
    for _ in range(5):
        submit(store, owner="a", priority=INTERACTIVE)
        claim(store)
    for owner in ("a", "b", "b"):
        submit(store, owner=owner)
    assert [claim(store).owner for _ in range(3)] == ["a", "b", "b"]


def test_who_was_idle_saves_up_nothing(store: TaskStore) -> None:
    for _ in range(10):
        submit(store, owner="busy")
        claim(store)
    for owner in ["idle"] * 4 + ["busy"] * 4:
        submit(store, owner=owner)
    assert sorted([claim(store).owner for _ in range(4)]) == ["busy", "busy", "idle", "idle"]


def test_lists_and_counts(store: TaskStore, clock: Clock) -> None:
    assert store.oldest_pending() is None
    tasks = [submit(store, model="m" if number % 2 else "n") for number in range(6)]
    clock.now += 5
    store.cancel(tasks[0].uid)
    assert [task.id for task in store.tasks(limit=2)] == [6, 5]
    assert [task.id for task in store.tasks(limit=2, before=5)] == [4, 3]
    assert [task.id for task in store.tasks(model="m")] == [6, 4, 2]
    assert [task.id for task in store.tasks(TaskState.CANCELLED)] == [1]
    assert store.counts() == {state: {"pending": 5, "cancelled": 1}.get(state.value, 0) for state in TaskState}
    assert store.oldest_pending() == 1000.0


def test_nothing_is_left_of_what_could_not_be_stored(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = submit(store).uid
    claim(store)

    def full(*_: object, **__: object) -> None:
        raise StorageFullError("full")

    monkeypatch.setattr(store, "_event", full)
    with pytest.raises(StorageFullError):
        submit(store, b"another")
    with pytest.raises(StorageFullError):
        store.finish(uid, "w", result=blob(store, b"result"), provenance={})
    with pytest.raises(StorageFullError):
        store.put_result(1, blob(store, b"result"), "admin")
    monkeypatch.undo()
    assert files(store) == ["input"]
    assert len(store.tasks()) == 1
    assert store.finish(uid, "w", result=blob(store, b"result"), provenance={}).state is TaskState.FINISHED


def test_a_locked_database_refuses_and_then_goes_on(store: TaskStore) -> None:
    holder = sqlite3.connect(store.database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        submit(store)
    assert store.claim("w") is None
    holder.execute("ROLLBACK")
    holder.close()
    assert submit(store, b"another") == store.tasks()[0]
    assert files(store) == ["another"], "what was refused went with the next transaction"


def test_sweep_removes_what_no_row_names(store: TaskStore) -> None:
    kept = submit(store, b"kept")
    with store.database.write(), blob(store, b"orphan") as orphan:
        orphan.seal()
        store.blobs.place(orphan)
    living = blob(store, b"being written")
    assert sweep(store.database, store.blobs) == 1
    assert sweep(store.database, store.blobs) == 0
    assert files(store) == ["being written", "kept"]
    living.discard()
    assert store.get(kept.uid) == kept


def test_claim_stays_flat_with_many_rows(store: TaskStore) -> None:
    """The plan uses the index for order and limit, and 20,000 rows cost no more than 200."""

    def fill(count: int) -> None:
        with store.database.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO tasks (uid, model, state, owner, protocol, rank, turn, created, attempt, lost, not_before,"
                " cancel_requested, fraction, message, prompts, grids, provenance)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " SELECT hex(randomblob(21)) || 'x', 'm', CASE i % 2 WHEN 0 THEN 'pending' ELSE 'finished' END, 'o' || (i % 7),"
                " 'v1', -10, i, 0, 0, 0, 0, 0, 0, '', '{}', '[]', '{}' FROM n",
                (count,),
            )

    def fastest() -> float:
        best = 1.0
        for _ in range(40):
            start = time.perf_counter()
            submit(store, owner="o1")
            claim(store)
            best = min(best, time.perf_counter() - start)
        return best

    fill(200)
    few = fastest()
    fill(20_000)
    assert fastest() < 2 * few + 0.001


def test_a_worker_takes_tasks_of_its_lane_alone(store: TaskStore) -> None:
    behind = submit(store, lane=BACKGROUND, priority=INTERACTIVE)
    assert not store.is_due(FRONT) and store.is_due(BACKGROUND)
    assert store.claim("w") is None
    front = submit(store, priority=BATCH)
    assert claim(store).uid == front.uid
    taken = claim(store, "b", lane=BACKGROUND)
    assert (taken.uid, taken.lane, front.lane) == (behind.uid, BACKGROUND, FRONT)
    assert not store.is_due(BACKGROUND)


def test_a_task_given_back_stays_in_its_lane(store: TaskStore, clock: Clock) -> None:
    submit(store, lane=BACKGROUND)
    claim(store, "b", lane=BACKGROUND)
    store.release("b", LOST)
    clock.now += 60
    assert store.claim("w") is None
    assert claim(store, "b", lane=BACKGROUND).attempt == 2


def test_what_is_to_happen_with_the_end_of_a_task_happens_once_or_not_at_all(store: TaskStore) -> None:
    seen: list[str] = []

    def also(connection: Any) -> None:
        seen.append("done")

    for is_cancelled in (False, True):
        task = submit(store)
        claim(store)
        if is_cancelled:
            store.cancel(task.uid)
        store.finish(task.uid, "w", result=blob(store, b"result"), beside={"model": blob(store, b"weights")}, also=also)
        found = store.get(task.uid)
        assert (found.blob("model") is None, found.blob("result") is None) == (is_cancelled, is_cancelled)
    assert seen == ["done"]
    assert files(store) == ["input", "result", "weights"]


def test_a_task_does_not_end_where_what_belongs_to_it_fails(store: TaskStore) -> None:
    task = submit(store)
    claim(store)

    def fails(connection: Any) -> None:
        raise InputError("no", "none")

    with pytest.raises(InputError):
        store.finish(task.uid, "w", result=blob(store, b"result"), also=fails)
    assert store.get(task.uid).state is TaskState.RUNNING
    assert files(store) == ["input"]


def test_work_is_found_by_its_name(store: TaskStore) -> None:
    submit(store, model="train")
    first, second = (submit(store, model="train", protocol=WORK).uid for _ in range(2))
    other = submit(store, model="score", protocol=WORK).uid
    assert [task.uid for task in store.work("train", limit=5)] == [second, first]
    assert [task.uid for task in store.work()] == [other]


def test_a_task_is_left_to_whom_the_engine_rings(store: TaskStore, clock: Clock) -> None:
    first = submit(store, rung=True)
    assert store.claim("who only looked", rung=0.0) is None
    assert store.claim("who was called for an earlier one", rung=clock.now - 1) is None
    assert claim(store, "who was rung").uid == first.uid
    second = submit(store, b"other", rung=True)
    clock.now += RESERVED
    assert claim(store, "who only looked", rung=0.0).uid == second.uid


def test_no_ring_shortens_the_wait_after_a_crash(store: TaskStore, clock: Clock) -> None:
    task = submit(store, rung=True)
    claim(store)
    store.fail(task.uid, "w", CRASH, retry_after=5.0)
    clock.now += 4.9
    assert store.claim("w") is None
    clock.now += 0.2
    assert claim(store).attempt == 2


def test_many_are_deleted_at_once(store: TaskStore) -> None:
    gone, stays = [submit(store, data) for data in (b"a", b"b")], submit(store, b"c")
    assert store.delete_many([task.uid for task in gone], "x") == 2
    assert store.delete_many([gone[0].uid], "x") == 0
    assert [task.uid for task in store.tasks()] == [stays.uid]
    assert files(store) == ["c"]
