"""``python -m benchmarks [NAME…]``: run them all, or those named; a table each."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import sys

import benchmarks

ORDER = [
    "codec", "dicom", "resample", "rtstruct", "seg", "gateway", "archives", "store", "datastore", "startup", "tasks", "upload", "memory",
    "mim", "models", "training", "monai_label",
]  # fmt: skip


def main(names: list[str]) -> int:
    """Run the benchmarks in order; an unknown name is an error, a failing one does not stop the others."""
    found = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name in ORDER]
    unknown = sorted(set(names) - set(found))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(found)}", file=sys.stderr)
        return 2
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    failed = []
    for name in sorted(names or found, key=ORDER.index):
        print(f"\n== {name} ==", flush=True)
        try:
            importlib.import_module(f"benchmarks.{name}").main([])
        except Exception as error:
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
