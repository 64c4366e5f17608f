"""Steps that may end the process, such as reading more than there is memory: begun again at each start, they would end it for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from delineate.errors import ImageError

_TIMES: Final = 3


@contextlib.contextmanager
def survived(folder: Path) -> Iterator[None]:
    """Within it the process is marked as at risk, in a file of the job's folder.

    Raises
    ------
    ImageError
        It ended within this step three times in a row. The next try counts anew.
    """
    mark = folder / "at-risk"
    times = mark.stat().st_size if mark.exists() else 0
    if times >= _TIMES:
        mark.unlink()
        raise ImageError(
            f"the node was ended {times} times while it worked on this series",
            "Look whether the series is too large for the machine's memory; then let it be tried again.",
        )
    with mark.open("ab") as file:
        file.write(b".")
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
