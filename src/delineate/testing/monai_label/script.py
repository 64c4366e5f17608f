"""What a scripted MONAI Label server is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from delineate.testing.script import Script

USER, PASSWORD, TOKEN = "alice", "open sesame", "scripted-token"

_TRAINER: Final = {"max_epochs": 50, "dataset": ["CacheDataset", "Dataset"]}
INFO: Final[dict[str, Any]] = {
    "name": "scripted",
    "description": "For tests",
    "version": "1.0",
    "labels": ["bone"],
    "models": {
        "threshold": {"type": "segmentation", "labels": {"bone": 1}, "dimension": 3, "description": "A mask", "config": {"threshold": 300}},
        "classifier": {"type": "classification", "labels": ["normal"], "dimension": 3, "description": "No file", "config": {}},
    },
    "trainers": {"tiny": {"description": "Train", "config": _TRAINER, "labels": {"bone": 1}}},
    "strategies": {"random": {"description": "Random Strategy"}, "first": {"description": "Get First Sample"}},
    "scoring": {},
    "train_stats": {"tiny": {}},
    "datastore": {"total": 1, "completed": 0, "label_tags": {}},
}
PARAMS: Final[dict[str, Any]] = {"label_names": {"bone": 1}, "latencies": {"total": 0.03}, "centroids": {}}
CLASSES: Final[dict[str, Any]] = {"prediction": [{"idx": 0, "label": "normal", "score": 0.9}]}
DSA: Final[dict[str, Any]] = {"name": "Annotations", "elements": [{"type": "polyline", "points": [[1, 1, 0]]}], "description": "{}"}
ASAP: Final = b'<?xml version="1.0"?>\n<ASAP_Annotations/>\n'
MASK: Final = b"\x1f\x8b\x08\x00mask\r\n--not a boundary\r\n\x00\xff"


@dataclass(frozen=True, kw_only=True)
class LabelScript(Script):
    """How a scripted MONAI Label server behaves.

    accounts : whether it wants `TOKEN`, which `USER` gets for `PASSWORD`.
    filename : what it calls the files it sends; disposition : False leaves that header away.
    mask : the file itself; infer_params : the JSON before it, `PARAMS` where None.
    chunked : sends infers and labels without a length; parts : ``crlf`` as recorded, ``tolerant`` with other cases, orders
        and line ends, ``cut`` without the last boundary, ``empty`` without any part.
    ours : says that it is a server of Delineate.
    """

    accounts: bool = False
    filename: str = "tmp4d51lhqa.nii.gz"
    disposition: bool = True
    mask: bytes = MASK
    infer_params: dict[str, Any] | None = None
    chunked: bool = False
    parts: str = "crlf"
    ours: bool = False
