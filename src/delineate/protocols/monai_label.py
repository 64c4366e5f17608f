"""The MONAI Label API: paths, names, and the messages of all routes but the datastore's.

Read from the public API and from recordings of it. The messages serve both directions: a client reads answers with
``from_json``, a server writes them with ``to_json``. The datastore's are in `monai_label_datastore`, answers that carry
files in `monai_label_answers`, what a client says in `monai_label_flows`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, Final, List, Mapping, Optional, Sequence, Union
from urllib.parse import quote

from delineate.errors import InputError
from delineate.protocols.monai_label_datastore import DatastoreStats
from delineate.protocols.monai_label_fields import (
    Message,
    anything,
    flag,
    mapping,
    message,
    messages,
    names,
    number,
    sequence,
    text,
    whole,
    word,
)

# ---------------------------------------------------------------- paths

INFO_PATH: Final = "/info/"
INFER_PATH: Final = "/infer/{}"
WSI_PATH: Final = "/infer/wsi/{}"
WSI_FILE_PATH: Final = "/infer/wsi_v2/{}"
BATCH_PATH: Final = "/batch/infer"
BATCH_MODEL_PATH: Final = "/batch/infer/{}"
TRAIN_PATH: Final = "/train/"
TRAIN_MODEL_PATH: Final = "/train/{}"
SCORING_PATH: Final = "/scoring/"
SCORING_METHOD_PATH: Final = "/scoring/{}"
STRATEGY_PATH: Final = "/activelearning/{}"
SESSIONS_PATH: Final = "/session/"
SESSION_PATH: Final = "/session/{}"
MODEL_PATH: Final = "/model/{}"
MODEL_INFO_PATH: Final = "/model/info/{}"
AUTH_PATH: Final = "/auth/"
TOKEN_PATH: Final = "/auth/token"  # noqa: S105 - a path
TOKEN_VALID_PATH: Final = "/auth/token/valid"  # noqa: S105 - a path
LOGS_PATH: Final = "/logs/"
GPU_PATH: Final = "/logs/gpu"
DICOM_PROXY_PATHS: Final = ("/proxy/dicom/wado", "/proxy/dicom/qido", "/proxy/dicom/stow")

# ---------------------------------------------------------------- names in queries and forms

IMAGE_PARAMETER: Final = "image"
SESSION_PARAMETER: Final = "session_id"
OUTPUT_PARAMETER: Final = "output"
IMAGES_PARAMETER: Final = "images"
RUN_SYNC_PARAMETER: Final = "run_sync"
ENQUEUE_PARAMETER: Final = "enqueue"
ALL_PARAMETER: Final = "all"
CHECK_PARAMETER: Final = "check_if_running"
UNCOMPRESS_PARAMETER: Final = "uncompress"
EXPIRY_PARAMETER: Final = "expiry"
UPDATE_PARAMETER: Final = "update_ts"
LINES_PARAMETER, HTML_PARAMETER, TEXT_PARAMETER = "lines", "html", "text"
PARAMS_FIELD: Final = "params"
FILE_FIELD: Final = "file"
FILES_FIELD: Final = "files"
LABEL_FIELD: Final = "label"
WSI_FIELD: Final = "wsi"

WSI_OUTPUTS: Final = ("dsa", "asap", "json")
TASK_STATES: Final = ("SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED")
ROLES: Final = ("user", "annotator", "reviewer", "admin")
PASSWORD_GRANT: Final = "password"  # noqa: S105 - a word of OAuth 2
TIMESTAMP: Final = "%Y-%m-%d %H:%M:%S"  # of tasks; see `timestamp`


def timestamp(seconds: float) -> str:
    """A Unix time as a `TIMESTAMP`, local."""
    return time.strftime(TIMESTAMP, time.localtime(seconds))


def path_of(template: str, name: str) -> str:
    """The path of a thing with a name: one segment, quoted; `InputError` for a name that cannot be one."""
    if not name or name in (".", ".."):
        raise InputError("%r is no name that a path can hold" % name, "Give the name or id as the server lists it.")
    return template.format(quote(name, safe=""))


# ---------------------------------------------------------------- what a server says of itself


def label_names(labels: Union[Mapping[str, Any], Sequence[Any], None]) -> List[str]:
    """Names of labels, however a server gives them: as a list, or as an object name → number."""
    return [str(label) for label in labels or ()]


@dataclass(frozen=True)
class ModelInfo(Message):
    """A model. `type`: ``segmentation``, ``deepedit``, ``deepgrow``, ``scribbles``, ``classification``, ``detection``, …"""

    type: str = text("")
    labels: Union[Mapping[str, Any], Sequence[Any]] = names(dict)
    dimension: int = whole(3)
    description: str = text("")
    config: Mapping[str, Any] = mapping(dict)


@dataclass(frozen=True)
class TrainerInfo(Message):
    """What can be trained; `config` gives the parameters with their defaults, choices as lists."""

    description: str = text("")
    config: Mapping[str, Any] = mapping(dict)
    labels: Union[Mapping[str, Any], Sequence[Any], None] = names()


@dataclass(frozen=True)
class Described(Message):
    """A strategy of active learning, or a way of scoring."""

    description: str = text("")


@dataclass(frozen=True)
class TrainStats(Message):
    """How far a training came; empty where there was none."""

    epoch: Optional[int] = whole()
    total_epochs: Optional[int] = whole()
    best_metric: Optional[float] = number()
    total_time: Optional[str] = text()
    start_ts: Optional[float] = number()


@dataclass(frozen=True)
class Info(Message):
    """``GET /info/``."""

    name: str = text("")
    description: str = text("")
    version: str = text("")
    labels: Union[Mapping[str, Any], Sequence[Any]] = names(list)
    models: Mapping[str, ModelInfo] = messages(ModelInfo)
    trainers: Mapping[str, TrainerInfo] = messages(TrainerInfo)
    strategies: Mapping[str, Described] = messages(Described)
    scoring: Mapping[str, Described] = messages(Described)
    train_stats: Mapping[str, TrainStats] = messages(TrainStats)
    datastore: Optional[DatastoreStats] = message(DatastoreStats)


# ---------------------------------------------------------------- samples and sessions


@dataclass(frozen=True)
class SampleRequest(Message):
    """Body of ``POST /activelearning/{strategy}``."""

    client_id: Optional[str] = word()
    label_tag: Optional[str] = text()
    labels: Any = anything()


@dataclass(frozen=True)
class Sample(Message):
    """The image to annotate next; with nothing left `id` is None and the object is empty.

    bbox : x, y, width, height of a region of a slide, where the sample is one.
    """

    id: Optional[str] = text()
    weight: Optional[float] = number()
    path: Optional[str] = text()
    ts: Optional[float] = number()
    name: Optional[str] = text()
    strategy: Optional[Mapping[str, Any]] = mapping()
    bbox: Optional[Sequence[int]] = sequence()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self.id is None


@dataclass(frozen=True)
class Session(Message):
    """An image that was sent ahead; times in Unix seconds, `expiry` in seconds without use."""

    name: str = text("")
    path: Optional[str] = text()
    image: Optional[str] = text()
    meta: Mapping[str, Any] = mapping(dict)
    create_ts: Optional[float] = number()
    last_access_ts: Optional[float] = number()
    expiry: Optional[float] = number()


@dataclass(frozen=True)
class NewSession(Message):
    """Answer to ``PUT /session/``."""

    session_id: str = text("")
    session_info: Optional[Session] = message(Session)


# ---------------------------------------------------------------- inference


@dataclass(frozen=True)
class InferParams(Message):
    """The form field ``params`` of an infer; models take others beside these, see `more`.

    result_extension, result_dtype, result_compress : of the result's file; the image's own extension where not given.
    restore_label_idx : give labels the numbers of the model's ``labels``.
    foreground, background : clicks, voxel indices x, y, z; per label an object name → clicks.
    roi : x, x, y, y, z, z of a box in voxels; slice : the one that was clicked.
    save_label, label_tag : keep the result in the datastore, under this tag.
    """

    client_id: Optional[str] = word()
    result_extension: Optional[str] = text()
    result_dtype: Optional[str] = text()
    result_compress: Optional[bool] = flag()
    restore_label_idx: Optional[bool] = flag()
    label_info: Any = anything()
    foreground: Union[Sequence[Any], Mapping[str, Any], None] = names()
    background: Union[Sequence[Any], Mapping[str, Any], None] = names()
    roi: Optional[Sequence[Any]] = sequence()
    slice: Any = anything()
    label: Any = anything()
    reset_state: Optional[bool] = flag()
    save_label: Optional[bool] = flag()
    label_tag: Optional[str] = text()


@dataclass(frozen=True)
class WsiRequest(Message):
    """Body of ``POST /infer/wsi/{model}``: which part of a slide, in pixels of level 0."""

    level: int = whole(0)
    location: Sequence[int] = sequence(lambda: [0, 0])
    size: Sequence[int] = sequence(lambda: [2048, 2048])
    tile_size: Sequence[int] = sequence(lambda: [1024, 1024])
    min_poly_area: int = whole(80)
    params: Mapping[str, Any] = mapping(dict)


@dataclass(frozen=True)
class DsaAnswer(Message):
    """Answer with ``output=dsa``: elements as the Digital Slide Archive draws them; `description` is JSON in a string."""

    name: str = text("")
    elements: Sequence[Any] = sequence(list)
    description: str = text("")

    def to_json(self) -> Dict[str, Any]:
        """The object as plain values, `description` last: a client looks for it in the last line."""
        written = dict(super().to_json())
        written["description"] = written.pop("description")
        return written


@dataclass(frozen=True)
class WsiAnswer(Message):
    """Answer with ``output=json``, and where no output is named."""

    name: str = text("")
    description: str = text("")
    model: str = text("")
    location: Optional[Sequence[int]] = sequence()
    size: Optional[Sequence[int]] = sequence()
    annotations: Sequence[Any] = sequence(list)
    latencies: Optional[Mapping[str, float]] = mapping()


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True)
class BatchParams(Message):
    """Body of ``POST /batch/infer/{model}``."""

    save_label: Optional[bool] = flag()
    label_tag: Optional[str] = text()
    max_workers: Optional[int] = whole()
    max_batch_size: Optional[int] = whole()


@dataclass(frozen=True)
class ScoringParams(Message):
    """Body of ``POST /scoring/{method}``. y, y_pred : tags, the person's and the one compared with it; tolerance : mm."""

    y: Optional[str] = text()
    y_pred: Optional[str] = text()
    tolerance: Optional[float] = number()


