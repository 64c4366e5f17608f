"""A result archive as its maker has it, and as a segmentation; the same as a tar with flat names."""

from __future__ import annotations

import json
import posixpath
import unicodedata
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from delineate import nifti
from delineate.errors import GeometryError, InputError
from delineate.geometry import Geometry
from delineate.protocols.archive_entries import BLOCK, Limits, PathLike, StoredZipWriter, name_key, quoted
from delineate.protocols.archive_reader import ArchiveReader
from delineate.protocols.archive_walker import ArchiveWalker
from delineate.protocols.messages import Body
from delineate.protocols.task_archive import LABEL_MAP_SUFFIX, NAMES_ADVICE, NAMES_SUFFIX, read_layers, tar_body
from delineate.segmentation import Segmentation, Structure, names_by_label

LOG_NAME = "container.log"

_COMPOUND_SUFFIXES = (".nii.gz", ".meta.json", ".dicom_info.json")


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

    def add_text(self, name: str, text: str) -> None:
        """Add another file of UTF-8 text; `InputError` for a ``.json``."""
        self.add_bytes(name, text.encode("utf-8"))

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
            raise InputError("label %d of %s is called %r" % (label, quoted(layer), text), NAMES_ADVICE)
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
    """Read the structures of a result archive of anybody, zip or tar(.gz): one layer for each label map.

    Parameters
    ----------
    expected : the grid the result must be on, or several of which it may be on one (the sender's contour grid, the
        image's). Exact dimensions count and voxels are matched by index; headers of foreign models are usually wrong
        and do not count. None: the grid of the first label map's header.
    limits : what is allowed in the archive
    notes : gets a sentence for everything that was ignored

    Raises
    ------
    ArchiveError, ImageError
        As `task_archive.read_layers`.
    GeometryError
        A label map on none of the expected grids, or two on different ones.
    """
    layers = list(read_layers(ArchiveReader(path, limits), [] if notes is None else notes))
    grids = [expected] if isinstance(expected, Geometry) else expected
    geometry = layers[0].geometry if grids is None else _fitting(layers[0].geometry, grids)
    structures = [Structure(text, label, index) for index, layer in enumerate(layers) for label, text in layer.names.items()]
    return Segmentation(geometry, tuple(layer.labels for layer in layers), tuple(structures))


def _fitting(own: Geometry, grids: Sequence[Geometry]) -> Geometry:
    """The one of `grids` that has the dimensions of the result."""
    for grid in grids:
        if grid.size == own.size:
            return grid
    raise GeometryError(
        "the label maps of the result have %s voxels, not %s" % (_words(own), " or ".join(_words(grid) for grid in grids)),
        "The model must answer on the grid of the first image, or on its contour grid.",
    )


def _words(grid: Geometry) -> str:
    return "%d x %d x %d" % grid.size


def tar_view(path: PathLike, *, with_log: bool = False) -> Body:
    """The entries of a zip archive as a plain tar with flat names, streamed out of the zip.

    Names lose their folders. Where two would become one, what is not at the root is called ``FOLDER__NAME``, and a label
    map and its names stay together. The first ``.log`` becomes ``container.log``, which is where clients of the v2
    dialect look for it; `with_log`: an empty one is added where there is none. Errors as of `task_archive.tar_body`.
    """
    flat = flat_names(ArchiveWalker(path).names())
    return tar_body(path, flat, [LOG_NAME] if with_log and LOG_NAME not in flat.values() else ())


def flat_names(names: Sequence[str]) -> Dict[str, str]:
    """A name without folder for each of `names`, all different whatever a file system makes of case."""
    groups: Dict[Tuple[str, str], List[str]] = {}
    for name in names:
        folder, base = posixpath.split(name)
        groups.setdefault((folder, name_key(_stem(base))), []).append(name)
    log = next((name for name in sorted(names, key=lambda n: n.count("/")) if name.lower().endswith(".log")), None)
    taken = {name_key(LOG_NAME)} if log is not None else set()
    flat: Dict[str, str] = {}
    # What is at the root keeps its name, whatever comes before it in the archive.
    for (folder, _), members in sorted(groups.items(), key=lambda item: item[0][0] != ""):
        members = [name for name in members if name != log]
        prefix = next(p for p in _prefixes(folder) if not taken & {name_key(p + posixpath.basename(n)) for n in members})
        for name in members:
            flat[name] = prefix + posixpath.basename(name)
            taken.add(name_key(flat[name]))
    if log is not None:
        flat[log] = LOG_NAME
    return flat


def _prefixes(folder: str) -> Iterator[str]:
    yield ""
    base = folder.replace("/", "__")
    if base:
        yield base + "__"
    number = 2
    while True:
        yield "%s__%d__" % (base, number)
        number += 1


def _stem(base: str) -> str:
    """What a label map and its twin share."""
    suffix = next((s for s in _COMPOUND_SUFFIXES if base.lower().endswith(s)), None)
    return base[: -len(suffix)] if suffix else posixpath.splitext(base)[0]
