"""Tokens of an OpenID provider: what is taken, what is not, keys that change, a provider that is away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import serialization

from delineate.errors import AuthorizationError
from delineate.server.accounts.claims import LEEWAY, role_in
from delineate.server.accounts.identity import ExpiredTokenError, Identity, InvalidTokenError, ProviderAwayError, Role, WrongPasswordError
from delineate.server.accounts.oidc import OidcAccounts
from delineate.server.accounts.provider import PAUSE, REFRESH, Provider
from delineate.server.settings import Settings
from delineate.testing.oidc import CLIENT, PATH, Key, OidcProvider

CERTS = f"{PATH}/certs"
Result = TypeVar("Result")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as made:
        made.add("alice", "secret words", "monailabel-annotator")
        yield made


def settings_for(provider: OidcProvider, **more: Any) -> Settings:
    return Settings(accounts="oidc", oidc_issuer=provider.issuer, oidc_client_id=CLIENT, **more)


def using(
    provider: OidcProvider, work: Callable[[OidcAccounts], Coroutine[Any, Any, Result]], clock: Clock | None = None, **more: Any
) -> Result:
    async def run() -> Result:
        settings = settings_for(provider, **more)
        accounts = OidcAccounts(settings, provider=Provider(settings, clock or Clock()))
        try:
            return await work(accounts)
        finally:
            await accounts.close()

    return asyncio.run(run())


def identify(provider: OidcProvider, token: str, **more: Any) -> Identity | None:
    return using(provider, lambda accounts: accounts.identify(token), **more)


def refused(provider: OidcProvider, token: str, **more: Any) -> str:
    with pytest.raises(InvalidTokenError) as caught:
        identify(provider, token, **more)
    assert caught.value.status == 401
    return caught.value.message


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "PS256", "EdDSA"])
def test_a_token_says_who(provider: OidcProvider, algorithm: str) -> None:
    provider.keys.append(Key(algorithm))
    found = identify(provider, provider.token("alice"))
    assert found == Identity("alice", Role.ANNOTATOR, "Alice", "alice@clinic.example")


def test_the_only_key_needs_no_id(provider: OidcProvider) -> None:
    token = provider.keys[0].sign(provider.claims("alice"), kid=None)
    assert identify(provider, token) is not None
    provider.keys.insert(0, Key())
    assert "key" in refused(provider, token)


def test_the_name_is_the_claim_that_is_set_else_the_subject(provider: OidcProvider) -> None:
    named = identify(provider, provider.token("alice"), oidc_name_claim="email")
    other = identify(provider, provider.token("alice", preferred_username=None))
    assert [found.name for found in (named, other) if found] == ["alice@clinic.example", "sub-alice"]


@pytest.mark.parametrize(
    "changed", [{"preferred_username": None, "sub": None}, {"preferred_username": "a\nb"}, {"preferred_username": "x" * 256}]
)
def test_a_token_about_nobody(provider: OidcProvider, changed: dict[str, Any]) -> None:
    assert "names nobody" in refused(provider, provider.token("alice", **changed))


def test_clocks_may_differ_a_little(provider: OidcProvider) -> None:
    now = int(time.time())
    assert identify(provider, provider.token("alice", exp=now - 5, nbf=now + 5, iat=now + 5)) is not None


def test_a_known_token_expires_too(provider: OidcProvider) -> None:
    token = provider.token("alice")

    async def work(accounts: OidcAccounts) -> None:
        assert await accounts.identify(token) is not None
        accounts._clock = lambda: time.time() + 300 + LEEWAY + 1
        with pytest.raises(ExpiredTokenError):
            await accounts.identify(token)

    using(provider, work)


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "not valid"),
        ({"iss": "https://evil.example/realms/clinic"}, "issuer"),
        ({"iss": None}, "not valid"),
        ({"exp": None}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"typ": "ID"}, "no access token"),
        ({"typ": "Refresh"}, "no access token"),
    ],
)
def test_claims_that_do_not_fit(provider: OidcProvider, changed: dict[str, Any], reason: str) -> None:
    assert reason in refused(provider, provider.token("alice", **changed))


def test_an_expired_token_says_so(provider: OidcProvider) -> None:
    with pytest.raises(ExpiredTokenError, match="has expired"):
        identify(provider, provider.token("alice", exp=int(time.time()) - 3600))


def test_the_audience_can_be_set(provider: OidcProvider) -> None:
    token = provider.token("alice", aud="account")
    assert "audience" in refused(provider, token)
    assert identify(provider, token, oidc_audience="account") is not None


def test_a_token_without_signature(provider: OidcProvider) -> None:
    claims = provider.claims("alice")
    for algorithm in ("none", "None", "NONE", ""):
        for signature in ("", part(b"x")):
            assert "signed" in refused(provider, f"{part({'alg': algorithm, 'kid': provider.keys[0].id})}.{part(claims)}.{signature}")


@pytest.mark.parametrize("encoding", ["pem", "jwk"])
def test_a_public_key_is_no_shared_secret(provider: OidcProvider, encoding: str) -> None:
    key = Key("RS256")
    provider.keys = [key]
    pem = key.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = pem if encoding == "pem" else json.dumps(key.public()).encode()
    signed = f"{part({'alg': 'HS256', 'kid': key.id, 'typ': 'JWT'})}.{part(provider.claims('alice'))}"
    forged = f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
    assert "signed" in refused(provider, forged)


def test_a_token_of_somebody_elses_key(provider: OidcProvider) -> None:
    stranger = Key()
    stranger.id = provider.keys[0].id
    assert refused(provider, stranger.sign(provider.claims("alice"))) == "the token is not valid"


def test_a_key_that_comes_along_is_not_taken(provider: OidcProvider) -> None:
    stranger = Key()
    head = {"jwk": stranger.public(), "jku": "http://127.0.0.1:9/keys"}
    assert "key" in refused(provider, stranger.sign(provider.claims("alice"), **head))


def test_a_changed_token(provider: OidcProvider) -> None:
    head, body, signature = provider.token("alice").split(".")
    other = part(provider.claims("alice", realm_access={"roles": ["monailabel-admin"]}))
    for forged in (f"{head}.{other}.{signature}", f"{head}.{body}.{signature[:-8]}", f"{head}.{body}."):
        assert refused(provider, forged)


@pytest.mark.parametrize(
    "text",
    ["", "x", "a.b", "a.b.c", "..", "....", "ä.ö.ü", f"{part([])}.e30.x", f"{part({'alg': []})}.e30.x", f"{part({'alg': {}})}.e30.AAAA"],
)
def test_what_is_no_token_at_all(provider: OidcProvider, text: str) -> None:
    assert refused(provider, text)
    assert provider.asked[CERTS] == 0


@pytest.mark.parametrize("head", [{"crit": ["exp"]}, {"typ": "logout+jwt"}])
def test_a_token_of_another_kind(provider: OidcProvider, head: dict[str, Any]) -> None:
    assert refused(provider, provider.keys[0].sign(provider.claims("alice"), **head))


def test_keys_for_other_uses_and_short_ones(provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    key = provider.keys[0]
    monkeypatch.setattr(key, "public", lambda: {**Key.public(key), "use": "enc"})
    assert "key" in refused(provider, provider.token("alice"))


@pytest.mark.filterwarnings("ignore:The RSA key")
def test_a_key_that_is_too_short(provider: OidcProvider) -> None:
    provider.keys = [Key("RS256", 1024)]
    assert "too short" in refused(provider, provider.token("alice"))


# ---------------------------------------------------------------- roles


@pytest.mark.parametrize(
    ("claims", "given", "role"),
    [
        ({"realm_access": {"roles": ["monailabel-user", "monailabel-reviewer"]}}, {}, Role.REVIEWER),
        ({"realm_access": {"roles": ["delineate-admin"]}}, {}, Role.ADMIN),
        ({"realm_access": {"roles": ["admin", "user"]}}, {}, Role.NONE),  # of the realm, not of ours
        ({"resource_access": {CLIENT: {"roles": ["admin"]}}}, {}, Role.ADMIN),
        ({"resource_access": {"another": {"roles": ["admin"]}}}, {}, Role.NONE),
        ({"realm_access": {"roles": ["physicist"]}}, {"oidc_roles": {"physicist": "reviewer"}}, Role.REVIEWER),
        ({"realm_access": {"roles": ["monailabel-admin"]}}, {"oidc_roles": {"physicist": "reviewer"}}, Role.NONE),
        ({"groups": ["annotator"]}, {"oidc_roles_claim": "groups"}, Role.ANNOTATOR),
        ({"app": {"roles": "user annotator"}}, {"oidc_roles_claim": "app.roles"}, Role.ANNOTATOR),
        ({"https://x.example/roles": ["user"]}, {"oidc_roles_claim": "https://x.example/roles"}, Role.USER),
        ({"realm_access": {"roles": ["monailabel-admin"]}}, {"oidc_roles_claim": "groups"}, Role.NONE),
        ({}, {}, Role.NONE),
        ({"realm_access": "admin", "resource_access": [1]}, {}, Role.NONE),
        ({"realm_access": {"roles": [{"monailabel-admin": 1}, 7, None]}}, {}, Role.NONE),
    ],
)
def test_roles(claims: dict[str, Any], given: dict[str, Any], role: Role) -> None:
    settings = Settings(accounts="oidc", oidc_issuer="https://login.example/realms/x", oidc_client_id=CLIENT, **given)
    assert role_in(claims, settings) is role


# ---------------------------------------------------------------- keys, the provider's absence


def test_keys_are_fetched_once(provider: OidcProvider) -> None:
    async def work(accounts: OidcAccounts) -> None:
        await asyncio.gather(*(accounts.identify(provider.token("alice", n=n)) for n in range(20)))

    using(provider, work)
    assert provider.asked[CERTS] == 1


def test_a_new_key_is_fetched_when_a_token_names_it(provider: OidcProvider) -> None:
    clock = Clock()

    async def work(accounts: OidcAccounts) -> None:
        before = provider.token("alice")
        assert await accounts.identify(before) is not None
        provider.rotate()
        clock.now += PAUSE + 1
        assert await accounts.identify(provider.token("alice")) is not None
        with pytest.raises(InvalidTokenError):  # its key was taken back
            await accounts.identify(before)

    using(provider, work, clock)
    assert provider.asked[CERTS] == 2


def test_tokens_that_name_unknown_keys_do_not_make_it_ask_again_and_again(provider: OidcProvider) -> None:
    clock = Clock()

    async def work(accounts: OidcAccounts) -> None:
        assert await accounts.identify(provider.token("alice")) is not None
        for _ in range(30):
            with pytest.raises(InvalidTokenError):
                await accounts.identify(Key().sign(provider.claims("alice")))
        clock.now += PAUSE + 1
        for _ in range(30):
            with pytest.raises(InvalidTokenError):
                await accounts.identify(Key().sign(provider.claims("alice")))

    using(provider, work, clock)
    assert provider.asked[CERTS] == 2


def test_a_key_that_was_taken_back_is_not_trusted_for_ever(provider: OidcProvider) -> None:
    clock = Clock()

    async def work(accounts: OidcAccounts) -> None:
        token = provider.token("alice")
        assert await accounts.identify(token) is not None
        provider.rotate()
        clock.now += REFRESH + 1
        assert await accounts.identify(provider.keys[-1].sign(provider.claims("alice"))) is not None
        with pytest.raises(InvalidTokenError):
            await accounts.identify(token)

    using(provider, work, clock)


def test_keys_are_looked_at_now_and_then_while_nobody_waits(provider: OidcProvider) -> None:
    clock = Clock()

    async def work(accounts: OidcAccounts) -> None:
        assert await accounts.identify(provider.token("alice")) is not None
        clock.now += REFRESH + 1
        assert await accounts.identify(provider.token("alice", n=2)) is not None
        task = accounts._provider._refreshing
        assert task is not None
        await task

    using(provider, work, clock)
    assert provider.asked[CERTS] == 2


def test_known_keys_go_on_while_the_provider_is_away(provider: OidcProvider) -> None:
    clock = Clock()

    async def work(accounts: OidcAccounts) -> None:
        assert await accounts.identify(provider.token("alice")) is not None
        provider.is_down = True
        clock.now += REFRESH + 1
        assert await accounts.identify(provider.token("alice", n=2)) is not None
        clock.now += PAUSE + 1
        with pytest.raises(ProviderAwayError, match="status 503") as caught:
            await accounts.identify(Key().sign(provider.claims("alice")))
        assert caught.value.status == 503
        with pytest.raises(ProviderAwayError):
            await accounts.log_in("alice", "secret words")
        assert await accounts.identify(provider.token("alice", n=3)) is not None

    using(provider, work, clock)


def test_a_provider_that_was_never_there() -> None:
    with OidcProvider() as gone:
        token = gone.token("alice")
    with pytest.raises(ProviderAwayError, match="does not answer"):
        identify(gone, token)


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        ("/.well-known/openid-configuration", {"issuer": "https://evil.example"}, "another issuer"),
        ("/.well-known/openid-configuration", {"issuer": None, "jwks_uri": "http://evil.example/keys"}, "jwks_uri"),
        ("/.well-known/openid-configuration", [], "no JSON"),
        ("/certs", {"keys": 5}, "no set of keys"),
        ("/certs", {"keys": ["x" * 2_000_000]}, "without end"),
    ],
)
def test_a_provider_that_answers_nonsense(
    provider: OidcProvider, monkeypatch: pytest.MonkeyPatch, path: str, answer: Any, reason: str
) -> None:
    if isinstance(answer, dict) and "issuer" in answer and answer["issuer"] is None:
        answer = {**answer, "issuer": provider.issuer}
    true = provider.answer
    monkeypatch.setattr(provider, "answer", lambda at, form: (200, answer) if at == PATH + path else true(at, form))
    with pytest.raises(ProviderAwayError, match=reason):
        identify(provider, provider.token("alice"))


# ---------------------------------------------------------------- passwords that are handed on


def test_a_password_is_handed_on(provider: OidcProvider) -> None:
    async def work(accounts: OidcAccounts) -> Identity | None:
        with pytest.raises(WrongPasswordError):
            await accounts.log_in("alice", "wrong")
        return await accounts.identify(await accounts.log_in("alice", "secret words"))

    found = using(provider, work)
    assert found is not None
    assert found.name == "alice"


def test_a_client_that_may_not_use_passwords_is_told_so(provider: OidcProvider) -> None:
    provider.allows_passwords = False
    with pytest.raises(AuthorizationError, match="unauthorized_client") as caught:
        using(provider, lambda accounts: accounts.log_in("alice", "secret words"))
    assert caught.value.status == 403


def test_a_token_for_others_is_not_handed_out(provider: OidcProvider) -> None:
    with pytest.raises(InvalidTokenError, match="audience"):
        using(provider, lambda accounts: accounts.log_in("alice", "secret words"), oidc_audience="another")
