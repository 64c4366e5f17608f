"""What comes back: the structures of a result archive, kept small and expanded one at a time.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Container, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from delineate.errors import ArchiveError, GeometryError
from delineate.geometry import Geometry
from delineate.mim.task_input import ImageGrid, words
from delineate.protocols.archive_walker import ArchiveWalker
from delineate.protocols.task_archive import image_of, read_layers

MOST, LONGEST = 2000, 256  # structures of a result, characters of a name: more is no result for a person
# What cannot be shown, or shows a name as another one: control, invisible, turning the direction of writing, halves of characters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


class _Piece(NamedTuple):
    """The voxels of one structure in one plane of its layer: where its box begins, and the box as bits or as labels."""

    z: int
    y: int
    x: int
    shape: Tuple[int, int]
    bits: np.ndarray
    label: int = 0

    def inside(self) -> np.ndarray:
        """Bool, of its shape (y, x)."""
        inside: np.ndarray
        if self.label:
            inside = self.bits == self.label
        else:
            inside = np.unpackbits(self.bits)[: self.shape[0] * self.shape[1]].reshape(self.shape).view(bool)
        return inside


class LabelArrays(Mapping[str, np.ndarray]):
    """Masks by name: bool, shape (z, y, x). Each look-up makes one anew, so that there is never more than is held."""

    def __init__(self, pieces: Mapping[str, List[_Piece]], shape: Tuple[int, int, int], factor: Tuple[int, int, int]) -> None:
        self._pieces = pieces
        self._factor = factor
        self.shape = (shape[0] * factor[2], shape[1] * factor[1], shape[2] * factor[0])

    def __getitem__(self, name: str) -> np.ndarray:
        mask = np.zeros(self.shape, dtype=bool)
        x, y, z = self._factor
        for piece in self._pieces[name]:
            inside, (height, width) = piece.inside(), piece.shape
            if (x, y) != (1, 1):
                inside = inside.repeat(y, axis=0).repeat(x, axis=1)
            rows, columns = slice(piece.y * y, (piece.y + height) * y), slice(piece.x * x, (piece.x + width) * x)
            mask[piece.z * z : (piece.z + 1) * z, rows, columns] = inside
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def is_empty(self, name: str) -> bool:
        """Whether no voxel is in the structure."""
        return not self._pieces[name]


class TaskOutput:
    """The structures of a result. The archive is read at once and not needed afterwards.

    Parameters
    ----------
    archive_path : zip or tar
    grid : of the image the result is for; None for masks on the result's own grid

    Attributes
    ----------
    grid : as given here or to `fit`
    notes : sentences about what the archive holds and is no structure

    Raises
    ------
    ArchiveError, ImageError
        Not a result.
    GeometryError
        A result that is neither on the contours' grid nor on the image's.
    """

    def __init__(self, archive_path: str, grid: Optional[ImageGrid] = None) -> None:
        self.grid: Optional[ImageGrid] = None
        self.notes: List[str] = []
        self._shape = (0, 0, 0)
        self._factor = (1, 1, 1)
        self._pieces: Dict[str, List[_Piece]] = {}
        walker = ArchiveWalker(archive_path)
        self._image: Optional[Geometry] = image_of(walker)
        for labels, _, names in read_layers(walker, self.notes, lambda geometry: self._accept(geometry.shape, grid)):
            pieces = _pieces(labels, names)
            for label, name in names.items():
                self._add(_clean(name), pieces.get(label, []))
            del labels  # the next one is as large

    def _accept(self, shape: Tuple[int, int, int], grid: Optional[ImageGrid]) -> None:
        self._shape = shape
        if grid is not None:
            self.fit(grid)

    def _add(self, name: str, pieces: List[_Piece]) -> None:
        if name in self._pieces:
            raise ArchiveError("structure %s is in the result twice" % name, "Tell the model's author.")
        if len(name) > LONGEST or len(self._pieces) == MOST:
            what = "more than %d structures, or a name of more than %d characters" % (MOST, LONGEST)
            raise ArchiveError("the result has " + what, "Tell the model's author.")
        self._pieces[name] = pieces

    def fit(self, grid: ImageGrid) -> None:
        """Bring the masks onto the contours' grid of an image: matched by exact size, never by position.

        Raises
        ------
        GeometryError
            The result has neither the size of the contours nor that of the image, or says itself that it is of another image.
        """
        if self._shape == grid.contours.shape:
            self._factor = (1, 1, 1)
        elif self._shape == grid.geometry.shape:
            self._factor = grid.multiplier
        else:
            sizes = (words(self._shape), words(grid.geometry.shape), words(grid.contours.shape))
            raise GeometryError(
                "the result has %s voxels, but the image has %s and its contours have %s" % sizes,
                "Choose the image that was sent as the first one; if it is, tell the model's author.",
            )
        difference = self._image.difference(grid.geometry) if self._image else ""
        if difference:
            raise GeometryError("the result is of another image: " + difference, "Choose the image that was sent as the first one.")
        self.grid = grid

    def get_output_as_label_array_dict(self) -> LabelArrays:
        """Masks by name, in the order of the result."""
        return LabelArrays(self._pieces, self._shape, self._factor)


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", _CONTROL.sub(" ", name)).strip() or "structure"


def _pieces(layer: np.ndarray, wanted: Container[int]) -> Dict[int, List[_Piece]]:
    """Every label above 0 of a layer that is wanted, (z, y, x), as boxes of bits: some hundredth of what a mask of each would be.

    Where labels are strewn so that the boxes would be larger than the layer, they are views of the layer instead.
    """
    found: Dict[int, List[_Piece]] = {}
    count = 0
    for z, plane in enumerate(layer):
        for label, piece in _plane_pieces(z, plane, wanted, count > layer.nbytes):
            found.setdefault(label, []).append(piece)
            count += piece.bits.nbytes
    return found


def _plane_pieces(z: int, plane: np.ndarray, wanted: Container[int], as_views: bool) -> Iterator[Tuple[int, _Piece]]:
    """The labels of one plane. Where they are is read from the runs of equal values, sorted by them once for all labels."""
    flat, width = plane.reshape(-1), plane.shape[1]
    first = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    last = np.append(first[1:], flat.size) - 1
    order = flat[first].argsort(kind="mergesort")  # a stable one: runs of one label stay in their order
    labels, starts = np.unique(flat[first[order]], return_index=True)
    for label, runs in zip(labels.tolist(), np.split(order, starts[1:])):
        if not label or label not in wanted:
            continue
        begin, end = first[runs], last[runs]
        top, bottom = int(begin[0]) // width, int(end[-1]) // width + 1
        left, right = 0, width
        if (begin // width == end // width).all():  # else a run goes over the end of a row, and so over all columns
            left, right = int((begin % width).min()), int((end % width).max()) + 1
        box = plane[top:bottom, left:right]
        if as_views:
            yield label, _Piece(z, top, left, box.shape, box, label)
        else:
            yield label, _Piece(z, top, left, box.shape, np.packbits(box == label))
