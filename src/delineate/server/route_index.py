"""Finds a request's route by the beginning of its path: asking a hundred routes one after the other takes a tenth of a small request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

_FOUND: Final = "delineate.route"


class RouteIndex(BaseRoute):
    """Stands before the routes that it knows, and gives a request to the first that takes path and method.

    What none of them takes is left to the router, which then asks all of them and knows how to refuse it.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.routes = routes
        known = [(_first_part(getattr(route, "path", "/{}")), route) for route in routes]
        self._others = _of(known, None)
        self._by_part = {part: _of(known, part) for part, _ in known if not _is_open(part)}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The first route that takes all of it."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path, prefix = scope["path"], scope.get("root_path", "")
        if prefix and path.startswith(prefix):
            path = path[len(prefix) :]
        for route in self._by_part.get(_first_part(path), self._others):
            match, more = route.matches(scope)
            if match is Match.FULL:
                return match, {**more, _FOUND: route}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it answer."""
        await scope[_FOUND].handle(scope, receive, send)


def _first_part(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _is_open(part: str) -> bool:
    return "{" in part


def _of(known: Iterable[tuple[str, BaseRoute]], part: str | None) -> list[BaseRoute]:
    """In their order those that may take a path that begins so; None for a beginning that no route names."""
    return [route for own, route in known if own == part or _is_open(own)]
