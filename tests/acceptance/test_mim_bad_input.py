"""Bad input at the workstation, row by row, through the built zip: contours that are right, or one sentence and an image as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate.geometry import Geometry
from delineate.testing import models
from delineate.testing.faults import Fault
from delineate.testing.mimhost import HostFailure, leaks
from delineate.testing.ports import free_port

SHAPE = (11, 19, 23)  # of the host's usual image, (z, y, x)


def refused(bench: Any, name: str, *arguments: object) -> str:
    """Run what has to fail: one sentence, the same in the log, nothing changed on any image; the sentence."""
    before = bench.host.snapshot()
    with pytest.raises(HostFailure) as raised:
        bench.run(name, *arguments)
    assert before.changes(bench.host.snapshot()) == []
    cause = raised.value.__cause__
    assert type(cause) is RuntimeError
    sentence = str(cause)
    assert bench.host.log[-1] == ("error", sentence)
    assert "\n" not in sentence
    assert sentence[-1] in ".)"
    assert leaks((sentence + bench.log).encode()) == []
    return sentence


# ------------------------------------------------------------ images


@pytest.mark.parametrize("name", ["Delineate2Images", "Delineate3Images", "Delineate4Images"])
def test_images_of_different_grids_where_the_model_wants_one(bench: Any, name: str) -> None:
    count = int(name[9])
    images = [bench.host.image(), *(bench.host.image(Geometry((9, 8, 7), (3.0, 2.0, 1.0))) for _ in range(count - 1))]
    sentence = refused(bench, name, *images, "index-pattern", bench.ours, 30)
    assert "tmp_0001.nii.gz is on another grid than tmp_0000.nii.gz" in sentence
    assert "23 x 19 x 11" in sentence
    assert "9 x 8 x 7" in sentence
    assert "Resample the images onto one grid first." in sentence


def test_an_image_with_four_dimensions(bench: Any) -> None:
    first, second = bench.host.image(), bench.host.image(frames=3)
    server = bench.scripted()
    for name, images, which in (("DelineateImages", [second], "first"), ("Delineate2Images", [first, second], "second")):
        sentence = refused(bench, name, *images, "noop", server.url, 30)
        assert which in sentence
        assert "4 dimensions of 23 x 19 x 11 x 3 voxels. Choose a three-dimensional image." in sentence
    assert server.requests == []


@pytest.mark.parametrize("size", [(1, 9, 8), (9, 8, 1), (1, 1, 1)])
def test_an_image_of_one_slice(bench: Any, size: tuple[int, int, int]) -> None:
    image = bench.host.image(Geometry(size, (1.0, 2.0, 3.0)))
    bench.run("DelineateImages", image, "noop", bench.ours, 30)
    assert image.contour("Toy").count == 4


# ------------------------------------------------------------ names

NAMES = [
    "a/b", "a:b", "a?b", "a\\b", 'x<y>|"*', "A/B", "tmp_0000", "TMP_0001.meta", "meta", "CON", "nul.txt", "com1", "..", ".hidden", "...",
    "trailing. ", "tab\there", "x" * 250, "Ω-Hals links", "мозг", "脳幹", "🧠", "na\u0308se", "it's, 100 % {0} %s $HOME &amp;",
    "../../etc/passwd", "C:\\Windows", "r.nii.gz", "container.log", "__MACOSX", "._x", "null", "0", " blank ", "PTV (70Gy) [boost]",
]  # fmt: skip


def test_contours_of_any_name_go_to_a_model_and_come_back(make_bench: Any) -> None:
    """Forbidden characters, reserved names, names that become one when they are cleaned, other scripts: from image to image."""
    bench = make_bench(multiplier=(1, 1, 1))
    grid = Geometry((8, 7, 6), (1.0, 1.5, 2.5))
    source, target = bench.host.image(grid), bench.host.image(grid)
    masks = {}
    for number, name in enumerate(NAMES, start=1):
        masks[name] = np.arange(6 * 7 * 8).reshape(6, 7, 8) % 40 == number % 40
        source.add_contour(name, masks[name])
    before = bench.host.snapshot()
    uid = bench.run("InferenceServer1imagesContours", source, "exported", 0, 1, "", bench.ours)
    bench.run("InferenceServerGetFromUid", uid, target, bench.ours, 1, 30)
    found = {contour.name: contour.mask for contour in target.contours}
    wanted = {unicodedata.normalize("NFC", name).replace("\t", " ").strip(): mask for name, mask in masks.items()}
    assert set(found) == set(wanted)
    for name, mask in wanted.items():
        assert np.count_nonzero(found[name] != mask) == 0, name
    assert len(before.changes(bench.host.snapshot())) == len(NAMES)


def test_names_of_a_result_that_the_log_or_the_image_would_choke_on(bench: Any) -> None:
    image = bench.host.image()
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 5
    names = {1: "two\nlines", 2: "a\u0000b", 3: "na\u0308se", 4: "CON"}
    server = bench.scripted(result=bench.result(labels, names))
    bench.run("DelineateImages", image, "noop", server.url, 30)
    assert image.names == ["two lines", "a b", "n\u00e4se", "CON"]


@pytest.mark.parametrize(("first", "second"), [("a\nb", "a b"), ("na\u0308se", "n\u00e4se"), ("Heart", "Heart ")])
def test_names_of_a_result_that_become_one(bench: Any, first: str, second: str) -> None:
    image = bench.host.image()
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3
    server = bench.scripted(result=bench.result(labels, {1: first, 2: second}))
    assert "in the result twice" in refused(bench, "DelineateImages", image, "noop", server.url, 30)


def test_three_hundred_contours_there_and_back(make_bench: Any) -> None:
    bench = make_bench(multiplier=(1, 1, 1))
    image, other = bench.host.image(), bench.host.image()
    bench.run("DelineateImages", image, "many", bench.ours, 60)
    labels = (np.arange(np.prod(SHAPE)) % 301).reshape(SHAPE)
    assert image.names == [f"Organ {label}" for label in range(1, 301)]
    assert all(np.array_equal(contour.mask, labels == n) for n, contour in enumerate(image.contours, start=1))
    uid = bench.run("InferenceServer1imagesContours", image, "exported", 0, 1, "", bench.ours)
    bench.run("InferenceServerGetFromUid", uid, other, bench.ours, 1, 60)
    assert {c.name: c.voxels.digest for c in other.contours} == {c.name: c.voxels.digest for c in image.contours}


# ------------------------------------------------------------ results


def test_labels_nobody_declared(bench: Any) -> None:
    """Ours fails the task and says why; of a stranger's result the rest is used, and the log says what was not."""
    image = bench.host.image()
    assert "7" in refused(bench, "DelineateImages", image, "undeclared-label", bench.ours, 30)
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 4
    server = bench.scripted(result=bench.result(labels, {1: "One"}))
    bench.run("DelineateImages", image, "noop", server.url, 30)
    assert image.names == ["One"]
    assert "labels without a name: 2, 3" in bench.log


