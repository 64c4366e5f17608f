"""Both ends of a task as a client has them: a request of images written, the label maps of a result read.

Runs on Python 3.7 and newer with numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from delineate import nifti_codec
from delineate.errors import ArchiveError, GeometryError, ImageError, InputError
from delineate.geometry import Geometry
from delineate.nifti_codec import Image
from delineate.protocols.archive_entries import BLOCK, MIB, EntryStream, PathLike, StoredZipWriter, name_key, quoted
from delineate.protocols.archive_walker import ZIP, ArchiveWalker
from delineate.protocols.messages import Body, FileBody, JoinedBody

if TYPE_CHECKING:
    from delineate.volume import Volume

LABEL_MAP_SUFFIX = ".nii.gz"
NAMES_SUFFIX = ".json"
PROVENANCE_NAME, IMAGE_LINE = "provenance.txt", "image: "  # our workers write there which image the result is of
COMPANION_SUFFIXES = (".log", ".txt")  # logs and provenance belong to a result and hold no structures
SHARED_META_NAME = "meta.json"
NAMES_ADVICE = 'Write {"1": "Heart", "2": "Liver"}, each label and name once.'

_LABEL = re.compile(r"\s*([0-9]{1,9})(?:\.0+)?\s*")


@dataclass(frozen=True)
class ImageMeta:
    """What a request archive says of one image beside the image itself. Vectors are x, y, z.

    Parameters
    ----------
    scaling_factor : voxels of the sender's contour grid per voxel of the image; whole numbers of at least 1.
    spacing : mm, None where nothing is said.
    origin, direction : as the sender's own software means them: kept, never relied on.
    slope, intercept : make stored values real, where the image's header does not say it.
    units, modality : of the real values (``HU``); DICOM's (``CT``); empty where unknown.
    true_origin, true_direction : LPS mm and cosines as `Geometry` has them, from our own clients.
    """

    scaling_factor: Tuple[int, int, int] = (1, 1, 1)
    spacing: Optional[Tuple[float, float, float]] = None
    origin: Optional[Tuple[float, ...]] = None
    direction: Optional[Tuple[float, ...]] = None
    slope: float = 1.0
    intercept: float = 0.0
    units: str = ""
    modality: str = ""
    true_origin: Optional[Tuple[float, ...]] = None
    true_direction: Optional[Tuple[float, ...]] = None

    def to_json(self) -> bytes:
        """The file ``tmp_000N.meta.json``; what says nothing is left out."""
        names = ("scaling_factor", "spacing", "origin", "direction", "units", "modality", "true_origin", "true_direction")
        fields = {name: getattr(self, name) for name in names if getattr(self, name)}
        if (self.slope, self.intercept) != (1.0, 0.0):
            fields.update(rescale_slope=self.slope, rescale_intercept=self.intercept)
        return json.dumps(fields).encode("ascii")


class RequestWriter(StoredZipWriter):
    """Writes a request archive: images in the order of the model's inputs, and what is known of each."""

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        self._count = 0

    def __enter__(self) -> RequestWriter:
        return self

    @property
    def next_name(self) -> str:
        """What the next image will be called."""
        return "tmp_%04d.nii.gz" % self._count

    def add_image(self, image: Union[Image, Volume], meta: ImageMeta) -> str:
        """Add the next image; its name in the archive."""
        name = self.next_name
        self.add_nifti(name, image)
        self.add_meta(meta)
        return name

    def add_nifti(self, name: str, image: Union[Image, Volume]) -> None:
        """Add voxels that are no image of the request, under a name of their own (``NAME.nii.gz``)."""
        size = image.voxels.nbytes
        with self.entry(name, size + (size >> 6) + BLOCK) as file:
            nifti_codec.write(nifti_codec.blocks(image), file)

    def add_meta(self, meta: ImageMeta) -> None:
        """Say what is known of the image `next_name`, which is complete then."""
        if not self._count:
            shared = {"scaling_factor": meta.scaling_factor, "spacing": meta.spacing or (1.0, 1.0, 1.0)}
            self.add_bytes(SHARED_META_NAME, json.dumps(shared).encode("ascii"))
        self.add_bytes("tmp_%04d.meta.json" % self._count, meta.to_json())
        self._count += 1


