"""``rules.toml``: rules, servers and destinations; whatever makes no sense in it is an error that names the place."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from delineate.dicom import rtstruct, seg
from delineate.dicom.deidentify import Policy
from delineate.errors import SettingsError
from delineate.gateway.destination_settings import DestinationSettings, DicomSettings, FolderSettings, StowSettings
from delineate.gateway.rule import Rule, Server
from delineate.gateway.rules_patterns import Pattern, pattern
from delineate.gateway.rules_table import SEE, Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Read = tuple[list[Rule], dict[str, Server], dict[str, DestinationSettings]]

_TITLE: Final = re.compile(r"[ !-\[\]-~]{1,16}")  # PS3.5, 6.2: an AE title has 16 characters at most, none of them a backslash
_PRIORITY: Final = 10**6
_OUTPUTS: Final = ("rtstruct", "seg")


def read(tables: Table) -> Read:
    """Rules in the file's order, servers and destinations by name, of a file that was opened.

    Raises
    ------
    SettingsError
        It makes no sense; names file and key.
    """
    servers = {name: _server(name, table) for name, table in tables.tables("servers").items()}
    destinations = {name: _destination(name, table) for name, table in tables.tables("destinations").items()}
    rules = [_rule(table, servers, destinations) for table in tables.list_of_tables("rules")]
    tables.has("node")  # of `node_settings`
    tables.end()
    for index, rule in enumerate(rules):
        if rule.name in [other.name for other in rules[:index]]:
            raise SettingsError(f"{tables.file}: two rules have the name {rule.name!r}", "Give each rule a name of its own.")
    return rules, servers, destinations


def opened(path: str | os.PathLike[str]) -> Table:
    """The tables of a TOML file, unread. Paths in it are below the file's own folder.

    Raises
    ------
    SettingsError
        It cannot be read; names file and line.
    """
    path = Path(path)
    try:
        return Table(tomllib.loads(path.read_bytes().decode("utf-8")), path.name, "", path.absolute().parent)
    except OSError as error:
        raise SettingsError(f"the rules file {path} cannot be read: {error.strerror}", "Check its name and who may read it.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the rules file {path} is not TOML: {error}", SEE) from None


def _server(name: str, table: Table) -> Server:
    server = Server(
        name=name,
        url=_url(table),
        token_file=table.path("token_file"),
        ca_file=table.path("ca_file"),
        deidentify=Policy(table.one_of("deidentify", [policy.value for policy in Policy], "off")),
    )
    table.end()
    return server


def _url(table: Table) -> str:
    text = table.text("url")
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise table.error("url", f"is {text!r}", "Write it like https://server.example:8443/prefix.")
    if parts.username or parts.password:
        raise table.error("url", "holds a password", "Put it into a file and name that.")
    return text.rstrip("/")


def _destination(name: str, table: Table) -> DestinationSettings:
    kinds: dict[str, Callable[[str, Table], DestinationSettings]] = {"dicom": _dicom, "stow": _stow, "folder": _folder}
    found = kinds[table.one_of("kind", tuple(kinds))](name, table)
    table.end()
    return found


def _dicom(name: str, table: Table) -> DicomSettings:
    settings = DicomSettings(
        name=name,
        host=table.text("host"),
        port=table.whole("port", 1, 65535),
        ae=title(table, "ae"),
        calling=title(table, "calling", "DELINEATE"),
        timeout=table.number("timeout", 0.1, 3600, 30.0),
        tls=table.truth("tls"),
        ca_file=table.path("ca_file"),
        certificate_file=table.path("certificate_file"),
        key_file=table.path("key_file"),
        commitment=table.truth("commitment"),
        commitment_timeout=table.number("commitment_timeout", 0.1, 86400, 60.0),
    )
    if not settings.tls and (settings.ca_file or settings.certificate_file or settings.key_file):
        raise table.error("tls", "is not true, but a file for it is named", "Write tls = true, or remove the file.")
    if settings.key_file and not settings.certificate_file:
        raise table.error("key_file", "has no certificate_file beside it")
    return settings


def title(table: Table, key: str, default: str | None = None) -> str:
    """The title of an application entity."""
    text = table.text(key, default)
    if not _TITLE.fullmatch(text):
        raise table.error(key, f"is {text!r}, which is no AE title", "Write at most 16 characters of ASCII.")
    return text


def _stow(name: str, table: Table) -> StowSettings:
    settings = StowSettings(
        name=name,
        url=_url(table),
        token_file=table.path("token_file"),
        user=table.text("user", ""),
        password_file=table.path("password_file"),
        ca_file=table.path("ca_file"),
        timeout=table.number("timeout", 0.1, 3600, 60.0),
    )
    if bool(settings.user) != bool(settings.password_file):
        raise table.error("user", "and password_file belong together", "Name both, or none.")
    if settings.user and settings.token_file:
        raise table.error("token_file", "stands beside a user", "Name one of them.")
    return settings


def _folder(name: str, table: Table) -> FolderSettings:
    path = table.path("path")
    if path is None:
        raise table.error("path", "is missing")
    return FolderSettings(name=name, path=path)


def _rule(table: Table, servers: Mapping[str, Server], destinations: Mapping[str, DestinationSettings]) -> Rule:
    name = table.text("name")
    table.place = f"rule {name!r}"
    wanted = table.table("match")
    conditions = tuple(_pattern(wanted, key, value) for key, value in wanted.values.items()) if wanted else ()
    priority = table.whole("priority", -_PRIORITY, _PRIORITY) if table.has("priority") else None
    if table.truth("leave"):
        table.end()
        return Rule(name=name, conditions=conditions, priority=priority, leaves=True)
    outputs: Any = table.texts("outputs", _OUTPUTS)
    parameters = table.table("parameters")
    rule = Rule(
        name=name,
        model=table.text("model"),
        server=_named_server(table, servers),
        conditions=conditions,
        parameters=parameters.values if parameters else {},
        outputs=outputs,
        rtstruct=_rtstruct(table),
        seg=_seg(table),
        destinations=table.texts("destinations"),
        goes_on=table.truth("continue"),
        priority=priority,
    )
    table.end()
    _require_known(table, "outputs", outputs, _OUTPUTS)
    _require_known(table, "destinations", rule.destinations, tuple(destinations))
    for key in _OUTPUTS:
        if table.has(key) and key not in outputs:
            raise table.error(key, "has options, but is not among the outputs", f'Add "{key}" to outputs, or remove them.')
    return rule


def _require_known(table: Table, key: str, given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise table.error(key, "is missing or empty", "Name at least one.")
    for item in given:
        if item not in known:
            there = f"There are {', '.join(known)}." if known else "Write a table [destinations.NAME]."
            raise table.error(key, f"names {item!r}, which is none", there)


def _named_server(table: Table, servers: Mapping[str, Server]) -> str:
    name = table.text("server", "")
    if name and name not in servers:
        known = f"There are {', '.join(servers)}." if servers else "Write a table [servers.NAME]."
        raise table.error("server", f"is {name!r}, which is none", known)
    if not name and len(servers) > 1:
        raise table.error("server", "is missing, and there are several", f"Name one of {', '.join(servers)}.")
    return name or next(iter(servers), "")


def _pattern(table: Table, key: str, value: Any) -> Pattern:
    try:
        return pattern(key, value)
    except SettingsError as error:
        raise SettingsError(f"{table.file}: {table.place}: {error.message}", error.advice) from None


def _rtstruct(rule: Table) -> rtstruct.Options:
    table = rule.table("rtstruct")
    if table is None:
        return rtstruct.Options()
    options = rtstruct.Options(
        holes=table.one_of("holes", ("keyhole", "xor"), "keyhole"),
        label=table.text("label", ""),
        description=table.text("description", ""),
        short_names=table.truth("short_names"),
        tolerance=table.number("tolerance", 0, 100, 0.0),
    )
    table.end()
    return options


def _seg(rule: Table) -> seg.Options:
    table = rule.table("seg")
    if table is None:
        return seg.Options()
    options = seg.Options(
        kind=table.one_of("kind", ("binary", "labelmap", "fractional"), "binary"),
        label=table.text("label", "SEGMENTATION"),
        description=table.text("description", ""),
    )
    table.end()
    return options
