"""`MONAILabelUtils`: single requests to a MONAI Label server, for plugins that make some of their own.

Certificates are verified, requests have a time limit, what is given is not changed, and boundaries are drawn for each
request. These functions hand out whole answers in memory, as they always did; `MONAILabelClient` does not.
"""

from __future__ import annotations

import http.client
import io
import json
import mimetypes
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, quote_plus, urlsplit

from delineate.client.address import parse_address
from delineate.client.monai_label_files import Arrival, file_to_send
from delineate.client.monai_label_session import failures
from delineate.client.transport import Line, SyncDriver
from delineate.errors import AnswerError
from delineate.protocols.messages import Body, FileBody, Flow, Part, Request, Response, multipart
from delineate.protocols.monai_label_answers import OCTETS, base_name, filename_of, read_parts, suffix_of

TIMEOUT = 600.0  # seconds over all of one request


class MONAILabelUtils:
    """Requests by hand; answers are (status, body or form, files, headers)."""

    @staticmethod
    def http_method(
        method: str,
        server_url: str,
        selector: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> tuple[int, Any, dict[str, bytes] | None, http.client.HTTPMessage]:
        """One request; a dictionary as body is sent as JSON."""
        content: Body | None = None
        if body:
            kind = "application/json" if isinstance(body, Mapping) else "text/plain"
            text = json.dumps(dict(body)) if isinstance(body, Mapping) else body
            content = Body(text.encode("utf-8") if isinstance(text, str) else bytes(text))
            headers = {**_without_content(headers), "content-type": content_type or kind}
        return _taken_apart(_send(method, server_url, selector, headers, content))

    @staticmethod
    def http_upload(
        method: str,
        server_url: str,
        selector: str,
        fields: Mapping[str, Any] | None,
        files: Iterable[str],
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str, None]:
        """Send files, all in fields called ``files``; the answer as text."""
        with failures():
            parts = [Part(name, Body(str(value).encode("utf-8"))) for name, value in (fields or {}).items() if value is not None]
            parts += [Part("files", FileBody(file_to_send(path)), base_name(str(path)), OCTETS) for path in files]
        answer = _send_parts(method, server_url, selector, parts, headers)
        return answer.status, answer.content.decode("utf-8", "replace"), None

    @staticmethod
    def http_multipart(
        method: str,
        server_url: str,
        selector: str,
        fields: Mapping[str, str],
        files: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, bytes] | None, http.client.HTTPMessage]:
        """Send fields and files; an answer in parts is taken apart into its fields and its files."""
        with failures():
            parts = _parts(fields, files)
        return _taken_apart(_send_parts(method, server_url, selector, parts, headers))

    @staticmethod
    def send_response(
        conn: http.client.HTTPConnection, content_type: str = "application/json"
    ) -> tuple[int, Any, dict[str, bytes] | None, http.client.HTTPMessage]:
        """Read the answer of a connection of ``http.client``."""
        response = conn.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        headers.setdefault("content-type", content_type)
        return _taken_apart(Response(response.status, headers, response.read()))

    @staticmethod
    def save_result(files: Mapping[str, bytes | str] | None, tmpdir: str) -> str | None:
        """Write the first file into `tmpdir` under a name made here, with the suffix it came with; its path."""
        for name, data in (files or {}).items():
            content = data if isinstance(data, bytes) else data.encode("utf-8")
            with failures(), Arrival(tmpdir) as arrival:
                arrival.file.write(content)
                return arrival.keep(suffix_of(name, content))
        return None

    @staticmethod
    def encode_multipart_formdata(fields: Mapping[str, str], files: Mapping[str, str]) -> tuple[str, bytes]:
        """Content type and body of a form; whole in memory."""
        with failures():
            content_type, body = multipart(_parts(fields, files))
            return content_type, b"".join(body)

    @staticmethod
    def get_content_type(filename: str) -> str:
        """Guessed from the name."""
        return mimetypes.guess_type(filename)[0] or OCTETS

    @staticmethod
    def parse_multipart(fp: BinaryIO, headers: Any) -> tuple[dict[str, str], dict[str, bytes]]:
        """Fields by name and files by the name they were sent with."""
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        content = io.BytesIO(fp.read())
        form: dict[str, str] = {}
        files: dict[str, bytes] = {}
        with failures():
            for part in read_parts(content, kind):
                data = content.getbuffer()[part.offset : part.offset + part.length].tobytes()
                if part.filename:
                    files[part.filename] = data
                else:
                    form[part.name] = data.decode("utf-8", "replace")
        return form, files

    @staticmethod
    def urllib_quote_plus(s: str) -> str:
        """Quoted for a query."""
        return quote_plus(s)

    @staticmethod
    def get_filename(content_disposition: str | None) -> str:
        """The file name in a ``content-disposition``, as it was sent; empty without one. Never a path to write to."""
        return filename_of(content_disposition) or ""


def _parts(fields: Mapping[str, str], files: Mapping[str, str]) -> list[Part]:
    parts = [Part(name, Body(value.encode("utf-8"))) for name, value in fields.items()]
    for name, path in files.items():
        filename = base_name(str(path))
        parts.append(Part(name, FileBody(file_to_send(path)), filename, MONAILabelUtils.get_content_type(filename)))
    return parts


def _send_parts(method: str, server_url: str, selector: str, parts: list[Part], headers: Mapping[str, str] | None) -> Response:
    content_type, body = multipart(parts)
    return _send(method, server_url, selector, {**_without_content(headers), "content-type": content_type}, body)


def _without_content(headers: Mapping[str, str] | None) -> dict[str, str]:
    """A copy without what describes another body: one that came from an earlier request spoils this one."""
    return {name: value for name, value in (headers or {}).items() if name.lower() not in ("content-type", "content-length")}


def _send(method: str, server_url: str, selector: str, headers: Mapping[str, str] | None, body: Body | None) -> Response:
    target = urlsplit("/" + selector.lstrip("/"))
    query = tuple(parse_qsl(target.query, keep_blank_values=True))
    given = _without_content(headers) if body is None else dict(headers or {})
    request = Request(method, target.path, query, tuple(given.items()), body, timeout=TIMEOUT)
    with failures():
        driver = SyncDriver(Line(parse_address(server_url), idle=TIMEOUT))
        try:
            return driver.run(_once(request))
        finally:
            driver.close()


def _once(request: Request) -> Flow[Response]:
    answer = yield request
    if answer is None:
        raise AnswerError("the server did not answer")
    return answer


def _taken_apart(answer: Response) -> tuple[int, Any, dict[str, bytes] | None, http.client.HTTPMessage]:
    headers = http.client.HTTPMessage()
    for name, value in answer.headers.items():
        headers[name] = value
    if answer.media_type.startswith("multipart/") and answer.status == 200:
        form, files = MONAILabelUtils.parse_multipart(io.BytesIO(answer.content), answer.headers)
        return answer.status, form, files, headers
    return answer.status, answer.content, None, headers
