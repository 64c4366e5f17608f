"""A small OpenID provider, shaped like Keycloak: discovery, keys that are made when it starts, tokens for passwords.

For tests: it listens on loopback, and everything it knows is in memory.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PATH: Final = "/realms/clinic"
CLIENT: Final = "delineate"

AnyKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


class Key:
    """A key with its id. `algorithm` : ES256, RS256, PS256 or EdDSA."""

    def __init__(self, algorithm: str = "ES256", bits: int = 2048) -> None:
        self.id = secrets.token_urlsafe(8)
        self.algorithm = algorithm
        self.private: AnyKey
        if algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = rsa.generate_private_key(65537, bits)

    def public(self) -> dict[str, Any]:
        """As it stands among the provider's keys."""
        signer = jwt.get_algorithm_by_name(self.algorithm)
        written: dict[str, Any] = json.loads(signer.to_jwk(self.private.public_key()))
        written.pop("key_ops", None)
        return {**written, "kid": self.id, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: Mapping[str, Any], **head: Any) -> str:
        """A token; a member of the head that is None is left out."""
        written = {name: value for name, value in {"kid": self.id, **head}.items() if value is not None}
        return jwt.encode(dict(claims), self.private, self.algorithm, written)


class OidcProvider:
    """Serves until it is closed.

    Attributes
    ----------
    keys : those it shows; the last one signs.
    users : name → password.
    roles : name → roles in the realm.
    asked : how often each path was asked for.
    is_down : True answers everything with 503.
    allows_passwords : False refuses them, as a client without that grant is refused.
    """

    def __init__(self, port: int = 0) -> None:
        self.keys: list[Key] = [Key()]
        self.users: dict[str, str] = {}
        self.roles: dict[str, Sequence[str]] = {}
        self.asked: Counter[str] = Counter()
        self.is_down = False
        self.allows_passwords = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.issuer = f"http://127.0.0.1:{self.port}{PATH}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> OidcProvider:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Go away: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, password: str, *roles: str) -> None:
        """A user."""
        self.users[name] = password
        self.roles[name] = roles

    def rotate(self) -> Key:
        """Sign with a new key, and show it alone."""
        self.keys = [Key()]
        return self.keys[-1]

    def claims(self, name: str, **changed: Any) -> dict[str, Any]:
        """What a token of a user says; a change to None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": f"sub-{name}",
            "aud": [CLIENT, "account"],
            "azp": CLIENT,
            "typ": "Bearer",
            "iat": now,
            "exp": now + 300,
            "preferred_username": name,
            "name": name.title(),
            "email": f"{name}@clinic.example",
            "realm_access": {"roles": ["offline_access", *self.roles.get(name, ())]},
            **changed,
        }
        return {claim: value for claim, value in claims.items() if value is not None}

    def token(self, name: str, **changed: Any) -> str:
        """A token for a user, whose password nobody asked for."""
        return self.keys[-1].sign(self.claims(name, **changed))

    def answer(self, path: str, form: Mapping[str, str] | None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        self.asked[path] += 1
        if self.is_down:
            return 503, {"error": "temporarily_unavailable"}
        if path == f"{PATH}/.well-known/openid-configuration":
            return 200, {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/certs", "token_endpoint": f"{self.issuer}/token"}
        if path == f"{PATH}/certs":
            return 200, {"keys": [key.public() for key in self.keys]}
        if path == f"{PATH}/token" and form is not None:
            return self._grant(form)
        return 404, {"error": "not found"}

    def _grant(self, form: Mapping[str, str]) -> tuple[int, Any]:
        if form.get("client_id") != CLIENT:
            return 401, {"error": "invalid_client"}
        if not self.allows_passwords:
            return 400, {"error": "unauthorized_client"}
        name = form.get("username", "")
        if form.get("grant_type") != "password" or self.users.get(name) != form.get("password"):
            return 401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}
        return 200, {"access_token": self.token(name), "token_type": "Bearer", "expires_in": 300}


def _handler(provider: OidcProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
            self._answer({name: values[-1] for name, values in parse_qs(body, keep_blank_values=True).items()})

        def _answer(self, form: Mapping[str, str] | None) -> None:
            status, value = provider.answer(self.path, form)
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
