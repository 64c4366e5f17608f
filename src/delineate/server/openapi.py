"""How routes are added and described."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

BINARY: Final[Mapping[str, Any]] = {"type": "string", "format": "binary"}
"""Schema of a file."""

TAGS: Final = [
    {"name": "tasks", "description": "The inference-server protocol in its three dialects, and additions that old clients never notice."},
    {"name": "administration", "description": "For administrators: the server's token, or the very machine it runs on."},
    {"name": "models", "description": "What tasks can ask for."},
    {"name": "server", "description": "The server itself."},
    {"name": "monai label", "description": "The MONAI Label API: images and labels to annotate, sessions, inference."},
]

_ERRORS: Final[dict[int, str]] = {
    401: "A token is wanted.",
    413: "Over a limit, which is named.",
    422: "What was sent cannot be used; the reason is in the body.",
    503: "Busy; try again after Retry-After seconds.",
    507: "The server's disk is full.",
    550: "No such model.",
    551: "The task is pending or running.",
    552: "The task failed or was cancelled; the reason is in the body.",
    553: "The task finished, but its result is lost.",
    554: "No such task, or it was deleted.",
}


def _answers(kind: str, *errors: int, description: str = "") -> dict[str, Any]:
    schema = {"type": "string"} if kind.startswith("text/") else BINARY
    responses: dict[str, Any] = {"200": {"description": description, "content": {kind: {"schema": schema}}}}
    responses |= {str(code): {"description": _ERRORS[code]} for code in errors}
    return {"responses": responses}


def form_body(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """A route's extra description: its body is a multipart form of these fields."""
    schema = {"type": "object", "properties": dict(properties), **({"required": list(required)} if required else {})}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


def _file_form(*fields: str) -> dict[str, Any]:
    properties = {name: {**BINARY, "description": "The archive: .zip, .tar or .tar.gz."} for name in fields}
    return {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}


_FORM: Final = _file_form("zip_file", "tar_file")
_FORM["multipart/form-data"]["schema"]["properties"]["prompts"] = {
    "type": "string",
    "description": "A JSON object of prompts, for models that take them.",
}

POST_TASK: Final[Mapping[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {**_FORM, "application/zip": {"schema": BINARY}, "application/x-tar": {"schema": BINARY}},
    },
    "responses": {
        "200": {"description": "The uid (v2: an object with it).", "content": {"application/json": {"schema": {}}}},
        **{str(code): {"description": _ERRORS[code]} for code in (401, 413, 422, 503, 507, 550)},
    },
    "parameters": [
        {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": "A repeated post answers the same uid."}
    ],
}
POST_FILE: Final[Mapping[str, Any]] = {"requestBody": {"content": _file_form("zip_file", "tar_file")}}
ZIP: Final[Mapping[str, Any]] = _answers("application/zip", 551, 552, 553, 554, description="The result, a zip of stored entries.")
TAR: Final[Mapping[str, Any]] = _answers("application/x-tar", 551, 552, 553, 554, description="The result, a plain tar of flat names.")
EVENTS: Final[Mapping[str, Any]] = _answers("text/event-stream", 554, description="Events `task`, `progress`, `deleted`.")
TEXT: Final[Mapping[str, Any]] = _answers("text/plain", 554, description="Text.")


class TwofoldRoute(APIRoute):
    """A route that answers with and without the slash at its end, and to HEAD where it answers to GET.

    No redirect from one spelling to the other: some clients lose the body of a post on the way. Listed once.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if path != "/":
            self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$").removesuffix("/") + "/?$")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As the base, with HEAD taken for GET."""
        return super().matches({**scope, "method": "GET"} if self._is_head(scope) else scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the base, with HEAD allowed where GET is."""
        if self._is_head(scope):
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    def _is_head(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] == "HEAD" and "GET" in (self.methods or ())


def add_route(app: FastAPI, tag: str, path: str, method: str, endpoint: Callable[..., Any], extra: Mapping[str, Any] | None = None) -> None:
    """Add a route whose description is its endpoint's docstring."""
    options: dict[str, Any] = {"openapi_extra": dict(extra or {}), "summary": summary(endpoint)}
    app.add_api_route(path, endpoint, methods=[method], tags=[tag], response_model=None, **options)


def summary(endpoint: Callable[..., Any]) -> str:
    """The first sentence of a docstring, in one line."""
    text = " ".join((endpoint.__doc__ or "").split("\n\n", 1)[0].split())
    return text.split(". ")[0].split(";")[0].rstrip(".")
