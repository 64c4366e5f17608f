from __future__ import annotations

import pytest
from starlette.requests import Request

from delineate.errors import AuthorizationError
from delineate.server.accounts.identity import Identity, Role
from delineate.server.security import IDENTITY, Guard
from delineate.server.settings import Settings


def asked(method: str = "POST", client: str = "127.0.0.1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "127.0.0.1:8000", **headers}.items()]
    return Request({"type": "http", "method": method, "headers": raw, "client": (client, 5), "path": "/", "query_string": b""})


def status(guard: Guard, request: Request) -> int:
    try:
        guard.require_this_machine(request)
    except AuthorizationError as error:
        assert error.advice
        return error.status
    return 200


def test_what_is_for_this_machine_alone() -> None:
    guard = Guard(Settings())
    assert status(guard, asked()) == 200
    assert status(guard, asked(host="localhost:8000")) == 200
    assert status(guard, asked(host="[::1]:8000")) == 200


@pytest.mark.parametrize("header", ["x_forwarded_for", "x_real_ip", "forwarded", "x_forwarded_host", "x_forwarded_proto", "via"])
def test_a_proxy_makes_loopback_meaningless(header: str) -> None:
    assert status(Guard(Settings()), asked(**{header: "for=1.2.3.4"})) == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "",
        "192.168.0.5:8000",
        "127.0.0.1:1@evil.example",
        "[::1]evil.example",
    ],
)
def test_a_foreign_name_is_refused(host: str) -> None:
    assert status(Guard(Settings()), asked(host=host)) == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5"])
def test_bound_to_the_network_without_token_is_closed(host: str) -> None:
    assert status(Guard(Settings(host=host)), asked()) == 403


def test_tasks_belong_to_who_asks() -> None:
    guard, request = Guard(Settings()), asked(client="9.9.9.9")
    assert (guard.identity(request), guard.owner(request)) == (None, "9.9.9.9")
    request.scope["state"] = {IDENTITY: Identity("lab", Role.USER)}
    assert guard.owner(request) == "lab"


@pytest.mark.parametrize(
    ("client", "forwarded", "owner"),
    [
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.9", "10.0.0.9"),
    ],
)
def test_addresses_behind_trusted_proxies(client: str, forwarded: str, owner: str) -> None:
    guard = Guard(Settings(trusted_proxies=("10.0.0.0/8",)))
    assert guard.owner(asked(client=client, x_forwarded_for=forwarded)) == owner


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://127.0.0.1:8000"}, False),
        ({"origin": "https://viewer.example"}, False),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://["}, True),
        ({"origin": ""}, True),
        ({"origin": "http://127.0.0.1:9000"}, True),
        ({"origin": "https://public.example", "x_forwarded_host": "public.example"}, True),
        ({"origin": "https://public.example", "x_forwarded_host": "public.example", "client": "10.0.0.1"}, False),
    ],
)
def test_pages_of_other_sites(headers: dict[str, str], foreign: bool) -> None:
    guard = Guard(Settings(cors_origins=("https://viewer.example",), trusted_proxies=("10.0.0.0/8",)))
    assert guard.is_foreign_site(asked(**headers).scope) is foreign
    assert not guard.is_foreign_site(asked("GET", **headers).scope)
