"""The architecture as a test: layers, sizes, names, and the Python of the workstation modules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "delineate"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What the workstation's extension carries: this and all it imports run on Python 3.7 with numpy alone.
WORKSTATION_ENTRY = "mim.ext"
MOST_MODULES = 15
MOST_SHARED_MODULES, MOST_SHARED_BYTES = 9, 118_000  # of what it shares with server and client, comments and docstrings included
ENVIRONMENT = re.compile(r"os\.(environ|getenv)\b")
# They take no setting from the environment; the processes that they start inherit it, or a part of it.
PASS_ENVIRONMENT_ON = {"cli/embedded.py", "engines/process.py", "runners/guard.py", "runners/process.py"}
FORBIDDEN_NAMES = {"core", "utils", "util", "helpers", "helper", "impl", "common", "misc"}


def _path(name: str) -> Path | None:
    """The file of the module `name`, given without the package's own name."""
    stem = PACKAGE.joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()), None)


def _imports(module: Path) -> Iterator[str]:
    """Modules of the package that `module` imports when it runs; what stands under ``TYPE_CHECKING`` does not."""
    nodes: list[ast.AST] = [ast.parse(module.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        yield from (name.removeprefix("delineate.") for name in names if name.startswith("delineate."))


def workstation_closure() -> dict[str, Path]:
    """Every module that `WORKSTATION_ENTRY` reaches, without the packages' own ``__init__``."""
    found: dict[str, Path] = {}
    names = [WORKSTATION_ENTRY]
    while names:
        name = names.pop()
        path = _path(name)
        if path is not None and path.name != "__init__.py" and name not in found:
            found[name] = path
            names += _imports(path)
    return found


def test_layers() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_can_fail(tmp_path: Path) -> None:
    """The check is not blind: a client that imports the store breaks the contract."""
    copy = tmp_path / "delineate"
    for module in MODULES:
        target = copy / module.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(module.read_bytes())
    (copy / "client" / "intruder.py").write_text("import delineate.store.tasks\n")
    (tmp_path / ".importlinter").write_bytes((ROOT / ".importlinter").read_bytes())
    run = "from importlinter.cli import lint_imports_command as run; run()"
    code = f"import sys; sys.path.insert(0, '.'); sys.argv = ['lint-imports', '--no-cache']; {run}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "delineate.client.intruder" in done.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes_and_names(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    assert source.count("\n") <= 400, "a module has at most 400 lines"
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in module.relative_to(PACKAGE).parts}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 50, f"{node.name} has more than 50 lines"


def test_only_the_settings_read_the_environment() -> None:
    named = [
        str(module.relative_to(PACKAGE)) for module in MODULES if re.search(r"os\.(environ|getenv)\b", module.read_text(encoding="utf-8"))
    ]
    assert set(named) == {"server/settings.py", *PASS_ENVIRONMENT_ON}


def test_the_workstation_carries_little() -> None:
    """Bounds that go up for safety alone: what each module more costs is paid at every start of the workstation's extension."""
    closure = workstation_closure()
    shared = {name: path.stat().st_size for name, path in closure.items() if not name.startswith("mim.")}
    assert {"errors", "geometry", "nifti_codec", "protocols.messages"} <= set(shared)
    assert len(closure) <= MOST_MODULES, sorted(closure)
    assert len(shared) <= MOST_SHARED_MODULES, sorted(shared)
    assert sum(shared.values()) <= MOST_SHARED_BYTES, shared


def test_workstation_modules_run_on_python_3_7() -> None:
    files = [str(path) for path in workstation_closure().values()]
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run([vermin, "-t=3.7-", "--violations", "--no-tips", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workstation_modules_need_numpy_alone() -> None:
    names = sorted(set(workstation_closure()) - {WORKSTATION_ENTRY})  # which needs its host
    code = (
        "import sys, importlib\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'isal', 'httpx', 'SimpleITK', 'scipy', 'click', 'rich', 'fastapi'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"for name in {names!r}: importlib.import_module('delineate.' + name)\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr


if __name__ == "__main__":
    for name, path in sorted(workstation_closure().items()):
        print(f"{path.stat().st_size:8} {name}")
    print(f"{sum(path.stat().st_size for path in workstation_closure().values()):8} in {len(workstation_closure())} modules")
