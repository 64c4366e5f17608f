"""Built extensions in the fake workstation: what is loaded, what is refused, what counts as a failure."""

from __future__ import annotations

import re
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from delineate.testing.mimhost import (
    CHOICES,
    GEOMETRY,
    MULTIPLIERS,
    ExtensionError,
    Host,
    HostFailure,
    JavaError,
    LeftBehind,
    Options,
    Runner,
    installed,
    running,
    tilted,
)
from delineate.testing.mimhost.properties import read_properties

EXT = """
import os
import sys
from MIMPython.EntryPoint import mim_extension_entrypoint
from MIMPython.SupportedIOTypes import Integer, String, XMimContour, XMimImage, XMimSession
{imports}

TEXTS = dict(author="A", description="one: two = 3", category="C", institution="Ü", version=1.1)


@mim_extension_entrypoint(name="Show it", outputNames=["out"], **TEXTS)
def Show(session: XMimSession, image: XMimImage, text: String, number: Integer) -> String:
    session.createLogger().info("text")
    return {{"": text * number, "none": None, "bytes": b"", "subclass": type("S", (str,), {{}})("x")}}.get(text, text * number)


@mim_extension_entrypoint(name="Draw", outputNames=["contour"], **TEXTS)
def Draw(session: XMimSession, image: XMimImage, how: String) -> XMimContour:
    contour = image.createNewContour("drawn")
    if how == "raise":
        raise ValueError("no")
    if how == "exit":
        sys.exit("exit")
    if how == "java":
        contour.getData().setFromNPArray(None)
    if how == "clean":
        contour.delete()
        raise ValueError("clean")
    return None if how == "none" else contour


@mim_extension_entrypoint(name="Fill", **TEXTS)
def Fill(session: XMimSession, contour: XMimContour, how: Integer):
    data = contour.getData()
    if how == 1:
        data.setFromNPArray(data.copyToNPArray() == 0)
        raise ValueError("after")
    if how == 2:
        try:
            contour.getData().setFromNPArray([])
        except Exception:
            pass
    return "something" if how == 3 else None


@mim_extension_entrypoint(name="Where", outputNames=["place"], **TEXTS)
def Where(session: XMimSession) -> String:
    {where}
"""
IMPORTS = "from {prefix}helper_mod import WORD"


def properties(**changed: str) -> str:
    entries = [
        ("Show it", "Show", ["image XMimImage", "text String", "number Integer"], ["out String"]),
        ("Draw", "Draw", ["image XMimImage", "how String"], ["contour XMimContour"]),
        ("Fill", "Fill", ["contour XMimContour", "how Integer"], []),
        ("Where", "Where", [], ["place String"]),
    ]
    java = {
        "String": "java.lang.String", "Integer": "int", "XMimImage": "com.mimvista.external.series.XMimImage",
        "XMimContour": "com.mimvista.external.contouring.XMimContour", "XMimSession": "com.mimvista.external.control.XMimSession",
    }  # fmt: skip
    values = {"ENTRY_COUNT": str(len(entries)), "EXTENSION_TYPE": "Python", "CREATION_DATE": "2026-01-01 00\\:00\\:00"}
    for i, (name, method, parameters, outputs) in enumerate(entries):
        texts = {"NAME": name, "METHOD": method, "AUTHOR": "A", "DESC": "one\\: two \\= 3", "CATEGORY": "C", "COMPANY": "\\u00DC"}
        values.update({f"{key}_{i}": value for key, value in texts.items()}, **{f"VERSION_{i}": "1.1"})
        for kind, pairs in (("PARAM", ["session XMimSession", *parameters]), ("OUTPUT", outputs)):
            values[f"{kind}_COUNT_{i}"] = str(len(pairs))
            for j, pair in enumerate(pairs):
                values[f"{kind}_NAME_{i}_{j}"], values[f"{kind}_TYPE_{i}_{j}"] = pair.split()[0], java[pair.split()[1]]
    values.update(changed)
    return "# comment\n" + "".join(f"{key}={value}\n" for key, value in values.items() if value != "-")


