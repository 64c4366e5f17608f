"""A DICOMweb server (PS3.18) asked: QIDO for what it has, WADO for instances, STOW to give it some.

Bytes and JSON alone: nothing here decodes DICOM, so the API process may use it. A server is trusted with nothing: answers have
limits of size and time, redirects are not followed, and what is sent to it goes to its own address.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import httpx

from delineate import __version__
from delineate.client.address import parse_address
from delineate.client.file_auth import FileAuth
from delineate.client.related_parts import FileParts, PartsError, Sink, Splitter, boundary_of
from delineate.client.stow_answer import read_stow_answer
from delineate.client.transport import Line
from delineate.client.unlogged import unlogged
from delineate.datastore.dicomweb_json import RemoteSeries, is_uid, series_of
from delineate.datastore.faults import DicomWebError
from delineate.errors import AddressError, SettingsError

DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json, application/json;q=0.9"
_LARGEST_ANSWER: Final = 256 << 20  # bytes of JSON
_DELAYS: Final = (0.5, 2.0, 5.0)  # s before each further try
_LONGEST_DELAY: Final = 30.0
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SMALL_PAGE: Final = 100
_MOST_PAGES: Final = 100_000
_MOST_SERIES: Final = 1_000_000  # a list that never ends would fill the memory
_ASKED: Final = "00081190,00080060,00100020,0008103E,00080021,00080031,00180015,00181030,00200011,00201209,00080020"

Result = TypeVar("Result")


class FreshSink(Sink, Protocol):
    """Where the parts of an answer go; begun anew where an answer broke off."""

    def restart(self) -> None:
        """Forget what came."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a server is reached.

    url : its base, such as ``https://pacs.example/dicom-web``; token_file : holds a bearer token; password_file : ``name:password``;
    ca_file : PEM, of its authority; idle : seconds without a byte until it is given up; longest : seconds for one series;
    page : series asked for at once.
    """

    url: str
    token_file: Path | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    idle: float = 60.0
    longest: float = 1800.0
    page: int = 1000

    @property
    def base(self) -> str:
        """The address without a slash at its end. Raises `SettingsError`."""
        try:
            return str(parse_address(self.url))
        except AddressError as error:
            raise SettingsError(
                f"the DICOMweb server's address is none: {error}", "Give one like https://pacs.example/dicom-web."
            ) from None

    def options(self) -> dict[str, Any]:
        """Arguments of an httpx client."""
        timeout = httpx.Timeout(self.idle, connect=min(self.idle, 10.0))
        auth = FileAuth(self.token_file, self.password_file)
        return {**Line(parse_address(self.base), ca_file=self.ca_file).options(), "timeout": timeout, "auth": auth}


class DicomWeb:
    """One server, for any thread. `pause` waits between tries."""

    def __init__(self, access: Access, *, pause: Callable[[float], None] | None = None) -> None:
        self.access = access
        self.base = access.base
        self._closed = threading.Event()
        self._pause = pause or self._wait
        self._http = httpx.Client(**access.options())

    def close(self) -> None:
        """End what is under way with an error."""
        self._closed.set()
        self._http.close()

    def _wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    # QIDO

    def series(self, modality: str = "") -> list[RemoteSeries]:
        """All series, of one modality where it is given, page by page. Raises `DicomWebError`; then nothing is known.

        A page that is short says nothing: servers have limits of their own. The last one is empty, or holds nothing new.
        """
        try:
            return self._all_series(modality, self.access.page)
        except DicomWebError as error:
            if error.status != 400 or self.access.page <= _SMALL_PAGE:
                raise
        return self._all_series(modality, _SMALL_PAGE)  # some refuse what is over their limit

    def _all_series(self, modality: str, size: int) -> list[RemoteSeries]:
        found: dict[str, RemoteSeries] = {}
        seen, now = 0, time.time()
        query = {"includefield": _ASKED, "limit": str(size), **({"Modality": modality} if modality else {})}
        for _ in range(_MOST_PAGES):
            page = self.json("/series", {**query, "offset": str(seen)})
            before = len(found)
            for data in page:
                one = series_of(data, self.base, now)
                if one is not None:
                    found.setdefault(one.uid, one)
            seen += len(page)
            if not page or len(found) == before:
                return list(found.values())
            if len(found) > _MOST_SERIES:
                break
        raise DicomWebError("the DICOMweb server's list of series has no end", "Look into its log.")

    def one_series(self, uid: str) -> RemoteSeries | None:
        """One series, None where there is none. Raises `DicomWebError`."""
        found = self.json("/series", {"SeriesInstanceUID": _uid(uid), "includefield": _ASKED})
        shown = (series_of(data, self.base, time.time()) for data in found)
        return next((one for one in shown if one is not None and one.uid == uid), None)

    def metadata(self, study: str, series: str) -> list[Any]:
        """What the server says of each instance of a series. Raises `DicomWebError`."""
        return self.json(f"{path_of(study, series)}/metadata")

    def json(self, path: str, query: Mapping[str, str] | None = None) -> list[Any]:
        """A list of data sets; empty where there is nothing (204)."""

        def take(response: httpx.Response) -> list[Any]:
            if response.status_code == 204:
                return []
            return _listed(self._limited(response))

        return self._asked("GET", path, take, params=query, headers={"accept": JSON})

    # WADO

    def retrieve(self, path: str, sink: FreshSink) -> None:
        """The instances of a series, or one of them, as they are stored; each is a part. Raises `DicomWebError`."""

        def take(response: httpx.Response) -> None:
            sink.restart()
            kind = response.headers.get("content-type", "")
            if kind.lower().startswith(DICOM) and "json" not in kind.lower():
                self._take_one(response, sink)
                return
            if not kind.lower().startswith("multipart/related"):
                raise DicomWebError("the DICOMweb server answered with something else than DICOM", "Look at its address and its log.")
            splitter = Splitter(boundary_of(kind), sink)
            for block in self._blocks(response):
                splitter.feed(block)
            splitter.close()

        accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
        self._asked("GET", path, take, headers={"accept": accept, "accept-encoding": "identity"})

    def _take_one(self, response: httpx.Response, sink: Sink) -> None:
        sink.begin()
        for block in self._blocks(response):
            sink.write(memoryview(block))
        sink.end()

    # STOW

    def store(self, study: str, files: Sequence[Path]) -> None:
        """Give the server instances; they are there when this returns. The same ones again do no harm.

        Raises
        ------
        DicomWebError
            It did not take all of them; what it says as the reason is a number of PS3.4.
        """
        body = FileParts(files, DICOM)

        def take(response: httpx.Response) -> None:
            _require_stored(response.status_code, self._limited(response), len(files))

        headers = {"accept": JSON, **body.headers}
        self._asked("POST", f"/studies/{_uid(study)}", take, headers=headers, good=(200, 202, 409), body=body.blocks)

    # One request

    def _asked(
        self,
        method: str,
        path: str,
        take: Callable[[httpx.Response], Result],
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        good: Sequence[int] = (200, 204, 206),
        body: Callable[[], Iterable[bytes]] | None = None,
    ) -> Result:
        given = {"user-agent": f"delineate/{__version__}", **(headers or {})}
        for delay in (*_DELAYS, None):
            wanted = delay
            try:
                content = None if body is None else body()
                with unlogged(), self._http.stream(method, self.base + path, params=params, headers=given, content=content) as response:
                    if response.status_code in good:
                        return take(response)
                    wanted = _told_delay(response, delay)
                    raise refused(response.status_code)
            except DicomWebError as error:
                found = error
            except PartsError as error:
                found = DicomWebError(f"the DICOMweb server's answer cannot be used: {error}", "Look into its log.", is_passing=True)
            except (httpx.HTTPError, httpx.StreamError) as error:
                found = failed(error)
            except RuntimeError as error:  # the client was closed
                found = DicomWebError("the server is stopping", "Try again in a moment.")
                if not self._closed.is_set():
                    raise error
            if wanted is None or not found.is_passing or self._closed.is_set():
                raise found
            self._pause(wanted)
        raise AssertionError("unreachable")

    def _limited(self, response: httpx.Response) -> bytes:
        """All of an answer that is text."""
        body = bytearray()
        for block in self._blocks(response):
            body += block
            if len(body) > _LARGEST_ANSWER:
                raise DicomWebError("the DICOMweb server's answer is too long", "Look into its log.")
        return bytes(body)

    def _blocks(self, response: httpx.Response) -> Iterator[bytes]:
        end = time.monotonic() + self.access.longest
        for block in response.iter_bytes():
            if self._closed.is_set():
                raise DicomWebError("the server is stopping", "Try again in a moment.")
            if time.monotonic() > end:
                raise DicomWebError(
                    f"the DICOMweb server took longer than {self.access.longest:.0f} s for one answer", "Look whether it is overloaded."
                )
            yield block


def path_of(study: str, series: str, instance: str = "") -> str:
    """Where a series, or an instance of it, is below a server's base. Raises `DicomWebError` for what is no UID."""
    path = f"/studies/{_uid(study)}/series/{_uid(series)}"
    return f"{path}/instances/{_uid(instance)}" if instance else path


