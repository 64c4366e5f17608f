"""The datastore's part of the MONAI Label API: paths, names, and what is said of images and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Mapping, Optional, Sequence

from delineate.protocols.monai_label_fields import Message, anything, mapping, message, messages, number, sequence, text, whole

DATASTORE_PATH: Final = "/datastore/"
IMAGE_PATH: Final = "/datastore/image"
LABEL_PATH: Final = "/datastore/label"
IMAGE_INFO_PATH: Final = "/datastore/image/info"
LABEL_INFO_PATH: Final = "/datastore/label/info"
UPDATE_LABEL_INFO_PATH: Final = "/datastore/updatelabelinfo"
DATASET_PATH: Final = "/datastore/dataset"

IMAGE_QUERY: Final = "image"  # of a label's HEAD and PUT too
LABEL_QUERY: Final = "label"  # of a label's GET and of its info
TAG_QUERY: Final = "tag"
ID_QUERY: Final = "id"  # of what is deleted
CHECK_SUM_QUERY: Final = "check_sum"
LIMIT_QUERY: Final = "limit_cases"
OUTPUT_QUERY: Final = "output"
INFO_FIELD: Final = "info"

ORIGINAL_TAG: Final = "original"  # from a model
FINAL_TAG: Final = "final"  # from a person
DATASTORE_OUTPUTS: Final = ("stats", "all", "train")


@dataclass(frozen=True)
class DatastoreStats(Message):
    """``GET /datastore/``, and ``datastore`` of ``GET /info/``. label_tags : tag → how many labels."""

    total: int = whole(0)
    completed: int = whole(0)
    label_tags: Mapping[str, int] = mapping(dict)
    label_counts: Optional[Mapping[str, Any]] = mapping()


@dataclass(frozen=True)
class SegmentationMeta(Message):
    """What a reviewer said of a label."""

    status: Optional[str] = text()
    level: Optional[str] = text()
    approvedBy: Optional[str] = text()
    editTime: Any = anything()
    comment: Optional[str] = text()


@dataclass(frozen=True)
class ImageInfo(Message):
    """What is known of an image. ts : Unix seconds; strategy : who was handed it when, by name of the strategy."""

    name: Optional[str] = text()
    ts: Optional[float] = number()
    client_id: Optional[str] = text()
    user: Optional[str] = text()
    strategy: Optional[Mapping[str, Any]] = mapping()
    path: Optional[str] = text()


@dataclass(frozen=True)
class LabelInfo(Message):
    """What is known of a label. label_info : name and index of each structure; model : which made it."""

    name: Optional[str] = text()
    ts: Optional[float] = number()
    client_id: Optional[str] = text()
    user: Optional[str] = text()
    model: Optional[str] = text()
    label_info: Optional[Sequence[Any]] = sequence()
    params: Optional[Mapping[str, Any]] = mapping()
    segmentationMeta: Optional[SegmentationMeta] = message(SegmentationMeta)


@dataclass(frozen=True)
class ImageFile(Message):
    """An image's file: the extension with its dot, and what is known."""

    ext: str = text("")
    info: Optional[ImageInfo] = message(ImageInfo)


@dataclass(frozen=True)
class LabelRecord(Message):
    """A label's file: the extension with its dot, and what is known."""

    ext: str = text("")
    info: Optional[LabelInfo] = message(LabelInfo)


@dataclass(frozen=True)
class ImageRecord(Message):
    """An image with its labels by tag."""

    image: Optional[ImageFile] = message(ImageFile)
    labels: Mapping[str, LabelRecord] = messages(LabelRecord)


@dataclass(frozen=True)
class DatastoreIndex(Message):
    """``GET /datastore/?output=all``. objects : image id → record."""

    name: str = text("")
    description: str = text("")
    images_dir: Optional[str] = text()
    labels_dir: Optional[str] = text()
    objects: Mapping[str, ImageRecord] = messages(ImageRecord)


@dataclass(frozen=True)
class TrainPair(Message):
    """One of ``GET /datastore/?output=train``: paths at the server."""

    image: str = text("")
    label: str = text("")


@dataclass(frozen=True)
class Saved(Message):
    """Answer to ``PUT`` of an image or a label: the ids they have now."""

    image: Optional[str] = text()
    label: Optional[str] = text()