def test_structures_that_overlap(bench: Any, expected: Callable[..., np.ndarray]) -> None:
    image = bench.host.image()
    bench.run("DelineateImages", image, "overlapping", bench.ours, 30)
    assert image.contour("All").mask.all()
    assert np.array_equal(image.contour("Half").mask, expected(image, lambda index, _: index[:, 0] < 11))


def test_a_result_on_another_grid_names_both(bench: Any) -> None:
    image = bench.host.image()
    server = bench.scripted(result=bench.result(np.ones((11, 19, 24)), {1: "All"}))
    sentence = refused(bench, "DelineateImages", image, "noop", server.url, 30)
    assert "the result has 24 x 19 x 11 voxels, but the image has 23 x 19 x 11 and its contours have 46 x 38 x 11" in sentence.lower()
    assert "another grid" in refused(bench, "DelineateImages", image, "wrong-grid", bench.ours, 30)


def test_a_wrong_reference_image(bench: Any) -> None:
    first, other = bench.host.image(), bench.host.image(Geometry((9, 8, 7), (3.0, 2.0, 1.0)))
    uid = bench.run("InferenceServer1images", first, "noop", 0, bench.ours)
    sentence = refused(bench, "InferenceServerGetFromUid", uid, other, bench.ours, 1, 30)
    assert "Choose the image that was sent as the first one" in sentence
    bench.run("InferenceServerGetFromUid", uid, first, bench.ours, 1, 30)
    assert first.names == ["Toy"]


