"""Building and checking the workstation's extension: closure, moved imports, manifest, deterministic bytes, and what is refused."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from delineate.mim.packaging import manifest, python37
from delineate.mim.packaging.build import Built, build, certificates, configuration, probed, with_finder
from delineate.mim.packaging.check import Finding, check, check_bytes
from delineate.mim.packaging.closure import PackageError, closure, imports, moved
from delineate.mim.packaging.stripping import stripped

EXT = '''\
"""Entry points."""
import os

from MIMPython.EntryPoint import mim_extension_entrypoint
from MIMPython.SupportedIOTypes import Integer, String, XMimImage, XMimSession

from delineate.errors import WORD
from delineate.protocols import messages


@mim_extension_entrypoint(
    name="Post – ä", author="A", description="one\\ntwo = 2", category="C", institution="I", version="0.1.0", outputNames=["uid"]
)
def Post(session: XMimSession, img_zero: XMimImage, url: String, flag: Integer) -> String:
    return messages.word() + os.path.basename(__file__)


@mim_extension_entrypoint(name="Get", author="A", description="", category="", institution="", version=1.1)
def Get(session: XMimSession, uid: String):
    session.note(messages.place(), WORD)
'''
MESSAGES = """\
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

try:
    from isal import isal_zlib
except ImportError:
    isal_zlib = None

if TYPE_CHECKING:
    import httpx
    from delineate.client.sync import Client
    from delineate.errors import WORD

TEXT = "from delineate.errors import WORD"  # from delineate.errors import WORD


def word() -> str:
    from delineate.late import LATE; return LATE


