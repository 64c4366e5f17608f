"""What the documentation says exists: commands and options, settings, routes, imported names, links."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from delineate.cli.main import COMMANDS, EXIT_CODES, cli
from delineate.server.app import create_app
from delineate.server.settings import Settings, defaults

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Said in one breath with the page's own words, not calls: `delineate tasks` yes, `delineate COMMAND --help` no.
PLACEHOLDER = re.compile(r"^[A-Z]+$|…")


def commands(text: str) -> Iterator[str]:
    """Every command line that begins with ``delineate``, in blocks and in running text."""
    prose = BLOCK.sub("", text)
    yield from re.findall(r"`(delineate [a-z][^`]*)`", prose)
    for language, block in BLOCK.findall(text):
        if language in ("", "sh", "ini"):
            yield from (match.strip() for match in re.findall(r"(?<![\w./-])delineate [a-z][^\n)#]*", block) if "delineate: " not in match)


COMMAND_LINES = [(page, line) for page, text in PAGES.items() for line in commands(text)]


def command_of(line: str) -> tuple[click.Command, list[str]]:
    """The command that a line names, in its group if it has one, and the words behind its name."""
    words = ["X" if PLACEHOLDER.search(word) else word for word in shlex.split(line)[1:]]
    command: click.Command | None = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(click.Context(command), name)
        assert command is not None, f"there is no command {name}"
    return command, words


def parse(line: str) -> click.Context:
    """Parsed by the command it names, as far as names of options go; nothing is called."""
    command, words = command_of(line)
    return command.make_context(command.name or "", words, resilient_parsing=True)


def unknown_options(line: str) -> list[str]:
    command, words = command_of(line)
    known = {name for parameter in command.get_params(click.Context(command)) for name in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in known]


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=[f"{page}: {line}" for page, line in COMMAND_LINES])
def test_a_command_line_parses(page: str, line: str) -> None:
    assert unknown_options(line) == []
    context = parse(line)
    needed = [
        p.name for p in context.command.params if isinstance(p, click.Option) and p.required and context.params.get(p.name or "") is None
    ]
    assert needed == [] or command_of(line)[1] == [], "an option is missing; a bare name in running text is fine"


def test_the_reader_of_command_lines_is_not_blind() -> None:
    assert len(COMMAND_LINES) > 10
    assert unknown_options("delineate segment a.nii.gz --modle x") == ["--modle"]
    with pytest.raises(AssertionError, match="no command"):
        parse("delineate segmnt a.nii.gz")
    with pytest.raises(click.UsageError):
        context = parse("delineate submit a.nii.gz")
        assert context.command.make_context("submit", ["a.nii.gz"])


def test_every_setting_and_no_other_is_described() -> None:
    table = PAGES["docs/server.md"].split("## Settings")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(defaults())


def test_the_settings_file_of_the_page_loads(tmp_path: Path) -> None:
    block = next(text for language, text in BLOCK.findall(PAGES["docs/server.md"]) if language == "toml")
    file = tmp_path / "server.toml"
    file.write_text(block.replace("…", "secret"), encoding="utf-8")
    assert Settings.load(file, {}).root_path == "/delineate"


@pytest.mark.parametrize("page", ["docs/accounts.md", "docs/dicomweb.md"])
def test_settings_that_a_page_shows_are_settings(page: str, tmp_path: Path) -> None:
    blocks = [text for language, text in BLOCK.findall(PAGES[page]) if language == "toml"]
    assert blocks
    for block in blocks:
        file = tmp_path / "server.toml"
        file.write_text(block.replace("…", "secret"), encoding="utf-8")
        Settings.load(file, {})  # raises for what there is not


def test_every_option_of_serve_is_a_setting() -> None:
    options = {
        parameter.name for parameter in cli.get_command(click.Context(cli), "serve").params if not getattr(parameter, "hidden", False)
    }  # type: ignore[union-attr]
    assert options - {"settings_file"} <= set(defaults())


def test_every_route_and_no_other_is_described(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path, workers=0))
    served = {
        (method.upper(), path.rstrip("/") or "/")
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if method != "head"
    }
    described = {
        (method, path.rstrip("/") or "/") for method, path in re.findall(r"^\| `([A-Z]+) (/\S*)` \|", PAGES["docs/http.md"], re.MULTILINE)
    }
    app.state.service.close()
    assert described == served


def test_every_exit_code_is_described() -> None:
    table = PAGES["docs/client.md"].split("| exit code |")[1]
    described = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(",")}
    assert {code for _, code in EXIT_CODES} | {0, 1, 130, 143} == described


def test_every_error_that_is_named_exists() -> None:
    errors = importlib.import_module("delineate.errors")
    named = {name for text in PAGES.values() for name in re.findall(r"`([A-Z]\w+Error)\b", text)}
    assert named
    assert [name for name in sorted(named) if not hasattr(errors, name)] == []


# The architecture's block is signatures, not code.
SNIPPETS = [
    (page, block)
    for page, text in PAGES.items()
    for language, block in BLOCK.findall(text)
    if language == "python" and page != "docs/architecture.md"
]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[f"{page}-{n}" for n, (page, _) in enumerate(SNIPPETS)])
def test_what_a_snippet_imports_exists(page: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("delineate"):
            module = importlib.import_module(node.module or "")
            missing = [
                alias.name for alias in node.names if not hasattr(module, alias.name) and not _is_module(f"{node.module}.{alias.name}")
            ]
            assert missing == []


def _is_module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


LINKS = [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{page} -> {target}" for page, target in LINKS])
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    name, _, anchor = target.partition("#")
    file = ((ROOT / page).parent / name).resolve() if name else ROOT / page
    assert file.is_file(), target
    if anchor:
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_names_every_command_a_person_meets_first() -> None:
    text = PAGES["README.md"] + PAGES["docs/client.md"] + PAGES["docs/workers.md"]
    missing = [name for name in COMMANDS if not re.search(rf"delineate {name}\b", text)]
    assert missing == []
