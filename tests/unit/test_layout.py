"""The architecture as a test: layers, sizes, names, and the Python of the workstation modules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "delineate"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What the workstation extension will carry: these run on Python 3.7 with numpy alone.
WORKSTATION = [
    "errors.py", "geometry.py", "volume.py", "segmentation.py", "gzip_codec.py", "nifti_header.py", "nifti.py",
    "protocols/messages.py", "protocols/archive.py", "protocols/inference_server.py",
    "protocols/inference_answers.py", "protocols/inference_flows.py", "protocols/retries.py",
    "protocols/archive_entries.py", "protocols/archive_zip.py", "protocols/archive_tar.py",
    "protocols/archive_reader.py", "protocols/archive_writer.py", "protocols/task_archive.py", "protocols/result_archive.py",
]  # fmt: skip
FORBIDDEN_NAMES = {"core", "utils", "util", "helpers", "helper", "impl", "common", "misc"}


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
    code = "import sys; sys.path.insert(0, '.'); sys.argv = ['lint-imports', '--no-cache']; from importlinter.cli import lint_imports_command as c; c()"
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
    readers = [
        str(module.relative_to(PACKAGE))
        for module in MODULES
        if re.search(r"os\.environ\b(?!\s*\|)|os\.getenv", module.read_text(encoding="utf-8"))
    ]
    # A child process inherits an environment; who passes one on says so here.
    assert set(readers) <= {"server/settings.py"}, readers


def test_workstation_modules_run_on_python_3_7() -> None:
    files = [str(PACKAGE / name) for name in WORKSTATION]
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run([vermin, "-t=3.7-", "--violations", "--no-tips", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workstation_modules_need_numpy_alone() -> None:
    names = [name.removesuffix(".py").replace("/", ".") for name in WORKSTATION]
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
