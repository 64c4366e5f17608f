"""What docs/mim.md tells a physicist is so: sentences, entry points and their parameters, keys of the configuration."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import delineate
from delineate.mim.inference_client import KEYS
from delineate.mim.packaging.closure import Closure, closure

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "mim.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def carried() -> Closure:
    return closure(Path(delineate.__file__).parent)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_sentence_of_the_page_is_one_of_the_extension(carried: Closure) -> None:
    nodes = [node for source in (carried.entry, *carried.modules.values()) for node in ast.walk(ast.parse(source))]
    texts = " ".join(str(node.value) for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)).lower()
    quoted = re.findall(r"(?<!\*)\*([^*|]+)\*(?!\*)", section("Sentences one may meet"))
    parts = [part.strip() for sentence in quoted for part in re.split(r"…|\(|\)", sentence)]
    assert len(parts) > 20
    assert [part for part in parts if part and not part.startswith(("status", "40")) and part.lower() not in texts] == []


def test_every_entry_point_is_on_the_page_with_its_parameters(carried: Closure) -> None:
    functions = [node for node in ast.parse(carried.entry).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    workflow = section("Set up a workflow")
    counted = {f"InferenceServer{n}images{more}" for n in "23" for more in ("", "Contours")}  # "1images to 4images"
    names = {function.name for function in functions}
    assert {name for name in names - counted if f"`{name}`" not in workflow} == set()
    parameters = {argument.arg for function in functions for argument in function.args.args} - {"session"}
    assert {name for name in parameters if f"`{name}`" not in workflow} == set()
    said = set(re.findall(r"`((?:InferenceServer|Delineate)\w+)`", PAGE))
    assert said - names == set()


def test_every_key_of_the_configuration_is_on_the_page() -> None:
    table = section("Server, token, certificate")
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(KEYS)
