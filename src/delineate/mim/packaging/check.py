"""Verify a packed extension: what lies where, what the manifest says, what the modules need, and whether it loads.

All but the last is looked at without running anything of it. Loading runs it, in a process of its own that is no cage: it is left out
where something before has failed, and where the caller wants it so.
"""

from __future__ import annotations

import ast
import configparser
import io
import re
import ssl
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from delineate.errors import DelineateError, InputError
from delineate.mim.inference_client import INI
from delineate.mim.packaging import manifest, python37
from delineate.mim.packaging.build import MOST_BYTES, MOST_MODULES, entry_of, must_be_address, probed
from delineate.mim.packaging.closure import imports, stranger

_MOST_ENTRIES, _MOST_UNPACKED = 500, 20_000_000
_WAYS = ("ext", "src.ext")
_BESIDE = re.compile(r"src/(delineate\.ini|[\w.-]+\.(pem|crt|cer)|LICENSE(\.txt)?|README(\.txt|\.md)?)")
_SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(ghp_|glpat-|sk-|AKIA)[A-Za-z0-9_-]{16,}")


class FailedError(Exception):
    """A check that does not pass, and why."""


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed (None: not made), and what was seen."""

    check: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Extension:
    """An unpacked extension: path → bytes."""

    files: Mapping[str, bytes]

    @property
    def package(self) -> str:
        """The first folder in ``src/``; empty where there is none."""
        return next((name.split("/")[1] for name in sorted(self.files) if name.startswith("src/") and name.count("/") > 1), "")

    @property
    def sources(self) -> dict[str, bytes]:
        """The Python files."""
        return {name: data for name, data in sorted(self.files.items()) if name.endswith(".py")}


def check(path: Path, *, loaded: bool = True, python: str = sys.executable) -> list[Finding]:
    """Look at the packed extension at `path`.

    Parameters
    ----------
    loaded : whether it is loaded too, which runs its code.
    python : the interpreter that loads it.

    Raises
    ------
    InputError
        The file cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Give the extension's zip.") from None
    return check_bytes(data, loaded=loaded, python=python)