def place(client: Client | None = None):
    return __file__
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small package that is built like the real one."""
    return write_tree(tmp_path / "delineate")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(folder=write_tree(tmp_path_factory.mktemp("built") / "delineate"))


def write_tree(folder: Path, **changed: str) -> Path:
    files = {"__init__": "", "errors": "WORD = 'word'\n", "late": "LATE = 'late'\n", "mim/ext": EXT, "protocols/messages": MESSAGES}
    for name, text in {**files, **{name.replace("__", "/"): text for name, text in changed.items()}}.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


def rezipped(built: Built, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """The zip of a build with its files changed."""
    files = files_of(built.data)
    change(files)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return result.getvalue()


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.detail for finding in findings if finding.ok is False}


def test_the_closure_counts_functions_and_leaves_out_type_checking(tree: Path) -> None:
    assert closure(tree).places == {"delineate.errors": "errors", "delineate.late": "late", "delineate.protocols.messages": "messages"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("import httpx", "httpx is not on the workstation"),
        ("def f():\n    import SimpleITK", "SimpleITK is not on the workstation"),
        ("import tomllib", "tomllib is not on the workstation"),
        ("import imp", "imp is not on the workstation"),
        ("import isal", "catch ImportError"),
        ("from MIMPython.EntryPoint import x", "only the entry module"),
        ("from . import late", "a relative import"),
        ("import delineate.late", "cannot be moved"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import httpx", "httpx is not on"),
        ("try:\n    pass\nexcept ImportError:\n    import isal", "catch ImportError"),
        ("try:\n    import isal\nexcept ValueError:\n    pass", "catch ImportError"),
    ],
)
def test_an_import_that_the_workstation_cannot_satisfy_is_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(PackageError, match=why) as caught:
        build(folder=write_tree(tmp_path, late=line + "\n"))
    assert "delineate.late, line" in str(caught.value)


@pytest.mark.parametrize(
    "guard", ["ImportError", "ModuleNotFoundError", "(ImportError, OSError)"], ids=["ImportError", "ModuleNotFoundError", "tuple"]
)
def test_what_only_makes_things_faster_may_be_tried(guard: str) -> None:
    (one,) = imports(f"try:\n    import isal\nexcept {guard}:\n    isal = None\n")
    assert one.caught


def test_two_modules_of_one_flat_name_are_refused(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, late="from delineate.protocols.errors import X\n", protocols__errors="X = LATE = 1\n")
    with pytest.raises(PackageError, match="would both be errors"):
        closure(folder)


def test_imports_move_by_position_and_lines_stay(tree: Path) -> None:
    places = closure(tree).places
    text = moved(MESSAGES, places, "new")
    changed = [(a, b) for a, b in zip(MESSAGES.split("\n"), text.split("\n"), strict=True) if a != b]
    assert changed == [
        ("    from delineate.errors import WORD", "    from new.errors import WORD"),
        ("    from delineate.late import LATE; return LATE", "    from new.late import LATE; return LATE"),
    ]
    assert moved("ä = 1; from delineate.protocols import messages as m\n", places, "new") == "ä = 1; from new import messages as m\n"
    assert moved("from delineate import __version__, errors\n", places | {"delineate.__version__": ""}, "new").startswith("from new import")


@pytest.mark.parametrize("line", ["from delineate.protocols import messages, SOMETHING", "from delineate \\\n  .errors import WORD"])
def test_an_import_that_cannot_be_moved_is_refused(tree: Path, line: str) -> None:
    with pytest.raises(PackageError, match="cannot be moved"):
        moved(line, closure(tree).places, "new")


WORDY = (
    '''\
"""Module."""  # a comment
import math  # another


class Only(Exception):
    """Says all."""


def f(x: str = "# no comment") -> str:
    """Of
    several lines."""
    text = """kept  # kept
   '''
    + "  \n"
    + '''end"""
    try:
        return f"{x!r} # {text}"
    finally:
        "a text"  # alone
C = 1
"""About C."""; ä = "ö"  # ü
'''
)


def test_words_are_left_out_and_every_statement_stays_on_its_line() -> None:
    text = stripped(WORDY)
    assert len(text.split("\n")) == len(WORDY.split("\n"))
    assert not re.search(r"Module|comment$|another|Says|several|a text|About|ü", text, re.MULTILINE)
    for source in (WORDY, text):
        names: dict[str, object] = {}
        exec(source, names)
        assert names["f"]("a") == "'a' # kept  # kept\n     \nend"  # type: ignore[operator]
        assert (names["C"], names["ä"], names["f"].__code__.co_firstlineno) == (1, "ö", 9)  # type: ignore[attr-defined]


def test_a_program_that_reads_its_docstring_is_refused() -> None:
    with pytest.raises(PackageError, match="__doc__"):
        stripped("print(__doc__)\n")


def test_the_whole_sources_are_carried_where_they_fit(tree: Path) -> None:
    def late(built: Built) -> bytes:
        return files_of(built.data)[f"src/{built.package}/late.py"]

    (tree / "late.py").write_text('"""Words."""\nLATE = 1\n')
    assert late(build(folder=tree)) == b'"""Words."""\nLATE = 1\n'
    (tree / "errors.py").write_text("WORD = 1\n" + "#" * 150_000)
    assert late(build(folder=tree)) == b"\nLATE = 1\n"


@pytest.mark.parametrize(
    "head", ['"""Words."""\n', "from __future__ import annotations\n", '"""W."""\nfrom __future__ import annotations\n', ""]
)
@pytest.mark.parametrize("blank", [0, 1, 5, 6, 7, 8, 30])
def test_the_entry_modules_statements_stay_on_their_lines_where_there_is_room(head: str, blank: int) -> None:
    source = head + "\n" * blank + "import math\n\nx = 1\n"
    text = with_finder(source, "p_1", "Title")
    compile(text, "ext.py", "exec")
    room = blank + (1 if head.startswith('"""Words') else 0)
    before, after = (next(row for row, line in enumerate(lines.split("\n")) if line == "x = 1") for lines in (source, text))
    assert after - before == max(0, 7 - room)
    assert text.count("# Title") == 1
    assert "import math" in text


def test_the_zip_has_the_layout_and_the_manifest_of_the_workstation(tree: Path) -> None:
    built = build(folder=tree, version="0.1.0", seconds=1_700_000_000)
    package = built.package
    assert re.fullmatch(r"delineate_mim_0_1_0_[0-9a-f]{8}", package)
    assert list(files_of(built.data)) == [
        "info.properties", "src/delineate.ini", *(f"src/{package}/{name}.py" for name in ("__init__", "errors", "late", "messages")),
        "src/ext.py",
    ]  # fmt: skip
    written = files_of(built.data)["info.properties"]
    assert written.decode("ascii").splitlines()[:6] == [
        "EXTENSION_TYPE=Python", "CREATION_DATE=2023-11-14 22:13:20", "ENTRY_COUNT=2",
        r"NAME_0=Post \u2013 \u00E4", "AUTHOR_0=A", r"DESC_0=one\ntwo = 2",
    ]  # fmt: skip
    values = manifest.read(written)
    assert {key: values[key] for key in values if key.endswith("_1") or key.startswith("OUTPUT")} | {"METHOD_0": values["METHOD_0"]} == {
        "NAME_1": "Get", "AUTHOR_1": "A", "DESC_1": "", "CATEGORY_1": "", "COMPANY_1": "", "VERSION_1": "1.1", "METHOD_1": "Get",
        "PARAM_COUNT_1": "2", "OUTPUT_COUNT_1": "0", "METHOD_0": "Post", "PARAM_NAME_0_1": "img_zero",
        "PARAM_TYPE_0_1": "com.mimvista.external.series.XMimImage", "OUTPUT_COUNT_0": "1", "OUTPUT_NAME_0_0": "uid",
        "OUTPUT_TYPE_0_0": "java.lang.String", "PARAM_NAME_1_1": "uid", "PARAM_TYPE_1_1": "java.lang.String",
    }  # fmt: skip
    assert failed(check_bytes(built.data)) == {}


