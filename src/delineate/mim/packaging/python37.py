"""Whether sources run on Python 3.7, as far as looking tells: syntax, types written as only newer ones evaluate them, newer functions."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from delineate.mim.packaging.closure import is_type_checking

_TYPES = frozenset({"bool", "bytes", "dict", "float", "frozenset", "int", "list", "object", "set", "str", "tuple", "type"})
_CONTAINERS = frozenset({"dict", "frozenset", "list", "set", "tuple", "type"})
_PLAIN = frozenset({"collections", "collections.abc", "contextlib", "os", "re", "subprocess", "queue"})
"""Modules whose classes take no ``[…]`` before Python 3.9."""


class NewerError(Exception):
    """Something needs a newer Python than 3.7; the message says where and what."""


def parsed(source: bytes, name: str) -> ast.Module:
    """The syntax tree by the grammar of Python 3.7; `NewerError`."""
    try:
        return ast.parse(source, name, feature_version=(3, 7))
    except (SyntaxError, ValueError) as error:
        raise NewerError(f"{name}, line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}") from None


def require(source: bytes, name: str) -> None:
    """Raise `NewerError` for syntax that Python 3.7 does not know, and for ``list[int]`` or ``str | None`` where they are evaluated."""
    tree = parsed(source, name)
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module in _PLAIN]
    plain = {alias.asname or alias.name for node in taken for alias in node.names}
    for node in _evaluated(tree, _defers_annotations(tree)):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_plain(node.value, plain):
            raise NewerError(f"{name}, line {node.lineno}: {ast.unparse(node)} is evaluated, which needs Python 3.9")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and (_is_type(node.left) or _is_type(node.right)):
            raise NewerError(f"{name}, line {node.lineno}: {ast.unparse(node)} is evaluated, which needs Python 3.10")


def _defers_annotations(tree: ast.Module) -> bool:
    return any(
        isinstance(n, ast.ImportFrom) and n.module == "__future__" and any(a.name == "annotations" for a in n.names) for n in tree.body
    )


def _evaluated(node: ast.AST, deferred: bool) -> Iterator[ast.AST]:
    """`node` and all below it that runs: annotations do not where they are deferred, nor what only a type checker reads."""
    yield node
    for field, value in ast.iter_fields(node):
        unread = field == "body" and isinstance(node, ast.If) and is_type_checking(node.test)
        if unread or (deferred and field in ("annotation", "returns")):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _evaluated(child, deferred)


def _is_plain(value: ast.expr, imported: set[str]) -> bool:
    if isinstance(value, ast.Name):
        return value.id in _CONTAINERS or (value.id in imported and value.id[0].isupper())
    return isinstance(value, ast.Attribute) and value.attr[0].isupper() and ast.unparse(value.value) in _PLAIN


def _is_type(operand: ast.expr) -> bool:
    if isinstance(operand, ast.Subscript):
        return isinstance(operand.value, ast.Name) and operand.value.id in _CONTAINERS | {"Dict", "List", "Optional", "Tuple", "Union"}
    return (isinstance(operand, ast.Name) and operand.id in _TYPES) or (isinstance(operand, ast.Constant) and operand.value is None)


def vermin(sources: Mapping[str, bytes]) -> str:
    """What vermin, where it is installed, finds in functions and modules that are used; `NewerError`."""
    if importlib.util.find_spec("vermin") is None:
        return "not looked at: vermin is not installed"
    names = list(sources)
    with tempfile.TemporaryDirectory(prefix="delineate-mim-") as folder:
        paths = [str(_put(Path(folder) / f"{i}.py", sources[name])) for i, name in enumerate(names)]
        run = ["-I", "-c", "from vermin import main; main()", "-t=3.7-", "--violations", "--no-tips", "--processes=1"]
        done = subprocess.run([sys.executable, *run, *paths], capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line.strip() for line in done.stdout.splitlines() if " require" in line or ".py" in line] or [done.stderr[-200:]]
            for name, path in zip(names, paths, strict=True):
                said = [line.replace(path, name) for line in said]
            raise NewerError("; ".join(said[:4]))
    return "vermin finds nothing newer"


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
