"""What happens to a whole series: rules are chosen, the server segments, results are written and delivered.

Each step begins with what the database says and ends with a row, so that it can be begun again after whatever ended it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from delineate.client.secret_files import read_token
from delineate.client.sync import Client
from delineate.dicom import reader, rtstruct, seg
from delineate.dicom.deidentify import Policy, require_no_names
from delineate.errors import (
    DeadlineError,
    DelineateError,
    ImageError,
    RejectedError,
    ResultLostError,
    ServerError,
    SettingsError,
    StoreError,
    UnknownTaskError,
)
from delineate.gateway.commitment import Commitments
from delineate.gateway.destinations import DeliveryError, make
from delineate.gateway.holdings import Holdings, Row
from delineate.gateway.node_settings import NodeSettings
from delineate.gateway.room import require_room
from delineate.gateway.rule import Output
from delineate.gateway.rules import Rule, Rules, Server
from delineate.gateway.rules_attributes import attributes_of
from delineate.gateway.spool import Spool, sync
from delineate.gateway.survival import survived
from delineate.gateway.work_rows import WorkRows
from delineate.protocols.messages import Backoff
from delineate.segmentation import Segmentation
from delineate.volume import Volume

_LOG: Final = logging.getLogger("delineate.gateway")
_SLICE: Final = 3.0  # seconds between looks at whether a task is still wanted
_ANSWER: Final = 10.0  # seconds for a server to say how a task stands
_RESULTS: Final = "results"
_UNEXPECTED: Final = "Tell the developers, with the node's log."


class _NoMoreError(Exception):
    """The node is stopping, or the job was replaced."""


class _NoImageError(Exception):
    """Structures, a report or the like."""


class Work:
    """Carries series through. For several threads.

    server : where rules go that name none; stop : set when the node is to end.
    """

    def __init__(
        self, holdings: Holdings, spool: Spool, settings: NodeSettings, rules: Rules, server: Server | None, stop: threading.Event
    ) -> None:
        self._holdings, self._spool, self._settings = holdings, spool, settings
        self._rules = rules
        self._server = server
        self._stop = stop
        self.commitments = Commitments()
        self.rows = WorkRows(holdings, settings.attempts, settings.pause, settings.longest_pause)

    def use(self, rules: Rules) -> None:
        """Go by these rules from now on; whatever was chosen by others is carried out by what bears its name now."""
        self._rules = rules

    # Choosing

    def decide(self, series: int, version: int) -> None:
        """Look at the rules; a version for which there is none, or which makes no sense, is held."""
        try:
            chosen = self._chosen(series, version)
            names = [rule.name for rule in chosen if not rule.leaves]
            if names:
                self.rows.decided(series, version, names)
            else:
                self.rows.note_version(series, version, f"left alone by the rule {chosen[-1].name!r}")
        except StoreError:
            raise
        except _NoImageError:
            self.rows.note_version(series, version, "no image: rules are for images")
        except DelineateError as error:
            self.rows.hold_version(series, version, _said(error.message), error.advice)
        except FileNotFoundError:
            self.rows.hold_version(series, version, "files are gone from the disk", "Send the series again.")
        except OSError:
            raise
        except Exception as error:
            _LOG.error("the rules for series %d failed: %s", series, type(error).__name__)
            self.rows.hold_version(series, version, f"an unexpected {type(error).__name__}", _UNEXPECTED)

    def _chosen(self, series: int, version: int) -> list[Rule]:
        with reader.looked_at(self._folder(series, version)) as found:
            if not found.groups and not any(item.error for item in found.skipped):
                raise _NoImageError
            group, rules = found.one(), self._rules
            chosen = rules.choose(attributes_of(group, rules.keywords))
            if not all(rule.leaves for rule in chosen):
                require_room(group)
            return chosen

    def _folder(self, series: int, version: int) -> Path:
        return self._spool.version(series, version, self._holdings.files(series, version))

    # Segmenting

    def carry(self, job: int) -> None:
        """Read, submit, wait, write; raises nothing."""
        try:
            self._guarded(job)
        except StoreError as error:
            _LOG.error("job %d: %s", job, error.sentence())
            self._stop.wait(1.0)  # it is due still

    def _guarded(self, job: int) -> None:
        try:
            self._carry(job)
        except _NoMoreError:
            pass
        except (UnknownTaskError, ResultLostError) as error:
            self.rows.later(job, f"the server has lost it: {_said(error.message)}", "", is_new=True)
        except (RejectedError, SettingsError) as error:
            self.rows.hold(job, _said(error.message), error.advice)
        except (ServerError, StoreError) as error:
            self.rows.later(job, _said(error.message), error.advice)
        except DelineateError as error:
            self.rows.hold(job, _said(error.message), error.advice)
        except OSError as error:
            self.rows.later(job, f"the node's disk: {error.strerror}", "Look at the disk of the node's data folder.")
        except Exception as error:  # whatever it is must not end the node; its words might hold a patient's
            _LOG.error("job %d failed: %s", job, type(error).__name__)
            self.rows.hold(job, f"an unexpected {type(error).__name__}", _UNEXPECTED)

    def _carry(self, job: int) -> None:
        row = self.rows.job(job)
        if row is None or row["state"] not in ("waiting", "sent"):
            return
        rule, server = self._rule(row["rule"])
        self._note_question(row, rule)
        image = None
        with self._client(server) as client:
            uid = row["task"]
            if row["state"] == "waiting":
                image = self._read(row, server)
                uid = self._submitted(client, row, rule, image.volume)
            if not self._is_ended(client, job, uid):
                image = None  # it may take hours: read again, it keeps no memory
                while not self._is_ended(client, job, uid):
                    pass
            image = image or self._read(row, server)
            segmentation = client.fetch(uid, geometry=image.volume.geometry)
            notes = [*image.notes, *client.notes]
        outputs = _outputs(rule, segmentation, notes)
        with survived(self._spool.job(job)):
            self._write(job, replace(rule, outputs=outputs), segmentation, image, notes)
        self.rows.written(job, rule.destinations if outputs else (), notes)

    def _rule(self, name: str) -> tuple[Rule, Server]:
        rules = self._rules
        rule = next((rule for rule in rules.rules if rule.name == name), None)
        if rule is None:
            raise SettingsError(f"the rule {name!r} is no longer in the rules file", "Write it again, or send the series again.")
        server = rules.servers[rule.server] if rule.server else self._server
        if server is None:
            raise SettingsError(f"the rule {name!r} names no server, and the node has none", "Start the node with --server.")
        return rule, server

    def _client(self, server: Server) -> Client:
        token = None if server.token_file is None else read_token(server.token_file)
        return Client(server.url, token=token, ca_file=server.ca_file, timeout=self._settings.task, backoff=Backoff(tries=3))

    def _read(self, row: Row, server: Server) -> reader.DicomImage:
        folder = self._folder(row["series"], row["version"])
        with survived(self._spool.job(row["id"])):
            image = reader.read(folder)
        if image.lost:
            raise ImageError(image.lost, "Send the series again; files that cannot be read may be slices of it.")
        if server.deidentify is not Policy.OFF:  # voxels and grid are all that goes; what could name somebody is on the pixels
            require_no_names(folder)
        return image

    def _submitted(self, client: Client, row: Row, rule: Rule, volume: Volume) -> str:
        prompts, key = dict(rule.parameters) or None, self._key(row, rule)
        uid = client.submit([volume], rule.model, priority="batch", prompts=prompts, key=key, timeout=600.0)
        self.rows.sent(row["id"], uid)
        return uid

    def _note_question(self, row: Row, rule: Rule) -> None:
        """Keep what is asked for; what was asked before the rule was changed is asked anew, or it would go under another model's name."""
        now, note = _question(rule), self._spool.job(row["id"]) / "question"
        if row["state"] == "sent" and note.exists() and note.read_text(encoding="ascii") != now:
            self.rows.later(row["id"], "its rule was changed meanwhile", "", is_new=True)
            raise _NoMoreError
        if row["state"] == "waiting":  # of a task that is known it stands there whole
            note.write_text(now, encoding="ascii")

    def _key(self, row: Row, rule: Rule) -> str:
        """The same for every try of one round, so that the server makes one task of them."""
        words = f"{self._holdings.name} {row['series']} {row['version']} {row['rule']} {row['round']} {_question(rule)}"
        return hashlib.sha256(words.encode()).hexdigest()[:48]

    def _is_ended(self, client: Client, job: int, uid: str) -> bool:
        """Wait for some seconds for a result. A server that is away is an error, which leaves the hand to other jobs."""
        row = self.rows.job(job)
        if self._stop.is_set() or row is None or row["state"] != "sent":
            with contextlib.suppress(DelineateError):
                if not self._stop.is_set():
                    client.cancel(uid, timeout=_SLICE)
            raise _NoMoreError
        try:
            client.wait(uid, timeout=_SLICE)
        except DeadlineError:
            if self._holdings.clock() > row["changed"] + self._settings.task:
                raise _too_long(self._settings.task) from None
            client.status(uid, timeout=_ANSWER)  # waiting does not say whether the server is there
            if row["reason"]:
                self.rows.goes_on(job)
            return False
        return True

    def _write(self, job: int, rule: Rule, segmentation: Segmentation, image: reader.DicomImage, notes: list[str]) -> None:
        """All results or none: the folder gets its name when they are on the disk."""
        folder = self._spool.job(job)
        part = folder / f"{_RESULTS}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        contours = replace(rule.rtstruct, description=rule.rtstruct.description or rule.model)
        segments = replace(rule.seg, description=rule.seg.description or rule.model, algorithm=rule.model)
        writers: Mapping[str, Callable[[Path], None]] = {
            "rtstruct": lambda path: rtstruct.write_rtstruct(path, segmentation, image.series, contours, notes),
            "seg": lambda path: seg.write_seg(path, segmentation, image.series, segments, notes),
        }
        for output in rule.outputs:
            path = part / f"{output}.dcm"
            writers[output](path)
            sync(path)
        sync(part)
        shutil.rmtree(folder / _RESULTS, ignore_errors=True)
        part.rename(folder / _RESULTS)
        sync(folder)

    # Delivering

    def deliver(self, delivery: int) -> None:
        """Bring the results of a job to one destination; raises nothing."""
        try:
            self._deliver(delivery)
        except StoreError as error:
            _LOG.error("delivery %d: %s", delivery, error.sentence())
            self._stop.wait(1.0)

    def _deliver(self, delivery: int) -> None:
        row = self.rows.delivery(delivery)
        if row is None or row["state"] != "waiting":
            return
        notes: list[str] = []
        try:
            settings = self._rules.destinations.get(row["destination"])
            if settings is None:
                raise SettingsError(f"the destination {row['destination']!r} is no longer in the rules file", "Write it again.")
            files = sorted((self._spool.job(row["job"]) / _RESULTS).iterdir())
            make(settings, self.commitments).deliver(files, notes)
        except DeliveryError as error:
            self.rows.not_delivered(delivery, _said(error.message), error.advice, error.is_final)
        except (ServerError, StoreError, OSError) as error:
            advice = error.advice if isinstance(error, DelineateError) else ""
            self.rows.not_delivered(delivery, _said(str(error)), advice, is_final=False)
        except DelineateError as error:
            self.rows.not_delivered(delivery, _said(error.message), error.advice, is_final=True)
        except Exception as error:
            _LOG.error("delivery %d failed: %s", delivery, type(error).__name__)
            self.rows.not_delivered(delivery, f"an unexpected {type(error).__name__}", _UNEXPECTED, is_final=True)
        else:
            self.rows.delivered(delivery, notes)


def _outputs(rule: Rule, segmentation: Segmentation, notes: list[str]) -> tuple[Output, ...]:
    """What is written: contours of nothing are no RTSTRUCT, while segments without voxels say that nothing was found."""
    if "rtstruct" not in rule.outputs or any(layer.any() for layer in segmentation.layers):
        return rule.outputs
    notes.append("no structure has voxels: there is no RTSTRUCT")
    return tuple(output for output in rule.outputs if output != "rtstruct")


def _question(rule: Rule) -> str:
    return hashlib.sha256(repr((rule.model, sorted(rule.parameters.items()))).encode()).hexdigest()


def _said(words: str) -> str:
    return words.strip().rstrip(".")[:2000]


def _too_long(seconds: float) -> DelineateError:
    return DelineateError(f"the model took longer than {seconds:g} s", "Raise task_seconds of the node, or look at the server's tasks.")
