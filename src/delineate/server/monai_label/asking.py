"""A request to infer becomes a task: its image found or taken in, everything checked that needs no voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delineate.datastore import names
from delineate.datastore.faults import GridMismatchError
from delineate.datastore.formats import is_dicom as is_dicom_file
from delineate.datastore.formats import require_image, require_label, write_raw
from delineate.datastore.grids import grid_of
from delineate.errors import ImageError, InputError
from delineate.files import is_dicom
from delineate.geometry import Geometry
from delineate.model import Model
from delineate.orientation import is_same_place
from delineate.prompt import read_prompts
from delineate.protocols import monai_label as wire
from delineate.protocols.archive import ArchiveReader, Limits
from delineate.protocols.dicom_request import DicomAsked, not_dicom, require_reader, with_output
from delineate.protocols.monai_label_datastore import ORIGINAL_TAG
from delineate.protocols.reference import MONAI_LABEL, Place, Reference
from delineate.protocols.request_series import holds_dicom
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.takers import BlobTaker
from delineate.server.service import Service, archive_limits
from delineate.store.writer import BlobWriter
from delineate.task import INTERACTIVE, Task, TaskState
from delineate.worker.referred import place_of
from delineate.worker.wanted import read_wanted

_OURS: Final = frozenset({"client_id", "save_label", "label_tag", "image", "session_id", "model"})
"""Parameters that are none of the model's business."""

_SERIES: Final = (".zip", ".dcm")
"""Extensions of uploads that are DICOM: the slices of a series, and a file with frames."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request wants.

    image : id in the datastore, session : id of a session; one of them, or neither where a file comes along.
    owner : who asks; session_owner : whose sessions are in reach; key : by which a repeated request is known.
    name : of the model as it was asked for, which may name a version.
    output : what the answer is to hold in DICOM, one of `delineate.protocols.dicom_request.OUTPUTS`; empty for nothing.
    """

    model: Model
    image: str
    session: str
    params: Mapping[str, Any]
    owner: str
    session_owner: str
    key: str | None = None
    priority: int = INTERACTIVE
    name: str = ""
    output: str = ""

    @property
    def save_tag(self) -> str:
        """Under which tag the answer is kept in the datastore too; empty for not at all."""
        return str(self.params.get("label_tag") or ORIGINAL_TAG) if self.params.get("save_label") else ""


@dataclass(frozen=True)
class _Source:
    """An image: where it is, its grid where the server can tell it, a file that came along, and whether it is DICOM."""

    place: Place
    grid: Geometry | None
    upload: BlobWriter | None = None
    is_dicom: bool = False