def test_the_bytes_do_not_depend_on_clock_umask_or_hash_seed(tree: Path) -> None:
    digests = set()
    code = "import hashlib; from pathlib import Path; from delineate.mim.packaging.build import build; "
    code += f"b = build(folder=Path({str(tree)!r}))"
    for seed, umask in (("1", 0o022), ("77", 0o077)):
        for path in tree.rglob("*.py"):
            os.utime(path, (int(seed) * 10**7, int(seed) * 10**7))
        done = subprocess.run(
            [sys.executable, "-c", code + "; print(hashlib.sha256(b.data).hexdigest())"], env={**os.environ, "PYTHONHASHSEED": seed},
            umask=umask, timeout=60, capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests.add(done.stdout)
    assert len(digests) == 1


def test_other_contents_give_another_package(tree: Path) -> None:
    first = build(folder=tree).package
    (tree / "late.py").write_text("LATE = 'later'\n")
    assert build(folder=tree).package != first


HOST = """
import sys, types, json, importlib, os
sys.dont_write_bytecode = True
point, kinds, top = (types.ModuleType(n) for n in ("MIMPython.EntryPoint", "MIMPython.SupportedIOTypes", "MIMPython"))
point.mim_extension_entrypoint = lambda **_: lambda function: function
for name in ("Integer", "String", "XMimImage", "XMimSession"): setattr(kinds, name, type(name, (), {}))
sys.modules.update({m.__name__: m for m in (top, point, kinds)})
class Session:
    def note(self, place, word): seen.append([os.path.abspath(place), word])
seen = []
for way, folder, gone in json.loads(sys.argv[1]):
    sys.path.insert(0, folder + "/src" if way == "ext" else folder)
    for name in ("ext", "src", "src.ext"): sys.modules.pop(name, None)
    importlib.invalidate_caches()
    module = importlib.import_module(way)
    sys.path.pop(0)
    if gone: os.rename(folder, folder + ".gone")
    else: seen.append(module.Post(None, None, None, None)); module.Get(Session(), None)
print(json.dumps(seen))
"""


def unpack(built: Built, folder: Path) -> str:
    with zipfile.ZipFile(io.BytesIO(built.data)) as archive:
        archive.extractall(folder)
    return str(folder)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """An older and a newer build of one version."""
    folder = write_tree(tmp_path_factory.mktemp("versions") / "delineate")
    old = build(folder=folder, version="0.1.0")
    write_tree(folder, errors="WORD = 'new word'\n", late="LATE = 'new late'\n")
    return old, build(folder=folder, version="0.1.0")


@pytest.mark.parametrize("ways", list(itertools.product(["ext", "src.ext"], repeat=2)), ids="-then-".join)
@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_a_new_version_runs_its_own_code_after_an_older_one(
    versions: tuple[Built, Built], tmp_path: Path, ways: tuple[str, str], gone: bool
) -> None:
    """The older copy stays loaded, its folder perhaps gone; each uses its own modules, also those imported late."""
    old, new = (unpack(built, tmp_path / name) for built, name in zip(versions, ("old", "new"), strict=True))
    steps = [[ways[0], old, gone], [ways[1], new, False]]
    done = subprocess.run([sys.executable, "-I", "-c", HOST, json.dumps(steps)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen) == (2 if gone else 4)
    assert seen[-2] == "new lateext.py"
    assert seen[-1][1] == "new word"
    assert seen[-1][0].startswith(new)


def test_the_same_build_moved_elsewhere_still_finds_what_it_imports_late(tree: Path, tmp_path: Path) -> None:
    built = build(folder=tree)
    steps = [["ext", unpack(built, tmp_path / "a"), True], ["src.ext", unpack(built, tmp_path / "b"), False]]
    done = subprocess.run([sys.executable, "-I", "-c", HOST, json.dumps(steps)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == "lateext.py"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("Integer) -> String", "float) -> String"), "flag is nothing the workstation knows"),
        (('"""Entry points."""', "from __future__ import annotations"), "flag is the text 'Integer'|session is the text"),
        (("flag: Integer)", "*flag: Integer)"), "flag is not a plain parameter"),
        ((', outputNames=["uid"]', ', outputNames=["a", "b"]'), "2 outputNames for 1 outputs"),
        (
            ('@mim_extension_entrypoint(name="Get"', '@(lambda f: None)\n@mim_extension_entrypoint(name="Get"'),
            "by their function's name: Get",
        ),
        (("flag: Integer)", "flag: Integer = 1)"), "flag is not a plain parameter"),
        ((', outputNames=["uid"]', ""), "0 outputNames for 1 outputs"),
        (("import Integer,", "import Double, Integer,"), "cannot import name 'Double'"),
    ],
)
def test_functions_that_the_workstation_cannot_call_are_refused(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    assert change[0] in EXT
    with pytest.raises(PackageError, match=why):
        build(folder=write_tree(tmp_path, mim__ext=EXT.replace(*change)))


def test_the_probe_has_what_the_workstation_has_and_no_more() -> None:
    for line, why in (("import click", "click"), ("import delineate", "delineate"), ("import utils\nutils.x", "utils")):
        with pytest.raises(PackageError, match=why):
            probed("ext", {"src/ext.py": line.encode()})
    assert probed("src.ext", {"src/ext.py": b"import numpy.linalg, http.client, json\n"})["entries"] == []


PROPERTIES = [
    ("a=b", {"a": "b"}), ("a : b", {"a": "b"}), ("a b c", {"a": "b c"}), ("a", {"a": ""}), ("# no\n! no\n\n  a=1", {"a": "1"}),
    ("a=b\\\n   c", {"a": "bc"}), ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}), ("a\\ b\\=c=\\ d", {"a b=c": " d"}),
    ("a=\\u00e4\\z", {"a": "äz"}), ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}), ("a=\\uD83D\\uDE00", {"a": "😀"}),
    ("a=\u00e4", {"a": "ä"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values"), PROPERTIES, ids=[repr(text) for text, _ in PROPERTIES])
def test_properties_are_read_as_java_reads_them(text: str, values: dict[str, str]) -> None:
    assert manifest.read(text.encode("latin-1")) == values


@pytest.mark.parametrize("text", ["a=1\na=2", "a=\\u12", "a=\\uD83D"])
def test_broken_properties_are_refused(text: str) -> None:
    with pytest.raises(manifest.ManifestError):
        manifest.read(text.encode("latin-1"))


@pytest.mark.parametrize("value", ["", " lead", "trail ", "a\\b", "#x", "!x", "=x", ":x", "x=y:z#!", "\t\n\r\f", "ä–😀\x00\x7f"])
def test_properties_that_are_written_are_read_again(value: str) -> None:
    data = manifest.written({"KEY": value, "k e=y": value})
    data.decode("ascii")
    assert manifest.read(data) == {"KEY": value, "k e=y": value}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("ENTRY_COUNT=2", "ENTRY_COUNT=1", "belong to no entry"), ("ENTRY_COUNT=2", "ENTRY_COUNT=3", "NAME_2 is missing"),
        ("ENTRY_COUNT=2", "ENTRY_COUNT=x", "no count"), ("AUTHOR_1=A\n", "", "AUTHOR_1 is missing"),
        ("=Python", "=Java", "not Python"), ("METHOD_1=Get", "METHOD_1=Post", "two entries of one method"),
        ("NAME_1=Get", "NAME_1=Post \\u2013 \\u00e4", "two entries of one name"), ("METHOD_1=Get", "METHOD_1=a.b", "no function's name"),
        ("PARAM_NAME_0_1=img_zero", "PARAM_NAME_0_1=session", "there twice"),
        ("PARAM_TYPE_1_0=com.mimvista.external.control.XMimSession", "PARAM_TYPE_1_0=int", "not the session"),
        ("PARAM_TYPE_0_3=int", "PARAM_TYPE_0_3=double", "not known"),
        ("PARAM_NAME_0_3=flag", "PARAM_NAME_0_3=flags", "others than in info.properties"),
        ("CREATION_DATE=1980-01-01 00:00:00", "CREATION_DATE=", "CREATION_DATE is missing"),
    ],
)  # fmt: skip
def test_check_finds_a_manifest_that_does_not_hold_together(
    built: Built, old: str, new: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(files: dict[str, bytes]) -> None:
        assert old.encode() in files["info.properties"]
        files["info.properties"] = files["info.properties"].replace(old.encode(), new.encode(), 1)

    monkeypatch.setattr(python37, "vermin", lambda _: "not looked at: it is slow")
    assert why in failed(check_bytes(rezipped(built, change), loaded=False))["manifest"]


def named_without_version(files: dict[str, bytes]) -> None:
    for name in [name for name in files if name.count("/") > 1]:
        files["src/aid/" + name.rpartition("/")[2]] = files.pop(name)


CASES: list[tuple[str, str, Callable[[dict[str, bytes]], object]]] = [
    ("layout", "ext.py missing", lambda f: f.pop("src/ext.py")),
    ("layout", "meet others of the same name, put them into a package: src/utils.py", lambda f: f.update({"src/utils.py": b""})),
    ("layout", "do not belong there: a.pyc", lambda f: f.update({"a.pyc": b""})),
    ("layout", "does not carry a version", named_without_version),
    ("archive", "not safe", lambda f: f.update({"../x.py": b""})),
    ("archive", "not safe", lambda f: f.update({"src\\x.py": b""})),
    ("archive", "two entries of one name", lambda f: f.update({"SRC/ext.py": b""})),
    ("syntax of Python 3.7", "src/ext.py, line 1", lambda f: f.update({"src/ext.py": b"if (x := 1): pass\n"})),
    ("syntax of Python 3.7", "str | None is evaluated", lambda f: f.update({"src/ext.py": b"Text = str | None\n"})),
    (
        "syntax of Python 3.7",
        "Dict[str, int] | None is",
        lambda f: f.update({"src/ext.py": b"from typing import *\nx = Dict[str, int] | None\n"}),
    ),
    ("syntax of Python 3.7", "list[int] is evaluated", lambda f: f.update({"src/ext.py": b"def f(x: list[int]): pass\n"})),
    ("syntax of Python 3.7", "os.PathLike[str] is evaluated", lambda f: f.update({"src/ext.py": b"import os\nx = os.PathLike[str]\n"})),
    (
        "syntax of Python 3.7",
        "Mapping[str, int] is",
        lambda f: f.update({"src/ext.py": b"from collections.abc import Mapping\nMapping[str, int]\n"}),
    ),
    ("functions of Python 3.7", "math.prod", lambda f: f.update({"src/ext.py": b"import math\nmath.prod([1])\n"})),
    ("imports", "httpx is not on the workstation", lambda f: f.update({"src/ext.py": b"import httpx\n"})),
    ("imports", "delineate.errors is not", lambda f: f.update({"src/ext.py": b"from delineate.errors import X\n"})),
    ("secrets", "private key", lambda f: f.update({"src/ca.pem": b"-----BEGIN EC " + b"PRIVATE KEY-----\n"})),
    ("secrets", "holds a token", lambda f: f.update({"src/delineate.ini": b"[server]\ntoken = abc\n"})),
    ("secrets", "holds a user name", lambda f: f.update({"src/delineate.ini": b"[server]\nurl = https://me:pw@a.b\n"})),
    ("secrets", "carries more than a place", lambda f: f.update({"src/delineate.ini": b"[server]\nurl = https://a.b#token=x\n"})),
    ("secrets", "cannot be read", lambda f: f.update({"src/delineate.ini": b"url = https://a.b\n"})),
    ("certificates", "which is not in the zip", lambda f: f.update({"src/delineate.ini": b"[server]\nca_file = x.pem\n"})),
    ("size", "at most 15 modules", lambda f: f.update({f"src/p_1/m{i}.py": b"x = 1\n" for i in range(15)})),
    ("size", "150,000 bytes", lambda f: f.update({"src/ext.py": b"#" * 150_000})),
]


@pytest.mark.parametrize(("name", "why", "change"), CASES, ids=[f"{n}: {w}" for n, w, _ in CASES])
def test_check_finds(
    built: Built, name: str, why: str, change: Callable[[dict[str, bytes]], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not name.startswith("functions"):
        monkeypatch.setattr(python37, "vermin", lambda _: "not looked at: it is slow")
    findings = check_bytes(rezipped(built, change))
    assert why in failed(findings)[name]
    assert [finding.ok for finding in findings if finding.check.startswith("loads")] in ([None, None], [])


LATER = b"""\
from __future__ import annotations
from typing import Mapping, TYPE_CHECKING
from os import environ, path
if TYPE_CHECKING:
    Text = str | None
def f(x: list[int] | None, *, y: dict[str, int] = {}) -> str | None:
    z: tuple[int, ...] = (1,)
    values = environ["A"], y["a"] | z[0], {1} | {2}
class Names(Mapping[str, int]): pass
"""


def test_annotations_that_are_not_evaluated_may_be_newer() -> None:
    python37.require(LATER, "x.py")


def test_check_finds_functions_that_differ_from_the_manifest_only_when_they_run(built: Built) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["src/ext.py"] = files["src/ext.py"].replace(b'name="Get"', b'name="G" "et it"')

    data = rezipped(built, change)
    assert failed(check_bytes(data, loaded=False)) == {}
    assert failed(check_bytes(data)) == {f"loads as {way}": "ext.py and info.properties differ in Get" for way in ("ext", "src.ext")}


def test_a_link_in_the_zip_is_found(built: Built) -> None:
    data = io.BytesIO(built.data)
    with zipfile.ZipFile(data, "a") as archive:
        link = zipfile.ZipInfo("src/delineate.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "neither a file nor a folder" in failed(check_bytes(data.getvalue()))["archive"]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip"])
def test_check_of_what_is_no_zip(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    assert [(finding.check, finding.ok) for finding in check(tmp_path / "x.zip")] == [("archive", False)]


def test_a_damaged_zip_is_found(tree: Path) -> None:
    data = bytearray(build(folder=tree).data)
    data[data.index(b"LATE = ")] ^= 1
    assert "not a whole zip" in failed(check_bytes(bytes(data)))["archive"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Hospital")


def test_certificates_go_in_without_anything_else(tree: Path, authority: trustme.CA) -> None:
    pem = authority.cert_pem.bytes()
    file = b"Subject: somebody\r\n" + pem.replace(b"\n", b"\r\n") + b"# end\n"
    built = build(folder=tree, authorities=[file, pem], server=" https://server.example/delineate ")
    files = files_of(built.data)
    assert files["src/ca.pem"].count(b"BEGIN CERTIFICATE") == 2
    assert b"somebody" not in files["src/ca.pem"]
    assert b"\nurl = https://server.example/delineate\n" in files["src/delineate.ini"]
    assert b"\nca_file = ca.pem\n" in files["src/delineate.ini"]
    details = {finding.check: finding.detail for finding in check_bytes(built.data)}
    assert details["certificates"].startswith("Hospital, valid until")
    assert built.package == build(folder=tree).package


def test_a_certificate_in_der_form_is_taken(authority: trustme.CA) -> None:
    pem = authority.cert_pem.bytes()
    assert ssl.PEM_cert_to_DER_cert(certificates(ssl.PEM_cert_to_DER_cert(pem.decode())).decode()) == ssl.PEM_cert_to_DER_cert(pem.decode())


def test_a_private_key_is_refused(authority: trustme.CA) -> None:
    with pytest.raises(PackageError, match="private key"):
        certificates(authority.private_key_pem.bytes() + authority.cert_pem.bytes())


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x82zz"])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(PackageError, match=r"no certificate|cannot be read"):
        certificates(data)


def test_an_expired_certificate_is_found(tree: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    data = build(folder=tree, authorities=[authority.cert_pem.bytes()]).data
    monkeypatch.setattr("delineate.mim.packaging.check.time.time", lambda: 1e11)
    assert "has expired" in failed(check_bytes(data, loaded=False))["certificates"]


@pytest.mark.parametrize(
    "url", ["server.example", "ftp://a.b", "https://", "https://a b", "https://a.b:x", "https://a.b\n[x]", "https://a:99999"]
)
def test_an_address_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(PackageError, match=r"no scheme|no way to reach it|cannot be read"):
        configuration(url, "")


@pytest.mark.parametrize("url", ["https://me@a.b", "https://me:pw@a.b", "https://a.b?token=x", "https://a.b#token=x"])
def test_an_address_with_a_secret_is_refused(url: str) -> None:
    with pytest.raises(PackageError, match=r"carries more than a place|holds a user name, a password or a query"):
        configuration(url, "")
