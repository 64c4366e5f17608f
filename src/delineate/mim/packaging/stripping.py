"""Python sources without comments and docstrings, every statement on the line where it was.

The workstation reads the modules at every start; tracebacks from there must still fit the sources here.
"""

from __future__ import annotations

import ast
import io
import tokenize

from delineate.mim.packaging.closure import PackageError


def stripped(source: str, name: str = "?") -> str:
    """`source` with blank lines where comments and docstrings were.

    Raises
    ------
    PackageError
        It reads ``__doc__``, or would not be the same program on the same lines.
    """
    tree = ast.parse(source, name)
    if any(getattr(node, "id", getattr(node, "attr", "")) == "__doc__" for node in ast.walk(tree)):
        raise PackageError(f"{name} reads __doc__, which it will not have on the workstation", "Put the text into a constant.")
    lines = [line.encode() for line in source.split("\n")]  # positions of `ast` count bytes
    for statement, text in _without_use(tree):
        first, last, begin, end = statement.lineno - 1, (statement.end_lineno or 0) - 1, statement.col_offset, statement.end_col_offset
        if lines[last][end:].lstrip().startswith(b";"):
            text = b"pass"
        kept = lines[first][:begin] + text + lines[last][end:]
        lines[first : last + 1] = [kept, *[b""] * (last - first)]
    result = _without_comments(b"\n".join(lines).decode())
    if _program(result, name) != _program(source, name):
        raise PackageError(f"{name} is another program without its comments and docstrings", "Write docstrings as statements of their own.")
    return result


def _without_use(tree: ast.AST) -> list[tuple[ast.stmt, bytes]]:
    """Statements that are a text alone, and what takes their place: nothing, or ``pass`` where a block would be empty."""
    found: list[tuple[ast.stmt, bytes]] = []
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                texts = [statement for statement in block if is_text(statement)]
                is_empty = len(texts) == len(block) and not isinstance(node, ast.Module)
                found += [(statement, b"pass" if is_empty and statement is texts[0] else b"") for statement in texts]
    return found


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a text and does nothing, as a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


def _without_comments(source: str) -> str:
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    inside = {row for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline) for row in range(*_inner_rows(token))}
    return "\n".join(line if row in inside else line.rstrip() for row, line in enumerate(lines, 1))


def _inner_rows(token: tokenize.TokenInfo) -> tuple[int, int]:
    """Rows whose ends lie inside a text of several lines: blanks there are part of it."""
    return token.start[0], token.end[0]


def _program(source: str, name: str) -> str:
    """All statements with their lines, without those that are a text alone and what stands for them."""
    tree = ast.parse(source, name)
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                setattr(node, field, [s for s in block if not is_text(s) and not isinstance(s, ast.Pass)])
        for position in ("col_offset", "end_col_offset", "end_lineno"):
            if hasattr(node, position):
                setattr(node, position, 0)
    return ast.dump(tree, include_attributes=True)