def extension(path: Path, word: str = "one", *, manifest: str = "", ext: str = "", where: str = "return WORD", prefix: str = "") -> Path:
    """A small extension with a helper module that knows `word`."""
    source = ext or EXT.format(imports=IMPORTS.format(prefix=prefix), where=textwrap.indent(where, "    ").strip())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("info.properties", manifest or properties())
        archive.writestr("src/ext.py", source)
        archive.writestr("src/helper_mod.py", f"WORD = {word!r}\n")
        archive.writestr("src/late_mod.py", "LATE = 'late'\n")
    return path


@pytest.fixture
def host() -> Iterator[Host]:
    before, path = set(sys.modules), list(sys.path)
    with Host() as host:
        yield host
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("ext", "src", "helper_mod", "late_mod"):
            del sys.modules[name]
    assert sys.path == path


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    return extension(tmp_path / "x.zip")


# ------------------------------------------------------------ MIMPython


def test_mimpython_is_there_between_with_and_its_end() -> None:
    names = ("MIMPython", "MIMPython.EntryPoint", "MIMPython.SupportedIOTypes")
    with Host():
        from MIMPython.EntryPoint import mim_extension_entrypoint  # type: ignore[import-not-found]
        from MIMPython.SupportedIOTypes import Integer, XMimImage  # type: ignore[import-not-found]

        with pytest.raises(ImportError):
            from MIMPython.SupportedIOTypes import Double  # noqa: F401
        assert callable(mim_extension_entrypoint)
        assert (Integer.java_name, XMimImage.java_name) == ("int", "com.mimvista.external.series.XMimImage")
        with installed():
            assert all(name in sys.modules for name in names)
        assert sys.modules["MIMPython.SupportedIOTypes"].Integer is Integer
    assert not any(name in sys.modules for name in names)


def decorated(code: str, **changed: Any) -> Any:
    texts = {"name": "N", "author": "A", "description": "D", "category": "C", "institution": "I", "version": "1", **changed}
    texts = {key: value for key, value in texts.items() if value is not None}
    with installed():
        scope: dict[str, Any] = {"texts": texts}
        head = "from MIMPython.EntryPoint import *\nfrom MIMPython.SupportedIOTypes import *\n@mim_extension_entrypoint(**texts)\n"
        exec(compile(head + code, "ext.py", "exec", dont_inherit=True), scope)  # else annotations would be text, as here
        return scope["f"]


