"""What extensions of this kind got wrong before, each one a test: the built zip does not, and the test fails where it does.

`against` runs each test twice: with the zip as it is, and with the old behaviour put in its place, where the test has to fail.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import re
import ssl
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from delineate.geometry import Geometry
from delineate.testing.faults import Fault
from delineate.testing.mimhost import HostFailure, LeftBehind

Test = Callable[[Any], None]
UID = re.compile(r"[\w-]{43}")


def against(old: Callable[[Any], None]) -> Callable[[Test], Any]:
    """The test passes with what is shipped and fails after `old` has put an ancestor's behaviour into the loaded zip."""

    def decorate(test: Test) -> Any:
        @pytest.mark.parametrize("behaviour", ["shipped", "old"])
        def both(bench: Any, behaviour: str) -> None:
            if behaviour == "shipped":
                test(bench)
                return
            old(bench)
            try:
                test(bench)
            except (AssertionError, HostFailure, pytest.fail.Exception):
                bench.host.misuses.clear()
                return
            raise RuntimeError("the test does not see the old behaviour")

        both.__name__, both.__doc__ = test.__name__, test.__doc__
        return both

    return decorate


def get(bench: Any, image: Any, url: str, timeout: int = 20, interval: int = 1, model: str = "noop") -> str:
    """Post and get; the uid."""
    uid: str = bench.run("InferenceServer1images", image, model, 0, url)
    bench.run("InferenceServerGetFromUid", uid, image, url, interval, timeout)
    return uid


def polls(server: Any) -> int:
    """Requests for the result."""
    return len([seen for seen in server.requests if seen.method == "GET" and any(uid in seen.target for uid in server.tasks)])


def old_wait(bench: Any, sleep: Callable[[float], None]) -> None:
    """Ask, sleep, add the interval to what was waited, whatever the answer is."""
    backend = bench.part("client_backend").ClientBackend

    def wait(self: Any, uid: str, sink: Any, timeout: float, interval: float) -> None:
        request, waited = bench.part("messages").Request, 0.0
        try:
            for _ in range(300):
                answer = self._send(request("GET", "/api/tasks/" + uid, sink=sink, timeout=30.0))
                if answer.is_success:
                    return
                if waited >= timeout:
                    raise TimeoutError
                sleep(interval)
                waited += interval
        finally:
            self._keep(None)
        raise AssertionError("for ever")

    bench.patch.setattr(backend, "get", wait)
    client = bench.part("inference_client").InferenceClient
    begin = client.__init__

    def plain(self: Any, backend: Any, *, timeout: float = 3600.0, interval: float = 2.0) -> None:
        begin(self, backend, timeout=timeout, interval=interval)
        self._interval = interval

    bench.patch.setattr(client, "__init__", plain)


def ext_of(bench: Any) -> dict[str, Any]:
    """Names in the entry module."""
    found: dict[str, Any] = bench.runner.entry("DelineateImages").function.__globals__
    return found


# ------------------------------------------------------------ errors, and time


def swallow(bench: Any) -> None:
    @contextlib.contextmanager
    def reported(session: Any) -> Iterator[Any]:
        with contextlib.suppress(Exception):
            yield session.createLogger().info

    bench.patch.setitem(ext_of(bench), "_reported", reported)


@against(swallow)
def test_an_error_is_no_success_without_contours(bench: Any) -> None:
    """Exceptions were swallowed: the workflow went on, and the image had no contours."""
    with pytest.raises(HostFailure, match="exited with code 137"):
        get(bench, bench.host.image(), bench.scripted().url, model="failing")


def no_timeout(bench: Any) -> None:
    bench.patch.setattr(bench.part("client_backend")._Call, "patience", lambda self, most=None: None)


@against(no_timeout)
def test_a_silent_server_holds_nobody(bench: Any) -> None:
    """No call had a timeout."""
    server = bench.scripted()
    image = bench.host.image()
    uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
    server.faults.add(Fault(action="hang", seconds=8.0, times=-1))
    begin = time.monotonic()
    with pytest.raises(HostFailure):
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 1)
    assert time.monotonic() - begin < 7


