"""Build the installable extension: one zip with its manifest, ``src/ext.py`` and every module that needs.

The modules lie side by side in a package whose name carries the version and a digest of what is in it, because the workstation keeps
modules loaded when an extension is replaced. Where the sources are more than `MOST_BYTES`, comments and docstrings are left out.
Entries are stored, not compressed, in a fixed order with fixed dates and permissions: the same sources give the same bytes, on every
machine.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import ssl
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import delineate
from delineate.errors import SettingsError
from delineate.mim.inference_client import INI, Connection
from delineate.mim.packaging import manifest
from delineate.mim.packaging.closure import PACKAGE, Closure, PackageError, closure, moved
from delineate.mim.packaging.stripping import is_text, stripped

MOST_MODULES, MOST_BYTES = 15, 150_000
PROBE = Path(__file__).with_name("probe.py")
UNDATED = 315_532_800
"""1 January 1980, the first day of a zip: what a build says of its date when it is not told one."""
SECONDS = 60.0  # a child that loads an extension has this long
CA_NAME = "ca.pem"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")

_FINDER = """\
# {title}
# Written by `delineate mim build`: finds the extension's own modules beside this file, whatever it is loaded as and what was before.
import importlib.machinery, importlib.util, os, sys
importlib.invalidate_caches()
_own = importlib.machinery.PathFinder.find_spec("{package}", [os.path.dirname(os.path.abspath(__file__))])
sys.modules.setdefault(_own.name, importlib.util.module_from_spec(_own)).__path__ = _own.submodule_search_locations
_own.loader.exec_module(sys.modules[_own.name])
"""

_INI = """\
; Beside ext.py in the installed extension. Lines that begin with a semicolon are not read.
[server]
; Where tasks go when the workflow gives no server_url.
{url}
; A certificate authority of your own, a file beside this one; public authorities are trusted as well.
{ca}
; The token that the server wants. Whoever can read this file can use it.
;token =
"""


@dataclass(frozen=True)
class Built:
    """A built extension: the zip's bytes, the name of its package, its Python modules with their sizes, its entry points."""

    data: bytes
    package: str
    modules: dict[str, int]
    entries: list[manifest.Entry]


def build(
    *, authorities: Iterable[bytes] = (), server: str = "", seconds: int = UNDATED, folder: Path | None = None, version: str = ""
) -> Built:
    """Build the extension.

    Parameters
    ----------
    authorities : files of certificates, PEM or DER, that the extension shall trust beside the public ones.
    server : the URL where tasks go when a workflow names none.
    seconds : the date in the manifest, seconds since 1970.
    folder, version : of the package that is built from; where not given, the one that runs.

    Raises
    ------
    PackageError
        The sources do not fit the workstation, a file holds no certificate or a private key, the URL is none.
    """
    version = version or delineate.__version__
    parts = closure(folder or Path(delineate.__file__).parent)
    digest = hashlib.sha256(json.dumps([parts.entry, sorted(parts.modules.items())]).encode()).hexdigest()
    package = f"{PACKAGE}_mim_{re.sub(r'[^0-9A-Za-z]+', '_', version)}_{digest[:8]}"
    sources = _sources(parts, package, version)
    entries = [entry_of(found) for found in probed("ext", sources)["entries"]]
    if not entries:
        raise PackageError("the extension has no entry points", "Decorate functions of mim/ext.py.")
    return Built(_zip(sources, entries, b"\n".join(map(certificates, authorities)), server, seconds), package, _modules(sources), entries)


def _sources(parts: Closure, package: str, version: str) -> dict[str, bytes]:
    """The Python files, path → bytes; readable where that fits."""
    title = f"Delineate {version} for the MIM workstation. Apache License 2.0"
    files: dict[str, bytes] = {}
    for words, shorten in (("", lambda text, _: text), (" Comments and docstrings are in its sources, on the same lines.", stripped)):
        texts = {name: moved(shorten(text, name), parts.places, package) for name, text in parts.modules.items()}
        named = {f"src/{package}/{name}.py": text for name, text in texts.items()}
        named[f"src/{package}/__init__.py"] = f'# {title}.{words}\n__version__ = "{version}"\n'
        named["src/ext.py"] = with_finder(moved(shorten(parts.entry, "ext"), parts.places, package), package, f"{title}.{words}")
        files = {name: text.encode() for name, text in sorted(named.items())}
        if sum(map(len, files.values())) <= MOST_BYTES:
            break
    return files


def _zip(sources: Mapping[str, bytes], entries: list[manifest.Entry], ca: bytes, server: str, seconds: int) -> bytes:
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    files = {**sources, f"src/{INI}": configuration(server, CA_NAME if ca else "")}
    if ca:
        files[f"src/{CA_NAME}"] = ca
    folders = {f"{parent}/" for name in files for parent in map(str, Path(name).parents) if parent != "."}
    names = ["info.properties", *sorted(folders | set(files))]
    files["info.properties"] = manifest.written(manifest.properties(entries, created))
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)  # 1 January 1980
            info.create_system = 3  # permissions are those of Unix
            info.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o100644 << 16
            archive.writestr(info, files.get(name, b""))
    return result.getvalue()