@dataclass(frozen=True)
class TaskView(Message):
    """A task of training, scoring or batch inference.

    status : one of `TASK_STATES`; start_ts, end_ts : `TIMESTAMP` in the server's local time; details : last lines of its log.
    """

    id: str = text("")
    status: str = text("")
    request: Mapping[str, Any] = mapping(dict)
    start_ts: Optional[str] = text()
    details: Optional[Sequence[str]] = sequence()
    end_ts: Optional[str] = text()
    exit_code: Optional[int] = whole()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in TASK_STATES[2:]


@dataclass(frozen=True)
class TrainParams(Message):
    """Body of ``POST /train/{model}``. label_tag : whose labels are learned from; anew : forget what was computed before."""

    label_tag: Optional[str] = text()
    anew: Optional[bool] = flag()


@dataclass(frozen=True)
class StartedTask(Message):
    """One trainer's part of the answer to ``POST /train/``, which starts all: a task, or why there is none."""

    result: Optional[TaskView] = message(TaskView)
    detail: Optional[str] = text()


# ---------------------------------------------------------------- models' files, accounts


@dataclass(frozen=True)
class ModelFileInfo(Message):
    """``GET /model/info/{model}``. checksum : algorithm, colon, hexadecimal digits; modified_time : Unix seconds."""

    checksum: Optional[str] = text()
    modified_time: Optional[float] = number()


@dataclass(frozen=True)
class AuthInfo(Message):
    """``GET /auth/``; 404 instead where accounts are off."""

    enabled: bool = flag(False)
    client_id: Optional[str] = text()
    realm: Optional[str] = text()


@dataclass(frozen=True)
class Token(Message):
    """``POST /auth/token``."""

    access_token: Optional[str] = text()
    token_type: Optional[str] = text()

    def __repr__(self) -> str:
        return "Token(…)"  # it must not get into a log


@dataclass(frozen=True)
class User(Message):
    """``GET /auth/token/valid``. roles : of `ROLES`, by the names the server gives them."""

    username: str = text("")
    email: Optional[str] = text()
    name: Optional[str] = text()
    roles: Sequence[str] = sequence(list)