def test_a_decorated_function_stays_callable_and_has_its_entries() -> None:
    function = decorated("def f(session: XMimSession, n: Integer) -> String: return 'x' * n", outputNames=["out"], version=0.2)
    assert function(None, 2) == "xx"
    assert function.info == {
        "NAME": "N", "AUTHOR": "A", "DESC": "D", "CATEGORY": "C", "COMPANY": "I", "VERSION": "0.2", "METHOD": "f", "PARAM_COUNT": "2",
        "PARAM_NAME_0": "session", "PARAM_TYPE_0": "com.mimvista.external.control.XMimSession", "PARAM_NAME_1": "n", "PARAM_TYPE_1": "int",
        "OUTPUT_COUNT": "1", "OUTPUT_NAME_0": "out", "OUTPUT_TYPE_0": "java.lang.String",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "changed", "error", "words"),
    [
        ("def f(session: XMimSession): ...", {"colour": "red"}, TypeError, "'colour'"),
        ("def f(session: XMimSession): ...", {"author": None}, TypeError, "'author'"),
        ("def f(session: XMimSession): ...", {"outputNames": ["out"]}, ValueError, "1 outputNames for 0"),
        ("def f(session: XMimSession) -> String: ...", {}, ValueError, "0 outputNames for 1"),
        ("def f(image: XMimImage): ...", {}, ValueError, "not the session"),
        ("def f(): ...", {}, ValueError, "not the session"),
        ("def f(session: XMimSession, n: int): ...", {}, TypeError, "n is declared as <class 'int'>"),
        ("def f(session: XMimSession, n): ...", {}, TypeError, "n is declared as <class 'inspect._empty'>"),
        ("def f(session: XMimSession, n: 'Integer'): ...", {}, TypeError, "__future__"),
        ("def f(session: XMimSession, n: Integer = 1): ...", {}, TypeError, "n is no plain parameter"),
        ("def f(session: XMimSession, *n: Integer): ...", {}, TypeError, "n is no plain parameter"),
        ("def f(session: XMimSession) -> None: ...", {"outputNames": ["out"]}, TypeError, "what is returned is declared as None"),
    ],
)
def test_what_the_workstation_cannot_read_is_refused(code: str, changed: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        decorated(code, **changed)


# ------------------------------------------------------------ loading


@pytest.mark.parametrize(("way", "prefix"), [("ext", ""), ("src.ext", "src.")])
def test_the_zip_is_loaded_either_way(tmp_path: Path, host: Host, way: Any, prefix: str) -> None:
    with running(host, extension(tmp_path / "x.zip", prefix=prefix), load_as=way) as runner:
        assert [entry.method for entry in runner.entries] == ["Show", "Draw", "Fill", "Where"]
        assert runner.run("Where").value == "one"
        assert way in runner.modules
        folder = runner.folder
    assert not folder.exists()
    assert runner.modules == []


def test_a_zip_that_loads_one_way_only(tmp_path: Path, host: Host) -> None:
    path = extension(tmp_path / "x.zip", prefix="src.")
    with pytest.raises(ExtensionError, match="loaded as ext: ModuleNotFoundError"):
        Runner(host, path).__enter__()


def test_modules_stay_loaded_as_in_the_workstation(tmp_path: Path, host: Host) -> None:
    old, new = extension(tmp_path / "old.zip", "old"), extension(tmp_path / "new.zip", "new")
    with Runner(host, old) as runner:
        assert runner.run("Where").value == "old"
    with Runner(host, new) as runner:
        assert runner.run("Where").value == "old", "the helper of the older extension, of the same name, is still there"
        runner.unload()
    del sys.modules["helper_mod"]
    with Runner(host, new) as runner:
        assert runner.run("Where").value == "new"


def test_late_imports_find_nothing_unless_the_path_stays(tmp_path: Path, host: Host) -> None:
    path = extension(tmp_path / "x.zip", where="from late_mod import LATE\nreturn LATE")
    with running(host, path) as runner, pytest.raises(HostFailure, match="late_mod"):
        runner.run("Where")
    with running(host, path, keep_path=True) as runner:
        assert runner.run("Where").value == "late"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"EXTENSION_TYPE": "Java"}, "EXTENSION_TYPE is Java"),
        ({"CREATION_DATE": "-"}, "CREATION_DATE is missing"),
        ({"ENTRY_COUNT": "0"}, "ENTRY_COUNT is 0"),
        ({"ENTRY_COUNT": "3"}, "what is AUTHOR_3"),
        ({"ENTRY_COUNT": "5"}, "METHOD_4"),
        ({"METHOD_0": "Shaw"}, "METHOD_0 is 'Shaw'"),
        ({"METHOD_0": "TEXTS"}, "METHOD_0 is 'TEXTS'"),
        ({"NAME_1": "Paint"}, "NAME_1 is 'Paint', and Draw declares 'Draw'"),
        ({"VERSION_1": "-"}, "VERSION_1 is None"),
        ({"PARAM_COUNT_0": "3"}, "PARAM_COUNT_0 is '3'"),
        ({"PARAM_TYPE_0_2": "int"}, "PARAM_TYPE_0_2 is 'int'"),
        ({"PARAM_NAME_0_2": "test"}, "PARAM_NAME_0_2 is 'test'"),
        ({"OUTPUT_TYPE_0_0": "int"}, "OUTPUT_TYPE_0_0"),
        ({"OUTPUT_NAME_2_0": "x"}, "what is OUTPUT_NAME_2_0"),
        ({"COMPANY_0": "\\uXX"}, "escape"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, host: Host, changed: dict[str, str], words: str) -> None:
    path = extension(tmp_path / "x.zip", manifest=properties(**changed))
    with pytest.raises(ExtensionError) as raised:
        Runner(host, path, keep_loaded=False).__enter__()
    assert words in str(raised.value)


