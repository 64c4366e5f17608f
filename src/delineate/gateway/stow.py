"""A DICOMweb server as a destination: STOW-RS (PS3.18, 10.5)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx

from delineate import __version__
from delineate.client.address import Address, parse_address
from delineate.client.failures import failure_from
from delineate.client.file_auth import FileAuth
from delineate.client.related_parts import FileParts
from delineate.client.stow_answer import Stored, read_stow_answer
from delineate.client.transport import Line
from delineate.client.unlogged import unlogged
from delineate.errors import SettingsError
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import StowSettings
from delineate.gateway.objects import Object, objects_of
from delineate.gateway.statuses import may_pass, words

_LARGEST: Final = 16 << 20  # bytes of an answer
_REFUSED: Final = {400: "it finds the request wrong", 413: "it is too large", 415: "it does not take DICOM files", 422: "it cannot be used"}
_HEADERS: Final = {"Accept": "application/dicom+json", "User-Agent": f"delineate/{__version__}"}
_AGAIN: Final = "It is tried again."
_SEE_LOG: Final = "The log of the server says more."


class StowDestination:
    """Sends files by STOW-RS, all in one request, and reads from the answer what became of each.

    Raises
    ------
    SettingsError
        The address makes no sense, or a file with a secret or an authority cannot be used.
    """

    def __init__(self, settings: StowSettings) -> None:
        self.settings = settings
        self._address: Address = parse_address(settings.url)
        auth = FileAuth(settings.token_file, settings.password_file, settings.user)
        self._options = {**Line(self._address, ca_file=settings.ca_file, keeps=False).options(), "auth": auth}

    def deliver(self, files: Sequence[Path], notes: list[str] | None = None) -> None:
        """As `Destination.deliver`."""
        objects = objects_of(files)
        try:
            with unlogged(), httpx.Client(**self._options, timeout=self.settings.timeout) as client:
                status, content = self._post(client, objects)
        except SettingsError as error:  # a secret that cannot be read now
            raise DeliveryError(f"{self.settings.name}: {error.message}", f"{error.advice} {_AGAIN}") from None
        except httpx.HTTPError as error:
            failure = failure_from(error, self._address, None, self.settings.timeout)
            raise DeliveryError(f"{self.settings.name}: {failure.message}", f"{failure.advice} {_AGAIN}") from None
        self._judge(status, content, objects, [] if notes is None else notes)

    def ask(self) -> None:
        """As `Destination.ask`. A server that takes STOW-RS alone may answer questions with whatever error; it is there."""
        try:
            with (
                unlogged(),
                httpx.Client(**self._options, timeout=self.settings.timeout) as client,
                client.stream("GET", f"{self._address}/studies", params={"limit": "1"}, headers=_HEADERS) as answer,
            ):
                status = answer.status_code  # what it says besides may have no end
        except SettingsError as error:
            raise DeliveryError(f"{self.settings.name}: {error.message}", error.advice) from None
        except httpx.HTTPError as error:
            failure = failure_from(error, self._address, None, self.settings.timeout)
            raise DeliveryError(f"{self.settings.name}: {failure.message}", failure.advice) from None
        if status in (401, 403):
            raise self._refused(status)

    def _post(self, client: httpx.Client, objects: Sequence[Object]) -> tuple[int, bytes]:
        body = FileParts([item.path for item in objects], "application/dicom")
        headers = {**body.headers, **_HEADERS}
        with client.stream("POST", f"{self._address}/studies", headers=headers, content=body.blocks()) as answer:
            content, end = b"", time.monotonic() + self.settings.timeout
            for block in answer.iter_bytes():
                content += block
                if len(content) > _LARGEST or time.monotonic() > end:
                    raise DeliveryError(f"{self.settings.name}: the answer has no end", _AGAIN)
            return answer.status_code, content

    def _judge(self, status: int, content: bytes, objects: Sequence[Object], notes: list[str]) -> None:
        told = read_stow_answer(content)
        if told is not None and status in (200, 202, 400, 409):
            self._judge_each(told, objects, notes)
        elif status == 200 and not _is_other(content):
            notes.append(f"{self.settings.name} answered 200 without saying what became of each object")
        else:
            raise self._refused(status)

    def _refused(self, status: int) -> DeliveryError:
        name = self.settings.name
        if status == 200:
            return DeliveryError(f"{name} answered with something else than DICOM as JSON", f"Check its address. {_AGAIN}")
        if status in (401, 403):
            return DeliveryError(f"{name} wants another or any token or password ({status})", f"Check its files. {_AGAIN}")
        if status in (404, 405) or 300 <= status < 400:
            return DeliveryError(f"{name} answered {status}", f"Check its address, to which /studies is appended. {_AGAIN}")
        if status in _REFUSED:
            return DeliveryError(f"{name} answered {status}: {_REFUSED[status]}", _SEE_LOG, True)
        return DeliveryError(f"{name} answered {status}", _AGAIN)

    def _judge_each(self, told: dict[str, Stored], objects: Sequence[Object], notes: list[str]) -> None:
        failures, is_final = [], True
        for item in objects:
            found = told.get(item.uid)
            if found is None:
                failures.append(f"the answer says nothing of {item}")
                is_final = False
            elif not found.is_there:
                failures.append(f"{item} was refused: {words(found.code)}")
                is_final = is_final and not may_pass(found.code)
            elif found.code:
                notes.append(f"{self.settings.name} took {item} with a warning: {words(found.code)}")
        if failures:
            raise DeliveryError(f"{self.settings.name}: {'; '.join(failures)}", _SEE_LOG if is_final else _AGAIN, is_final)


def _is_other(content: bytes) -> bool:
    """Whether something came that no DICOMweb server says, such as a page to log in at: nothing is stored then."""
    try:
        return bool(content.strip()) and not isinstance(json.loads(content), (dict, list))
    except (ValueError, RecursionError):
        return True
