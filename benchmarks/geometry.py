"""Every shape in every place through every format and back: the figures of ``docs/geometry.md``, which it writes.

``python -m benchmarks.geometry`` (``make geometry``): all series of `delineate.testing.roundtrips` are written, read, and what comes
back is compared voxel by voxel; ``dciodvfy`` looks at each RTSTRUCT and SEG where it is installed. Other packages do the same
where ``make peers-geometry`` put them; figures of those that are not there stay as they are in ``geometry.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.geometry_document import render
from benchmarks.geometry_picture import picture
from benchmarks.geometry_validity import by_dciodvfy, by_dicom_validator
from benchmarks.structures import complete
from delineate.dicom.reader import read
from delineate.dicom.rtstruct import read_rtstruct
from delineate.testing.roundtrips import TRIPS, Place, Trial, by_shape, places, trial

HERE: Final = Path(__file__).parent
DOCUMENT: Final = HERE.parent / "docs" / "geometry.md"
PICTURE: Final = HERE.parent / "docs" / "images" / "geometry-ring.png"
RESULTS: Final = HERE / "geometry.json"
PEERS: Final = Path(".peers")
PICTURED: Final = "7 at 17"  # the series whose ring is drawn
DRAWN: Final = ("rt-utils → dcmrtstruct2nii", "platipy")  # beside ours
PROCESSES: Final = 2

Results = dict[str, Any]


def described(data: Any, number: int) -> None:
    """What some peers and the validator do not do without."""
    complete(data, number)
    data.StudyID, data.ReferringPhysicianName, data.Manufacturer = "1", "", "Delineate"


def taken(place: Place, folder: Path) -> Results:
    """All ways there and back in one place; files stay in the folder, with a job for peers."""
    given = trial(place, folder / "series", stored=12, change=described)
    names = list(given.on_slices)
    counts = {name: by_shape(trip(given, folder), names) for name, trip in TRIPS.items()}
    inside = {name: int(np.count_nonzero(labels)) for name, labels in given.on_slices.items()}
    return {
        "kind": place.kind,
        "differing": counts,
        "inside": inside,
        "structures": len(given.on_volume.structures),
        "voxels": int(np.prod(place.geometry.size)),
        "validity": by_dciodvfy(folder),
        "job": job(place, given, folder),
    }


def job(place: Place, given: Trial, folder: Path) -> Results:
    """One series for `geometry_peers.py`."""
    series, planes = given.image.series, given.image.series.planes
    np.savez(folder / "maps.npz", **given.on_slices)
    return {
        "name": place.name,
        "kind": place.kind,
        "series": str(folder / "series"),
        "folder": str(folder),
        "maps": str(folder / "maps.npz"),
        "uids": [item.sop_instance for item in series.instances],
        "has_grid": given.has_grid,
        "axes": list(planes.orientation),
        "spacing": list(planes.spacing),
        "positions": planes.positions.tolist(),
        "rtstruct": str(folder / "rtstruct-keyhole.dcm"),
        "binary": str(folder / "seg-binary.dcm"),
        "labelmaps": {name: str(folder / f"seg-labelmap-{number}.dcm") for number, name in enumerate(given.on_slices)},
        "is_kept": place.name == PICTURED,
    }


def gathered(rows: Iterable[Results]) -> Results:
    """Sums over the series of each kind."""
    kinds: dict[str, Results] = {}
    checked: dict[str, Counter[str]] = {}
    for row in rows:
        kind = kinds.setdefault(
            row["kind"], {"series": 0, "voxels": 0, "inside": Counter(), "differing": {name: Counter() for name in TRIPS}}
        )
        kind["series"] += 1
        kind["voxels"] += row["voxels"]
        kind["inside"].update(row["inside"])
        for name, counts in row["differing"].items():
            kind["differing"][name].update(counts)
        for name, counts in row["validity"].items():
            checked.setdefault(name, Counter()).update(counts)
    return {"structures": row["structures"], "kinds": kinds, "validity": checked}


def asked(peer: str, python: Path, jobs: Sequence[Results], folder: Path) -> list[Results]:
    """What a peer found, a row for its versions and one for each series; two processes share them."""

    def one(number: int) -> list[Results]:
        path = folder / f"{peer}-{number}.json"
        path.write_text(json.dumps(jobs[number::PROCESSES]))
        script = HERE / "geometry_peers.py"
        done = subprocess.run([python, script, peer, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(PROCESSES) as threads:
        return [row for rows in threads.map(one, range(PROCESSES)) for row in rows]


def summed(rows: Iterable[Results]) -> Results:
    """What a peer found, by kind and column: voxels that differ by shape, and the series on which it failed."""
    found: Results = {"versions": {}, "kinds": {}}
    for row in rows:
        if "versions" in row:
            found["versions"] = row["versions"]
            continue
        for column, counts in row["columns"].items():
            sums = found["kinds"].setdefault(row["kind"], {}).setdefault(column, {"differing": Counter(), "failed": 0, "error": ""})
            if isinstance(counts, str):
                sums["failed"] += 1
                sums["error"] = sums["error"] or counts.splitlines()[0][:120]
            else:
                sums["differing"].update(counts)
    return found


def measure(folder: Path, peers: Path, wanted: Sequence[Place]) -> Results:
    """Ours in all places, and those peers that are there."""
    folders = [folder / str(number) for number in range(len(wanted))]
    with ProcessPoolExecutor(PROCESSES) as processes:
        rows = list(processes.map(taken, wanted, folders, chunksize=4))
    results = gathered(rows)
    first = {row["kind"]: folder for row, folder in reversed(list(zip(rows, folders, strict=True)))}
    results["validator"] = by_dicom_validator(peers / "validator", list(first.values()))
    results["peers"] = {}
    for peer in ("rtstruct", "platipy", "seg"):
        python = peers / peer / "bin" / "python"
        if python.exists():
            results["peers"][peer] = summed(asked(peer, python.absolute(), [row["job"] for row in rows], folder))
    draw(folders[[place.name for place in wanted].index(PICTURED)])
    return results


def draw(folder: Path) -> None:
    """The picture, where the peers in it are there."""
    files = {name: folder / f"kept-{name}.npy" for name in DRAWN}
    if all(path.exists() for path in files.values()):
        ring = dict(np.load(folder / "maps.npz"))["ring"] > 0
        ours = read_rtstruct(folder / "rtstruct-keyhole.dcm", read(folder / "series").series).mask("ring")
        PICTURE.write_bytes(picture(ring, {"Delineate": ours, **{name: np.load(path) for name, path in files.items()}}))


def kept(results: Results, before: Mapping[str, Any]) -> Results:
    """The results, with those of an earlier run for peers and validators that are not here now."""
    peers = {**before.get("peers", {}), **results["peers"]}
    checked = {name: results[name] or before.get(name, {}) for name in ("validity", "validator")}
    return {**results, **checked, "peers": peers}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the document, and say whether anything of ours differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=PEERS, help="the folder of the peers' environments")
    parser.add_argument("--folder", type=Path, help="where the files go; the system's temporary folder by default")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        results = measure(Path(folder), given.peers, list(places()))
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results = kept(results, before)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    DOCUMENT.write_text(render(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
    wrong = sum(sum(counts.values()) for kind in results["kinds"].values() for counts in kind["differing"].values())
    errors = sum(counts["errors"] for name in ("validity", "validator") for counts in results[name].values())
    print(f"{DOCUMENT.name}: {wrong} voxels differ, {errors} errors of validators")
    return int(wrong > 0 or errors > 0)


if __name__ == "__main__":
    sys.exit(main())