def _modules(sources: Mapping[str, bytes]) -> dict[str, int]:
    return {name[len("src/") :]: len(data) for name, data in sources.items()}


def with_finder(source: str, package: str, title: str) -> str:
    """The entry module with the lines that find its package in the place of its docstring, so that all others stay where they are.

    Where that has too few lines, they move down.
    """
    body = ast.parse(source).body
    is_future = [isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in body]
    last = max((node.end_lineno or 0 for node, future in zip(body, is_future, strict=True) if future), default=0)
    first = next(node.lineno for node, future in zip(body, is_future, strict=True) if not future and not is_text(node))
    lines = source.splitlines(keepends=True)
    finder = _FINDER.format(package=package, title=title).splitlines(keepends=True)
    blank = ["\n"] * (first - 1 - last - len(finder))
    return "".join([*lines[:last], *finder, *blank, *lines[first - 1 :]])


def probed(way: str, *versions: Mapping[str, bytes], python: str = sys.executable) -> dict[str, list[dict[str, object]]]:
    """What `probe.py` finds when it loads these files, one version after the other; the last one's findings.

    Parameters
    ----------
    way : ``ext`` or ``src.ext``.
    versions : path → bytes of each version's files.
    python : the interpreter.

    Raises
    ------
    PackageError
        It cannot be loaded; the message is the last line of the error.
    """
    with tempfile.TemporaryDirectory(prefix="delineate-mim-") as place:
        folders = [str(_written(Path(place) / str(i), files)) for i, files in enumerate(versions)]
        command = [python, "-I", "-B", "-X", "utf8", str(PROBE), way, *folders]
        try:
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS, cwd=place, check=False)
        except subprocess.TimeoutExpired:
            raise PackageError(f"as {way}, it was not loaded after {SECONDS:.0f} s", "Look at what it does while it is imported.") from None
        except OSError as error:
            raise PackageError(f"{python}: {error.strerror}", "Give a Python interpreter.") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise PackageError(f"loaded as {way}: {lines[-1]}", "The extension must run on Python 3.7 and newer, with numpy alone.")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def entry_of(found: Mapping[str, object]) -> manifest.Entry:
    """The manifest's entry for one that the probe found.

    Raises
    ------
    PackageError
        A parameter or output that the workstation cannot hand over.
    """
    fields = dict(found)
    method, problem = fields["method"], fields.pop("problem")
    for key in ("parameters", "outputs"):
        pairs = []
        for name, kind in fields[key]:  # type: ignore[attr-defined]
            if kind not in manifest.JAVA_TYPES:
                raise PackageError(f"{method}: {name} is {kind}", f"Use one of {', '.join(manifest.JAVA_TYPES)}.")
            pairs.append((name, manifest.JAVA_TYPES[kind]))
        fields[key] = tuple(pairs)
    if problem:
        raise PackageError(f"{method}: {problem}", "Name each output.")
    return manifest.Entry(**fields)  # type: ignore[arg-type]


def certificates(data: bytes) -> bytes:
    """The certificates of a PEM or DER file, as PEM and nothing else.

    Raises
    ------
    PackageError
        There is none, one that cannot be read, or a private key, which has no business on a workstation.
    """
    advice = "Give the certificate of the authority, in PEM or DER form."
    if data[:1] == b"\x30":
        data = ssl.DER_cert_to_PEM_cert(data).encode()
    text = data.decode("latin-1")
    if "PRIVATE KEY-----" in text:
        raise PackageError("the file of certificates holds a private key", "Keep the key on the server, and give the certificate alone.")
    found = "".join(block + "\n" for block in _CERTIFICATE.findall(text)).replace("\r", "")
    if not found:
        raise PackageError("the file holds no certificate", advice)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except ssl.SSLError as error:
        raise PackageError(f"a certificate cannot be read ({error.reason or error})", advice) from None
    return found.encode("ascii")


def configuration(server: str, ca_name: str) -> bytes:
    """The file `delineate.ini`, with comments for those who change it at the workstation.

    Raises
    ------
    PackageError
        As `must_be_address`.
    """
    if server:
        must_be_address(server)
    url = f"url = {server.strip()}" if server else ";url = https://server.example/delineate"
    return _INI.format(url=url, ca=f"ca_file = {ca_name}" if ca_name else ";ca_file = ca.pem").encode()


def must_be_address(server: str) -> None:
    """Refuse what the extension could not read, or what nobody should copy around.

    Raises
    ------
    PackageError
        `server` is no address, or carries a password or token.
    """
    advice = "Write it like https://server.example:8443/prefix; a token is written into %s at the workstation." % INI
    if "#" in server:
        raise PackageError("the server's address carries more than a place", advice)
    try:
        Connection.of(server, None)
    except SettingsError as error:
        raise PackageError(error.message, advice) from None
