"""Errors as answers: the codes of the protocol for its clients, problem JSON (RFC 9457) for everybody else."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from delineate.errors import AuthorizationError, BlobError, DelineateError, StorageFullError, StoreBusyError, StoreError
from delineate.protocols import inference_replies as replies
from delineate.protocols import inference_server as protocol
from delineate.protocols.inference_server import Dialect
from delineate.server.accounts.identity import InvalidTokenError, TooManyTriesError
from delineate.server.monai_label import faults as label_faults
from delineate.server.monai_label.faults import is_label_path

PROBLEM_TYPE: Final = "application/problem+json"
_LEGACY: Final = ("/api/tasks", "/api/models")
_OURS: Final = ("/status", "/events", "/log", "/cancel")
_V2_PATHS: Final = ("/api/tasks/outputs", "/api/tasks/inputs", "/api/models/tars")

_log = logging.getLogger(__name__)


class InternalError(DelineateError):
    """Something nobody foresaw."""

    default_advice = "Tell the server's administrator the request id; the log has the reason."


def request_id(request: Request) -> str:
    """The id of a request, as it stands in its answer's header and in the log."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def dialect_of(request: Request) -> Dialect:
    """The dialect in which an answer is worded: by what the request used that only one of them knows."""
    known = request.scope.get("state", {}).get("dialect")
    if isinstance(known, Dialect):
        return known
    path = route_path(request)
    query = request.query_params
    at_tasks = path.rstrip("/") == "/api/tasks"
    if path.startswith(_V2_PATHS) or (at_tasks and (request.method != "POST" or protocol.MODEL_PARAMETER[Dialect.V2] in query)):
        return Dialect.V2
    return Dialect.V2 if protocol.TOKEN_HEADER in request.headers and path.startswith("/api/models") else Dialect.V1


def set_dialect(request: Request, dialect: Dialect) -> None:
    """Say which dialect a request speaks, once its body has told."""
    request.scope.setdefault("state", {})["dialect"] = dialect


def route_path(request: Request) -> str:
    """The path without the prefix of a proxy."""
    path, prefix = str(request.scope["path"]), str(request.scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and (path + "/").startswith(prefix + "/") else path


def is_legacy(request: Request) -> bool:
    """Whether old clients use this path: they expect ``application/json`` and their own nesting."""
    path = route_path(request)
    return path.startswith(_LEGACY) and not path.rstrip("/").endswith(_OURS)


def answer(request: Request, error: DelineateError) -> JSONResponse:
    """The answer to an error."""
    if isinstance(error, StoreError) and not isinstance(error, (StorageFullError, StoreBusyError, BlobError)):
        # Its message may name files of the server: for the log, not for strangers.
        _log.error("request %s: %s", request_id(request), error.sentence())
        error = InternalError("the server's storage failed")
    status = label_faults.status_of(error) if is_label_path(route_path(request)) else replies.status_of(error)
    body = {**replies.problem(error, request_id(request)), "status": status}
    headers = {}
    if (seconds := replies.retry_after(status)) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, TooManyTriesError):
        headers["Retry-After"] = str(error.seconds)
    if isinstance(error, AuthorizationError) and status == 401:
        why = f', error="invalid_token", error_description="{error.message}"' if isinstance(error, InvalidTokenError) else ""
        headers["WWW-Authenticate"] = f'Bearer realm="delineate"{why}'
    return _json(request, status, body, error.sentence(), headers)


def _json(request: Request, status: int, body: dict[str, Any], detail: str, headers: dict[str, str]) -> JSONResponse:
    legacy = is_legacy(request)
    if legacy:
        body.update(replies.detail_body(detail, dialect_of(request)))
    is_plain = legacy or is_label_path(route_path(request))
    return JSONResponse(body, status, headers, "application/json" if is_plain else PROBLEM_TYPE)


def plain(request: Request, status: int, detail: str, advice: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer without success that stands for no error of ours, such as 404 or 551."""
    known = status in HTTPStatus._value2member_map_
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase if known else "not ready",
        "status": status,
        "detail": detail,
        "message": detail,
        "advice": advice,
        "request_id": request_id(request),
    }
    return _json(request, status, body, detail, headers or {})


def not_ready(request: Request) -> JSONResponse:
    """551: the task waits or runs."""
    return plain(request, protocol.NOT_READY, "the task is pending or running", "Ask again, or wait with ?wait=30.")


async def _delineate(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DelineateError)
    return answer(request, error)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    advice = {404: "See /openapi.json for the routes there are.", 405: "See /openapi.json for the methods of this route."}
    return plain(request, error.status_code, str(error.detail).lower(), advice.get(error.status_code, ""), dict(error.headers or {}))


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The value itself stays out: it may be anything.
    texts = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return plain(request, 422, "; ".join(texts), "See /openapi.json for what the route takes.")


def add_handlers(app: FastAPI) -> None:
    """Make the application answer errors this way."""
    app.add_exception_handler(DelineateError, _delineate)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
