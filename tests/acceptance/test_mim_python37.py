"""The built zip under the Pythons of workstations: every one on this machine that has numpy, and a check that sees what 3.7 lacks.

Interpreters are named in DELINEATE_OLD_PYTHONS, with the system's separator of paths between them, or found as ``python3.7`` to
``python3.10``; the one that runs the tests is always among them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import trustme

from delineate.mim.packaging.check import check_bytes
from delineate.testing.script import Script
from delineate.testing.scripted import ScriptedServer

SCRIPT = Path(__file__).with_name("mim_old_python.py")


def interpreters() -> dict[str, str]:
    """Paths by version, of those that import numpy."""
    named = os.environ.get("DELINEATE_OLD_PYTHONS", "").split(os.pathsep)
    found = [path for path in (*named, *(shutil.which(f"python3.{minor}") for minor in range(7, 11)), sys.executable) if path]
    usable = {}
    for path in found:
        command = [path, "-I", "-c", "import platform, numpy; print(platform.python_version())"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            usable[done.stdout.strip()] = path
    return usable


PYTHONS = interpreters()


@pytest.mark.parametrize("version", PYTHONS)
def test_every_entry_point_runs(extension: Path, quiet_network: None, tmp_path: Path, version: str) -> None:
    with zipfile.ZipFile(extension) as archive:
        archive.extractall(tmp_path / "extension")
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    script = Script(polls=0, late_row=False)
    with ScriptedServer(script) as server, ScriptedServer(script, tls=context) as secure:
        arguments = [str(tmp_path / "extension"), server.url, secure.url, str(tmp_path / "ca.pem")]
        command = [PYTHONS[version], "-I", "-W", "error", str(SCRIPT), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["python"] == version
    assert told["wrong"] == {"ext": [], "src.ext": []}
    assert {"ext", "src.ext"} <= set(told["modules"])
    assert len(server.uploads) == 2 * 9
    assert len(secure.uploads) == 2 * 4


PLANTED = {
    "walrus": "if (n := 3):\n    pass\n",
    "positional only": "def f(a, /):\n    return a\n",
    "list[int] at run time": "X = list[int]\n",
    "union at run time": "X = int | None\n",
    "removeprefix": "x = 'ab'.removeprefix('a')\n",
    "dict union": "x = {1: 2} | {3: 4}\n",
    "math.prod": "import math\nx = math.prod([1, 2])\n",
    "typing.Protocol": "from typing import Protocol\n",
    "keyword-only dataclass": "from dataclasses import dataclass\n@dataclass(kw_only=True)\nclass A:\n    a: int = 0\n",
    "match": "match 1:\n    case 1:\n        pass\n",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_check_finds_what_python_3_7_lacks(extension: Path, tmp_path: Path, planted: str) -> None:
    """Planted into a module of the built zip; a check of the unchanged one finds nothing."""
    found = verdicts(planted_into(extension, tmp_path, PLANTED[planted]))
    assert False in found.values(), found


def test_the_check_finds_nothing_in_the_zip_as_it_is(extension: Path) -> None:
    assert False not in verdicts(extension.read_bytes()).values()


def verdicts(data: bytes) -> dict[str, Any]:
    """What was said of the Python and the imports."""
    return {finding.check: finding.ok for finding in check_bytes(data, loaded=False) if re.search("python|3.7|import", finding.check, re.I)}


def planted_into(extension: Path, folder: Path, source: str) -> bytes:
    """The zip with `source` at the end of its module ``geometry``."""
    path = folder / "planted.zip"
    with zipfile.ZipFile(extension) as given, zipfile.ZipFile(path, "w") as archive:
        for name in given.namelist():
            data = given.read(name)
            archive.writestr(name, data + b"\n\n" + source.encode() if name.endswith("/geometry.py") else data)
    return path.read_bytes()