def tar_body(path: PathLike, names: Optional[Mapping[str, str]] = None, empty: Sequence[str] = ()) -> Body:
    """The files of a zip of stored entries as a plain tar: headers from memory, content straight out of the zip.

    `names`: what a file is called in the tar, by its name in the zip, by default the same; `empty`: files without content
    in addition. `ArchiveError` for what is no zip, not safe, or has an entry that is packed.
    """
    walker = ArchiveWalker(path)
    if walker.kind != ZIP:
        raise ArchiveError("only a zip archive can be sent as a tar without a copy, not a %s" % walker.kind)
    parts: List[Body] = []
    for entry in walker.entries():
        if entry.is_deflated:
            raise ArchiveError("entry %s of the archive is packed" % quoted(entry.name), "Store the entries.")
        if not entry.is_folder:
            name = entry.name if names is None else names[entry.name]
            parts += [_tar_header(name, entry.size), FileBody(walker.path, entry.start, entry.size)]
            parts.append(Body(bytes(-entry.size % tarfile.BLOCKSIZE)))
    return JoinedBody([*parts, *(_tar_header(name, 0) for name in empty), Body(bytes(2 * tarfile.BLOCKSIZE))])


def _tar_header(name: str, size: int) -> Body:
    info = tarfile.TarInfo(name)
    info.size = size
    return Body(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))


class Layer(NamedTuple):
    """One label map of a result, shape (z, y, x), the grid of its header, and its names by label, in the order of labels."""

    labels: np.ndarray
    geometry: Geometry
    names: Dict[int, str]


def read_layers(walker: ArchiveWalker, notes: List[str], accept: Optional[Callable[[Geometry], None]] = None) -> Iterator[Layer]:
    """The label maps of a result archive of anybody, one at a time: every pair ``NAME.nii.gz`` and ``NAME.json``, in its order.

    Voxels are matched by index; headers of foreign models are usually wrong, and the first one's should be taken. `notes`
    gets a sentence for everything that was ignored. `accept` is called with the grid of each before a voxel of any is read:
    some kilobytes may declare, and hold, gigabytes of background.

    Raises
    ------
    ArchiveError
        Not safe and whole, no pair in it, names that are none, one name for two structures.
    ImageError
        A label map that is no NIfTI, or has other values than whole numbers.
    GeometryError
        Label maps of different dimensions.
    """
    names = _named_maps(walker, notes)
    first: Optional[Tuple[str, Geometry]] = None
    for name, stream in walker.files() if accept else ():
        geometry = None
        with contextlib.suppress(InputError):  # told with its name when the voxels are read
            geometry = nifti_codec.read_geometry(stream) if name in names else None  # type: ignore[arg-type]
        if accept and geometry:
            accept(geometry)
    for name, stream in walker.files():
        if name not in names:
            continue
        labels, geometry = _read_layer(name, stream, names[name], notes)
        start, grid = first = first or (name, geometry)
        if geometry.size != grid.size:
            grids = (quoted(start), grid, quoted(name), geometry)
            raise GeometryError("the label maps of the result are on different grids: %s is %s, %s is %s" % grids)
        if not geometry.matches(grid):
            notes.append("the header of %s differs from that of %s: voxels are matched by index" % (quoted(name), quoted(start)))
        yield Layer(labels, geometry, names[name])
        del labels  # the caller may have let it go, and the next one is as large


def image_of(walker: ArchiveWalker) -> Optional[Geometry]:
    """Where the first image of the request is in the patient, as our workers write it down; None where nobody did."""
    for name, stream in walker.files():
        if name == PROVENANCE_NAME:
            for line in stream.read(MIB).decode("utf-8", "replace").splitlines():
                if line.startswith(IMAGE_LINE):
                    with contextlib.suppress(TypeError, ValueError, RecursionError, InputError):
                        return Geometry(**json.loads(line[len(IMAGE_LINE) :]))
    return None


