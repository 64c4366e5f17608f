"""Load an unpacked extension as the workstation would, in a process of its own, and print its entry points as JSON.

A script, not a module to import: ``python -I probe.py ext|src.ext FOLDER...``. Several folders are loaded one after the other into the
same interpreter, as when an extension is replaced while the workstation runs; the last one's entries are printed. Only numpy and the
standard library can be imported beside the extension; names that others may have taken in the interpreter are taken. Runs on Python
3.7 and newer, because the interpreter may be the workstation's.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import inspect
import io
import json
import os
import sys
import time
import types
from typing import Any, Callable, Sequence

TYPES = ("Integer", "String", "XMimContour", "XMimImage", "XMimSession")
NEIGHBOURS = (
    "client_backend",
    "contour_loader",
    "errors",
    "geometry",
    "inference_client",
    "protocols",
    "task_input",
    "task_output",
    "utils",
)
TEXTS = ("name", "author", "description", "category", "institution", "version")


def stub_host(entries: dict[str, Any]) -> None:
    """Put a MIMPython into ``sys.modules`` that notes every decorated function in `entries`."""

    def mim_extension_entrypoint(
        name: str = "", author: str = "", description: str = "", category: str = "", institution: str = "", version: object = "",
        outputNames: Sequence[str] = (),  # noqa: N803  # the host's spelling
    ) -> Callable[[Any], Any]:  # fmt: skip
        texts = dict(zip(TEXTS, (name, author, description, category, institution, version)))

        def decorate(function: Any) -> Any:
            function.info = entries[function.__name__] = describe(function, texts, tuple(outputNames))
            return function

        return decorate

    package, entry_point, io_types = (types.ModuleType("MIMPython" + part) for part in ("", ".EntryPoint", ".SupportedIOTypes"))
    package.__path__ = []
    vars(entry_point)["mim_extension_entrypoint"] = mim_extension_entrypoint
    for name in TYPES:
        setattr(io_types, name, type(name, (), {"java_name": name}))
    sys.modules.update({module.__name__: module for module in (package, entry_point, io_types)})


def describe(function: Any, texts: dict[str, object], output_names: tuple[str, ...]) -> dict[str, Any]:
    """One entry: its texts, and [name, type] of what it takes and gives; a type that is not the host's is said in words."""
    signature = inspect.signature(function)
    outputs = [] if signature.return_annotation is signature.empty else [signature.return_annotation]
    parameters = signature.parameters.values()
    odd = [p.name for p in parameters if p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty]
    unlike = len(output_names) != len(outputs)
    return dict(
        {key: value if isinstance(value, str) else str(value) for key, value in texts.items()},
        method=function.__name__,
        parameters=[[p.name, type_name(p.annotation) if p.name not in odd else "not a plain parameter"] for p in parameters],
        outputs=[[name, type_name(kind)] for name, kind in zip(output_names, outputs)],
        problem=f"{len(output_names)} outputNames for {len(outputs)} outputs" if unlike else "",
    )


def type_name(annotation: object) -> str:
    """The host's name of a type; of anything else a phrase that says what it is."""
    if isinstance(annotation, str):
        return "the text %r, because of `from __future__ import annotations`" % annotation
    name = getattr(annotation, "java_name", None)
    return str(name) if name in TYPES else "nothing the workstation knows: %r" % (annotation,)


class Workstation:
    """Has numpy and the standard library, and nothing else that happens to be installed here."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Refuse what comes from site-packages, numpy left out; leave the rest to the ordinary finders."""
        top = name.partition(".")[0]
        if path is not None or top == "numpy":
            return
        spec = importlib.machinery.PathFinder.find_spec(name)
        where = (spec.origin or "") if spec is not None else ""
        if top == "delineate" or any(part in where for part in ("site-packages", "dist-packages")):
            raise ModuleNotFoundError("No module named %r on the workstation" % name, name=name)


def load(way: str, folder: str) -> types.ModuleType:
    """Import the entry module of the extension in `folder` anew; what it imported before stays loaded."""
    place = os.path.join(folder, "src") if way == "ext" else folder
    for name in ("ext", "src", "src.ext"):
        sys.modules.pop(name, None)
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(way)
    finally:
        sys.path.remove(place)


def run(way: str, folders: Sequence[str]) -> dict[str, Any]:
    """Load each folder's extension in turn; what the last one offers, and how long it took to load."""
    entries: dict[str, Any] = {}
    import numpy  # noqa: F401  # before the way to site-packages is closed

    sys.meta_path.insert(0, Workstation)
    stub_host(entries)
    for name in NEIGHBOURS:
        sys.modules[name] = types.ModuleType(name)  # an older extension's module of that name: empty, so that its use shows
    for folder in folders:
        entries.clear()
        begin = time.perf_counter()
        module = load(way, folder)
    seconds = time.perf_counter() - begin
    offered = [name for name in vars(module) if name in entries and getattr(getattr(module, name), "info", None) is entries[name]]
    hidden = sorted(set(entries) - set(offered))
    if hidden:
        raise ImportError(f"entry points that cannot be found by their function's name: {', '.join(hidden)}")
    return {
        "entries": [entries[name] for name in offered],
        "seconds": round(seconds, 3),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        found = run(sys.argv[1], sys.argv[2:])
    print(json.dumps(found))
