"""Structures on a grid.

Structures may overlap, so a single label map is only one encoding. A `Segmentation` keeps one or
more *layers*, each an integer label map without overlaps; a `Structure` says in which layer and
under which label its voxels are. Thirty organs are one array, not thirty.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.orientation import AxisMap

Colour = Tuple[int, int, int]

# Distinct at a glance on grey, in this order; used where a model states none.
PALETTE: Tuple[Colour, ...] = (
    (230, 25, 75), (60, 180, 75), (67, 133, 255), (255, 200, 25), (245, 130, 48), (70, 220, 230),
    (240, 50, 230), (170, 220, 60), (250, 150, 190), (0, 150, 150), (200, 160, 255), (170, 110, 40),
    (255, 240, 150), (190, 40, 40), (150, 240, 190), (140, 140, 0), (255, 190, 150), (80, 80, 200),
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """One named thing delineated.

    name : after AAPM TG-263 where it has one (``Lung_L``); label : its value in the layer, at least 1;
    layer : index into `Segmentation.layers`; colour : RGB 0-255; code : SNOMED CT code or empty; said : what else a DICOM file
    said of it, by attribute, for whoever writes it as DICOM again. Two structures are the same whatever is said.
    """

    name: str
    label: int
    layer: int = 0
    colour: Optional[Colour] = None
    code: str = ""
    said: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("a structure must have a name", "Name every label of the model.")
        if self.label < 1:
            raise InputError("structure %s has label %d; labels begin at 1" % (self.name, self.label), "Use 0 for the background alone.")

    def rgb(self) -> Colour:
        """Its colour, or one from the palette by its label."""
        return self.colour or PALETTE[(self.label - 1) % len(PALETTE)]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Structures on one grid.

    Parameters
    ----------
    geometry : Geometry
    layers : ndarrays of shape (z, y, x), unsigned integers
    structures : Structure
        Names are unique; (layer, label) pairs are unique.

    Raises
    ------
    GeometryError
        A layer that is not on the grid.
    InputError
        Duplicate names or labels, or a structure in a layer that does not exist.
    """

    geometry: Geometry
    layers: Tuple[np.ndarray, ...] = field(repr=False)
    structures: Tuple[Structure, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "structures", tuple(self.structures))
        for layer in self.layers:
            if tuple(layer.shape) != self.geometry.shape:
                raise GeometryError(
                    "a label map of shape %s does not fit a grid of shape %s (z, y, x)" % (tuple(layer.shape), self.geometry.shape)
                )
            if layer.dtype.kind not in "ub":
                raise InputError(
                    "a label map must be of unsigned integers, not %s" % layer.dtype, "Convert it, for instance with astype('uint8')."
                )
        names = [s.name for s in self.structures]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise InputError("the same structure name twice: %s" % ", ".join(doubled), "Give every structure a name of its own.")
        places = {(s.layer, s.label) for s in self.structures}
        if len(places) != len(self.structures):
            raise InputError(
                "two structures share one label of one layer", "Give each a label of its own, or a layer of its own where they overlap."
            )
        if any(not 0 <= s.layer < len(self.layers) for s in self.structures):
            raise InputError("a structure is in a layer that does not exist", "Count the layers from 0.")

    @property
    def names(self) -> List[str]:
        """Names in order."""
        return [s.name for s in self.structures]

    def __iter__(self) -> Iterator[Structure]:
        return iter(self.structures)

    def __getitem__(self, name: str) -> Structure:
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise KeyError(name)

    def mask(self, name: str) -> np.ndarray:
        """Voxels of one structure: bool, shape (z, y, x), made anew at each call."""
        structure = self[name]
        mask: np.ndarray = self.layers[structure.layer] == structure.label
        return mask

    def named(self, sent: Mapping[int, str], likely: Mapping[int, str]) -> Segmentation:
        """With names for the labels of the first layer that their file leaves without one (``label_N``).

        The file's names hold: whoever numbered its voxels wrote them. Then what was sent with it, then what is likely. No name is
        given twice.

        Parameters
        ----------
        sent : by label; one without a voxel becomes a structure that is absent.
        likely : what else is known of these labels, such as a model's names; says nothing of labels without a voxel.
        """
        nameless = {s.label for s in self.structures if s.layer == 0 and s.name == nameless_label(s.label)}
        kept = [s for s in self.structures if s.layer != 0 or s.label not in nameless]
        known = {s.label for s in kept if s.layer == 0}
        taken = set(self.names)
        given = {label: name for label, name in sorted(sent.items()) if label not in known}
        for label, name in [*given.items(), *((n, likely[n]) for n in sorted(nameless - set(given)) if n in likely)]:
            if name not in taken:
                kept.append(Structure(name, label))
                taken.add(name)
                nameless.discard(label)
        kept += [s for s in self.structures if s.layer == 0 and s.label in nameless]
        return replace(self, structures=tuple(sorted(kept, key=lambda s: (s.layer, s.label))))

    def volume_ml(self, name: str) -> float:
        """Volume of one structure, millilitres."""
        return float(np.count_nonzero(self.mask(name)) * np.prod(self.geometry.spacing) / 1000.0)

    @classmethod
    def from_labels(cls, labels: np.ndarray, geometry: Geometry, names: Mapping[int, str]) -> Segmentation:
        """From one label map, shape (z, y, x), and a name for each label."""
        return cls(geometry, (labels,), tuple(Structure(name, label) for label, name in sorted(names.items())))

    @classmethod
    def from_masks(cls, masks: Mapping[str, np.ndarray], geometry: Geometry) -> Segmentation:
        """From masks by name, any of which may overlap; labels are 1, 2, … in their order."""
        layers: List[np.ndarray] = []
        structures = []
        dtype = label_dtype(len(masks))
        for label, (name, mask) in enumerate(masks.items(), start=1):
            inside = np.asarray(mask, dtype=bool)
            if tuple(inside.shape) != geometry.shape:
                raise GeometryError(
                    "mask %s of shape %s does not fit a grid of shape %s (z, y, x)" % (name, tuple(inside.shape), geometry.shape)
                )
            place = next((i for i, layer in enumerate(layers) if not layer[inside].any()), len(layers))
            if place == len(layers):
                layers.append(np.zeros(geometry.shape, dtype=dtype))
            layers[place][inside] = label
            structures.append(Structure(name, label, place))
        return cls(geometry, tuple(layers) or (np.zeros(geometry.shape, dtype=dtype),), tuple(structures))

    def mapped(self, axes: AxisMap) -> Segmentation:
        """The same structures with the index axes permuted and flipped; views."""
        return replace(self, geometry=axes.grid(self.geometry), layers=tuple(axes.apply(layer) for layer in self.layers))

    def refined(self, factor: Sequence[int]) -> Segmentation:
        """On the grid with each voxel split into `factor` (x, y, z) parts: exact block replication."""
        layers = []
        for layer in self.layers:
            for axis, times in zip((2, 1, 0), factor):
                layer = layer if times == 1 else np.repeat(layer, times, axis=axis)
            layers.append(layer)
        return replace(self, geometry=self.geometry.refined(factor), layers=tuple(layers))


def nameless_label(label: int) -> str:
    """What a structure is called that nobody named."""
    return "label_%d" % label


def label_dtype(highest: int) -> np.dtype:
    """The smallest unsigned integer type that holds labels up to `highest`."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if highest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise InputError("label %d is too large" % highest, "Number labels from 1.")


def names_by_label(structures: Iterable[Structure]) -> Dict[int, str]:
    """``{label: name}`` of structures that share one layer."""
    return {s.label: s.name for s in structures}
