"""The table ``[node]`` of the rules file: who may send what, how much, and what becomes of it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from delineate.errors import SettingsError
from delineate.gateway import rules_file
from delineate.gateway.rules_table import Table

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_DAY: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A certificate of ours, and whether callers need one by `ca_file`'s authority."""

    certificate_file: Path
    key_file: Path | None = None
    ca_file: Path | None = None
    clients: Literal["none", "optional", "required"] = "none"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may take of us.

    associations : at once; pdu, instance : bytes of a data unit and of an object; idle, unit : seconds without a word, and
    that one data unit may take; association : seconds that one may last.
    """

    associations: int = 50
    pdu: int = 1 << 17
    instance: int = 4 * _GIB
    idle: float = 60.0
    unit: float = 30.0
    association: float = 4 * 3600.0


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """How the node listens and keeps.

    ae : its title, which callers have to name where `strict`; callers : titles that may call, none for any; networks : addresses that
    may call, none for any; quiet : seconds after the last object and the end of its association until a series counts as
    whole; broken : the same after an association that broke off; late : what becomes of objects that come after that; disk :
    what is on it before the sender hears that it is taken: each object, or all of an association at its end; at_once : series
    in work, and deliveries; attempts, pause, longest_pause : of one step that fails, seconds between; task : seconds that a
    model may take; keep : seconds for which images and results stay after the last
    delivery, keep_held : for which stays what waits for a person;
    most : bytes of images held; spare : bytes that stay free on the disk.
    """

    ae: str = "DELINEATE"
    strict: bool = True
    host: str = "127.0.0.1"
    port: int = 11112
    callers: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    tls: Tls | None = None
    limits: Limits = Limits()
    quiet: float = 15.0
    broken: float = 300.0
    late: Literal["again", "note"] = "again"
    disk: Literal["object", "association"] = "object"
    at_once: int = 2
    attempts: int = 200
    pause: float = 5.0
    longest_pause: float = 600.0
    task: float = 4 * 3600.0
    keep: float = 7 * _DAY
    keep_held: float = 30 * _DAY
    most: float = math.inf
    spare: int = _GIB

    @classmethod
    def of(cls, tables: Table) -> NodeSettings:
        """From a rules file that was opened; all defaults where it has no such table.

        Raises
        ------
        SettingsError
            It makes no sense; names the key.
        """
        table = tables.table("node")
        return cls() if table is None else _read(table)

    @classmethod
    def read(cls, path: Path) -> NodeSettings:
        """As `of`, of a file by its name."""
        return cls.of(rules_file.opened(path))


def _read(table: Table) -> NodeSettings:
    base = NodeSettings()
    most = table.number("most_gigabytes", 0, 1e9, 0.0)
    settings = NodeSettings(
        ae=rules_file.title(table, "ae", base.ae),
        strict=not table.truth("any_called_title"),
        host=table.text("host", base.host),
        port=table.whole("port", 0, 65535, base.port),
        callers=table.texts("callers"),
        networks=tuple(_network(table, text) for text in table.texts("networks")),
        tls=_tls(table.table("tls")),
        limits=_limits(table.table("limits")),
        quiet=table.number("quiet_seconds", 0, 86400, base.quiet),
        broken=table.number("broken_seconds", 0, 86400, base.broken),
        late=table.one_of("late", ("again", "note"), base.late),
        disk=table.one_of("wait_for_disk", ("object", "association"), base.disk),
        at_once=table.whole("at_once", 1, 32, base.at_once),
        attempts=table.whole("attempts", 1, 1_000_000, base.attempts),
        pause=table.number("pause_seconds", 0.01, 86400, base.pause),
        longest_pause=table.number("longest_pause_seconds", 0.01, 86400, base.longest_pause),
        task=table.number("task_seconds", 1, 7 * _DAY, base.task),
        keep=table.number("keep_days", 0, 36500, base.keep / _DAY) * _DAY,
        keep_held=table.number("keep_held_days", 0, 36500, base.keep_held / _DAY) * _DAY,
        most=most * _GIB if most else math.inf,
        spare=int(table.number("spare_gigabytes", 0, 1e6, base.spare / _GIB) * _GIB),
    )
    table.end()
    return settings


def _tls(table: Table | None) -> Tls | None:
    if table is None:
        return None
    certificate = table.path("certificate_file")
    if certificate is None:
        raise table.error("certificate_file", "is missing")
    settings = Tls(
        certificate_file=certificate,
        key_file=table.path("key_file"),
        ca_file=table.path("ca_file"),
        clients=table.one_of("clients", ("none", "optional", "required"), "none"),
    )
    if settings.clients != "none" and settings.ca_file is None:
        raise table.error("ca_file", "is missing", "Name the authority of the callers' certificates.")
    table.end()
    return settings


def _limits(table: Table | None) -> Limits:
    base = Limits()
    if table is None:
        return base
    limits = Limits(
        associations=table.whole("associations", 1, 1000, base.associations),
        pdu=table.whole("pdu_kilobytes", 16, 1024, base.pdu >> 10) << 10,
        instance=table.whole("instance_megabytes", 1, 1 << 20, base.instance // _MIB) * _MIB,
        idle=table.number("idle_seconds", 0.1, 86400, base.idle),
        unit=table.number("unit_seconds", 0.1, 86400, base.unit),
        association=table.number("association_seconds", 1, 7 * _DAY, base.association),
    )
    table.end()
    return limits


def _network(table: Table, text: str) -> Any:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise table.error("networks", f"has {text!r}", "Write addresses like 10.1.2.3 or 10.1.0.0/16.") from None


def require_file(path: Path, what: str) -> Path:
    """`SettingsError` for a file that is not there."""
    if not path.is_file():
        raise SettingsError(f"there is no file {path} with {what}", "Check the table [node.tls] of the rules file.")
    return path
