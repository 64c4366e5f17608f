"""The tables of ``docs/geometry.md`` from the results of ``python -m benchmarks.geometry``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

BEGIN: Final = "<!-- tables: written by make geometry -->\n"
END: Final = "<!-- end of the tables -->\n"
VALIDATORS: Final = {
    "validity": "`dciodvfy` of Debian (`dicom3tools`) on every file that was written for these tables:",
    "validator": "`dicom-validator` on those of the first series of each kind:",
}


def number(value: int) -> str:
    """With commas between thousands."""
    return f"{value:,}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def ours(kind: Mapping[str, Any]) -> Iterator[str]:
    """Our table of one kind of place."""
    formats = kind["differing"]
    yield from table(["shape", *formats], [[shape, *(number(formats[name][shape]) for name in formats)] for shape in kind["inside"]])


def cell(column: Mapping[str, Any], shape: str, series: int) -> str:
    """What a peer got wrong."""
    return "failed" if column["failed"] == series else number(column["differing"].get(shape, 0))


def others(kind: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterator[str]:
    """The peers' table of one kind of place."""
    heads = []
    for name, column in columns.items():
        is_part = 0 < column["failed"] < kind["series"]
        heads.append(f"{name} *({column['failed']} failed)*" if is_part else name)
    yield from table(
        ["shape", "voxels", *heads],
        [
            [shape, number(inside), *(cell(column, shape, kind["series"]) for column in columns.values())]
            for shape, inside in kind["inside"].items()
        ],
    )


def failures(peers: Mapping[str, Any]) -> Iterator[str]:
    """Why packages failed: the first error of each."""
    found: dict[str, str] = {}
    for columns in (columns for peer in peers.values() for columns in peer["kinds"].values()):
        for name, column in columns.items():
            if column["failed"]:
                found.setdefault(name, column["error"])
    if found:
        yield from ("The first error of each that failed:", "", *(f"- {name}: *{error.strip()}*" for name, error in found.items()), "")


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Lines of everything between the marks."""
    kinds, peers = results["kinds"], results["peers"]
    wrong = sum(sum(counts.values()) for kind in kinds.values() for counts in kind["differing"].values())
    formats = len(next(iter(kinds.values()))["differing"])
    inside = formats * sum(sum(kind["inside"].values()) for kind in kinds.values())
    series = sum(kind["series"] for kind in kinds.values())
    yield f"**{number(wrong)} voxels of ours differ**, of {number(inside)} inside of structures on {series} series in {formats} formats."
    versions = [f"{name} {version}" for peer in peers.values() for name, version in peer["versions"].items()]
    if versions:
        yield from ("", f"The others are {', '.join(versions)}.")
    yield ""
    for name, kind in kinds.items():
        yield from (f"## {name[0].upper()}{name[1:]}", "", f"{kind['series']} series. Voxels that differ, of ours:", "", *ours(kind))
        columns = {column: found for peer in peers.values() for column, found in peer["kinds"].get(name, {}).items()}
        if columns:
            yield from ("Of others:", "", *others(kind, columns))
    yield from failures(peers)
    yield from ("## Validity", "")
    for name, words in VALIDATORS.items():
        rows = [[kind, *(number(found[what]) for what in ("files", "errors", "unknown"))] for kind, found in results[name].items()]
        if rows:
            yield from (words, "", *table(["file", "files", "errors", "with what it does not know"], rows))


def render(page: str, results: Mapping[str, Any]) -> str:
    """The page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "".join((before, BEGIN, "\n", "\n".join(tables(results)), "\n", END, after))
