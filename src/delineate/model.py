"""What a model says about itself: what it needs and what it yields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from delineate.errors import SettingsError
from delineate.segmentation import Structure

AS_SENT = "as-sent"
"""Orientation of a model that takes the index space of whatever came."""

SLIDES = "SM"
"""Modality of slides."""

KINDS = ("segmentation", "deepedit", "deepgrow", "scribbles", "classification", "detection", "others")
"""What a model is to a client that draws its controls by it."""

CONTOURS = ("blocks", "smooth")
"""How labels on the image's grid come to a finer contour grid."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """One image a model wants.

    modality : DICOM Modality, empty for any; units : ``stored`` values or ``HU`` (real values).
    """

    modality: str = ""
    units: str = "stored"
    description: str = ""

    def __post_init__(self) -> None:
        if self.units not in ("stored", "HU", "real"):
            raise SettingsError(f"units {self.units!r} are not known", "Use stored, real or HU.")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task of a model may use.

    memory_mb : limit for the worker while it runs, MiB, 0 for the server's default; gpu : whether it wants one.
    """

    memory_mb: int = 0
    gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """One registered model; the record is the same for a folder with ``model.toml`` and a container sent over HTTP.

    Parameters
    ----------
    name : the ``human_readable_id`` by which tasks ask for it; unique.
    runner : name in the entry-point group ``delineate.runners``; `parameters` are the runner's own.
    inputs : the images it wants, in order; a task may not send fewer.
    orientation : ``as-sent``, or axis codes such as ``LPS`` that the worker converts to and back from.
    spacing : mm (x, y, z) to resample to, None for the image's own; needs an orientation.
    one_grid : whether all images must be on one grid.
    contours : how labels on the image's grid come to a sender's finer contour grid: ``blocks``, exactly, or ``smooth``.
    structures : declared structures; empty when their names come with each result.
    prompts : kinds of prompt it takes (``foreground``, ``background``, ``roi``, ``scribbles``).
    kind : one of `KINDS`; dimension : 3, or 2 for one that works on a slice or a flat image.
    config : what a request may set, with the values that hold where it does not.
    time_limit : seconds one task may take.
    digest : SHA-256 of the model's files, set by the registry.
    source : ``builtin``, ``folder`` or ``http``.
    """

    name: str
    runner: str
    version: str = "1"
    description: str = ""
    inputs: tuple[ModelInput, ...] = (ModelInput(),)
    orientation: str = AS_SENT
    spacing: tuple[float, float, float] | None = None
    one_grid: bool = True
    contours: str = "blocks"
    structures: tuple[Structure, ...] = ()
    prompts: tuple[str, ...] = ()
    kind: str = "segmentation"
    dimension: int = 3
    config: Mapping[str, Any] = field(default_factory=dict)
    resources: Resources = Resources()
    time_limit: float = 3600.0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    source: str = "folder"

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise SettingsError(f"{self.name!r} is no name for a model", "Use up to 128 letters, digits, spaces and . _ + -")
        if self.time_limit <= 0:
            raise SettingsError(f"the time limit of model {self.name} must be positive seconds", "Write it like time_limit = 600.")
        if self.spacing is not None and self.orientation == AS_SENT:
            raise SettingsError(f"model {self.name} declares a spacing without an orientation", 'Add orientation = "LPS".')
        if self.kind not in KINDS:
            raise SettingsError(f"model {self.name} is of the kind {self.kind!r}, which is not known", f"Use one of {', '.join(KINDS)}.")
        if self.contours not in CONTOURS:
            raise SettingsError(f"model {self.name} has contours = {self.contours!r}", f"Use one of {', '.join(CONTOURS)}.")
        if self.dimension not in (2, 3):
            raise SettingsError(f"model {self.name} has dimension {self.dimension!r}", "Write dimension = 3, or 2.")
        if not self.inputs:
            raise SettingsError(f"model {self.name} declares no input", 'Describe each image it takes: [[inputs]] with modality = "CT".')

    @property
    def takes_slides(self) -> bool:
        """Whether it works on slides, DICOM's modality SM, instead of volumes."""
        return self.inputs[0].modality == SLIDES

    @property
    def labels(self) -> dict[str, int]:
        """Labels of the declared structures by name, in their order."""
        return {structure.name: structure.label for structure in self.structures}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Model:
        """The inverse of `to_dict`; also reads the table of a ``model.toml``. Unknown keys are an error."""
        values = dict(fields)
        try:
            if "inputs" in values:
                values["inputs"] = tuple(ModelInput(**item) for item in values["inputs"])
            if "structures" in values:
                values["structures"] = tuple(_structure(item) for item in values["structures"])
            if "resources" in values:
                values["resources"] = Resources(**values["resources"])
            for name in ("spacing", "prompts"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            return cls(**values)
        except TypeError as error:
            raise SettingsError(f"the description of model {values.get('name', '?')} is wrong: {error}", "See docs/models.md.") from None


def _structure(item: Mapping[str, Any]) -> Structure:
    fields = dict(item)
    if fields.get("colour") is not None:
        fields["colour"] = tuple(fields["colour"])
    return Structure(**fields)
