"""The answer to an infer: one label map as the client wants it, and what is said beside it, put into the result archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from delineate import files, nifti
from delineate.errors import InputError, ModelError
from delineate.geometry import Geometry
from delineate.protocols.archive import ResultWriter
from delineate.protocols.infer_result import LARGEST, NAME, InferResult
from delineate.segmentation import Segmentation, Structure, label_dtype
from delineate.volume import Volume
from delineate.worker import nrrd
from delineate.worker.wanted import Wanted

Layer = tuple[str, np.ndarray, Geometry, Mapping[int, str]]
"""Name of the label map in the archive without suffix, labels of shape (z, y, x), their grid, names by label."""

STEM: Final = "answer"
_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, eq=False)
class LabelsAndNames:
    """One label map of several layers; overlapping : how many voxels more than one structure claims."""

    labels: np.ndarray
    names: Mapping[int, str]
    overlapping: int = 0


def add_answer(
    writer: ResultWriter,
    layers: Sequence[Layer],
    findings: Mapping[str, Any],
    wanted: Wanted | None,
    scratch: Path,
    dicom: Mapping[str, str] = _NOTHING,
) -> None:
    """Add the file of the answer, and the entry that names it.

    Parameters
    ----------
    layers : already in the archive, each as ``NAME.nii.gz``; findings : what else the model said; wanted : None for no file and no
    names; scratch : an empty folder to write into; dicom : names of entries in DICOM, already in the archive, by what was asked for.

    Raises
    ------
    ModelError
        Kind ``input``: the labels do not fit the type; ``output``: the findings are not JSON.
    """
    result = InferResult(findings)
    if wanted is not None and layers:
        result = _with_file(writer, layers, findings, wanted, scratch)
    writer.add_bytes(NAME, _written(replace(result, dicom=dicom)))


def _with_file(
    writer: ResultWriter, layers: Sequence[Layer], findings: Mapping[str, Any], wanted: Wanted, scratch: Path
) -> InferResult:  # fmt: skip
    merged = merge(layers, wanted)
    params: dict[str, Any] = {"label_names": {name: label for label, name in merged.names.items()}}
    if merged.overlapping and wanted.extension != ".seg.nrrd":
        params["overlapping_voxels"] = merged.overlapping
    try:
        wanted.require_fitting(merged.names)
    except InputError as error:
        raise ModelError(error.message, error.advice, "input") from error
    if not wanted.extension:
        return InferResult({**params, **findings})
    image = _existing(layers, merged, wanted) or _add_file(writer, layers, merged, wanted, scratch)
    return InferResult({**params, **findings}, image, STEM + wanted.extension)


def merge(layers: Sequence[Layer], wanted: Wanted) -> LabelsAndNames:
    """One label map of all layers; where structures overlap, the earlier keeps the voxel.

    Labels stay as they are where they can, and are 1, 2, 3, … where two layers use the same or where that is wanted.
    """
    named = [(index, label, name) for index, layer in enumerate(layers) for label, name in sorted(layer[3].items())]
    numbers = {(index, label): label for index, label, _ in named}
    if not wanted.restore or len(set(numbers.values())) < len(numbers):
        numbers = {place: number for number, place in enumerate(numbers, start=1)}
    names = {numbers[index, label]: name for index, label, name in named}
    if len(layers) == 1 and all(label == number for (_, label), number in numbers.items()):
        return LabelsAndNames(layers[0][1], names)
    merged = np.zeros(layers[0][1].shape, label_dtype(max(names, default=1)))
    overlapping = 0
    for index, (_, labels, _, _) in enumerate(layers):
        table = np.zeros(int(labels.max(initial=0)) + 1, merged.dtype)
        for (of, label), number in numbers.items():
            if of == index and label < len(table):
                table[label] = number
        for plane, target in zip(labels, merged, strict=True):
            fresh = table[plane]
            overlapping += int(np.count_nonzero((target > 0) & (fresh > 0)))
            np.copyto(target, fresh, where=target == 0)
    return LabelsAndNames(merged, names, overlapping)


def _existing(layers: Sequence[Layer], merged: LabelsAndNames, wanted: Wanted) -> str | None:
    """The label map of the archive that is the answer already: packing one twice would cost as much again."""
    if wanted.extension != ".nii.gz" or merged.labels is not layers[0][1]:
        return None
    written = nifti.to_labels(merged.labels).dtype
    return f"{layers[0][0]}.nii.gz" if wanted.dtype in ("", written.name) else None


def _add_file(writer: ResultWriter, layers: Sequence[Layer], merged: LabelsAndNames, wanted: Wanted, scratch: Path) -> str:
    name, grid = _free(writer, STEM + wanted.extension), layers[0][2]
    if wanted.extension in (".seg.nrrd", ".mha"):
        path = scratch / (STEM + wanted.extension)
        if wanted.extension == ".mha":
            files.write_volume(path, Volume(_typed(merged.labels, wanted), grid))
        else:
            files.write_segmentation(path, _segmentation(layers))
        writer.add_file(name, path)
        return name
    labels = _typed(merged.labels, wanted)
    with writer.entry(name, labels.nbytes + (labels.nbytes >> 6) + (1 << 20)) as file:
        if wanted.extension == ".nrrd":
            nrrd.write(file, labels, grid, compress=wanted.compress)
        else:
            nifti.write(file, Volume(labels, grid), compress=wanted.extension == ".nii.gz")
    return name


def _typed(labels: np.ndarray, wanted: Wanted) -> np.ndarray:
    small = nifti.to_labels(labels)
    return small.astype(wanted.dtype, copy=False) if wanted.dtype else small


def _segmentation(layers: Sequence[Layer]) -> Segmentation:
    structures = [Structure(name, label, index) for index, layer in enumerate(layers) for label, name in layer[3].items()]
    return Segmentation(layers[0][2], tuple(nifti.to_labels(layer[1]) for layer in layers), tuple(structures))


def _written(result: InferResult) -> bytes:
    try:
        data = result.to_bytes()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"the model's findings are not JSON: {error}", "Give plain objects, lists, text and finite numbers.", "output"
        ) from error
    if len(data) > LARGEST:
        raise ModelError(f"the model's findings are longer than {LARGEST >> 20} MiB", "Give fewer.", "output")
    return data


def _free(writer: ResultWriter, name: str) -> str:
    while writer.has(name):
        name = f"delineate-{name}"
    return name