@against(lambda bench: old_wait(bench, time.sleep))
def test_an_interval_of_nothing_ends_in_time(bench: Any) -> None:
    """The timeout was counted by sleeps, so an interval of 0 looped for ever, as fast as it could."""
    server = bench.scripted()
    with pytest.raises(HostFailure, match="time limit"):
        get(bench, bench.host.image(), server.url, 1, 0, model="sleeping")
    assert polls(server) < 5


@against(lambda bench: old_wait(bench, time.sleep))
def test_time_is_what_the_clock_says(bench: Any) -> None:
    """The timeout was counted by sleeps, so answers that take long were not counted."""
    server = bench.scripted(models={"sleeping": "never"})
    uid = bench.run("InferenceServer1images", image := bench.host.image(), "sleeping", 0, server.url)
    server.faults.add(Fault(action="drip", path=uid, seconds=0.02, times=-1))
    begin = time.monotonic()
    with pytest.raises(HostFailure):
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 4, 1)
    assert 0.9 < time.monotonic() - begin < 4.4


@against(lambda bench: old_wait(bench, lambda seconds: None))
def test_final_answers_end_the_waiting(bench: Any) -> None:
    """552, 553 and 554 were asked for again and again until the time was up."""
    server, image = bench.scripted(), bench.host.image()
    for model in ("failing", "losing"):
        with pytest.raises(HostFailure):
            get(bench, image, server.url, 100, 1, model=model)
    assert polls(server) == 2
    uid = bench.run("InferenceServer1images", image, "sleeping", 0, server.url)
    server.tasks.clear()
    with pytest.raises(HostFailure, match="No such task"):
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 100)
    assert len([seen for seen in server.requests if uid in seen.target]) <= 2, "one more, for rows that come late"


# ------------------------------------------------------------ the connection


def bundled(bench: Any) -> None:
    path = bench.folder / "bundled.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    bench.patch.setattr(bench.part("inference_client").Connection, "trust", lambda self: ssl.create_default_context(cafile=str(path)))


