"""Entry points: what the workstation sees of them, and that each ends with success or with one sentence."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delineate import __version__
from delineate.client.packing import packed
from delineate.errors import GeometryError
from delineate.geometry import Geometry
from delineate.testing.faults import Fault
from delineate.testing.mimhost import Host, HostImage, JavaError, installed, leaks
from delineate.testing.script import FAILURE, Script
from delineate.testing.scripted import ScriptedServer, refusing_url
from delineate.volume import Volume

IMAGES = ("img_zero", "img_one", "img_two", "img_three")
POSTS = [f"InferenceServer{n}images" for n in range(1, 5)]
IN_ONE_GO = ["DelineateImages", "Delineate2Images", "Delineate3Images", "Delineate4Images"]


@pytest.fixture(scope="module")
def ext() -> Iterator[Any]:
    """The entry module, imported with the fake workstation's MIMPython."""
    with installed():
        yield importlib.import_module("delineate.mim.ext")
    del sys.modules["delineate.mim.ext"]


class Session:
    """Has a log and nothing else."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.errors: list[str] = []

    def createLogger(self) -> Any:
        return types.SimpleNamespace(info=self.told.append, error=self.errors.append)


class Workstation:
    """What stands for the images: what `TaskInput` and `ContourLoader` are asked, and what they answer."""

    def __init__(self, archive: str) -> None:
        self.archive = archive
        self.asked: list[tuple[Any, ...]] = []
        self.names = ["Left", "Right"]
        self.failure: BaseException | None = None

    def of(self, session: Any, images: Any, model: str, **options: Any) -> Any:
        options.pop("say")
        self.asked.append(("task", images, options))
        return types.SimpleNamespace(model=model, archive=lambda: contextlib.nullcontext(self.archive))

    def grid(self, session: Any, image: Any) -> None:
        self.asked.append(("grid", image))
        if self.failure is not None:
            raise self.failure

    def loader(self, session: Any, image: Any, say: Any, *, overwrite: bool) -> Any:
        def load(output: Any) -> list[str]:
            self.asked.append(("overwrite" if overwrite else "load", image, list(output.get_output_as_label_array_dict())))
            return self.names

        return types.SimpleNamespace(load=load)


@pytest.fixture
def workstation(ext: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workstation]:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 0.2)
    monkeypatch.setattr(ext, "FOLDER", str(tmp_path))
    with packed([Volume(np.arange(160, dtype=np.int16).reshape(4, 5, 8), Geometry((8, 5, 4)))]) as path:
        made = Workstation(str(path))
        monkeypatch.setattr(ext, "TaskInput", made)
        monkeypatch.setattr(ext, "image_grid", made.grid)
        monkeypatch.setattr(ext, "ContourLoader", made.loader)
        yield made


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(Script(dialect="v1", polls=0, late_row=False)) as running:
        yield running


def refusal(session: Session, function: Any, *arguments: Any) -> str:
    """The sentence with which a call ends; it is the only one in the log's errors, and nothing hangs on the error."""
    with pytest.raises(RuntimeError) as raised:
        function(session, *arguments)
    assert type(raised.value) is RuntimeError
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    sentence = str(raised.value)
    assert session.errors == [sentence]
    assert "\n" not in sentence
    return sentence


# ------------------------------------------------------------ what the workstation sees


def described(function: Any) -> tuple[list[tuple[str, str]], str | None]:
    signature = inspect.signature(function)
    given = [(p.name, p.annotation.__name__) for p in signature.parameters.values()]
    back = signature.return_annotation
    return given, None if back is signature.empty else back.__name__


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_parameters_of_those_that_send(ext: Any, count: int) -> None:
    begin = [("session", "XMimSession"), *((name, "XMimImage") for name in IMAGES[:count]), ("model_human_readable_id", "String")]
    plain = [("export_dicom_info", "Integer"), ("server_url", "String")]
    assert described(getattr(ext, POSTS[count - 1])) == (begin + plain, "String")
    contours = [("export_contours", "Integer"), ("contour_names", "String")]
    assert described(getattr(ext, POSTS[count - 1] + "Contours")) == (begin + plain[:1] + contours + plain[1:], "String")
    assert described(getattr(ext, IN_ONE_GO[count - 1])) == ([*begin, ("server_url", "String"), ("timeout_sec", "Integer")], None)