def test_what_is_no_extension_is_refused(tmp_path: Path, host: Host) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ExtensionError, match="cannot be unpacked"):
        Runner(host, tmp_path / "text.zip").__enter__()
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("ext.py", "")
    with pytest.raises(ExtensionError, match=r"has no info\.properties"):
        Runner(host, tmp_path / "bare.zip").__enter__()
    with pytest.raises(ExtensionError, match="SyntaxError"):
        Runner(host, extension(tmp_path / "broken.zip", ext="def")).__enter__()
    with pytest.raises(ValueError, match=r"ext or as src\.ext"):
        Runner(host, tmp_path / "text.zip", load_as="src")  # type: ignore[arg-type]


def test_properties_are_read_as_java_reads_them() -> None:
    data = (
        b"# comment\r\n! another\n\n  a = 1\nb:2\nc 3 4\nd\\ e\\=f = \\ g\\u00e4\\t|\nlong = one, \\\n    two\n"
        b"emoji=\\uD83D\\uDE00\na=last\nempty=\nbare\nlatin=\xe4\nslash=x\\\\\nnext=1\n\\#no=comment\\\n"
    )
    assert read_properties(data) == {
        "a": "last", "b": "2", "c": "3 4", "d e=f": " gä\t|", "long": "one, two", "emoji": "😀", "empty": "", "bare": "",
        "latin": "ä", "slash": "x\\", "next": "1", "#no": "comment",
    }  # fmt: skip
    with pytest.raises(ValueError, match="escape"):
        read_properties(b"a=\\u12")


# ------------------------------------------------------------ running


def test_a_run_says_what_it_did(zip_path: Path, host: Host) -> None:
    image = host.image()
    with running(host, zip_path) as runner:
        outcome = runner.run("Show it", image, "ab", 2)
        assert (outcome.value, outcome.changes, outcome.log) == ("abab", (), (("info", "text"),))
        assert outcome.calls == ("XMimSession.createLogger", "XMimLogger.info")
        assert 0 < outcome.host_seconds <= outcome.seconds
        named = runner.run("Show", image.handle, number=3, text="c")
        assert named.value == "ccc"
        assert len(named.log) == 1, "of this run alone"
        drawn = runner.run("Draw", image, "")
        assert drawn.changes == ("image 0: the contour 'drawn' (0 voxels) was added",)
        filled = runner.run("Fill", image.contour("drawn"), 2)
        assert (filled.value, filled.changes, len(filled.misuses)) == (None, (), 1)
        with pytest.raises(KeyError, match="no entry point"):
            runner.run("Shaw")


@pytest.mark.parametrize(
    "arguments",
    [
        ("IMAGE", "a", "1"), ("IMAGE", "a", True), ("IMAGE", "a", 1.0), ("IMAGE", "a", None), ("IMAGE", "a", 2**31), ("IMAGE", 1, 1),
        ("IMAGE", b"a", 1), ("image", "a", 1), (None, "a", 1), ("STRANGE", "a", 1), ("CONTOUR", "a", 1), ("IMAGE", "a"),
        ("IMAGE", "a", 1, 1),
    ],
)  # fmt: skip
def test_arguments_of_another_type_are_refused(zip_path: Path, host: Host, arguments: tuple[object, ...]) -> None:
    image = host.image()
    things = {"IMAGE": image, "STRANGE": Host().image(), "CONTOUR": image.add_contour("A")}
    with running(host, zip_path) as runner, pytest.raises(TypeError):
        runner.run("Show", *(things.get(a, a) if isinstance(a, str) else a for a in arguments))


def test_named_arguments_are_those_of_the_manifest(zip_path: Path, host: Host) -> None:
    image = host.image()
    with running(host, zip_path) as runner:
        for named in ({"text": "a"}, {"text": "a", "number": 1, "colour": 2}, {"image": image, "text": "a", "number": 1}):
            with pytest.raises(TypeError, match="takes image, text, number"):
                runner.run("Show", image, **named)


def test_a_deleted_contour_is_not_handed_over(zip_path: Path, host: Host) -> None:
    image = host.image()
    contour = image.add_contour("A")
    image.remove(contour)
    with running(host, zip_path) as runner, pytest.raises(TypeError, match="deleted"):
        runner.run("Fill", contour, 0)