@against(bundled)
def test_public_authorities_are_trusted(bench: Any) -> None:
    """TLS was bound to three certificates in the package, so a server with an ordinary certificate was refused."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    system = bench.folder / "system.pem"
    system.write_bytes(authority.cert_pem.bytes())
    bench.patch.setenv("SSL_CERT_FILE", str(system))
    get(bench, image := bench.host.image(), bench.scripted(tls=context).url)
    assert image.names == ["First_Half", "Second_Half"]


def patched_connection(bench: Any, change: Callable[[Any, str], Any]) -> None:
    connection = bench.part("inference_client").Connection
    of = connection.of
    bench.patch.setattr(connection, "of", staticmethod(lambda url, folder: change(of, url)))


@against(lambda bench: patched_connection(bench, lambda of, url: dataclasses.replace(of(url, None), prefix="")))
def test_the_path_prefix_is_kept(bench: Any) -> None:
    """The prefix of a server behind a proxy was dropped."""
    server = bench.scripted(prefix="/hospital/delineate")
    for url in (server.url, server.url + "/"):
        get(bench, bench.host.image(), url)
    assert all(seen.target.startswith("/hospital/delineate/") for seen in server.requests)


def as_it_stands(of: Any, url: str) -> Any:
    """What an ancestor did: cut the text at its slashes and colons."""
    host, _, port = url.partition("://")[2].partition(":")
    return dataclasses.replace(of("http://x", None), host=host, port=int(port.rstrip("/") if not port.endswith("\n") else "x"))


@against(lambda bench: patched_connection(bench, as_it_stands))
def test_stray_blanks_and_a_missing_scheme(bench: Any) -> None:
    """Blanks that came along when the address was copied, and a name alone, gave an error that nobody understood."""
    server, image = bench.scripted(), bench.host.image()
    get(bench, image, f"  {server.url}/ \n")
    with pytest.raises(HostFailure, match=r"has no scheme\. Write https://server\.example"):
        get(bench, image, "server.example")


def uid_as_it_is(bench: Any) -> None:
    flows, client = bench.part("inference_flows"), bench.part("inference_client").InferenceClient
    bench.patch.setattr(flows, "require_uid", lambda uid: None)
    bench.patch.setattr(flows, "quote", lambda text: text)

    def get_task(self: Any, uid: str, grid: Any = None) -> Any:
        path = bench.folder / "result"
        with path.open("w+b") as sink:
            self._backend.get(uid, sink, self._timeout, self._interval)
        return bench.part("task_output").TaskOutput(str(path), grid)

    bench.patch.setattr(client, "get_task", get_task)


@against(uid_as_it_is)
def test_a_uid_is_stripped(bench: Any) -> None:
    """A line break behind the uid made a request that no server understands."""
    server = bench.scripted()
    uid = bench.run("InferenceServer1images", image := bench.host.image(), "noop", 0, server.url)
    bench.run("InferenceServerGetFromUid", f"\t{uid}\r\n", image, server.url, 1, 1)
    assert image.names


@against(uid_as_it_is)
def test_what_is_no_uid_is_never_part_of_a_path(bench: Any) -> None:
    """A uid was put into the path as it was, `..` included."""
    server, image = bench.scripted(), bench.host.image()
    for uid in ("../models/", "a?b=c", "", "%2e%2e"):
        with pytest.raises(HostFailure, match="no uid"):
            bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 2)
    assert server.requests == []


# ------------------------------------------------------------ memory


def whole_upload(bench: Any) -> None:
    def blocks(self: Any) -> Iterator[bytes]:
        yield Path(self.path).read_bytes()[self.offset : self.offset + self.length]

    bench.patch.setattr(bench.part("messages").FileBody, "__iter__", blocks)


@against(whole_upload)
def test_an_archive_is_never_in_memory_as_it_is_sent(bench: Any) -> None:
    """Whole archives were held in memory, twice over, while they were sent."""
    post, peaks = bench.part("client_backend").ClientBackend.post, []

    def measured(self: Any, model: str, archive: str, timeout: float) -> str:
        assert Path(archive).stat().st_size > 16 << 20
        tracemalloc.reset_peak()
        begin = tracemalloc.get_traced_memory()[0]
        uid: str = post(self, model, archive, timeout)
        peaks.append(tracemalloc.get_traced_memory()[1] - begin)
        return uid

    bench.patch.setattr(bench.part("client_backend").ClientBackend, "post", measured)
    geometry = Geometry((256, 256, 160))
    image, server = bench.host.image(geometry), bench.scripted()
    with traced():
        bench.run("InferenceServer1images", image, "sleeping", 0, server.url)  # whose server makes no result in this process
    assert peaks[0] < 8 << 20


def whole_download(bench: Any) -> None:
    bench.patch.setattr(bench.part("client_backend"), "_blocks", lambda answer: iter([answer.read()]))


@against(whole_download)
def test_an_archive_is_never_in_memory_as_it_comes(bench: Any) -> None:
    """Whole results were held in memory."""
    image = bench.host.image()
    path = bench.result(np.ones((11, 19, 23)), {1: "All"}, container__log=np.random.default_rng(0).bytes(24 << 20))
    server = bench.scripted(result=path)
    with traced():
        get(bench, image, server.url)
        peak = tracemalloc.get_traced_memory()[1]
    assert image.names == ["All"]
    assert peak < 12 << 20


@contextlib.contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


class Expanded(dict[str, np.ndarray]):
    """All masks at once."""

    def __init__(self, masks: Any) -> None:
        super().__init__({name: masks[name] for name in masks})
        self.shape = masks.shape

    def is_empty(self, name: str) -> bool:
        return not self[name].any()


def expand_all(bench: Any) -> None:
    output = bench.part("task_output").TaskOutput
    lazy = output.get_output_as_label_array_dict
    bench.patch.setattr(output, "get_output_as_label_array_dict", lambda self: Expanded(lazy(self)))


@against(expand_all)
def test_masks_are_expanded_one_at_a_time(bench: Any) -> None:
    """All masks of a result were in memory together, one byte for each voxel of each structure."""
    image = bench.host.image(Geometry((128, 128, 60)))
    labels = np.zeros((60, 256, 256), np.uint8)
    for label in range(1, 21):
        labels[:, 10 * label : 10 * label + 8, 30:200] = label
    server = bench.scripted(result=bench.result(labels, {label: f"S{label}" for label in range(1, 21)}))
    mask = labels.nbytes
    uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
    with traced():
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 30)
        peak = tracemalloc.get_traced_memory()[1]
    assert len(image.names) == 20
    assert peak < 5 * mask  # the host's own copies among them


# ------------------------------------------------------------ names and files


def replace_characters(bench: Any) -> None:
    bench.patch.setattr(bench.part("task_input"), "_file_name", lambda name, writer: re.sub(r"[/:?]", "_", name))


@against(replace_characters)
def test_names_that_become_one_file_name_are_all_sent(bench: Any) -> None:
    """a/b, a:b and a?b became one file, and the last one won."""
    image, server = bench.host.image(), bench.scripted()
    shape = image.contour_geometry.shape
    for number, name in enumerate(("a/b", "a:b", "a?b", "A_B"), start=1):
        image.add_contour(name, np.arange(np.prod(shape)).reshape(shape) < number)
    bench.run("InferenceServer1imagesContours", image, "noop", 0, 1, "", server.url)
    assert exported(server) == {"a/b": 1, "a:b": 2, "a?b": 3, "A_B": 4}


def exported(server: Any) -> dict[str, int]:
    """Voxels of the contours in an upload, by the name that its file states."""
    counts = {}
    with zipfile.ZipFile(io.BytesIO(server.uploads[-1].read())) as archive:
        assert len({name.lower() for name in archive.namelist()}) == len(archive.namelist())
        for name in archive.namelist():
            about = json.loads(archive.read(name)) if name.endswith(".json") else {}
            if "multiplier" in about:
                voxels = gzip.decompress(archive.read(name[: -len(".json")] + ".nii.gz"))[352:]
                counts[about["name"]] = sum(voxels)
    return counts


@against(replace_characters)
def test_a_contour_called_like_an_image_replaces_none(bench: Any) -> None:
    """A contour called tmp_0000 overwrote the image."""
    image, server = bench.host.image(), bench.scripted()
    image.add_contour("tmp_0000", np.ones(image.contour_geometry.shape, dtype=bool))
    bench.run("InferenceServer1imagesContours", image, "noop", 0, 1, "tmp_0000", server.url)
    with zipfile.ZipFile(io.BytesIO(server.uploads[-1].read())) as archive:
        assert [name for name in archive.namelist() if name.startswith("tmp_")] == ["tmp_0000.nii.gz", "tmp_0000.meta.json"]
        sent = gzip.decompress(archive.read("tmp_0000.nii.gz"))[352:]
    assert sent == image.volume.voxels.tobytes()
    assert exported(server) == {"tmp_0000": image.contours[0].count}


def demand_pairs(bench: Any) -> None:
    output = bench.part("task_output")
    read = output.read_layers

    def strict(walker: Any, notes: list[str]) -> Any:
        names = walker.names()
        for name in names:
            if name.endswith(".json") and name[: -len(".json")] + ".nii.gz" not in names:
                raise FileNotFoundError(name)
        return read(walker, notes)

    bench.patch.setattr(output, "read_layers", strict)


@against(demand_pairs)
def test_another_json_does_not_lose_the_result(bench: Any) -> None:
    """A .json without a label map failed the whole result."""
    image = bench.host.image()
    path = bench.result(np.ones((11, 19, 23)), {1: "All"}, scores__json=b'{"certainty": 0.9}', broken__json=b"{")
    get(bench, image, bench.scripted(result=path).url)
    assert image.names == ["All"]
    assert "'scores.json' is ignored" in bench.log


def nothing_is_fine(bench: Any) -> None:
    output = bench.part("task_output")
    read = output.read_layers
    bench.patch.setattr(output, "read_layers", lambda walker, notes: read(walker, notes) if "r.json" in walker.names() else iter(()))
    globals_ = ext_of(bench)
    bench.patch.setitem(globals_, "_load", lambda session, image, client, uid, say: client.get_task(uid))


@against(nothing_is_fine)
def test_a_result_without_names_is_an_error(bench: Any) -> None:
    """An archive without a .json was a success without contours."""
    path = bench.result(np.ones((11, 19, 23)), None)
    with pytest.raises(HostFailure, match=r"holds no label map with names"):
        get(bench, bench.host.image(), bench.scripted(result=path).url)


# ------------------------------------------------------------ the patient's image


def overwrite(bench: Any) -> None:
    module = bench.part("contour_loader")

    def plan(self: Any, masks: Any) -> list[Any]:
        there = {contour.getInfo().getName(): contour for contour in list(self._image.getContours())}
        return [module._Step(name, name, there.get(name), False) for name in masks]

    bench.patch.setattr(module.ContourLoader, "_plan", plan)


@against(overwrite)
def test_a_hand_drawn_contour_is_not_overwritten(bench: Any) -> None:
    """A contour of a structure's name was replaced by the model's."""
    image = bench.host.image()
    drawn = image.add_contour("All", np.indices(image.contour_geometry.shape)[2] < 5)
    before = bench.host.snapshot()
    get(bench, image, bench.scripted(result=bench.result(np.ones((11, 19, 23)), {1: "All"})).url)
    assert before.contours[0] == bench.host.snapshot().contours[0]
    assert (image.names, drawn.writes) == (["All", "All 2"], 0)


@against(overwrite)
def test_a_hand_drawn_contour_is_not_emptied(bench: Any) -> None:
    """A structure of which nothing was found emptied the contour of its name."""
    image = bench.host.image()
    image.add_contour("Nothing", np.indices(image.contour_geometry.shape)[2] < 5)
    before = bench.host.snapshot()
    get(bench, image, bench.scripted(result=bench.result(np.ones((11, 19, 23)), {1: "All", 2: "Nothing"})).url)
    assert before.contours[0] == bench.host.snapshot().contours[0]
    assert image.names == ["Nothing", "All"]
    assert "Nothing was found of Nothing" in bench.log


@against(lambda bench: bench.patch.setattr(bench.part("contour_loader").ContourLoader, "_roll_back", lambda self: None))
def test_a_failure_half_way_leaves_no_contours(bench: Any) -> None:
    """What was set before an error stayed."""
    image = bench.host.image()
    image.add_contour("S2")
    labels = np.arange(11 * 19 * 23).reshape(11, 19, 23) % 4
    server = bench.scripted(result=bench.result(labels, {1: "S1", 2: "S2", 3: "S3"}))
    uid = bench.run("InferenceServer1images", image, "noop", 0, server.url)
    bench.host.fail_on(3, "XMimContourData.setFromNPArray")
    with pytest.raises(HostFailure) as raised:
        bench.run("InferenceServerGetFromUid", uid, image, server.url, 1, 20)
    assert not isinstance(raised.value, LeftBehind), raised.value


def leaking_probe(bench: Any) -> None:
    def multiplier(image: Any, size: Any) -> Any:
        probe = image.createNewContour("tmp")
        factor = tuple(int(n) for n in probe.getMultiplier())
        probe.delete()
        return factor

    bench.patch.setattr(bench.part("task_input"), "_multiplier", multiplier)


@against(leaking_probe)
def test_the_probe_for_the_multiplier_does_not_stay(bench: Any) -> None:
    """The multiplier was learnt by a contour on the patient's image, which stayed there on an error."""
    for call in ("XMimContour.getMultiplier", "XMimContour.delete"):
        bench.host.forget()
        bench.host.fail_on(1, call)
        with contextlib.suppress(HostFailure):
            bench.run("InferenceServer1images", image := bench.host.image(), "noop", 0, bench.scripted().url)
        assert image.contours == []


# ------------------------------------------------------------ the uid


def tell_the_uid(bench: Any) -> None:
    backend = bench.part("client_backend").ClientBackend
    run = backend.get

    def told(self: Any, uid: str, *arguments: Any) -> None:
        self._say("getting task " + uid)
        run(self, uid, *arguments)

    bench.patch.setattr(backend, "get", told)


@against(tell_the_uid)
def test_the_uid_is_not_in_the_log(bench: Any) -> None:
    """The uid, with which anybody can fetch and delete the task, was written to the log."""
    server = bench.scripted()
    uid = get(bench, bench.host.image(), server.url)
    assert uid not in bench.log
    assert not UID.search(bench.log)