def test_parameters_of_the_one_that_gets(ext: Any) -> None:
    assert described(ext.InferenceServerGetFromUid) == (
        [
            ("session", "XMimSession"), ("uid", "String"), ("reference_image", "XMimImage"), ("server_url", "String"),
            ("polling_interval_sec", "Integer"), ("timeout_sec", "Integer"),
        ],
        None,
    )  # fmt: skip


def test_what_a_person_reads_of_each(ext: Any) -> None:
    entries = {name: value.info for name, value in vars(ext).items() if hasattr(value, "info")}
    assert set(entries) == {*POSTS, *(name + "Contours" for name in POSTS), "InferenceServerGetFromUid", *IN_ONE_GO}
    for name, info in entries.items():
        assert (info["NAME"], info["METHOD"], info["VERSION"]) == (name, name, __version__)
        assert info["DESC"].endswith(".")
        assert info.get("OUTPUT_NAME_0") == ("uid" if name.startswith(tuple(POSTS)) else None)
    assert len({info["DESC"] for info in entries.values()}) == len(entries)


# ------------------------------------------------------------ success


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_post_then_get(ext: Any, workstation: Workstation, server: ScriptedServer, count: int) -> None:
    session, images = Session(), list("abcd"[:count])
    uid = getattr(ext, POSTS[count - 1])(session, *images, " noop ", 1, f" {server.url}\n")
    assert list(server.tasks) == [uid]
    assert ext.InferenceServerGetFromUid(session, f" {uid}\n", "a", server.url, 0, 20) is None
    assert workstation.asked == [
        ("task", images, {"with_dicom_info": True, "contour_names": None}), ("grid", "a"), ("load", "a", ["First_Half", "Second_Half"]),
    ]  # fmt: skip
    assert session.told == ["Sending", "Contours are set: Left, Right."]
    assert session.errors == []


@pytest.mark.parametrize(("flag", "names", "wanted"), [(0, "a", None), (1, "", []), (1, " ", []), (1, "a, b c ,,d", ["a", "b c", "d"])])
def test_contours_that_are_sent(
    ext: Any, workstation: Workstation, server: ScriptedServer, flag: int, names: str, wanted: list[str] | None
) -> None:
    ext.InferenceServer2imagesContours(Session(), "a", "b", "noop", 0, flag, names, server.url)
    assert workstation.asked == [("task", ["a", "b"], {"with_dicom_info": False, "contour_names": wanted})]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_in_one_go(ext: Any, workstation: Workstation, server: ScriptedServer, count: int) -> None:
    session, images = Session(), list("abcd"[:count])
    assert getattr(ext, IN_ONE_GO[count - 1])(session, *images, "noop", server.url, 20) is None
    assert [(asked[0], asked[1]) for asked in workstation.asked] == [("task", images), ("grid", "a"), ("load", "a")]
    assert not any(uid in line for uid in server.tasks for line in session.told)


