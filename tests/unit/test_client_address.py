"""Addresses as people type them."""

from __future__ import annotations

import pytest

from delineate.client.address import parse_address
from delineate.errors import AddressError


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://server.example", "https://server.example"),
        ("  https://server.example/ \n", "https://server.example"),
        ("https://server.example:8443/a/b/", "https://server.example:8443/a/b"),
        ("HTTP://Server.Example:80", "http://server.example"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("https://server.example/Größe", "https://server.example/Gr%C3%B6%C3%9Fe"),
    ],
)
def test_good_addresses(given: str, url: str) -> None:
    assert str(parse_address(given)) == url


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("server.example", "https://server.example"),
        ("server.example:8000/x", "https://server.example:8000/x"),
        ("//server.example", "https://server.example"),
        ("localhost:8000", "https://localhost:8000"),
        ("ftp://server.example", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https://", "https://"),
        ("https:///x", "https://"),
        ("https://server.example?x=1", "?"),
        ("https://server.example/#top", "#"),
        ("https://me:secret@server.example", "token"),
        ("https://server.example:99999", "https://"),
        ("https://server.example:0", "port"),
        ("https://[::1", "https://"),
        ("https://a b", "https://"),
        ("", "https://"),
    ],
)
def test_bad_addresses_say_what_to_write(given: str, advice: str) -> None:
    with pytest.raises(AddressError) as raised:
        parse_address(given)
    assert advice in raised.value.advice
    assert "secret" not in raised.value.sentence()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_loopback(host: str) -> None:
    assert parse_address(f"http://{host}:8000").is_loopback
    assert not parse_address("http://10.0.0.1").is_loopback
    assert not parse_address("http://localhost.example").is_loopback


@pytest.mark.parametrize(
    ("location", "upgraded"),
    [
        ("https://h/x/api?q=1", "https://h/x"),
        ("https://h:443/x/api?q=1", "https://h/x"),
        ("https://h:8000/x/api?q=1", None),
        ("https://other/x/api?q=1", None),
        ("https://h/login", None),
        ("https://h/x/api", None),
        ("https://me@h/x/api?q=1", None),
        ("http://h/x/api?q=1", None),
        ("/x/api?q=1", None),
        ("https://[::1", None),
        ("", None),
    ],
)
def test_a_redirect_that_only_adds_tls(location: str, upgraded: str | None) -> None:
    address = parse_address("http://h/x").upgraded(location, "http://h/x/api?q=1")
    assert (str(address) if address else None) == upgraded


def test_https_is_never_given_up() -> None:
    assert parse_address("https://h").upgraded("https://h/api", "https://h/api") is None
