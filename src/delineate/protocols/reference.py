"""The input of a task whose images lie on the server already: names of files instead of a request archive.

Written by the server alone, read by a worker, never sent by anybody: a reference that came from outside would read any
file of the server. It is no archive, so nothing that is uploaded to a door for archives can pass for one.

The document: ``{"delineate-reference": 1, "images": [PLACE, …], "label": PLACE}`` with a PLACE of
``{"path", "size", "mtime_ns", "name"}`` or ``{"blob", "name"}``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Dict, Final, List, Mapping, Optional, Tuple

from delineate.errors import InputError

MONAI_LABEL: Final = "monai-label"
"""The protocol of tasks whose input may be a reference."""

KEY: Final = "delineate-reference"
VERSION: Final = 1
LARGEST: Final = 1 << 20  # bytes

_ADVICE = "Submit the task again."


@dataclass(frozen=True)
class Place:
    """One image or label that the server has: a file or folder as it was at the time, or a blob.

    path : absolute, empty for a blob; size : bytes, of all files of a folder; mtime_ns : of the file; of a folder a number
    that changes with any of its files' times; blob : digest, empty for a path; name : file name for people, whose suffix tells the
    format; empty suffix for a folder.
    """

    path: str = ""
    size: int = 0
    mtime_ns: int = 0
    blob: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.blob):
            raise InputError("a reference names either a path or a blob", _ADVICE)

    @property
    def key(self) -> str:
        """What stands for the content: another one when the file changed."""
        content = replace(self, name="") if self.path else self.blob
        return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def to_json(self) -> Dict[str, Any]:
        """Plain values."""
        if self.blob:
            return {"blob": self.blob, "name": self.name}
        return {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns, "name": self.name}

    @classmethod
    def from_json(cls, value: Any) -> Place:
        """The inverse of `to_json`; `InputError` for anything else."""
        kinds = {"path": str, "size": int, "mtime_ns": int, "blob": str, "name": str}
        if not isinstance(value, dict) or any(not isinstance(value[name], kinds.get(name, ())) for name in value):
            raise InputError("a reference names a file in a form that is not known", _ADVICE)
        return cls(**value)


@dataclass(frozen=True)
class Reference:
    """The images of a task in the model's order, and a label on the grid of the first: scribbles, or a mask to go on from."""

    images: Tuple[Place, ...]
    label: Optional[Place] = None

    def __post_init__(self) -> None:
        if not self.images:
            raise InputError("a reference names no image", _ADVICE)

    @property
    def key(self) -> str:
        """What stands for the first image: the engine gives tasks of one key to the worker that has it warm."""
        return self.images[0].key

    def to_bytes(self) -> bytes:
        """The document; the same reference gives the same bytes."""
        fields: Dict[str, Any] = {KEY: VERSION, "images": [place.to_json() for place in self.images]}
        if self.label is not None:
            fields["label"] = self.label.to_json()
        return json.dumps(fields, ensure_ascii=True).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        """Read a document; `InputError` for anything that this version did not write."""
        fields = _object(data)
        images: List[Any] = fields["images"] if isinstance(fields.get("images"), list) else []
        label = fields.get("label")
        return cls(tuple(Place.from_json(value) for value in images), None if label is None else Place.from_json(label))


def is_reference(start: bytes) -> bool:
    """Whether a file that begins with these bytes, 32 or more, is meant as a reference; no archive does."""
    return start.startswith(b'{"' + KEY.encode("ascii") + b'": ')


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError):
        raise InputError("a reference cannot be read", _ADVICE) from None
    if not isinstance(fields, dict) or fields.get(KEY) != VERSION:
        raise InputError("a reference is of a version that is not known", "Run server and workers of one version.")
    return fields