@pytest.mark.parametrize("text", ["none", "bytes", "subclass"])
def test_what_is_no_string_is_a_failure(zip_path: Path, host: Host, text: str) -> None:
    image = host.image()
    with running(host, zip_path) as runner:
        with pytest.raises(HostFailure, match=r"declares java\.lang\.String") as raised:
            runner.run("Show", image, text, 1)
        assert type(raised.value) is HostFailure
        with pytest.raises(HostFailure, match="declares no output"):
            runner.run("Fill", image.add_contour("A"), 3)


def test_an_error_that_leaves_nothing(zip_path: Path, host: Host) -> None:
    image = host.image()
    with running(host, zip_path) as runner:
        with pytest.raises(HostFailure, match=r"^clean$") as raised:
            runner.run("Draw", image, "clean")
        assert type(raised.value) is HostFailure
        assert isinstance(raised.value.__cause__, ValueError)
        host.fail_on(1)
        with pytest.raises(HostFailure, match="NullPointer") as raised:
            runner.run("Draw", image, "")
        assert isinstance(raised.value.__cause__, JavaError)
        assert raised.value.outcome.calls == ("XMimImage.createNewContour",)


@pytest.mark.parametrize(("how", "words"), [("raise", "no"), ("exit", "exit"), ("java", "IllegalArgument"), ("none", "NoneType")])
def test_an_error_that_leaves_a_contour(zip_path: Path, host: Host, how: str, words: str) -> None:
    image = host.image()
    with running(host, zip_path) as runner, pytest.raises(LeftBehind, match=words) as raised:
        runner.run("Draw", image, how)
    assert raised.value.outcome.changes == ("image 0: the contour 'drawn' (0 voxels) was added",)


def test_an_error_that_leaves_other_voxels_even_on_another_image(zip_path: Path, host: Host) -> None:
    host.image()
    contour = host.image(multiplier=(1, 1, 1)).add_contour("A")
    with running(host, zip_path) as runner, pytest.raises(LeftBehind, match="after") as raised:
        runner.run("Fill", contour, 1)
    (change,) = raised.value.outcome.changes
    assert change.startswith("image 1: the contour 'A' (0 voxels) was changed")


def test_throwing_at_every_call_in_turn_finds_what_is_left(zip_path: Path, host: Host) -> None:
    """The careless `Fill` leaves its voxels wherever it fails after them; a careful extension would leave none."""
    contour = host.image(multiplier=(1, 1, 1)).add_contour("A")
    found = []
    with running(host, zip_path) as runner:
        count = len(runner.run("Fill", contour, 0).calls)
        assert count == 1
        for n in range(1, 5):
            host.forget()
            host.fail_on(n)
            with pytest.raises(HostFailure) as raised:
                runner.run("Fill", contour, 1)
            found.append(type(raised.value).__name__)
    assert found == ["HostFailure", "HostFailure", "HostFailure", "LeftBehind"]


def test_the_example_of_the_page(tmp_path: Path, host: Host) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "mimhost.md").read_text(encoding="utf-8")
    source, manifest, tests = re.findall(r"^```(?:python|properties)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    def run_tests(source: str) -> None:
        scope: dict[str, Any] = {}
        exec(compile(tests, "mimhost.md", "exec", dont_inherit=True), scope)
        scope["ZIP"] = extension(tmp_path / "bright.zip", ext=source, manifest=manifest)
        for multiplier in MULTIPLIERS:
            scope["test_the_right_voxels"](multiplier, tilted(GEOMETRY))
        scope["test_an_error_anywhere_leaves_nothing"]()

    run_tests(source)
    careless = source.replace("contour.delete()", "pass")
    assert careless != source
    with pytest.raises(AssertionError):
        run_tests(careless)
    with running(host, tmp_path / "bright.zip") as runner:
        host.fail_on(4)
        with pytest.raises(LeftBehind):
            runner.run("Bright", host.image(), 500)


def test_the_page_names_every_option_and_every_choice() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "mimhost.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)`(?::[^|]*)? \| (.*) \|$", page.split("| option of `Host` |")[1], re.MULTILINE))
    assert set(table) == {field.name for field in fields(Options)}
    for name, choices in CHOICES.items():
        assert [choice for choice in re.findall(r"`([\w-]+)`", table[name])] == list(choices)
        assert getattr(Options(), name) == choices[0]