class Asking:
    """Makes the tasks. All of it blocks, but for `fetch`."""

    def __init__(self, service: Service, annotation: Annotation) -> None:
        self._service = service
        self._annotation = annotation

    async def fetch(self, asked: Asked) -> None:
        """Have an image of the datastore here before it is asked for, without a thread that others need; as `Annotation.fetch`."""
        if not asked.session:
            await self._annotation.fetch(asked.image)

    def submit(self, asked: Asked, taker: BlobTaker | None = None) -> Task:
        """A new task, or the one that an earlier request with this key made, queued again where it was cancelled.

        `taker` : has the files that came along.

        Raises
        ------
        InputError
            No image, parameters that make no sense, points outside of the image, a file that is not readable.
        UnknownItemError
            No such image or session.
        GridMismatchError
            Scribbles on another grid than the image.
        """
        wire.InferParams.from_json(dict(asked.params), strict=True)
        source = self._source(asked, taker)
        suffix = names.split(source.place.name)[1].lower()
        if not asked.model.takes_slides:
            read_wanted(asked.params, suffix)
        self._require_dicom(asked, source)
        if source.grid is not None:
            read_prompts(asked.params, source.grid, asked.model.labels)
        if asked.save_tag:
            names.check_tag(asked.save_tag)
            if not asked.image or source.upload is not None or asked.session:
                raise InputError("only the answer to an image of the datastore can be saved", "Upload the image, then name it.")
        beside = {"image": source.upload} if source.upload is not None else {}
        label = None
        sent = None if taker is None else taker.take(wire.LABEL_FIELD)
        if sent is not None:
            beside["label"] = writer = self._label(sent, source)
            label = Place(blob=writer.digest, name=writer.name)
        return self._submit(asked, Reference((source.place,), label), beside)

    def _require_dicom(self, asked: Asked, source: _Source) -> None:
        """Refuse an answer in DICOM to what is none, and DICOM where its reader is not installed."""
        wanted = DicomAsked.of(asked.params)
        if (asked.output or wanted.output) and not source.is_dicom:
            raise not_dicom()
        if source.is_dicom:
            require_reader()

    def _submit(self, asked: Asked, reference: Reference, beside: Mapping[str, BlobWriter]) -> Task:
        document = self._service.waited_for.blobs.incoming("reference.json")
        document.write(reference.to_bytes())
        prompts = {name: value for name, value in asked.params.items() if name not in _OURS}
        if asked.output:
            prompts = with_output(prompts, asked.output)
        task = self._service.waited_for.submit(
            model=asked.name or asked.model.name, archive=document, owner=asked.owner, protocol=MONAI_LABEL, priority=asked.priority,
            prompts=prompts, key=asked.key, beside=beside, rung=self._has_workers(),
        )  # fmt: skip
        if task.state is TaskState.CANCELLED and asked.key:
            task = self._service.waited_for.replay(task.uid, asked.owner)  # whoever hung up is back
        self._service.ring(reference.key)
        return task

    def _has_workers(self) -> bool:
        return self._service.engine is not None and self._service.settings.workers > 0

    def _source(self, asked: Asked, taker: BlobTaker | None) -> _Source:
        """The image: of the session, or the file that came along, or of the datastore; the first of these that is given."""
        if asked.session:
            session = self._annotation.sessions.get(asked.session, owner=asked.session_owner, touch=True)
            return _Source(place_of(session.image), _grid(session.image), is_dicom=is_dicom(session.image))
        upload = None if taker is None else taker.take(wire.FILE_FIELD)
        if upload is not None:
            return self._uploaded(upload)
        if asked.image:
            store = self._annotation.datastore
            record = store.fetch(asked.image)
            return _Source(place_of(record.path), store.grid(asked.image), is_dicom=is_dicom(record.path))
        raise InputError("the request names no image", "Give image or session_id in the address, or send the image as file.")

    def _uploaded(self, writer: BlobWriter) -> _Source:
        writer.seal()
        _, extension = names.upload_parts(writer.name, (*names.IMAGE_EXTENSIONS, *_SERIES))
        place = Place(blob=writer.digest, name=writer.name)
        if extension in _SERIES:
            _require_series(writer.path, extension, archive_limits(self._service.settings))
            return _Source(place, None, writer, is_dicom=True)
        return _Source(place, require_image(writer.path, extension), writer)

    def _label(self, writer: BlobWriter, source: _Source) -> BlobWriter:
        """Scribbles or a mask, known to lie on the image's grid; a bare array becomes a file with a header.

        The grid of a series is not known here: what is drawn on one is compared with it by the worker.
        """
        writer.seal()
        grid = source.grid
        _, extension = names.upload_parts(writer.name, (*names.LABEL_EXTENSIONS, names.RAW))
        if extension != names.RAW:
            found = require_label(writer.path, extension)
            if grid is not None and found is not None and not is_same_place(grid, found):
                raise GridMismatchError(grid, found)
            return writer
        if grid is None and source.is_dicom:
            return writer
        if grid is None:
            raise InputError("a raw label needs an image whose grid is known", "Send a NIfTI or NRRD file.")
        written = self._service.waited_for.blobs.incoming("label.nii.gz")
        try:
            write_raw(writer.path, grid, written)
            written.seal()
        except BaseException:
            written.discard()
            raise
        return written


def _require_series(path: Path, extension: str, limits: Limits) -> None:
    """Refuse an upload that is no DICOM by what it begins with; all else is for the worker, which reads it."""
    if extension == ".zip":
        with ArchiveReader(path, limits) as reader:
            found = holds_dicom(reader.names(), reader)
    else:
        found = is_dicom_file(path)
    if not found:
        raise ImageError(f"the {extension[1:]} file that was sent holds no DICOM", "Send the slices of one series.")


def _grid(path: Path) -> Geometry | None:
    """Of a file of a session, None for a folder."""
    return None if path.is_dir() else grid_of(path, names.split(path.name)[1].lower())