def test_contours_are_replaced_where_the_workflow_says_so(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    assert ext.DelineateImages(Session(), "a", "noop", server.url + "#overwrite=yes", 20) is None
    assert [asked[0] for asked in workstation.asked] == ["task", "grid", "overwrite"]


def test_the_file_beside_the_extension_names_the_server(ext: Any, workstation: Workstation, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "delineate.ini").write_text(f"[server]\nurl = {server.url}\ntoken = t0ken\n")
    assert ext.InferenceServer1images(Session(), "a", "noop", 0, "") in server.tasks
    assert server.requests[-1].headers["x-token"] == "t0ken"


# ------------------------------------------------------------ one sentence


def test_the_model_s_reason(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    session = Session()
    uid = ext.InferenceServer1images(session, "a", "failing", 0, server.url)
    sentence = refusal(session, ext.InferenceServerGetFromUid, uid, "a", server.url, 1, 20)
    assert sentence.startswith(FAILURE.replace("the container", "The container"))
    assert uid not in sentence


def test_nothing_found_is_no_success(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    workstation.names = []
    assert "found nothing" in refusal(Session(), ext.DelineateImages, "a", "noop", server.url, 20)


def test_too_late_says_what_to_do_next(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    session = Session()
    uid = ext.InferenceServer1images(session, "a", "sleeping", 0, server.url)
    assert "InferenceServerGetFromUid" in refusal(session, ext.InferenceServerGetFromUid, uid, "a", server.url, 1, 1)
    sentence = refusal(Session(), ext.DelineateImages, "a", "sleeping", server.url, 1)
    assert sentence.startswith("The time limit of 1 s passed"), "not what sending left of it"
    last = server.requests[-1]
    assert (last.method, last.target) == ("POST", f"/api/tasks/{[*server.tasks][-1]}/cancel"), "nobody has its uid"
    assert "larger timeout_sec" in sentence
    assert "with its uid" not in sentence, "nobody has one"


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_time_limit_that_makes_no_sense(ext: Any, workstation: Workstation, server: ScriptedServer, timeout: int) -> None:
    assert f"timeout_sec is {timeout}" in refusal(Session(), ext.InferenceServerGetFromUid, "u" * 43, "a", server.url, 1, timeout)
    assert f"timeout_sec is {timeout}" in refusal(Session(), ext.DelineateImages, "a", "noop", server.url, timeout)
    assert server.requests == []


@pytest.mark.parametrize("value", [2, -1])
def test_a_flag_that_is_neither(ext: Any, workstation: Workstation, server: ScriptedServer, value: int) -> None:
    assert "xport_dicom_info is neither 0 nor 1" in refusal(Session(), ext.InferenceServer1images, "a", "noop", value, server.url)
    assert "xport_contours is neither" in refusal(Session(), ext.InferenceServer1imagesContours, "a", "noop", 0, value, "", server.url)
    assert workstation.asked == server.requests == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("server.example", "Write https://server.example"),
        ("", "No server was given"),
        ("https://u:p@h", "token"),
        ("gone", "nothing listens"),
    ],
)
def test_a_server_that_cannot_be_reached(ext: Any, workstation: Workstation, url: str, words: str) -> None:
    with refusing_url() as nobody:
        assert words in refusal(Session(), ext.InferenceServer1images, "a", "noop", 0, nobody if url == "gone" else url)


def test_a_login_page(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    server.faults.add(Fault(action="redirect", location="https://sso.example/login", times=-1))
    assert "login page" in refusal(Session(), ext.InferenceServer1images, "a", "noop", 0, server.url)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (GeometryError("two grids", "Use one."), "Two grids. Use one."),
        (MemoryError(), "not enough memory"),
        (OSError(28, "No space left on device", "/home/doe/x"), "No space left on device"),
        (JavaError("java.lang.IllegalStateException", "image of Doe^John"), "refused a step (java.lang.IllegalStateException at "),
        (KeyError("Doe^John"), "refused a step (KeyError at ext.py:"),
        (Exception("Doe^John: x"), "refused a step (Exception at ext.py:"),
    ],
)
def test_every_error_is_a_sentence_without_the_patient(
    ext: Any, workstation: Workstation, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, failure: BaseException, words: str
) -> None:
    monkeypatch.setattr(ext, "FOLDER", str(Path(ext.__file__).parent))
    workstation.failure = failure
    sentence = refusal(Session(), ext.InferenceServerGetFromUid, "u" * 43, "a", server.url, 1, 20)
    assert words in sentence
    assert "oe^" not in sentence
    assert "doe" not in sentence
    assert server.requests == [], "what is wrong with the image is told before anybody waits"


def test_a_log_that_throws_costs_nothing_and_hides_nothing(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    def throw(line: str) -> None:
        raise ValueError("java.io.IOException: log")

    class Silent(Session):
        def createLogger(self) -> Any:
            return types.SimpleNamespace(info=throw, error=throw)

    uid = ext.InferenceServer1images(Silent(), "a", "noop", 0, server.url)
    assert uid in server.tasks
    assert ext.InferenceServerGetFromUid(Silent(), uid, "a", server.url, 1, 20) is None
    with pytest.raises(RuntimeError, match="neither 0 nor 1"):
        ext.InferenceServer1images(Silent(), "a", "noop", 7, server.url)


def test_a_session_without_log(ext: Any) -> None:
    with pytest.raises(RuntimeError, match="AttributeError"):
        ext.InferenceServer1images(object(), "a", "noop", 0, "https://server.example")


def test_advice_for_the_workstation_names_no_command_line(ext: Any, workstation: Workstation, server: ScriptedServer) -> None:
    sentence = refusal(Session(), ext.InferenceServer1images, "a", "no-such", 0, server.url)
    assert "model_human_readable_id" in sentence
    assert "`delineate" not in sentence


# ------------------------------------------------------------ with a workstation


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    monkeypatch.setattr("delineate.protocols.messages.FIRST_CONTACT", 0.2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Host(multiplier=(2, 3, 1)) as made:
        yield made
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("scripted-")] == []


def handles(host: Host, count: int) -> list[Any]:
    return [host.image().handle for _ in range(count)]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("dialect", ["seed", "v1", "v2"])
def test_from_image_to_contours(ext: Any, host: Host, dialect: str, count: int) -> None:
    images = handles(host, count)
    with ScriptedServer(Script(dialect=dialect, polls=0, late_row=False)) as server:
        uid = getattr(ext, POSTS[count - 1])(host.session, *images, "noop", 0, server.url)
        ext.InferenceServerGetFromUid(host.session, uid, images[0], server.url, 1, 20)
        sent = server.uploads[0].read()
    assert [image.names for image in host.images] == [["First_Half", "Second_Half"], [], [], []][:count]
    first, second = (host.images[0].contour(name).mask for name in ("First_Half", "Second_Half"))
    half = first.shape[2] // 2 // 2 * 2  # the scripted model halves the image along x
    assert first[:, :, :half].all()
    assert second[:, :, half + 2 :].all()
    assert not (first & second).any()
    assert leaks(sent) == []
    text = " ".join(line.text for line in host.log)
    assert uid not in text
    assert leaks(text.encode()) == []
    assert host.misuses == []


def test_attributes_leave_when_asked(ext: Any, host: Host, server: ScriptedServer) -> None:
    (image,) = handles(host, 1)
    ext.InferenceServer1images(host.session, image, "noop", 1, server.url)
    assert leaks(server.uploads[0].read())


def calls_of(host: Host, function: Any, *arguments: Any) -> int:
    host.forget()
    function(host.session, *arguments)
    return len(host.calls)


def prepared(host: Host) -> HostImage:
    """An image with one contour to keep and one to fill."""
    image = host.image()
    image.add_contour("First_Half", np.ones(image.contour_geometry.shape, dtype=bool))
    image.add_contour("Second_Half")
    return image


def test_a_workstation_that_throws_at_every_call_in_turn(ext: Any, server: ScriptedServer) -> None:
    """Each time one sentence without the patient, no contour more or less, no task that nobody waits for when the image cannot be read."""
    with Host(multiplier=(2, 2, 1)) as trial:
        number = calls_of(trial, ext.DelineateImages, prepared(trial).handle, "noop", server.url, 20)
        assert trial.calls[-1] == "XMimLogger.info"
    assert number > 50
    unheard = []
    for n in range(1, number + 1):
        with Host(multiplier=(2, 2, 1)) as host:
            image = prepared(host)
            before = host.snapshot()
            handle, session = image.handle, host.session
            host.fail_on(n)
            try:
                ext.DelineateImages(session, handle, "noop", server.url, 20)
            except RuntimeError as error:
                assert before.changes(host.snapshot()) == [], f"call {n} of {number}"
                lines = [line.text for line in host.log if line.level == "error"]
                assert lines in ([str(error)], [])
                assert leaks(str(error).encode()) == []
                if not lines:
                    unheard.append(n)
            else:
                assert image.names == ["First_Half", "Second_Half", "First_Half 2"], f"call {n} of {number}"
            assert leaks(" ".join(line.text for line in host.log).encode()) == []
    assert unheard == [1], "only where there is no log yet"