@pytest.mark.parametrize("model", ["raiser", "empty", "wrong-type", "process-exit"])
def test_a_model_that_fails_says_why(bench: Any, model: str) -> None:
    sentence = refused(bench, "DelineateImages", bench.host.image(), model, bench.ours, 60)
    assert "refused a step" not in sentence
    assert "Traceback" not in sentence


def test_nothing_found_is_said(bench: Any) -> None:
    image = bench.host.image()
    image.add_contour("All")
    server = bench.scripted(result=bench.result(np.zeros(SHAPE), {1: "All"}))
    assert "found nothing" in refused(bench, "DelineateImages", image, "noop", server.url, 30)


# ------------------------------------------------------------ the way


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "from the start"])
@pytest.mark.parametrize("action", ["break", "drop"])
def test_a_body_that_breaks_off_is_completed(bench: Any, action: str, ranges: bool) -> None:
    server, image = bench.scripted(ranges=ranges), bench.host.image()
    uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
    server.faults.add(Fault(action=action, method="GET", path=uid))
    bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 30)
    assert image.names == ["First_Half", "Second_Half"]


def test_a_body_that_never_comes_whole(bench: Any) -> None:
    """A server whose archive lacks its end, and one that announces less than there is."""
    image = bench.host.image()
    whole = bench.result(np.ones(SHAPE), {1: "All"}).read_bytes()
    for size in (len(whole) // 2, len(whole) - 5, 3):
        (bench.folder / "cut.zip").write_bytes(whole[:size])
        server = bench.scripted(result=bench.folder / "cut.zip")
        sentence = refused(bench, "DelineateImages", image, "noop", server.url, 10)
        assert any(word in sentence for word in ("archive", "cut off", "damaged")), sentence
    for action in ("short", "break"):
        server = bench.scripted()
        uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
        server.faults.add(Fault(action=action, method="GET", path=uid, times=-1))
        refused(bench, "InferenceServerGetFromUid", uid, image, server.url, 1, 2)


@pytest.mark.parametrize("action", ["redirect", "html"])
@pytest.mark.parametrize("when", ["post", "get", "later"])
def test_a_login_page(bench: Any, action: str, when: str) -> None:
    server, image = bench.scripted(), bench.host.image()
    fault = Fault(action=action, location="https://sso.example/login?next=secret", times=-1)
    if when == "post":
        server.faults.add(fault)
        sentence = refused(bench, "InferenceServer1images", image, "noop", 0, server.url)
    else:
        uid = bench.run("InferenceServer1images", image, "sleeping", 0, server.url)
        server.faults.add(fault if when == "get" else Fault(**{**vars(fault), "path": uid, "after": 1}))
        sentence = refused(bench, "InferenceServerGetFromUid", uid, image, server.url, 1, 20)
    assert ("login page" if action == "redirect" else "an HTML page") in sentence
    assert "secret" not in sentence


class Server:
    """Our server with a worker, on one port for all its lives."""

    def __init__(self, folder: Path) -> None:
        port = str(free_port())
        self._command = [sys.executable, "-m", "delineate.cli", "serve", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        self._command += ["--data", str(folder / "data"), "--models", str(folder / "models")]
        self._folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.log = b""

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"delineate: ready at ")

    def end(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.log = (self._folder / "log").read_bytes()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    models.copy("sleeper", tmp_path / "models", "slow", seconds=1.5)
    server = Server(tmp_path)
    server.start()
    yield server
    server.end(signal.SIGTERM)


def test_a_server_that_is_gone_while_waiting(bench: Any, mortal: Server) -> None:
    """Killed, with its worker, while the model runs, and started again: the workstation waits on, and the contours come."""
    image = bench.host.image()
    uid = bench.run("InferenceServer1images", image, "slow", 0, mortal.url)
    met = threading.Event()

    def disturb() -> None:
        deadline = time.monotonic() + 120
        while "leeping" not in bench.log and time.monotonic() < deadline:  # the model says that it runs
            time.sleep(0.02)
        mortal.end(signal.SIGKILL)
        while "trying again" not in bench.log.lower() and time.monotonic() < deadline:
            time.sleep(0.02)
        met.set()
        mortal.start()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        bench.run("InferenceServerGetFromUid", uid, image, mortal.url, 1, 60)
    finally:
        thread.join()
    assert met.is_set()
    assert image.names == ["Toy"]
    assert uid not in bench.log


def test_a_step_that_ran_out_of_time_is_run_again(bench: Any) -> None:
    server, image = bench.scripted(polls=2), bench.host.image()
    uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
    assert "InferenceServerGetFromUid with its uid again" in refused(bench, "InferenceServerGetFromUid", uid, image, server.url, 1, 1)
    bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 30)
    bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 30)
    assert image.names == ["First_Half", "Second_Half", "First_Half 2", "Second_Half 2"]


