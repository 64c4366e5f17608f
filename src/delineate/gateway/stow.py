"""A DICOMweb server as a destination: STOW-RS (PS3.18, 10.5)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from delineate import __version__
from delineate.client.address import Address, parse_address
from delineate.client.failures import failure_from
from delineate.client.file_auth import FileAuth
from delineate.client.related_parts import FileParts
from delineate.client.transport import Line
from delineate.client.unlogged import unlogged
from delineate.errors import SettingsError
from delineate.gateway.delivery import DeliveryError
from delineate.gateway.destination_settings import StowSettings
from delineate.gateway.objects import Object, objects_of
from delineate.gateway.statuses import may_pass, words

_SILENT: Final = -1
_DOUBLED: Final = 0x0111  # it is there already: sent before
_LARGEST: Final = 16 << 20  # bytes of an answer
_STORED, _FAILED, _REASON, _WARNING, _UID = "00081199", "00081198", "00081197", "00081196", "00081155"
_REFUSED: Final = {400: "it finds the request wrong", 413: "it is too large", 415: "it does not take DICOM files", 422: "it cannot be used"}
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

    def _post(self, client: httpx.Client, objects: Sequence[Object]) -> tuple[int, bytes]:
        body = FileParts([item.path for item in objects], "application/dicom")
        headers = {**body.headers, "Accept": "application/dicom+json", "User-Agent": f"delineate/{__version__}"}
        with client.stream("POST", f"{self._address}/studies", headers=headers, content=body.blocks()) as answer:
            content, end = b"", time.monotonic() + self.settings.timeout
            for block in answer.iter_bytes():
                content += block
                if len(content) > _LARGEST or time.monotonic() > end:
                    raise DeliveryError(f"{self.settings.name}: the answer has no end", _AGAIN)
            return answer.status_code, content

    def _judge(self, status: int, content: bytes, objects: Sequence[Object], notes: list[str]) -> None:
        told = _told(content)
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

    def _judge_each(self, told: dict[str, tuple[bool, int]], objects: Sequence[Object], notes: list[str]) -> None:
        failures, is_final = [], True
        for item in objects:
            is_stored, code = told.get(item.uid, (False, _SILENT))
            if is_stored:
                if code:
                    notes.append(f"{self.settings.name} took {item} with a warning: {words(code)}")
            elif code == _SILENT:
                failures.append(f"the answer says nothing of {item}")
                is_final = False
            elif code != _DOUBLED:
                failures.append(f"{item} was refused: {words(code)}")
                is_final = is_final and not may_pass(code)
        if failures:
            raise DeliveryError(f"{self.settings.name}: {'; '.join(failures)}", _SEE_LOG if is_final else _AGAIN, is_final)


def _is_other(content: bytes) -> bool:
    """Whether something came that no DICOMweb server says, such as a page to log in at: nothing is stored then."""
    try:
        return bool(content.strip()) and not isinstance(json.loads(content), (dict, list))
    except (ValueError, RecursionError):
        return True


def _told(content: bytes) -> dict[str, tuple[bool, int]] | None:
    """By SOP Instance UID, whether it is stored and with which code; None where the answer is no such answer (PS3.18, 10.5.3)."""
    try:
        value = json.loads(content)
        data: Any = value[0] if isinstance(value, list) and value else value
        told = {_value(item, _UID): (False, int(_value(item, _REASON) or 0x0110)) for item in data.get(_FAILED, {}).get("Value", ())}
        told.update({_value(item, _UID): (True, int(_value(item, _WARNING) or 0)) for item in data.get(_STORED, {}).get("Value", ())})
    except (ValueError, AttributeError, TypeError, IndexError, KeyError, OverflowError, RecursionError):
        return None
    return told or None


def _value(item: Any, tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [""]
    return values[0]
