"""A client of either make, in its own environment: MB above idle at the peak of an infer by id, and of one with the file sent.

Arguments: module of the client, server, folder for results, image. It may import nothing else than the standard library and that client.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path


def status(name):
    """MB of this process by the kernel's own account."""
    return int(re.search(name + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def peak_of(call):
    """How far `call` goes above what there was before."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


if __name__ == "__main__":
    module, server, folder, image = sys.argv[1:5]
    results = Path(folder) / "results"
    results.mkdir(exist_ok=True)
    client = importlib.import_module(module).MONAILabelClient(server, str(results), "bench")
    client.info()
    by_id = peak_of(lambda: client.infer("bone", "large", {}))
    print(by_id, peak_of(lambda: client.infer("bone", "", {}, file=image)))
