"""``datastore_v2.json``: the index as MONAI Label keeps it, read once where it is there and written for those who go back.

The shape is that of MONAI Label 0.8's LocalDatastoreModel: ``name description images_dir labels_dir objects{id: {image:
{ext, info}, labels: {tag: {ext, info}}}}``; the file of an image is ``images_dir/id+ext``.
"""

from __future__ import annotations

import json
import logging
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from delineate.store.faults import storage_error

NAME: Final = "new-dataset"
DESCRIPTION: Final = "New Dataset"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What such a file said: ids and information of images by path below the folder, information of labels by tag and id."""

    name: str = NAME
    description: str = DESCRIPTION
    images_dir: str = "."
    labels_dir: str = "labels"
    images: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    labels: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)


def read(path: Path) -> Manifest | None:
    """What the file says; None where there is none, or a damaged one: that is put aside, not written over.

    Raises `StoreError` where the disk fails.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=lambda _: None)  # NaN is no JSON
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, f"reading the datastore's {path.name}") from error
    except (ValueError, RecursionError):
        _log.warning("the datastore's %s is damaged; it is kept beside, and the files themselves are indexed", path.name)
        path.replace(path.with_name(f"{path.name}.unreadable"))
        return None
    images_dir = _text(content.get("images_dir")) or "."
    images: dict[str, tuple[str, Mapping[str, Any]]] = {}
    labels: dict[tuple[str, str], Mapping[str, Any]] = {}
    for id, item in _object(content.get("objects")).items():
        image = _object(_object(item).get("image"))
        images[posixpath.normpath(posixpath.join(images_dir, f"{id}{_text(image.get('ext'))}"))] = id, _object(image.get("info"))
        for tag, label in _object(_object(item).get("labels")).items():
            labels[tag, f"{id}{_text(_object(label).get('ext'))}"] = _object(_object(label).get("info"))
    return Manifest(
        name=_text(content.get("name")) or NAME,
        description=_text(content.get("description")) or DESCRIPTION,
        images_dir=images_dir,
        labels_dir=_text(content.get("labels_dir")) or "labels",
        images=images,
        labels=labels,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
