"""DICOMweb through this server: viewers reach the server behind it under one address, with one way to log in.

What is handed on is confined to DICOMweb's own resources below the configured address; redirects are not followed, and of the
headers only those pass that DICOMweb needs: nobody's token goes on, and the other server's stays here. Addresses in answers, which
a viewer may not be able to reach, become ours.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from delineate.datastore.faults import DicomWebError
from delineate.errors import ArchiveLimitError, InputError
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.proxy_answers import first_part, readdressed
from delineate.server.monai_label.routing import Routes
from delineate.server.monai_label.shares import Shares
from delineate.server.monai_label.wado_uri import DICOM, retrieval_of
from delineate.server.security import Guard

if TYPE_CHECKING:
    import httpx

PREFIX: Final = "/proxy/dicom"

_RESOURCES: Final = frozenset({"studies", "series", "instances"})
_SEGMENT: Final = re.compile(r"(?!\.+\Z)[A-Za-z0-9._,~-]{1,512}")
_MOST_SEGMENTS: Final = 32  # bulk data lies deep within sequences
_STOWED: Final = re.compile(r"studies(?:/[0-9][0-9.]{0,63})?")
_LONGEST_QUERY: Final = 8192
_CONNECTIONS: Final = 64
_OF_ONE: Final = 16  # of these for one user
_SENT_ON: Final = ("accept", "accept-language", "range", "if-range", "if-none-match", "if-modified-since")
_SENT_ON_WITH_BODY: Final = ("accept", "content-type", "content-length", "content-encoding")
_SENT_BACK: Final = (
    "content-type", "content-length", "content-encoding", "content-range", "accept-ranges", "etag", "last-modified", "warning",
    "retry-after",
)  # fmt: skip
_OF_BYTES: Final = frozenset({"content-length", "content-encoding", "accept-ranges", "etag"})
"""What holds for the bytes as they came."""
_JSON: Final = re.compile(r"application/(?:dicom\+)?json\b", re.IGNORECASE)
_BOUNDARY: Final = re.compile(r'boundary="?([^";,\s]{1,200})', re.IGNORECASE)


class ProxyRoutes:
    """`limit` : bytes of one upload."""

    def __init__(self, annotation: Annotation, guard: Guard, limit: int) -> None:
        self._annotation = annotation
        self._guard = guard
        self._limit = limit
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._shares = Shares(_OF_ONE)

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        for service, endpoint in (("wado", self.wado), ("qido", self.qido)):
            for path in ("", "/{path:path}"):
                routes.add(f"{PREFIX}/{service}{path}", "GET", endpoint)
        for path in ("", "/{path:path}"):
            routes.add(f"{PREFIX}/stow{path}", "POST", self.stow)
        routes.add(f"{PREFIX}/wado/{{path:path}}", "POST", self.stow)  # OHIF knows one address for what it retrieves and stores

    async def close(self) -> None:
        """The server stops."""
        for client in self._clients.values():
            await client.aclose()

    async def wado(self, request: Request, path: str = "") -> Response:
        """Retrieve studies, series, instances, frames, metadata: WADO-RS of the DICOMweb server behind this one.

        With `requestType=WADO` in the query and nothing behind the path, WADO-URI: an instance, or a picture of it.
        """
        if not path.strip("/") and "requestType" in request.query_params:
            return await self._shares.held(self._guard.owner(request), lambda: self._by_uri(request))
        return await self._shared(request, _confined(path))

    async def qido(self, request: Request, path: str = "") -> Response:
        """Search for studies, series and instances: QIDO-RS of the DICOMweb server behind this one."""
        return await self._shared(request, _confined(path))

    async def stow(self, request: Request, path: str = "") -> Response:
        """Store instances: STOW-RS of the DICOMweb server behind this one."""
        path = path.rstrip("/")
        if not _STOWED.fullmatch(path):
            raise NotHereError("instances cannot be stored there", f"Post them to {PREFIX}/stow/studies.")
        return await self._shared(request, path, self._limited(request))

    async def _shared(self, request: Request, path: str, body: AsyncIterator[bytes] | None = None) -> Response:
        return await self._shares.held(self._guard.owner(request), lambda: self._handed_on(request, path, body))

    async def _by_uri(self, request: Request) -> Response:
        asked = retrieval_of(request.query_params)
        answer = await self._answer("GET", self._address(asked.path, ""), {"accept": asked.accept, "accept-encoding": "identity"})
        if answer.status_code != 200 or not asked.is_instance:
            return _passed_on(answer, answer.aiter_raw())
        boundary = _BOUNDARY.search(answer.headers.get("content-type", ""))
        if boundary is None:  # it sends one instance as it is
            return _passed_on(answer, answer.aiter_raw())
        part = first_part(answer.aiter_raw(), boundary[1].encode("latin-1"))
        return StreamingResponse(_blocks(answer, part), headers={"content-type": DICOM})

    async def _handed_on(self, request: Request, path: str, body: AsyncIterator[bytes] | None = None) -> Response:
        names = _SENT_ON if body is None else _SENT_ON_WITH_BODY
        headers = {name: request.headers[name] for name in names if name in request.headers}
        # Of encodings the one that is undone here, where addresses are looked for.
        headers["accept-encoding"] = "gzip" if "gzip" in request.headers.get("accept-encoding", "") else "identity"
        answer = await self._answer(request.method, self._address(path, request.url.query), headers, body)
        if answer.status_code != 206 and _JSON.match(answer.headers.get("content-type", "")):
            ours = f"{self._guard.own_address(request)}{PREFIX}/wado"
            return _passed_on(answer, readdressed(answer.aiter_bytes(), ours), is_changed=True)
        return _passed_on(answer, answer.aiter_raw())

    async def _answer(
        self, method: str, address: str, headers: Mapping[str, str], body: AsyncIterator[bytes] | None = None
    ) -> httpx.Response:  # fmt: skip
        import httpx  # here as in `Annotation`: a server without DICOMweb needs none

        from delineate.client.unlogged import unlogged
        from delineate.datastore.dicomweb_client import failed, refused

        client = self._client(is_kept=body is None)
        for left in (0,) if body is not None else (1, 0):
            sent = client.build_request(method, address, headers=dict(headers), content=body)
            try:
                with unlogged():
                    answer = await client.send(sent, stream=True)
                break
            except httpx.HTTPError as error:
                # A server may close a connection that it kept just as it is used again: Orthanc does so after a second.
                if not left or not isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
                    raise failed(error) from error
        if (answer.is_redirect and answer.status_code != 304) or answer.status_code in (401, 403):
            await answer.aclose()
            raise refused(answer.status_code)
        return answer

    def _address(self, path: str, query: str) -> str:
        if len(query) > _LONGEST_QUERY or not query.isascii() or not query.isprintable():
            raise InputError("the query is too long, or not one", "Ask for less at once.")
        base = self._annotation.web.web.base if self._annotation.web is not None else ""
        return f"{base}/{path}?{query}" if query else f"{base}/{path}"

    def _client(self, *, is_kept: bool) -> httpx.AsyncClient:
        """Connections that are kept for further requests; or new ones, for what cannot be sent twice."""
        import httpx

        if self._annotation.web is None:
            raise NotHereError("there is no DICOMweb server behind this one", "Start it with --studies https://HOST/dicom-web.")
        if is_kept not in self._clients:
            options: dict[str, Any] = self._annotation.web.web.access.options()
            limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=None if is_kept else 0)
            self._clients[is_kept] = httpx.AsyncClient(**{**options, "limits": limits})
        return self._clients[is_kept]

    async def _limited(self, request: Request) -> AsyncIterator[bytes]:
        size = 0
        async for block in request.stream():
            size += len(block)
            if size > self._limit:
                raise ArchiveLimitError(f"more than {self._limit >> 20} MB were sent at once")
            yield block


def _confined(path: str) -> str:
    """A path of DICOMweb's own resources. Raises `NotHereError` for any other."""
    segments = path.rstrip("/").split("/")
    if segments[0] not in _RESOURCES or len(segments) > _MOST_SEGMENTS or not all(map(_SEGMENT.fullmatch, segments)):
        raise NotHereError("this is no resource of DICOMweb", "Ask for studies, series or instances, as in PS3.18.")
    return "/".join(segments)


def _passed_on(answer: httpx.Response, blocks: AsyncIterator[bytes], *, is_changed: bool = False) -> Response:
    kept = {name: answer.headers[name] for name in _SENT_BACK if name in answer.headers and not (is_changed and name in _OF_BYTES)}
    return StreamingResponse(_blocks(answer, blocks), status_code=answer.status_code, headers=kept)


async def _blocks(answer: httpx.Response, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for block in blocks:
            yield block
    except ValueError as error:
        raise DicomWebError(str(error)) from error  # too late for another answer: the connection is cut
    finally:
        await answer.aclose()
