"""The MONAI Label server and client beside ours: every line of what was to be reached, in one run, in turns.

``python -m benchmarks monai_label`` (a part of ``make bench``), or ``python -m benchmarks.monai_label --only infers`` for some of it.
``make peers-interop`` makes the peer's environment. Kills take long: ``--only kills --rounds 20``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.monai_label_datastore import datastore
from benchmarks.monai_label_infers import available, infers, memory
from benchmarks.monai_label_install import install
from benchmarks.monai_label_kills import kills
from benchmarks.monai_label_servers import images
from benchmarks.monai_label_table import Table

PARTS = ("infers", "memory", "datastore", "install", "kills")
USUAL = PARTS[:-1]  # kills take minutes


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, default=Path(".peers/monai-label"), help="virtual environment with monailabel")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=USUAL, help="some of it")
    parser.add_argument("--rounds", type=int, default=5, help="of each infer; of kills")
    parser.add_argument("--folder", type=Path, help="where to work, by default the system's temporary folder")
    options = parser.parse_args(arguments)
    peer = options.peer.absolute() if (options.peer / "bin" / "python").exists() else None
    table = Table()
    table.head(peer is not None)
    with tempfile.TemporaryDirectory(prefix="delineate-bench-", dir=options.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if {"infers", "memory"} & set(options.only):
            made = images(folder / "images")
            table.note(
                f"{'':50}(large is {made['large'].stat().st_size / 1e6:.0f} MB, medium {made['medium'].stat().st_size / 1e6:.0f} MB)"
            )
            if "infers" in options.only:
                infers(peer, folder / "infers", made, options.rounds, table)
            if "memory" in options.only and available():
                memory(peer, folder / "memory", made, table)
        if "datastore" in options.only:
            datastore(peer, folder / "datastore", table)
        if "install" in options.only:
            install(peer, folder / "install", table)
        if "kills" in options.only:
            kills(peer, folder / "kills", options.rounds, table)
    table.note("every bar is held" if not table.lost else f"not held: {'; '.join(table.lost)}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
