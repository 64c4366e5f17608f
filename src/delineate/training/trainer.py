"""From labelled images to a model's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delineate.errors import InputError, ModelError
from delineate.model import Model, ModelInput
from delineate.segmentation import Structure
from delineate.training.continuing import continued
from delineate.training.files import Reservoir, write_forest
from delineate.training.forest import Forest, grow
from delineate.training.sampling import Case, Samples, chosen, look
from delineate.training.trainers import FOREST
from delineate.training.working import COARSEST, HU, scale_of, spacing_for

_RUNNER_CLASS: Final = "delineate.training.runner:VoxelForest"
_LONGEST: Final = 900.0  # s for one image


@dataclass(frozen=True, kw_only=True)
class Example:
    """A labelled image that can be fetched.

    image : what it is called, whatever its labels; version : of its labels; load : reads both, called only where samples are missing.
    """

    image: str
    version: str
    load: Callable[[], Case]


def train(
    examples: Sequence[Example],
    reservoir: Reservoir,
    *,
    spacing: float | None = None,
    scale: str | None = None,
    report: Callable[[float, str], None] = lambda fraction, message: None,
    log: Callable[[str], None] = lambda text: None,
    threads: int = 1,
) -> Forest:
    """Learn from labelled images; what the reservoir holds is not computed again.

    Parameters
    ----------
    examples : in the order in which they came.
    spacing, scale : of the working grid; where they are None the first example decides.
    report : (fraction, message), between images and between trees; what it raises ends the training, and what was computed is kept.
    log : what has to be said of an image that could not be used.

    Raises
    ------
    InputError
        No image could be used.
    """
    if examples and (spacing is None or scale is None):
        image = examples[0].load().image
        spacing, scale = spacing or spacing_for(image), scale or scale_of(image)
    spacing, scale = spacing or COARSEST, scale or HU
    cases: list[Samples] = []
    for number, example in enumerate(examples):
        report(0.7 * number / len(examples), f"looking at image {number + 1} of {len(examples)}")
        version = f"{example.version} {spacing:g} {scale}"
        try:
            samples = reservoir.get(example.image, version)
            if samples is None:
                looked = look(example.load(), spacing, scale, log)
                samples = continued(chosen(looked, number), looked, number, threads)
                reservoir.put(example.image, version, samples)
            cases.append(samples)
        except (InputError, ModelError) as error:
            log(f"image {number + 1} was left out: {error.sentence()}")

    def told(fraction: float, message: str) -> None:
        report(0.7 + 0.3 * fraction, message)

    return grow(cases, spacing=spacing, scale=scale, report=told, threads=threads)


def record(forest: Forest, name: str, *, version: str = "1", description: str = "") -> Model:
    """The model that a forest is; one that learned from Hounsfield units is for CT."""
    scale = ModelInput(modality="CT", units="HU") if forest.scale == HU else ModelInput(units="real")
    return Model(
        name=name,
        runner="python",
        version=version,
        description=description,
        inputs=(scale,),
        structures=tuple(Structure(grown.name, label) for label, grown in enumerate(forest.structures, start=1)),
        time_limit=_LONGEST,
        parameters={"class": _RUNNER_CLASS},
    )


def write_model(folder: Path, forest: Forest, *, name: str, version: str = "1", description: str = "") -> None:
    """Write a model's folder: the forest, then ``model.toml``, by which a server notices it."""
    write_forest(folder / FOREST, forest)
    model = record(forest, name, version=version, description=description)
    text = [f"{key} = {json.dumps(getattr(model, key))}" for key in ("name", "runner", "version", "description", "time_limit")]
    text += ["", "[[inputs]]", *(f"{key} = {json.dumps(getattr(model.inputs[0], key))}" for key in ("modality", "units"))]
    for structure in model.structures:
        text += ["", "[[structures]]", f"name = {json.dumps(structure.name)}", f"label = {structure.label}"]
    text += ["", "[parameters]", *(f"{key} = {json.dumps(value)}" for key, value in model.parameters.items()), ""]
    temporary = folder / ".model.toml.part"
    temporary.write_text("\n".join(text), encoding="utf-8")
    temporary.replace(folder / "model.toml")
