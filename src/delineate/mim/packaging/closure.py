"""What a module needs in order to run on the workstation: its import closure, by syntax alone.

Imports inside functions count; what stands under ``TYPE_CHECKING`` does not. Beside the package itself, modules may import the
standard library as it has been from Python 3.7 until today, numpy, the host's own MIMPython from the entry module, and, where an
``ImportError`` is caught, what makes things faster or finds certificates. Everything else is an error: the workstation has no more.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from delineate.errors import InputError

PACKAGE = "delineate"
HOST = "MIMPython"
OPTIONAL = frozenset({"certifi", "isal"})
_SINCE_3_7 = frozenset({"annotationlib", "compression", "graphlib", "tomllib", "zoneinfo"})
_GONE = frozenset(
    re.findall(
        r"\w+",
        """aifc asynchat asyncore audioop binhex cgi cgitb chunk crypt distutils dummy_threading formatter imghdr imp lib2to3 macpath
        mailcap msilib nis nntplib ossaudiodev parser pipes smtpd sndhdr spwd sunau symbol telnetlib uu xdrlib""",
    )
)
STANDARD = frozenset(sys.stdlib_module_names) - _SINCE_3_7 - _GONE
"""Top-level modules of the standard library that every Python from 3.7 on has."""


class PackageError(InputError):
    """The extension cannot be built from these sources, or with these files."""


@dataclass(frozen=True)
class Import:
    """One imported module as it is written: ``import name`` or ``from name import …``.

    names : what stands behind ``import`` in the second form, else empty.
    caught : it stands in a ``try`` that catches ``ImportError``.
    runs : False under ``TYPE_CHECKING``.
    """

    node: ast.Import | ast.ImportFrom
    name: str
    names: tuple[str, ...]
    caught: bool
    runs: bool

    @property
    def top(self) -> str:
        """The first part of the name; empty for a relative import."""
        return self.name.split(".")[0]


def imports(source: str, path: str = "?") -> list[Import]:
    """Every import of `source`, in the order of its lines."""
    found = list(_imports(ast.parse(source, path), caught=False, runs=True))
    return sorted(found, key=lambda one: (one.node.lineno, one.node.col_offset))


def _imports(node: ast.AST, caught: bool, runs: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(node, alias.name, (), caught, runs)
    elif isinstance(node, ast.ImportFrom):
        yield Import(node, "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names), caught, runs)
    for field, child in _children(node):
        in_body = field == "body"
        yield from _imports(
            child,
            caught or (in_body and isinstance(node, ast.Try) and any(map(_catches_import_error, node.handlers))),
            runs and not (in_body and isinstance(node, ast.If) and is_type_checking(node.test)),
        )


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield field, child


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("ImportError", "ModuleNotFoundError") for kind in kinds)


def is_type_checking(test: ast.expr) -> bool:
    """Whether the condition of an ``if`` holds for type checkers alone."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def stranger(one: Import, *, is_entry: bool, inside: str) -> str:
    """Why this import is not for the workstation, or an empty string. `inside`: the package that the extension carries."""
    if one.top in STANDARD or one.top in ("numpy", inside) or (one.top in OPTIONAL and one.caught):
        return ""
    if not one.runs:
        return ""
    if one.top == HOST:
        return "" if is_entry else f"{one.name} is the workstation's own, only the entry module may import it"
    if one.top in OPTIONAL:
        return f"{one.name} is not on every workstation: catch ImportError"
    if one.top == "":
        return "a relative import"
    return f"{one.name} is not on the workstation"


@dataclass(frozen=True)
class Closure:
    """Modules that the extension carries: the entry, and the others under the flat names that they get.

    modules : flat name → source; `places`: dotted name in the package → flat name.
    """

    entry: str
    modules: dict[str, str]
    places: dict[str, str]


def closure(folder: Path, entry: str = f"{PACKAGE}.mim.ext") -> Closure:
    """The import closure of `entry` in the package whose folder is `folder`.

    Raises
    ------
    PackageError
        An import that the workstation cannot satisfy, one written so that it cannot be moved, two modules of one flat name.
    """
    sources: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        sources[name] = _source(folder, name)
        for one in imports(sources[name], name):
            _must_be_movable(one, name, is_entry=name == entry)
            if one.runs and one.top == PACKAGE:
                waiting += targets(folder, one)
    places = {name: name.rpartition(".")[2] for name in sorted(sources) if name != entry}
    for flat in set(places.values()):
        same = [name for name, place in places.items() if place == flat]
        if len(same) > 1:
            raise PackageError(f"{' and '.join(same)} would both be {flat}", "Rename one of the modules.")
    return Closure(sources[entry], {places[name]: sources[name] for name in places}, places)


def targets(folder: Path, one: Import) -> list[str]:
    """The modules of the package that an import names: itself, or those behind ``import``; what is no module is left out."""
    if _path(folder, one.name) is not None:
        return [one.name]
    return [f"{one.name}.{name}" for name in one.names if _path(folder, f"{one.name}.{name}") is not None]


def _must_be_movable(one: Import, module: str, *, is_entry: bool) -> None:
    where = f"{module}, line {one.node.lineno}"
    if why := stranger(one, is_entry=is_entry, inside=PACKAGE):
        raise PackageError(f"{where}: {why}", "The extension may import the standard library of Python 3.7, numpy and its own modules.")
    if one.top == PACKAGE and isinstance(one.node, ast.Import):
        raise PackageError(f"{where}: import {one.name} cannot be moved into the extension", "Write from … import ….")


def _path(folder: Path, name: str) -> Path | None:
    path = folder.joinpath(*name.split(".")[1:]).with_suffix(".py") if "." in name else folder
    return path if path.is_file() else None


def _source(folder: Path, name: str) -> str:
    path = _path(folder, name)
    if path is None:
        raise PackageError(f"there is no module {name} in {folder}", "Install Delineate whole.")
    return path.read_text(encoding="utf-8")


def moved(source: str, places: dict[str, str], package: str) -> str:
    """`source` with the imports of the package's modules made imports from `package`; line numbers stay.

    Raises
    ------
    PackageError
        A statement that names modules and other things at once, or is spread over lines before its ``import``.
    """
    lines = source.split("\n")
    for one in imports(source):
        if one.top != PACKAGE or not isinstance(one.node, ast.ImportFrom):
            continue
        new = _new_name(one, places)
        if new is None:
            continue
        row = one.node.lineno - 1
        line = lines[row].encode()
        head, rest = line[: one.node.col_offset].decode(), line[one.node.col_offset :].decode()
        changed, count = re.subn(rf"^from\s+{re.escape(one.name)}(?=\s+import\b)", f"from {package}{new}", rest, count=1)
        if not count:
            raise PackageError(f"line {row + 1}: this import cannot be moved: {rest.strip()}", "Write from … import on one line.")
        lines[row] = head + changed
    return "\n".join(lines)


def _new_name(one: Import, places: dict[str, str]) -> str | None:
    """What follows the package's name, as ``.errors``; None for what only a type checker reads and the extension does not carry."""
    if one.name in places:
        return "." + places[one.name]
    carried = [f"{one.name}.{name}" in places for name in one.names]
    if all(carried):
        return ""
    if not one.runs:
        return None
    if one.name == PACKAGE and set(one.names) == {"__version__"}:
        return ""
    raise PackageError(
        f"line {one.node.lineno}: from {one.name} import {', '.join(one.names)} cannot be moved", "Import modules, or from modules."
    )