# ------------------------------------------------------------ the workstation


HARMLESS = {"XMimContour.delete", "ContourIterator.next", "XMimLogger.info"}
"""A deletion is tried again, the end of an iterator is no call that throws afterwards, a line that the log refuses costs nothing."""


def strike_each(bench: Any, begin: Callable[[], Any], step: Callable[[Any], Any], after: bool) -> tuple[int, list[str]]:
    """Run a step again and again, the host throwing at its first call, its second, …; how many calls, and which did no harm."""
    survived = []
    for number in range(1, 1000):
        given = begin()
        bench.host.forget()
        before = bench.host.snapshot()
        bench.host.fail_on(number, after=after)
        try:
            step(given)
        except HostFailure as failure:
            outcome = failure.outcome
            assert outcome.changes == (), f"call {number}, {outcome.calls[number - 1]}: {outcome.changes}"
            assert before == bench.host.snapshot()
            assert bench.remains == []
            assert leaks((str(failure) + bench.log).encode()) == []
            continue
        if len(bench.host.calls) < number:
            return number - 1, survived
        survived.append(bench.host.calls[number - 1])
    raise AssertionError("never done")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_workstation_throws_at_every_call_of_fetching(make_bench: Any, after: bool) -> None:
    bench = make_bench(multiplier=(2, 2, 1))
    uid = bench.run("InferenceServer1images", bench.host.image(Geometry((6, 5, 4))), "overlapping", 0, bench.ours)

    def begin() -> Any:
        bench.host.images.clear()
        image = bench.host.image(Geometry((6, 5, 4)))
        image.add_contour("All")
        image.add_contour("Mine", np.ones((4, 10, 12), dtype=bool))
        return image

    count, survived = strike_each(bench, begin, lambda i: bench.run("InferenceServerGetFromUid", uid, i, bench.ours, 1, 30), after)
    assert count >= 60
    assert set(survived) <= HARMLESS


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_workstation_throws_at_every_call_of_sending(make_bench: Any, after: bool) -> None:
    bench = make_bench(multiplier=(2, 2, 1))

    def begin() -> Any:
        bench.host.images.clear()
        images = [bench.host.image(Geometry((6, 5, 4))), bench.host.image(Geometry((3, 4, 5)))]
        images[0].add_contour("Mine", np.ones((4, 10, 12), dtype=bool))
        return images

    step = "InferenceServer2imagesContours"
    count, survived = strike_each(bench, begin, lambda given: bench.run(step, *given, "noop", 1, 1, "", bench.ours), after)
    assert count >= 140
    assert set(survived) <= HARMLESS
