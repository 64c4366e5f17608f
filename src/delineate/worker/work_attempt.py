"""One try at a piece of work that the server gave itself, from its input to its settlement."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.engine import Connection

from delineate.errors import ModelError
from delineate.protocols.archive_entries import StoredZipWriter
from delineate.runners.work import Done, Publication, WorkJob, load, write_answer
from delineate.store.writer import BlobWriter
from delineate.worker import resident
from delineate.worker.attempt import Attempt
from delineate.worker.reading import WorkReader
from delineate.worker.tasklog import read_log

MODEL_ROLE: Final = "model"
"""Of the blob that holds a published model's files."""

_KEPT: Final = "kept"


def kept_folder(data: Path, name: str) -> Path:
    """Where the works of a name keep what the next one goes on from, in the data folder."""
    return data / _KEPT / name


class WorkAttempt(Attempt):
    """One try at one task of the protocol `WORK`."""

    def _do(self) -> None:
        place, task = self._place, self._task
        blob = task.blob("input")
        if blob is None:
            raise ModelError("the task has no input any more", "Submit it again.", "input")
        with self._log.captured():
            work = load(task.model)
        place.channel.started(task.uid, work.time_limit, work.memory_mb)
        resident.reset_peak()
        kept = kept_folder(place.data, task.model)
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        job = WorkJob(
            given=json.loads(place.blobs.verified(blob.digest).read_bytes()),
            task=str(task.id),
            read=WorkReader(place.files, place.models, place.desk.input),
            folder=place.desk.output,
            kept=kept,
            report=place.channel.report,
            log=self._log.write,
            threads=place.threads,
        )
        with self._timed("work"), self._log.captured(), place.channel.interruptible():
            done = work.run(job)
        place.channel.raise_if_cancelled()
        self._keep(done)

    def _last_words(self) -> BlobWriter | None:
        return self._log_blob(read_log(self._log.path))

    def _keep(self, done: Done) -> None:
        log = read_log(self._log.path)
        model, also = (None, None) if done.model is None else self._published(done.model)
        self._tasks.finish(
            self._task.uid,
            self._place.name,
            result=self._tasks.blobs.adopt(write_answer(self._place.desk.result, done.values, done.files)),
            log=self._log_blob(log),
            provenance=self._provenance(),
            beside=None if model is None else {MODEL_ROLE: model},
            also=also,
        )

    def _published(self, publication: Publication) -> tuple[BlobWriter, Callable[[Connection], None]]:
        path = self._place.desk.temporary / "model.zip"
        with StoredZipWriter(path) as writer:
            for name, file in publication.files.items():
                writer.add_file(name, file)
        archive = self._tasks.blobs.adopt(path)
        archive.seal()
        return archive, partial(
            self._place.models.publish,
            model=publication.model,
            digest=archive.digest,
            size=archive.size,
            who=self._task.owner,
            info={**publication.info, "task": self._task.id},
        )