def _uid(text_: str) -> str:
    if not is_uid(text_):
        raise DicomWebError("the study, series or instance has no UID that could be asked for", "Correct it in the DICOMweb server.")
    return text_


def _listed(body: bytes) -> list[Any]:
    try:
        found = json.loads(body or b"[]")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise DicomWebError("the DICOMweb server's answer is no list in JSON", "Check that its address is that of DICOMweb.")
    return found


def refused(status: int) -> DicomWebError:
    """What a status means that is no answer."""
    if status in (401, 403):
        return DicomWebError(
            f"the DICOMweb server does not let us in (status {status})", "Check dicomweb_token_file or dicomweb_password_file."
        )
    if 300 <= status < 400:
        return DicomWebError("the DICOMweb server leads elsewhere (redirect)", "Give the address that it leads to.")
    if status == 404:
        return DicomWebError("the DICOMweb server has no such thing (status 404)", "Look whether it was removed there; check the address.")
    passes = status in _PASSING
    return DicomWebError(f"the DICOMweb server answered with status {status}", "Look into its log.", is_passing=passes, status=status)


def failed(error: Exception) -> DicomWebError:
    """What an error of httpx means."""
    if isinstance(error, httpx.TimeoutException):
        return DicomWebError("the DICOMweb server does not answer in time", "Look whether it is overloaded.", is_passing=True)
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE" in str(error).upper():
            return DicomWebError("the DICOMweb server's certificate could not be verified", "Give its authority with dicomweb_ca.")
        return DicomWebError("the DICOMweb server cannot be reached", "Check its address, and that it runs.", is_passing=True)
    return DicomWebError("the DICOMweb server's answer broke off", "Look into its log.", is_passing=True)


def _told_delay(response: httpx.Response, delay: float | None) -> float | None:
    told = response.headers.get("retry-after", "")
    return delay if delay is None or not told.isdecimal() else min(_LONGEST_DELAY, max(delay, float(told)))


def _require_stored(status: int, body: bytes, count: int) -> None:
    told = (read_stow_answer(body) or {}).values()
    stored = sum(one.is_there for one in told)
    failed = [one.code for one in told if not one.is_there]
    if failed or (status == 409 and stored < count):
        shown = f" (reason {failed[0]:#06x})" if failed else ""
        raise DicomWebError(f"the DICOMweb server did not take {len(failed) or count} of {count} instances{shown}", "Look into its log.")
    if stored < count:
        raise DicomWebError(
            f"the DICOMweb server says of {stored} instances out of {count} that it keeps them", "Look into its log.", is_passing=True
        )
