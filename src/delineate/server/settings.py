"""What the server can be told: one frozen value, and the only reader of the environment.

Precedence: arguments, then ``DELINEATE_NAME`` in the environment, then the file (TOML), then the default.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from delineate.errors import SettingsError
from delineate.protocols.monai_label import ROLES

PREFIX: Final = "DELINEATE_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set; docs/server.md explains each with an example.

    Raises
    ------
    SettingsError
        A value that makes no sense, with the name of the setting.
    """

    data: Path = Path("delineate-data")
    database: str = ""
    models: tuple[Path, ...] = ()
    studies: Path | None = None
    dicomweb: str = ""
    dicomweb_token_file: Path | None = None
    dicomweb_password_file: Path | None = None
    dicomweb_ca: Path | None = None
    dicomweb_modalities: tuple[str, ...] = ()
    dicomweb_labels: tuple[str, ...] = ("seg",)
    dicomweb_label_tags: tuple[str, ...] = ("final",)
    dicomweb_interval: float = 60.0
    dicomweb_idle: float = 60.0
    dicomweb_cache_mb: int = 20_480
    ohif: Path | None = None
    sample_lease: float = 3600.0
    active_learning: bool = True
    auto_scoring: bool = False
    session_expiry: float = 3600.0
    model_versions: int = 10
    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token: str = field(default="", repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_roles: Mapping[str, str] = field(default_factory=dict)
    accounts: str = "off"
    login_expiry: float = 43_200.0
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: str = field(default="", repr=False)
    oidc_audience: str = ""
    oidc_name_claim: str = "preferred_username"
    oidc_roles_claim: str = ""
    oidc_roles: Mapping[str, str] = field(default_factory=dict)
    oidc_ca: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    workers: int = 1
    devices: tuple[str, ...] = ()
    worker_memory_mb: int = 0
    runners: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    grace: float = 10.0
    max_upload_mb: int = 20_480
    max_entries: int = 10_000
    max_unpacked_mb: int = 40_960
    max_wait: float = 60.0
    heartbeat: float = 15.0
    retention_days: float = 30.0
    min_free_mb: int = 512
    sync: bool = True
    log_level: str = "info"

    def __post_init__(self) -> None:
        _check(0 <= self.port <= 65535, "port", "must be from 0 to 65535 (0 takes any free port)")
        for name in ("workers", "worker_memory_mb", "min_free_mb", "grace", "max_wait", "retention_days", "session_expiry"):
            _check(getattr(self, name) >= 0, name, "must not be negative")
        for name in ("max_upload_mb", "max_entries", "max_unpacked_mb", "heartbeat", "sample_lease", "model_versions", "login_expiry"):
            _check(getattr(self, name) > 0, name, "must be above zero")
        _check(self.log_level in ("debug", "info", "warning", "error"), "log_level", "must be debug, info, warning or error")
        _check((self.tls_certificate is None) == (self.tls_key is None), "tls_certificate", "and tls_key go together")
        object.__setattr__(self, "root_path", _root_path(self.root_path))
        for origin in self.cors_origins:
            _check(
                origin.startswith(("http://", "https://")) and not origin.endswith("/"), "cors_origins", "are like https://viewer.example"
            )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                _check(False, "trusted_proxies", f"are addresses or networks such as 10.0.0.0/8, not {proxy!r}")
        for secret in (self.token, *self.tokens.values()):
            _check(secret.isascii() and secret.strip() == secret, "token", "must be ASCII without blanks around it")
        _check(all(self.tokens.values()), "tokens", "must not be empty")
        self._check_dicomweb()
        self._check_accounts()

    def _check_dicomweb(self) -> None:
        _check(not self.dicomweb or self.studies is None, "studies", "is a folder or the address of a DICOMweb server, not both")
        parts = urlsplit(self.dicomweb)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        _check(not self.dicomweb or is_address, "studies", "is a folder, or an address like https://pacs.example/dicom-web")
        _check(not (parts.username or parts.password), "studies", "holds no password: dicomweb_password_file names the file that does")
        _check(
            self.dicomweb_token_file is None or self.dicomweb_password_file is None,
            "dicomweb_token_file",
            "excludes dicomweb_password_file",
        )
        _check(set(self.dicomweb_labels) <= {"seg", "rtstruct"}, "dicomweb_labels", "may hold seg and rtstruct")
        _check(self.dicomweb_cache_mb > 0, "dicomweb_cache_mb", "must be above zero")
        _check(self.dicomweb_idle > 0, "dicomweb_idle", "must be above zero")
        _check(self.dicomweb_interval > 0, "dicomweb_interval", "must be above zero")

    def _check_accounts(self) -> None:
        _check(self.accounts in ("off", "local", "oidc"), "accounts", "must be off, local or oidc")
        for name in ("token_roles", "oidc_roles"):
            _check(set(getattr(self, name).values()) <= set(ROLES), name, f"give roles out of {', '.join(ROLES)}")
        _check(set(self.token_roles) <= set(self.named_tokens), "token_roles", "names a token that is not set")
        if self.accounts == "oidc":
            _check(bool(self.oidc_client_id), "oidc_client_id", "is wanted with accounts = oidc")
            _check(
                is_safe_address(self.oidc_issuer),
                "oidc_issuer",
                "is the provider's https address, as it stands in its tokens (http on loopback only)",
            )

    @property
    def named_tokens(self) -> dict[str, str]:
        """Every token that opens the server, by the name its tasks are owned by."""
        return {**({"token": self.token} if self.token else {}), **self.tokens}

    @property
    def has_accounts(self) -> bool:
        """Whether requests say who asks, by accounts or by tokens."""
        return self.accounts != "off" or bool(self.named_tokens)

    @property
    def is_loopback(self) -> bool:
        """Whether the server listens for this machine alone."""
        return is_loopback(self.host)

    @property
    def database_url(self) -> str:
        """The database, by default a file in the data folder."""
        return self.database or f"sqlite:///{(self.data / 'delineate.db').absolute()}"

    @classmethod
    def load(cls, file: Path | None = None, environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Settings from arguments, environment and file.

        Parameters
        ----------
        file : a TOML file with the settings at its top; None for the one that ``DELINEATE_SETTINGS`` names, if any.
        environment : None for the process's own.
        given : settings by name; None counts as not given, so that a command line can pass on its options as they are.

        Raises
        ------
        SettingsError
            An unknown name, or a value that makes no sense.
        """
        variables = os.environ if environment is None else environment
        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SettingsError(f"there is no setting {unknown[0]!r}", "See docs/server.md for those there are.")
        path = file or (Path(variables[PREFIX + "SETTINGS"]) if variables.get(PREFIX + "SETTINGS") else None)
        values = _from_file(path, known) if path else {}
        for name in known:
            text = variables.get(PREFIX + name.upper())
            if text is not None:
                values[name] = text
        values.update({name: value for name, value in given.items() if value is not None})
        if is_web_address(values.get("studies")):
            values["dicomweb"] = values.pop("studies")
        return cls(**{name: _convert(name, value) for name, value in values.items()})


def is_web_address(studies: Any) -> bool:
    """Whether the setting `studies` names a server."""
    return isinstance(studies, str) and studies.lower().startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_safe_address(address: str) -> bool:
    """Whether what is fetched there is what its owner says: keys that verify tokens come from it."""
    parts = urlsplit(address)
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")))


def _check(holds: bool, name: str, text: str) -> None:
    if not holds:
        raise SettingsError(f"the setting {name} {text}", "See docs/server.md.")


def _root_path(text: str) -> str:
    path = "/" + text.strip("/") if text.strip("/") else ""
    _check(not set(path) & set('?#\\ "<>'), "root_path", "is a path such as /delineate")
    return path


def _from_file(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with path.open("rb") as file:
            values: dict[str, Any] = toml.load(file)
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}", "Check its name and who may read it.") from None
    except toml.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}", "See docs/server.md for an example.") from None
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SettingsError(f"the settings file {path} has an unknown setting {unknown[0]!r}", "See docs/server.md for those there are.")
    return values


def _paths(value: Any) -> tuple[Path, ...]:
    items = value.split(os.pathsep) if isinstance(value, str) else [value] if isinstance(value, Path) else value
    return tuple(Path(item) for item in items if str(item))


def _strings(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    return tuple(str(item).strip() for item in items if str(item).strip())


def _pairs(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        value = dict(item.split("=", 1) for item in _strings(value))
    return {str(name): str(secret) for name, secret in value.items()}


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    return {str(name): dict(table) for name, table in value.items()}


def _path(value: Any) -> Path | None:
    return Path(value) if value else None


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}[value.lower()]
    return bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value):
        raise ValueError(value)
    return int(value)


_BY_TYPE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "Path": Path,
    "Path | None": _path,
    "tuple[Path, ...]": _paths,
    "tuple[str, ...]": _strings,
    "Mapping[str, str]": _pairs,
    "Mapping[str, Mapping[str, Any]]": _tables,
    "str": str,
    "bool": _truth,
    "int": _whole,
    "float": float,
}


def _convert(name: str, value: Any) -> Any:
    kind = str(next(entry.type for entry in fields(Settings) if entry.name == name))
    try:
        return _BY_TYPE[kind](value)
    except (ValueError, TypeError, KeyError, AttributeError):
        shown = "" if name.startswith(("token", "oidc_client_secret")) else f", not {value!r}"  # a secret goes nowhere
        raise SettingsError(f"the setting {name} must be of the kind {kind}{shown}", "See docs/server.md.") from None


def defaults() -> dict[str, Any]:
    """Name and default of every setting, in order."""
    return {
        entry.name: entry.default if entry.default is not MISSING else entry.default_factory() if callable(entry.default_factory) else None
        for entry in fields(Settings)
    }
