"""The three balls in every orientation through a server and back, by the witness: ``python -m benchmarks.sides``.

All 48 orders and flips of the axes, straight, turned by 17° and by 45°, as DICOM by a task (label map, RTSTRUCT, SEG) and as NIfTI
and NRRD by an infer, with models that take images as sent and turned: what `tests/acceptance/test_dicom_sides.py` tries a part of.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from delineate.cli.embedded import embedded_server
from delineate.testing.ball_phantom import CENTRE, Scan, values_at, write_models, write_nifti, write_nrrd, write_slices
from delineate.testing.dicom import orientations
from delineate.testing.witness import differences, file_points, rtstruct_points, seg_points

SPACING, SIZE = np.array([0.7, 1.3, 3.0]), np.array([53, 29, 13])
MODELS = ("balls", "balls-lps", "balls-pir")
READ = {"rtstruct.dcm": rtstruct_points, "seg.dcm": seg_points}


def main(arguments: list[str]) -> int:
    """Count what is elsewhere; 1 where anything is."""
    tried, wrong = 0, []
    with tempfile.TemporaryDirectory() as scratch, embedded_server([write_models(Path(scratch, "models"))]) as url:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            for degrees in (0.0, 17.0, 45.0):
                for number, axes in enumerate(orientations(degrees)):
                    for name, words in _tried(http, axes, Path(scratch)):
                        tried += 1
                        wrong += [f"{number} at {degrees:.0f}°, {name}: {words}"] if words else []
                print(f"{degrees:.0f}°: {tried} files so far, {len(wrong)} wrong", flush=True)
    print("\n".join(wrong))
    return 1 if wrong else 0


def _tried(http: httpx.Client, axes: np.ndarray, folder: Path) -> Iterator[tuple[str, list[str]]]:
    steps = axes * SPACING
    first = CENTRE - steps @ (SIZE - 1) / 2
    scan = Scan(first + np.outer(np.arange(SIZE[2]), steps[:, 2]), axes[:, 0], axes[:, 1])
    archive = _packed(write_slices(scan, folder / "in"))
    for model in MODELS:
        query = {"model_human_readable_id": model, "output": "rtstruct,seg"}
        uid = http.post("/api/tasks/", params=query, files={"zip_file": ("study.zip", archive)}).raise_for_status().json()
        answer = http.get(f"/api/tasks/{uid}", params={"wait": "50"}).raise_for_status()
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(folder / "out")
        for name, read in READ.items():
            yield f"{model}, {name}", differences(read(folder / "out" / name, scan), scan.truth)
        yield f"{model}, label map", differences(file_points(folder / "out" / "segmentation.nii.gz"), scan.truth)
    indices = np.moveaxis(np.indices(tuple(SIZE[::-1])), 0, -1)[..., ::-1]
    values = values_at(indices @ steps.T + first)
    files = [
        write_nifti(folder / "sform.nii.gz", values, steps, first),
        write_nifti(folder / "qform.nii", values, steps, first, quaternion=True),
        write_nrrd(folder / "lps.nrrd", values, steps, first),
        write_nrrd(folder / "ras.nrrd", values, steps, first, "right-anterior-superior"),
    ]
    for (path, model), suffix in product(zip(files, (*MODELS, MODELS[1]), strict=True), (".nii.gz", ".nrrd", ".seg.nrrd")):
        parts: dict[str, Any] = {"params": (None, json.dumps({"result_extension": suffix})), "file": (path.name, path.read_bytes())}
        answer = http.post(f"/infer/{model}", params={"output": "image"}, files=parts).raise_for_status()
        (folder / f"answer{suffix}").write_bytes(answer.content)
        yield f"{path.name}, {model}, {suffix}", differences(file_points(folder / f"answer{suffix}"), scan.truth)


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in folder.iterdir():
            archive.writestr(path.name, path.read_bytes())
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
