"""What a provider's token says, once its signature, issuer, audience and times were found right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from delineate.protocols.monai_label import ROLES
from delineate.server.accounts.identity import (
    ExpiredTokenError,
    Identity,
    InvalidTokenError,
    Role,
)
from delineate.server.settings import Settings

LEEWAY: Final = 30.0
"""Seconds that clocks may differ."""

# Signatures with a private key alone: "none" is no signature, and HS would take a public key for a shared secret.
KEY_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", ""),
}
"""Algorithm → type of key and curve."""

SMALLEST_RSA: Final = 2048
PREFIXES: Final = ("monailabel-", "delineate-")
"""Of roles in a realm that others use too: an `admin` of it is somebody else's administrator."""

_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")


def head_of(token: str) -> tuple[str, str | None]:
    """Algorithm and key id that a token names; nothing of it is trusted. Raises `InvalidTokenError`."""
    import jwt

    try:
        head = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise InvalidTokenError from None
    algorithm, id, kind = head.get("alg"), head.get("kid"), head.get("typ")
    if not isinstance(algorithm, str) or algorithm not in KEY_TYPES:
        raise InvalidTokenError("the token is not signed as this server wants it")
    if "crit" in head or (kind is not None and str(kind).lower() not in _TYPES) or not (id is None or isinstance(id, str)):
        raise InvalidTokenError("the token is of a kind that this server does not know")
    return algorithm, id


def verified(token: str, algorithm: str, keys: Sequence[Mapping[str, Any]], settings: Settings) -> dict[str, Any]:
    """The claims of a token that one of `keys` signed for this server. Raises `InvalidTokenError`, `ExpiredTokenError`."""
    import jwt

    fitting = [key for key in keys if _fits(key, algorithm)]
    if len(fitting) != 1:  # none; or the token does not say which
        raise InvalidTokenError("the token is signed with a key that the identity provider does not have")
    try:
        key = jwt.PyJWK(dict(fitting[0]), algorithm=algorithm).key
        if getattr(key, "key_size", SMALLEST_RSA) < SMALLEST_RSA and algorithm[:2] in ("RS", "PS"):
            raise InvalidTokenError("the identity provider's key is too short")
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[algorithm], audience=settings.oidc_audience or settings.oidc_client_id, issuer=settings.oidc_issuer,
            leeway=LEEWAY, options={"require": ["exp", "iss", "aud"]},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise ExpiredTokenError from None
    except jwt.InvalidAudienceError:
        raise InvalidTokenError("the token is for another audience than this server") from None
    except jwt.InvalidIssuerError:
        raise InvalidTokenError("the token is of another issuer") from None
    except jwt.ImmatureSignatureError:
        raise InvalidTokenError("the token is not valid yet") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidTokenError from None
    if str(claims.get("typ", "bearer")).lower() != "bearer":  # Keycloak says here what a token is for
        raise InvalidTokenError("the token is no access token")
    return claims


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    kind, curve = KEY_TYPES[algorithm]
    return (
        key.get("kty") == kind
        and (not curve or key.get("crv") == curve)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
    )


def identity_of(claims: Mapping[str, Any], settings: Settings) -> Identity:
    """Who a token is about. Raises `InvalidTokenError` where it names nobody."""
    name = claims.get(settings.oidc_name_claim) or claims.get("sub")
    if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable():
        raise InvalidTokenError("the token names nobody")
    return Identity(name, role_in(claims, settings), _text(claims.get("name")), _text(claims.get("email")))


def role_in(claims: Mapping[str, Any], settings: Settings) -> Role:
    """The highest role that a token gives, `Role.NONE` where it gives none."""
    if settings.oidc_roles_claim:
        ours, realms = _words(_member(claims, settings.oidc_roles_claim)), []
    else:
        ours = _words(_at(claims, ("resource_access", settings.oidc_client_id, "roles")))
        realms = _words(_at(claims, ("realm_access", "roles")))
    if settings.oidc_roles:
        found = [settings.oidc_roles[word] for word in (*ours, *realms) if word in settings.oidc_roles]
    else:
        found = [_bare(word) or word for word in ours] + [_bare(word) for word in realms]
    return max((Role[word.upper()] for word in found if word in ROLES), default=Role.NONE)


def _bare(word: str) -> str:
    return next((word[len(prefix) :] for prefix in PREFIXES if word.startswith(prefix)), "")


def _member(claims: Mapping[str, Any], path: str) -> Any:
    # As a whole first: the names of some claims are addresses, with dots in them.
    return claims[path] if path in claims else _at(claims, path.split("."))


def _at(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value[:255] if isinstance(value, str) and value.isprintable() else ""