def check_bytes(data: bytes, *, loaded: bool = True, python: str = sys.executable) -> list[Finding]:
    """Like `check`, of the zip's bytes."""
    findings: list[Finding] = []
    try:
        extension = Extension(unpacked(data))
    except FailedError as error:
        return [Finding("archive", False, str(error))]
    findings.append(Finding("archive", True, f"{len(extension.files)} files, {len(data):,} bytes"))
    looks: tuple[tuple[str, Callable[[Extension], str]], ...] = (
        ("layout", _layout), ("manifest", _manifest), ("size", _size), ("syntax of Python 3.7", _syntax),
        ("functions of Python 3.7", _vermin), ("imports", _imports), ("secrets", _secrets), ("certificates", _certificates),
    )  # fmt: skip
    for name, look in looks:
        findings.append(_finding(name, lambda look=look: look(extension)))  # type: ignore[misc]
    sound = all(finding.ok is not False for finding in findings)
    for way in _WAYS:
        if not loaded or not sound:
            findings.append(Finding(f"loads as {way}", None, "not tried" if not loaded else "not tried, because of what failed above"))
        else:
            findings.append(_finding(f"loads as {way}", lambda way=way: _loads(extension, way, python)))  # type: ignore[misc]
    return findings


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        detail = look()
    except (FailedError, python37.NewerError, DelineateError) as error:
        return Finding(name, False, str(error))
    return Finding(name, None if detail.startswith("not ") else True, detail)


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of the zip.

    Raises
    ------
    FailedError
        It is no zip, damaged, too large, or has names that are not safe to unpack.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ENTRIES or sum(entry.file_size for entry in entries) > _MOST_UNPACKED:
                raise FailedError(f"more than {_MOST_ENTRIES} entries or {_MOST_UNPACKED:,} bytes")
            for entry in entries:
                _must_be_safe(entry)
            files = {entry.filename: archive.read(entry) for entry in entries if not entry.is_dir()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise FailedError(f"not a whole zip: {error}") from None
    if len({name.lower() for name in files}) < sum(not entry.is_dir() for entry in entries):
        raise FailedError("two entries of one name")
    return files


def _must_be_safe(entry: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(entry.filename).parts
    if entry.filename.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", entry.filename):
        raise FailedError(f"the name {entry.filename!r} is not safe to unpack")
    if entry.external_attr >> 28 not in (0, 0o4, 0o10):
        raise FailedError(f"{entry.filename} is neither a file nor a folder")


def _layout(extension: Extension) -> str:
    missing = [name for name in ("info.properties", "src/ext.py") if name not in extension.files]
    if missing:
        raise FailedError(f"{' and '.join(missing)} missing at the root of the zip")
    package = extension.package
    strangers = [name for name in sorted(extension.files) if not _belongs(name, package)]
    beside = [name for name in strangers if re.fullmatch(r"src/\w+\.py", name)]
    if beside:
        raise FailedError(f"modules beside ext.py meet others of the same name, put them into a package: {', '.join(beside[:5])}")
    if strangers:
        raise FailedError(f"files that do not belong there: {', '.join(strangers[:5])}")
    if package and (not package.isidentifier() or not re.search(r"\d", package)):
        raise FailedError(f"the package {package} does not carry a version, an older copy that is loaded would be taken for it")
    if package and f"src/{package}/__init__.py" not in extension.files:
        raise FailedError(f"src/{package}/__init__.py is missing")
    return f"info.properties, src/ext.py, src/{package}/" if package else "info.properties, src/ext.py"


def _belongs(name: str, package: str) -> bool:
    inside = package and name.startswith(f"src/{package}/") and name.endswith(".py") and name[4:-3].replace("/", "").isidentifier()
    return name in ("info.properties", "src/ext.py") or bool(inside) or _BESIDE.fullmatch(name) is not None


def _manifest(extension: Extension) -> str:
    entries = entries_in(extension)
    known = set(manifest.JAVA_TYPES.values())
    functions = {
        node.name: node
        for node in python37.parsed(extension.files.get("src/ext.py", b""), "src/ext.py").body
        if isinstance(node, ast.FunctionDef)
    }
    for entry in entries:
        for name, java_type in (*entry.parameters, *entry.outputs):
            if java_type not in known:
                raise FailedError(f"{entry.method}: the type of {name}, {java_type}, is not known to be handed over")
        function = functions.get(entry.method)
        if function is not None and [argument.arg for argument in function.args.args] != [name for name, _ in entry.parameters]:
            raise FailedError(f"{entry.method}: its parameters in ext.py are others than in info.properties")
    return f"{len(entries)} entry point{'s' * (len(entries) != 1)}: {', '.join(entry.method for entry in entries)}"


def entries_in(extension: Extension) -> list[manifest.Entry]:
    """The entry points that the manifest declares.

    Raises
    ------
    FailedError
        There is no manifest, or it does not hold together.
    """
    try:
        return manifest.entries_of(manifest.read(extension.files["info.properties"]))
    except KeyError:
        raise FailedError("there is no info.properties") from None


def carried(extension: Extension) -> dict[str, int]:
    """Modules and their bytes; an ``__init__.py`` that does nothing is none."""
    return {name: len(data) for name, data in extension.sources.items() if not name.endswith("/__init__.py") or _acts(extension, name)}


def _acts(extension: Extension, name: str) -> bool:
    return any(
        not isinstance(getattr(node, "value", None), ast.Constant) or not isinstance(node, ast.Expr | ast.Assign)
        for node in python37.parsed(extension.files[name], name).body
    )


def _size(extension: Extension) -> str:
    modules = carried(extension)
    total = sum(map(len, extension.sources.values()))
    text = f"{len(modules)} modules, {total:,} bytes of Python"
    if len(modules) > MOST_MODULES or total > MOST_BYTES:
        raise FailedError(f"{text}; at most {MOST_MODULES} modules and {MOST_BYTES:,} bytes start quickly")
    return text


def _syntax(extension: Extension) -> str:
    for name, data in extension.sources.items():
        python37.require(data, name)
    return f"{len(extension.sources)} files parse"


def _vermin(extension: Extension) -> str:
    return python37.vermin(extension.sources)


def _imports(extension: Extension) -> str:
    beyond = set()
    for name, data in extension.sources.items():
        python37.parsed(data, name)
        for one in imports(data.decode("utf-8", "replace"), name):
            why = stranger(one, is_entry=name == "src/ext.py", inside=extension.package)
            if why:
                raise FailedError(f"{name}, line {one.node.lineno}: {why}")
            if one.caught and one.runs:
                beyond.add(one.top)
    return "the standard library and numpy" + (f"; if there is one, {', '.join(sorted(beyond))}" if beyond else "")


def _secrets(extension: Extension) -> str:
    for name, data in extension.files.items():
        if _SECRET.search(data):
            raise FailedError(f"{name} holds a private key or a token")
    for key, value in _settings(extension):
        if key in ("token", "password", "key", "key_file") and value.strip():
            raise FailedError(f"{INI} holds a {key}; write it there at the workstation instead")
        if key == "url" and value:
            must_be_address(value)
    return "none found"


def _settings(extension: Extension) -> Iterator[tuple[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(extension.files.get(f"src/{INI}", b"").decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise FailedError(f"{INI} cannot be read: {' '.join(str(error).split())}") from None
    for section in parser.sections():
        yield from parser.items(section)


def _certificates(extension: Extension) -> str:
    names = [value.strip() for key, value in _settings(extension) if key == "ca_file" and value.strip()]
    if not names:
        return "none of its own; public authorities are trusted"
    data = extension.files.get(f"src/{names[0]}")
    if data is None:
        raise FailedError(f"{INI} names {names[0]}, which is not in the zip")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise FailedError(f"{names[0]} holds no certificate that can be read: {error}") from None
    return "; ".join(map(_described, context.get_ca_certs())) or f"{names[0]}: not an authority's, only a server that shows this very one"


def _described(certificate: Mapping[str, object]) -> str:
    parts = {key: value for part in certificate.get("subject", ()) for key, value in part}  # type: ignore[attr-defined]
    name = parts.get("commonName") or parts.get("organizationName") or "a certificate"
    end = str(certificate.get("notAfter", ""))
    if end and ssl.cert_time_to_seconds(end) < time.time():
        raise FailedError(f"the certificate of {name} has expired: {end}")
    return f"{name}, valid until {end}"


def _loads(extension: Extension, way: str, python: str) -> str:
    # Twice in one interpreter: the second time its own older copy is loaded, and that copy's folder is not its own.
    once = probed(way, extension.files, python=python)
    found = probed(way, extension.files, extension.files, python=python)
    if once["entries"] != found["entries"]:
        raise FailedError("with an older copy loaded it offers other entry points")
    offered = [entry_of(one) for one in found["entries"]]
    declared = entries_in(extension)
    if offered != declared:
        different = {entry.method for entry in {*offered, *declared} if entry not in offered or entry not in declared}
        raise FailedError(f"ext.py and info.properties differ in {', '.join(sorted(different)) or 'their order'}")
    return f"on Python {found['python']} in {once['seconds']} s; also after an older copy"
