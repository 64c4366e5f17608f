"""A request goes where it would go if all routes were asked one after the other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match, Route

from delineate.server.app import create_app
from delineate.server.route_index import RouteIndex
from delineate.server.settings import Settings


def scope_of(method: str, path: str, prefix: str = "") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": prefix, "headers": []}


def found(routes: list[Any], scope: dict[str, Any]) -> Any:
    return next((more["endpoint"] for match, more in (route.matches(scope) for route in routes) if match is Match.FULL), None)


def test_every_route_of_the_server_is_found_as_without_it(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path, workers=0))
    app.state.service.close()
    index, *routes = app.router.routes
    assert isinstance(index, RouteIndex)
    paths = {str(getattr(route, "path", "")).replace("{", "").replace("}", "").replace(":path", "/deeper") for route in routes}
    paths |= {path.rstrip("/") for path in paths} | {path + "/" for path in paths} | {"/", "//", "/nothing", "/nothing/x", "/%7B", ""}
    count = 0
    for method, path, prefix in itertools.product(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"), sorted(paths), ("", "/behind")):
        for scope in (scope_of(method, prefix + path, prefix), scope_of(method, path, prefix)):
            wanted = found(routes, scope)
            assert found([index], scope) == wanted, (method, path, prefix)
            count += wanted is not None
    assert count > 200


@pytest.mark.parametrize(("path", "wanted"), [("/a/x", "first"), ("/b/x", "open"), ("/b/y", "last"), ("/c", None)])
def test_routes_whose_beginning_is_open_keep_their_turn(path: str, wanted: str | None) -> None:
    def route(path: str, name: str) -> Route:
        return Route(path, lambda request: None, name=name)

    index = RouteIndex([route("/a/{x}", "first"), route("/{any}/x", "open"), route("/b/{y}", "last")])
    endpoint = found([index], scope_of("GET", path))
    assert next((getattr(one, "name", None) for one in index.routes if getattr(one, "endpoint", None) is endpoint), None) == wanted
