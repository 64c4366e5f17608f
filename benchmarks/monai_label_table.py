"""The table: what was measured, beside what was to be reached."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """Lines, printed as they come: what, theirs, ours, their ratio, the bar, held or not."""

    lost: list[str] = field(default_factory=list)

    def head(self, has_peer: bool) -> None:
        """The first lines."""
        if not has_peer:
            print("the peer is missing: `make peers-interop` installs it (8 GB); bars that compare with it are not judged")
        print(f"{'':50}{'MONAI Label':>12}{'ours':>10}{'ratio':>8}   bar", flush=True)

    def times(
        self, work: str, theirs: Sequence[float], ours: Sequence[float], most: float = 0.0, limit: float = 0.0, scale: str = "ms"
    ) -> None:
        """Seconds of both, medians. most : of ours over theirs; limit : of ours, seconds. Where both are given, either is enough."""
        factor = 1e3 if scale == "ms" else 1.0
        other, own = (statistics.median(values) if values else None for values in (theirs, ours))
        assert own is not None
        words, held = [], []
        if most:
            words.append(f"<= {most:.3g} of theirs")
            held.append(None if other is None else own <= most * other)
        if limit:
            words.append(f"<= {limit * factor:g} {scale}")
            held.append(own <= limit)
        spread = (
            f", {min(ours) * factor:.{0 if scale == 'ms' else 2}f} to {max(ours) * factor:.{0 if scale == 'ms' else 2}f}"
            if len(ours) > 2
            else ""
        )
        self.line(work, None if other is None else other * factor, own * factor, scale, " or ".join(words) + spread, held)

    def line(self, work: str, theirs: float | None, ours: float, unit: str, bar: str, held: Sequence[bool | None]) -> None:
        """One line. held : for each of the bars, None where it cannot be judged; one that holds is enough."""
        other = "" if theirs is None else f"{theirs:10.4g}"
        ratio = "" if not theirs else f"{ours / theirs:7.3f}"
        word = "held" if True in held else "-" if None in held or not held else "NOT HELD"
        if word == "NOT HELD":
            self.lost.append(work)
        print(f"{work + ', ' + unit:50}{other:>12}{ours:10.4g}{ratio:>8}   {word:9} {bar}", flush=True)

    def note(self, text: str) -> None:
        """Something that is no measurement."""
        print(text, flush=True)
