"""The result archive. The same input gives the same bytes, whatever died on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import delineate
from delineate.errors import InputError, ModelError
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.protocols.archive import LOG_NAME, ResultWriter
from delineate.protocols.task_archive import IMAGE_LINE, PROVENANCE_NAME
from delineate.worker.answer import Layer


def publish(
    path: Path,
    layers: Iterable[Layer],
    others: Mapping[str, Path],
    log: bytes,
    model: Model,
    add_answer: Callable[[ResultWriter, Sequence[Layer]], None] | None = None,
    place: Geometry | None = None,
) -> None:
    """Write the result archive to `path`.

    Parameters
    ----------
    layers : name, labels of shape (z, y, x), their grid, names by label; others : further files by name;
    log : what the model wrote, empty for none; add_answer : adds what is for whoever asked by another protocol, given the
    layers under the names that were used; None where one layer after the other is to be made and forgotten; place : where
    the first image is in the patient, None where nobody said.

    Raises
    ------
    ModelError
        Kind ``output``: a name that no archive may hold.
    """
    try:
        _write(path, layers, others, log, provenance_text(model, place), add_answer)
    except InputError as error:
        raise ModelError(f"the model's result cannot be packed: {error.message}", error.advice, "output") from error


def _write(
    path: Path,
    layers: Iterable[Layer],
    others: Mapping[str, Path],
    log: bytes,
    provenance: str,
    add_answer: Callable[[ResultWriter, Sequence[Layer]], None] | None,
) -> None:
    taken = {name.lower() for name in others}
    with ResultWriter(path) as writer:
        added = []
        for name, labels, geometry, names in layers:
            used = writer.add_layer(name, labels, geometry, names)
            if add_answer is not None:
                added.append((used, labels, geometry, names))
        for name, file in others.items():
            writer.add_file(name, file)
        if log:
            writer.add_bytes(free_name(LOG_NAME, taken), log)
        if add_answer is not None:
            add_answer(writer, added)
        writer.add_text(free_name(PROVENANCE_NAME, taken), provenance)


def provenance_text(model: Model, place: Geometry | None = None) -> str:
    """By what the result was made, and of which image. No times, hosts or uids: it is part of the deterministic bytes."""
    fields = {
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "runner": model.runner,
        "delineate": delineate.__version__,
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    return text if place is None else f"{text}{IMAGE_LINE}{json.dumps(place.to_dict())}\n"


def free_name(name: str, taken: set[str]) -> str:
    """`name`, with a prefix where the model wrote a file of that name itself."""
    while name.lower() in taken:
        name = f"delineate-{name}"
    return name