def _named_maps(walker: ArchiveWalker, notes: List[str]) -> Dict[str, Dict[int, str]]:
    """Names by label of every label map that has a twin, in the order of the archive; what is ignored goes to `notes`."""
    files = walker.names()
    twins = {name_key(name): name for name in files if name.lower().endswith(NAMES_SUFFIX)}
    keys = {name: name_key(name[: -len(LABEL_MAP_SUFFIX)] + NAMES_SUFFIX) for name in files if name.lower().endswith(LABEL_MAP_SUFFIX)}
    pairs = {name: twins[key] for name, key in keys.items() if key in twins}
    known = {*pairs, *pairs.values()}
    strangers = [name for name in files if name not in known and not name.lower().endswith(COMPANION_SUFFIXES)]
    notes += ["%s is ignored: %s" % (quoted(name), _stranger(name)) for name in strangers]
    if not pairs:
        what = ", ".join(quoted(name) for name in files[:5]) or "nothing"
        raise ArchiveError(
            "the result holds no label map with names: no pair NAME.nii.gz and NAME.json, but %s" % what, "Tell the model's author."
        )
    contents = {name: stream.read(MIB + 1) for name, stream in walker.files() if name in pairs.values()}
    names = {name: _label_names(contents[twin], twin) for name, twin in pairs.items()}
    seen: Dict[str, str] = {}
    for name, text in ((name, text) for name, texts in names.items() for text in texts.values()):
        if text in seen:
            where = "in %s" % quoted(name) if seen[text] == name else "in %s and in %s" % (quoted(seen[text]), quoted(name))
            raise ArchiveError("structure %s is in the result twice: %s" % (quoted(text), where), NAMES_ADVICE)
        seen[text] = name
    return names


def _stranger(name: str) -> str:
    if name.lower().endswith(LABEL_MAP_SUFFIX):
        return "a label map without a .json that names its labels"
    return "a .json without its .nii.gz" if name.lower().endswith(NAMES_SUFFIX) else "neither a label map nor names"


def _label_names(content: bytes, twin: str) -> Dict[int, str]:
    if len(content) > MIB:
        raise ArchiveError("%s is too large to be names of labels" % quoted(twin), NAMES_ADVICE)
    names: Dict[int, str] = {}
    for key, text in json_object(content, twin, NAMES_ADVICE).items():
        match = _LABEL.fullmatch(key)
        if match is None:
            raise ArchiveError("%s names %s, which is no label" % (quoted(twin), quoted(key)), NAMES_ADVICE)
        label = int(match.group(1))
        if not isinstance(text, str) or not text.strip():
            raise ArchiveError("%s has no name for label %d" % (quoted(twin), label), NAMES_ADVICE)
        if label in names:
            raise ArchiveError("%s names label %d twice" % (quoted(twin), label), NAMES_ADVICE)
        names[label] = unicodedata.normalize("NFC", text)
    names.pop(0, None)  # the background is no structure
    return {label: names[label] for label in sorted(names)}


def json_object(data: Union[bytes, str], name: str, advice: str) -> Mapping[str, Any]:
    """The JSON object in a file `name`; `ArchiveError` where it is none."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise ArchiveError("%s is not JSON" % quoted(name), advice) from None
    if not isinstance(fields, dict):
        raise ArchiveError("%s is not a JSON object" % quoted(name), advice)
    return fields


def _read_layer(name: str, stream: EntryStream, names: Mapping[int, str], notes: List[str]) -> Tuple[np.ndarray, Geometry]:
    try:
        labels, geometry = nifti_codec.read_labels(stream, size=stream.entry.size)  # type: ignore[arg-type]
        stream.finish()
    except ArchiveError:
        raise
    except InputError as error:
        kind = GeometryError if isinstance(error, GeometryError) else ImageError
        raise kind("%s in the result: %s" % (quoted(name), error.message), error.advice) from error
    nameless = [label for label in _present(labels) if label not in names]
    if nameless:
        notes.append("%s has voxels of labels without a name: %s" % (quoted(name), ", ".join(str(n) for n in nameless[:8])))
    return labels, geometry


def _present(labels: np.ndarray) -> List[int]:
    """The labels above 0 that occur, ascending; of each run of equal ones the first is looked at."""
    found: Set[int] = set()
    for plane in labels:
        flat = plane.reshape(-1)
        found.update(np.unique(flat[1:][flat[1:] != flat[:-1]]).tolist(), flat[:1].tolist())
    return sorted(found - {0})
