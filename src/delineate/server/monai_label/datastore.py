"""The datastore asked: counts, index, files, information; and what is removed. What is sent to it is in `saving`."""

from __future__ import annotations

import contextlib
import re
from typing import Annotated, Final, Literal

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from delineate.datastore.faults import UnknownImageError, UnknownItemError, UnknownLabelError
from delineate.datastore.local import LocalDatastore
from delineate.errors import InputError
from delineate.protocols import monai_label_datastore as wire
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.downloads import Downloads
from delineate.server.monai_label.info import stats_of
from delineate.server.monai_label.routing import Routes
from delineate.server.security import Guard
from delineate.server.threads import Threads

Image = Annotated[str, Query(description="The image's id.")]
Label = Annotated[str, Query(description="The id of the label's image.")]
Tag = Annotated[str, Query(description="Of the label: `final` from a person, `original` from a model, or any other.")]
Id = Annotated[str, Query(description="The image's id.")]

_CHECK_SUM: Final = re.compile(r"(?:(SHA256|SHA512|MD5)[:=])?([0-9a-f]+)\Z", re.IGNORECASE)
_LOOKS: Final = 3  # for a label whose file was replaced by one of another name in between


class DatastoreRoutes:
    """All of it may take a look at the disk, and runs in threads."""

    def __init__(self, annotation: Annotation, guard: Guard, threads: Threads, downloads: Downloads) -> None:
        self._annotation = annotation
        self._guard = guard
        self._threads = threads
        self._downloads = downloads

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add(wire.DATASTORE_PATH, "GET", self.datastore)
        routes.add(wire.DATASTORE_PATH, "DELETE", self.remove_image_by_id)
        routes.add(wire.IMAGE_PATH, "GET", self.image)
        routes.add(wire.IMAGE_PATH, "HEAD", self.has_image)
        routes.add(wire.IMAGE_PATH, "DELETE", self.remove_image)
        routes.add(wire.LABEL_PATH, "GET", self.label)
        routes.add(wire.LABEL_PATH, "HEAD", self.has_label)
        routes.add(wire.LABEL_PATH, "DELETE", self.remove_label)
        routes.add(wire.IMAGE_INFO_PATH, "GET", self.image_info)
        routes.add(wire.LABEL_INFO_PATH, "GET", self.label_info)
        routes.add(wire.DATASET_PATH, "GET", self.dataset)

    @property
    def _datastore(self) -> LocalDatastore:
        return self._annotation.datastore

    async def datastore(
        self, output: Annotated[Literal["stats", "all", "train"], Query(description="How much of it.")] = "stats"
    ) -> Response:
        """Counts; with `all` every image and label with what is known of it; with `train` the images with a final label."""
        store = self._datastore
        if output == "all":
            return Response(await self._threads.run(store.index), media_type="application/json")
        if output == "train":
            pairs = await self._threads.run(store.pairs)
            return JSONResponse([wire.TrainPair(image=str(image.path), label=str(label.path)).to_json() for image, label in pairs])
        return JSONResponse(stats_of(await self._threads.run(store.state)).to_json())

    async def image(self, image: Image) -> Response:
        """An image as it lies in the folder, a series as a zip; in ranges where they are asked for."""
        await self._annotation.fetch(image)
        record = await self._threads.run(lambda: self._datastore.fetch(image))
        return await self._downloads.whole(record.path, record.id, UnknownImageError("the image's file is gone"))

    async def has_image(
        self,
        image: Image,
        check_sum: Annotated[str, Query(description="Digest in hex, behind its kind and a colon; SHA256 without one.")] = "",
    ) -> Response:
        """Whether the image is there, and with `check_sum` whether it is the same: 200 or 404."""
        return _yes_or_no(await self._threads.run(lambda: self._is_same(image, check_sum)))

    def _is_same(self, image: str, check_sum: str) -> bool:
        try:
            record = self._datastore.image(image)
            if not check_sum:
                return True
            match = _CHECK_SUM.match(check_sum.strip())
            if match is None:
                return False
            return self._datastore.checksum(record.id, match[1] or "SHA256") == match[2].lower()
        except (UnknownItemError, InputError):
            return False

    async def remove_image(self, request: Request, id: Id) -> Response:
        """Remove an image with its labels."""
        owner = self._guard.owner(request)
        await self._threads.run(lambda: self._datastore.remove_image(id, who=owner))
        return JSONResponse({})

    async def remove_image_by_id(self, request: Request, id: Id) -> Response:
        """Remove an image with its labels, as older clients say it."""
        return await self.remove_image(request, id)

    async def label(self, label: Label, tag: Tag) -> Response:
        """A label as it lies in the folder; in ranges where they are asked for."""
        missing = UnknownLabelError("the label's file is gone")
        for _ in range(_LOOKS):
            record = await self._threads.run(lambda: self._datastore.label(label, tag))
            if record.path is None:
                break
            with contextlib.suppress(UnknownLabelError):
                return await self._downloads.whole(record.path, record.image, missing)
        raise missing

    async def has_label(self, image: Image, tag: Tag) -> Response:
        """Whether the image has a label of the tag: 200 or 404."""
        return _yes_or_no(await self._threads.run(lambda: self._has_label(image, tag)))

    def _has_label(self, image: str, tag: str) -> bool:
        try:
            self._datastore.label(image, tag)
        except (UnknownItemError, InputError):
            return False
        return True

    async def remove_label(self, request: Request, id: Id, tag: Tag) -> Response:
        """Remove a label with its older versions; one that is not there is no error."""
        owner = self._guard.owner(request)
        await self._threads.run(lambda: self._forget_label(id, tag, owner))
        return JSONResponse({})

    def _forget_label(self, id: str, tag: str, owner: str) -> None:
        try:
            self._datastore.remove_label(id, tag, who=owner)
        except UnknownItemError:
            return

    async def image_info(self, image: Image) -> Response:
        """What is kept with an image; `{}` for one that is not there."""
        return JSONResponse(await self._threads.run(lambda: self._image_info(image)))

    def _image_info(self, id: str) -> dict[str, object]:
        try:
            record = self._datastore.image(id)
        except UnknownImageError:
            return {}
        return {**record.info, "path": str(record.path)}

    async def label_info(self, label: Label, tag: Tag) -> Response:
        """What is kept with a label; `{}` for one that is not there."""
        return JSONResponse(await self._threads.run(lambda: self._label_info(label, tag)))

    def _label_info(self, id: str, tag: str) -> dict[str, object]:
        try:
            return dict(self._datastore.label(id, tag).info)
        except UnknownItemError:
            return {}

    async def dataset(self, limit_cases: Annotated[int, Query(description="At most so many; 0 and below for all.")] = 0) -> Response:
        """All images with a final label, and these, as a zip that is made while it is sent."""
        store = self._datastore
        blocks = await self._threads.run(lambda: store.dataset(limit=max(0, limit_cases)))
        return self._downloads.zipped(blocks, "dataset.zip")


def _yes_or_no(answer: bool) -> Response:
    return Response(status_code=200 if answer else 404, media_type="application/json")
