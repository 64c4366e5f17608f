"""DICOMweb through this server: viewers reach the server behind it under one address, with one way to log in.

What is handed on is confined to DICOMweb's own resources below the configured address; redirects are not followed, and of the
headers only those pass that DICOMweb needs: nobody's token goes on, and the other server's stays here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from delineate.errors import ArchiveLimitError, InputError
from delineate.server.monai_label.annotation import Annotation
from delineate.server.monai_label.faults import NotHereError
from delineate.server.monai_label.routing import Routes

if TYPE_CHECKING:
    import httpx

PREFIX: Final = "/proxy/dicom"

_RESOURCES: Final = frozenset({"studies", "series", "instances"})
_SEGMENT: Final = re.compile(r"(?!\.+\Z)[A-Za-z0-9._,~-]{1,512}")
_MOST_SEGMENTS: Final = 32  # bulk data lies deep within sequences
_STOWED: Final = re.compile(r"studies(?:/[0-9.]{1,64})?")
_LONGEST_QUERY: Final = 8192
_CONNECTIONS: Final = 64
_SENT_ON: Final = ("accept", "accept-encoding", "accept-language", "range", "if-range", "if-none-match", "if-modified-since")
_SENT_ON_WITH_BODY: Final = ("accept", "content-type", "content-length", "content-encoding")
_SENT_BACK: Final = (
    "content-type", "content-length", "content-encoding", "content-range", "accept-ranges", "etag", "last-modified", "warning",
    "retry-after",
)  # fmt: skip


class ProxyRoutes:
    """`limit` : bytes of one upload."""

    def __init__(self, annotation: Annotation, limit: int) -> None:
        self._annotation = annotation
        self._limit = limit
        self._http: httpx.AsyncClient | None = None

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        for service, endpoint in (("wado", self.wado), ("qido", self.qido)):
            for path in ("", "/{path:path}"):
                routes.add(f"{PREFIX}/{service}{path}", "GET", endpoint)
        for path in ("", "/{path:path}"):
            routes.add(f"{PREFIX}/stow{path}", "POST", self.stow)

    async def close(self) -> None:
        """The server stops."""
        if self._http is not None:
            await self._http.aclose()

    async def wado(self, request: Request, path: str = "") -> Response:
        """Retrieve studies, series, instances, frames, metadata: WADO-RS of the DICOMweb server behind this one."""
        return await self._handed_on(request, _confined(path))

    async def qido(self, request: Request, path: str = "") -> Response:
        """Search for studies, series and instances: QIDO-RS of the DICOMweb server behind this one."""
        return await self._handed_on(request, _confined(path))

    async def stow(self, request: Request, path: str = "") -> Response:
        """Store instances: STOW-RS of the DICOMweb server behind this one."""
        path = path.rstrip("/")
        if not _STOWED.fullmatch(path):
            raise NotHereError("instances cannot be stored there", f"Post them to {PREFIX}/stow/studies.")
        return await self._handed_on(request, path, self._limited(request))

    async def _handed_on(self, request: Request, path: str, body: AsyncIterator[bytes] | None = None) -> Response:
        import httpx  # here as in `Annotation`: a server without DICOMweb needs none

        from delineate.client.unlogged import unlogged
        from delineate.datastore.dicomweb_client import failed, refused

        client = self._client()
        names = _SENT_ON if body is None else _SENT_ON_WITH_BODY
        headers = {name: request.headers[name] for name in names if name in request.headers}
        headers.setdefault("accept-encoding", "identity")
        sent = client.build_request(request.method, self._address(path, request.url.query), headers=headers, content=body)
        try:
            with unlogged():
                answer = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            raise failed(error) from error
        if answer.is_redirect or answer.status_code in (401, 403):
            await answer.aclose()
            raise refused(answer.status_code)
        kept = {name: answer.headers[name] for name in _SENT_BACK if name in answer.headers}
        return StreamingResponse(_blocks(answer), status_code=answer.status_code, headers=kept)

    def _address(self, path: str, query: str) -> str:
        if len(query) > _LONGEST_QUERY or not query.isascii() or not query.isprintable():
            raise InputError("the query is too long, or not one", "Ask for less at once.")
        base = self._annotation.web.web.base if self._annotation.web is not None else ""
        return f"{base}/{path}?{query}" if query else f"{base}/{path}"

    def _client(self) -> httpx.AsyncClient:
        import httpx

        if self._annotation.web is None:
            raise NotHereError("there is no DICOMweb server behind this one", "Start it with --studies https://HOST/dicom-web.")
        if self._http is None:
            options: dict[str, Any] = self._annotation.web.web.access.options()
            self._http = httpx.AsyncClient(**{**options, "limits": httpx.Limits(max_connections=_CONNECTIONS)})
        return self._http

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


async def _blocks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for block in answer.aiter_raw():
            yield block
    finally:
        await answer.aclose()
