"""Which labels are scored, and where the scores go: into what is kept with the labels and images, where reviewers see them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from delineate.datastore.faults import UnknownItemError
from delineate.datastore.local import LocalDatastore
from delineate.datastore.records import LabelRecord
from delineate.errors import DelineateError
from delineate.protocols.monai_label_datastore import FINAL_TAG, ORIGINAL_TAG
from delineate.scoring.tolerance import TOLERANCE
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.label_names import likely_names_of, names_of
from delineate.server.service import Service
from delineate.task import Task, TaskState
from delineate.worker.referred import place_of

SCORE: Final = "score"
"""The work."""

METHODS: Final[Mapping[str, str]] = {
    "dice": "Agreement of a person's labels with a model's: Dice, and distances of surfaces in mm, by structure",
    "sum": "How much is labelled: voxels, slices, millilitres by structure",
}
"""What may be asked for, with what it is."""

_WHO: Final = "scoring"
_RECENT: Final = 20  # runs whose scores are looked after
_LABEL_MAPS: Final = (".nii.gz", ".nii", ".nrrd", ".mha")

_log = logging.getLogger(__name__)


class Scores:
    """Blocks, all of it; shared by threads."""

    def __init__(self, service: Service, annotation: Annotation) -> None:
        self._service = service
        self._annotation = annotation
        self._lock = threading.Lock()
        self._collected: set[int] = set()

    def items(self, method: str, tags: Sequence[str], wanted: Callable[[Sequence[LabelRecord]], bool] = lambda labels: True) -> list[Any]:
        """The input of `delineate.scoring.work.Score` for all images: pairs of labels of the two tags, or each label by itself."""
        found = []
        for entry in self._annotation.datastore.state().entries.values():
            labels = [entry.labels[tag] for tag in tags if tag in entry.labels and entry.labels[tag].extension.lower() in _LABEL_MAPS]
            groups = [labels] if method == "dice" and len(labels) == 2 else [] if method == "dice" else [[label] for label in labels]
            for group in groups:
                if wanted(group) and (given := [_given(label) for label in group]) and None not in given:
                    found.append({"image": entry.image.id, "labels": given})
        return found

    def submit(self, method: str, items: Sequence[Any], tolerance: float, owner: str, asked: Mapping[str, Any]) -> Task:
        """The task. Raises `StoreError`."""
        given = {"method": method, "tolerance": tolerance, "items": list(items)}
        return self._service.submit_work(SCORE, given, owner=owner, prompts={"method": method, **asked})

    def submit_new(self) -> Task | None:
        """Score person's labels that were not compared with the model's as both are now; None where there is none, or where a run waits."""
        if any(not task.state.is_final for task in self._service.tasks.work(SCORE, limit=_RECENT)):
            return None
        items = self.items("dice", (FINAL_TAG, ORIGINAL_TAG), lambda labels: not _is_scored(*labels))
        return self.submit("dice", items, TOLERANCE, _WHO, {"images": "new"}) if items else None

    def collect(self) -> int:
        """Take over what the last runs found: how many runs. What is there already is not written again."""
        with self._lock:
            ended = [task for task in self._service.tasks.work(SCORE, limit=_RECENT) if task.state is TaskState.FINISHED]
            fresh = [task for task in ended if task.id not in self._collected]
            if fresh and self._annotation.has_datastore:
                self._keep_newest(fresh)
            self._collected = {task.id for task in ended}
        return len(fresh)

    def _keep_newest(self, tasks: Sequence[Task]) -> None:
        """Of runs, newest first, the newest score of each method, image and tags."""
        kept = set()
        for task in tasks:
            answer = self._answer(task)
            for score in answer.get("scores", ()):
                key = (answer["method"], score["image"], *score["tags"])
                if "score" in score and key not in kept:
                    kept.add(key)
                    with contextlib.suppress(UnknownItemError):  # image or label are gone
                        _keep(self._annotation.datastore, str(answer["method"]), score)

    def _answer(self, task: Task) -> dict[str, Any]:
        try:
            return self._service.found(task)
        except DelineateError as error:
            _log.warning("scores were lost: %s", error.message)
            return {}


def result_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a run found, by image, as it is answered to who waits: for ``dice`` a number, for ``sum`` an object."""
    found: dict[str, Any] = {}
    for score in answer.get("scores", ()):
        if "score" in score:
            value = score["score"]
            found.setdefault(score["image"], value["dice"] if answer["method"] == "dice" else value)  # of two tags the person's
    return found


def _given(label: LabelRecord) -> dict[str, Any] | None:
    if label.path is None:
        return None
    try:
        place = place_of(label.path).to_json()
    except DelineateError:  # its file is gone a moment ago
        return None
    return {"tag": label.tag, "version": label.version, "place": place, "names": names_of(label), "likely": likely_names_of(label)}


def _keep(store: LocalDatastore, method: str, score: Mapping[str, Any]) -> None:
    """Into the information of the first label, and for ``dice`` of the image; not where a label was drawn anew meanwhile."""
    labels = [store.label(score["image"], tag) for tag in score["tags"]]
    if [label.version for label in labels] != score["versions"]:
        return
    first, value = labels[0], score["score"]
    before = first.info.get("scores")
    about = {"against": labels[1].tag, "versions": score["versions"]} if len(labels) > 1 else {}
    news: dict[str, Any] = {"scores": {**(before if isinstance(before, dict) else {}), method: {**value, **about}}}
    if method == "sum":
        news |= {"sum": value["sum"], "slices": value["slices"]}
    if any(first.info.get(name) != new for name, new in news.items()):
        store.update_label_info(first.image, first.tag, news, who=_WHO)
    if method == "dice" and store.image(first.image).info.get("dice") != value["dice"]:
        store.update_image_info(first.image, {"dice": value["dice"]}, who=_WHO)


def _is_scored(drawn: LabelRecord, predicted: LabelRecord) -> bool:
    scores = drawn.info.get("scores")
    own = scores.get("dice") if isinstance(scores, dict) else None
    return isinstance(own, dict) and own.get("against") == predicted.tag and own.get("versions") == [drawn.version, predicted.version]
