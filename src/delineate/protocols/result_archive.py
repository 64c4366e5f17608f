"""What is in a result archive: pairs ``NAME.nii.gz`` and ``NAME.json``, the names of the labels.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import json
import posixpath
import re
import unicodedata
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from delineate import nifti
from delineate.errors import ArchiveError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.protocols.archive_entries import BLOCK, MIB, EntryStream, Limits, is_damage, name_key, quoted
from delineate.protocols.archive_reader import ArchiveReader, PathLike
from delineate.protocols.archive_writer import StoredZipWriter
from delineate.protocols.task_archive import json_object
from delineate.segmentation import Segmentation, Structure, names_by_label

LABEL_MAP_SUFFIX = ".nii.gz"
NAMES_SUFFIX = ".json"
COMPANION_SUFFIXES = (".log", ".txt")  # logs and provenance belong to a result and hold no structures

_LABEL = re.compile(r"\s*([0-9]{1,9})(?:\.0+)?\s*")
_NAMES_ADVICE = 'Write {"1": "Heart", "2": "Liver"}, each label and name once.'


class ResultWriter(StoredZipWriter):
    """Writes a result archive: same content, same bytes. Never a ``.json`` without its ``.nii.gz``: old clients fail on one."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        self._structures: Dict[str, str] = {}

    def __enter__(self) -> ResultWriter:
        return self

    def add_layer(self, name: str, labels: np.ndarray, geometry: Geometry, names: Mapping[int, str]) -> str:
        """Add one label map and the names of its labels.

        Parameters
        ----------
        name : without suffix; where it is taken, ``NAME_2``, ``NAME_3``, … is used
        labels : whole numbers, shape (z, y, x)
        geometry : of the label map
        names : by label, labels of at least 1; written in NFC

        Returns
        -------
        str
            The name that was used.

        Raises
        ------
        InputError
            A label below 1, no name, or one name for two structures of the result.
        """
        texts = {label: self._structure(names[label], label, name) for label in sorted(names)}
        stem = self._free(name)
        labels = np.asarray(labels)
        with self.entry(stem + LABEL_MAP_SUFFIX, labels.nbytes + (labels.nbytes >> 6) + BLOCK) as file:
            nifti.write_labels(file, labels, geometry)
        # Escapes are read alike by everybody; plain UTF-8 is not by a client that opens files in its system's encoding.
        content = json.dumps({str(label): text for label, text in texts.items()}, ensure_ascii=True)
        super().add_bytes(stem + NAMES_SUFFIX, content.encode("ascii"))
        return stem

    def add_segmentation(self, name: str, segmentation: Segmentation) -> List[str]:
        """Add every layer of a segmentation; the names that were used."""
        structures = segmentation.structures
        return [
            self.add_layer(name, layer, segmentation.geometry, names_by_label(s for s in structures if s.layer == index))
            for index, layer in enumerate(segmentation.layers)
        ]

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add another file; `InputError` for a ``.json``."""
        self._refuse_json(name)
        super().add_bytes(name, data)

    def add_file(self, name: str, path: PathLike) -> None:
        """Add another file byte for byte; `InputError` for a ``.json``."""
        self._refuse_json(name)
        super().add_file(name, path)

    def _refuse_json(self, name: str) -> None:
        if name.lower().endswith(NAMES_SUFFIX):
            raise InputError("%s would be a .json without a label map" % quoted(name), "Give it another suffix.")

    def _structure(self, text: str, label: int, layer: str) -> str:
        text = unicodedata.normalize("NFC", text)
        if label < 1 or not text.strip():
            raise InputError("label %d of %s is called %r" % (label, quoted(layer), text), _NAMES_ADVICE)
        if text in self._structures:
            raise InputError("structure %s is in the result twice" % quoted(text), "Give every structure a name of its own.")
        self._structures[text] = layer
        return text

    def _free(self, name: str) -> str:
        stem, number = name, 1
        while self.has(stem + LABEL_MAP_SUFFIX) or self.has(stem + NAMES_SUFFIX):
            number += 1
            stem = "%s_%d" % (name, number)
        return stem


def read_result(
    path: PathLike,
    expected: Union[Geometry, Sequence[Geometry], None] = None,
    limits: Optional[Limits] = None,
    notes: Optional[List[str]] = None,
) -> Segmentation:
    """Read the structures of a result archive of anybody.

    Parameters
    ----------
    path : zip or tar(.gz)
    expected : the grid the result must be on, or several of which it may be on one (the sender's contour grid, the
        image's). Exact dimensions count and voxels are matched by index; headers of foreign models are usually wrong
        and do not count. None: the grid of the first label map's header.
    limits : what is allowed in the archive
    notes : gets a sentence for everything that was ignored

    Returns
    -------
    Segmentation
        One layer for each pair ``NAME.nii.gz`` and ``NAME.json``, in the order of the archive.

    Raises
    ------
    ArchiveError
        Not safe and whole, no pair in it, names that are none, one name for two structures.
    ImageError
        A label map that is no NIfTI, or has other values than whole numbers.
    GeometryError
        A label map on none of the expected grids, or two on different ones.
    """
    reader = ArchiveReader(path, limits)
    remarks = [] if notes is None else notes
    maps = _named_maps(reader, remarks)
    grids = [expected] if isinstance(expected, Geometry) else None if expected is None else list(expected)
    layers = {}
    for name, stream in reader.files():
        if name in maps:
            layers[name] = _read_layer(name, stream, maps[name], remarks)
    geometry = _grid(layers, grids, remarks)
    structures = [Structure(text, label, index) for index, name in enumerate(layers) for label, text in sorted(maps[name].items())]
    return Segmentation(geometry, tuple(layer.labels for layer in layers.values()), tuple(structures))


class _Layer(NamedTuple):
    labels: np.ndarray
    geometry: Geometry


def _named_maps(reader: ArchiveReader, notes: List[str]) -> Dict[str, Dict[int, str]]:
    """Names by label of every label map that has a twin, in the order of the archive; what is ignored goes to `notes`."""
    files = reader.names()
    twins = {name_key(name): name for name in files if name.lower().endswith(NAMES_SUFFIX)}
    pairs = {}
    for name in files:
        if name.lower().endswith(LABEL_MAP_SUFFIX):
            twin = twins.get(name_key(name[: -len(LABEL_MAP_SUFFIX)] + NAMES_SUFFIX))
            if twin is not None:
                pairs[name] = twin
    known = {*pairs, *pairs.values()}
    strangers = [name for name in files if name not in known and not name.lower().endswith(COMPANION_SUFFIXES)]
    notes += ["%s is ignored: %s" % (quoted(name), _stranger(name)) for name in strangers]
    if not pairs:
        what = ", ".join(quoted(name) for name in files[:5]) or "nothing"
        raise ArchiveError(
            "the result holds no label map with names: no pair NAME.nii.gz and NAME.json, but %s" % what, "Tell the model's author."
        )
    contents = _read_names(reader, set(pairs.values()))
    names = {name: _label_names(contents[twin], twin) for name, twin in pairs.items()}
    _refuse_doubled(names)
    return names


def _read_names(reader: ArchiveReader, wanted: Set[str]) -> Dict[str, bytes]:
    contents = {}
    for name, stream in reader.files():
        if name in wanted:
            contents[name] = stream.read(MIB + 1)
            if len(contents[name]) > MIB:
                raise ArchiveError("%s is too large to be names of labels" % quoted(name), _NAMES_ADVICE)
    return contents


def _stranger(name: str) -> str:
    lower = name.lower()
    if lower.endswith(LABEL_MAP_SUFFIX):
        return "a label map without a .json that names its labels"
    if lower.endswith(NAMES_SUFFIX):
        return "a .json without its .nii.gz"
    return "neither a label map nor names"


def _label_names(content: bytes, twin: str) -> Dict[int, str]:
    names: Dict[int, str] = {}
    for key, text in json_object(content, twin, _NAMES_ADVICE).items():
        match = _LABEL.fullmatch(key)
        if match is None:
            raise ArchiveError("%s names %s, which is no label" % (quoted(twin), quoted(key)), _NAMES_ADVICE)
        label = int(match.group(1))
        if not isinstance(text, str) or not text.strip():
            raise ArchiveError("%s has no name for label %d" % (quoted(twin), label), _NAMES_ADVICE)
        if label in names:
            raise ArchiveError("%s names label %d twice" % (quoted(twin), label), _NAMES_ADVICE)
        names[label] = unicodedata.normalize("NFC", text)
    names.pop(0, None)  # the background is no structure
    return names


def _refuse_doubled(names: Mapping[str, Mapping[int, str]]) -> None:
    seen: Dict[str, str] = {}
    for name, texts in names.items():
        for text in texts.values():
            if text in seen:
                where = "in %s" % quoted(name) if seen[text] == name else "in %s and in %s" % (quoted(seen[text]), quoted(name))
                raise ArchiveError("structure %s is in the result twice: %s" % (quoted(text), where), _NAMES_ADVICE)
            seen[text] = name


def _read_layer(name: str, stream: EntryStream, names: Mapping[int, str], notes: List[str]) -> _Layer:
    try:
        labels, geometry = nifti.read_labels(stream)  # type: ignore[arg-type]
        stream.finish()
    except InputError as error:
        if isinstance(error, ArchiveError):
            raise
        kind = GeometryError if isinstance(error, GeometryError) else ImageError
        raise kind("%s in the result: %s" % (quoted(name), error.message), error.advice) from error
    except Exception as error:
        if not is_damage(error):
            raise
        raise ImageError("%s in the result is damaged: %s" % (quoted(name), error)) from error
    nameless = [label for label in _present(labels) if label not in names]
    if nameless:
        notes.append("%s has voxels of labels without a name: %s" % (quoted(name), ", ".join(str(n) for n in nameless[:8])))
    return _Layer(labels, geometry)


def _present(labels: np.ndarray) -> List[int]:
    """The labels above 0 that occur, ascending."""
    highest = int(labels.max())
    if highest >= 1 << 24:  # a table of flags would be larger than sorting is slow
        return [int(value) for value in np.unique(labels) if value]
    seen = np.zeros(highest + 1, dtype=bool)
    for plane in labels:
        if plane.any():
            seen[plane] = True
    return [int(value) for value in np.flatnonzero(seen) if value]


def _grid(layers: Mapping[str, _Layer], grids: Optional[Sequence[Geometry]], notes: List[str]) -> Geometry:
    """The one grid of all layers."""
    items: List[Tuple[str, _Layer]] = list(layers.items())
    first_name, first = items[0]
    for name, layer in items[1:]:
        if layer.labels.shape != first.labels.shape:
            raise GeometryError(
                "the label maps of the result are on different grids: %s is %s, %s is %s"
                % (quoted(first_name), first.geometry, quoted(name), layer.geometry)
            )
        if grids is None and not layer.geometry.matches(first.geometry):
            notes.append("the header of %s differs from that of %s, which is taken" % (quoted(name), quoted(first_name)))
    if grids is None:
        return first.geometry
    fitting = next((grid for grid in grids if grid.shape == first.labels.shape), None)
    if fitting is None:
        wanted = " or ".join(" x ".join(str(n) for n in grid.size) for grid in grids)
        size = " x ".join(str(n) for n in reversed(first.labels.shape))
        raise GeometryError(
            "the label map %s has %s voxels, not %s" % (quoted(posixpath.basename(first_name)), size, wanted),
            "The model must answer on the grid of the first image, or on its contour grid.",
        )
    return fitting
