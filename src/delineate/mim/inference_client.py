"""One server, as workflow and workstation name it, and what is asked of it.

What does not change from workflow to workflow stands in ``delineate.ini`` beside ``ext.py``::

    [server]
    url = https://server.example/prefix     where server_url is empty
    token = …                               sent to the server of `url` alone
    ca_file = hospital.pem                  an authority beside the public ones; a path from this file on
    verify = no                             any certificate of the server of `url` will do; for tests
    timeout = 120                           seconds of silence on one call, 30 at least
    overwrite = yes                         contours of a structure's name are replaced, whatever they hold

All but `url` may follow the address instead, and go before the file: ``https://server.example/prefix#token=…&ca_file=…``. What stands
behind the ``#`` is not part of the address that is asked for.

Runs on Python 3.7 and newer with the standard library alone.
"""

from __future__ import annotations

import configparser
import contextlib
import ipaddress
import os
import re
import ssl
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, Iterable, Optional, Tuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from delineate.errors import SettingsError
from delineate.mim.task_input import ImageGrid, TaskInput, scratch
from delineate.mim.task_output import TaskOutput

if TYPE_CHECKING:
    from delineate.mim.client_backend import ClientBackend

INI, KEYS = "delineate.ini", ("url", "token", "ca_file", "verify", "timeout", "overwrite")
PORTS = {"http": 80, "https": 443}
PARTIAL_CHAIN = 0x80000  # OpenSSL's X509_V_FLAG_PARTIAL_CHAIN, which Python names since 3.10: a server's own certificate will do, too
SILENCE = 120.0  # seconds in which not one byte moves: a server that checks a large upload is silent for a while


class InferenceClient:
    """Posts tasks and gets their structures.

    backend : what carries the conversations; timeout : seconds that each may take in all, on the clock;
    interval : seconds between questions to servers that do not answer of their own accord when a result is there.

    Raises
    ------
    SettingsError
        The times make no sense. Other errors are those of the backend, of `TaskInput` and of `TaskOutput`.
    """

    def __init__(self, backend: ClientBackend, *, timeout: float = 3600.0, interval: float = 2.0) -> None:
        if not timeout > 0:
            raise SettingsError("timeout_sec is %g" % timeout, "Write the seconds to wait at most, such as 1800.")
        self._backend = backend
        self._timeout = timeout
        self._interval = max(float(interval), 1.0)

    def post_task(self, task: TaskInput) -> str:
        """Send images; the task's uid, which is the key to its result."""
        model = task.model.strip()
        if not model:
            raise SettingsError("no model was given", "Write its name into model_human_readable_id.")
        with task.archive() as path:
            return self._backend.post(model, path, self._timeout)

    def get_task(self, uid: str, grid: Optional[ImageGrid] = None) -> TaskOutput:
        """Wait for the structures of a task; `grid` is that of the image they are for. Nothing is left on the disk."""
        with scratch() as folder:
            path = os.path.join(folder, "result")
            with open(path, "w+b") as sink:
                self._backend.get(uid.strip(), sink, self._timeout, self._interval)
            return TaskOutput(path, grid)


@dataclass(frozen=True)
class Connection:
    """One server as this workstation reaches it.

    host : name or IP address, IPv6 without brackets; prefix : "" or a quoted path such as "/a/b".
    ca_file : PEM file of an authority that is trusted beside the public ones; timeout : seconds of silence on one call;
    overwrite : whether contours that hold something may be replaced.
    """

    scheme: str
    host: str
    port: int
    prefix: str
    token: str = field(default="", repr=False)
    ca_file: str = ""
    verify: bool = True
    timeout: float = SILENCE
    overwrite: bool = False

    @classmethod
    def of(cls, server_url: str, folder: Optional[str]) -> Connection:
        """From the workflow's field and the file in `folder`, as the module's text says.

        Raises
        ------
        SettingsError
            No address, or one without scheme (with a proposal), a user name in it, a key nobody knows, a token for no server.
        """
        values, (url, _, behind) = _stored(folder), _trimmed(server_url).partition("#")
        home = values.pop("url", "")
        if not home and ("token" in values or "verify" in values):
            raise SettingsError("%s holds a token or verify, but no url" % INI, "Write url = … above it: it is for that server alone.")
        here = _parsed(url or home)
        if home and here[:3] != _parsed(home)[:3]:
            values = {key: value for key, value in values.items() if key in ("ca_file", "timeout", "overwrite")}
        given = (pair.partition("=")[::2] for pair in behind.split("&") if pair)
        values.update(_known(((key, unquote(value)) for key, value in given), KEYS[1:], "what follows # in server_url"))
        token, ca_file = values.get("token", ""), values.get("ca_file", "")
        if not re.match(r"[!-~]*\Z", token):
            raise SettingsError("the token has characters that cannot be sent", "Give it as it was issued, on one line.")
        verify, overwrite = _is_yes(values, "verify", "yes"), _is_yes(values, "overwrite", "no")
        try:
            timeout = float(values.get("timeout", SILENCE))
        except ValueError:
            timeout = 0.0
        if not 30.0 <= timeout <= 3600.0:
            raise SettingsError("timeout is not from 30 to 3600", "Write the seconds into %s, such as timeout = 120." % INI)
        return cls(*here, token, os.path.join(folder or "", ca_file) if ca_file else "", verify, timeout, overwrite)

    @property
    def netloc(self) -> str:
        """Host and port, the port only where it is not the scheme's own."""
        host = "[%s]" % self.host if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else "%s:%d" % (host, self.port)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return "%s://%s" % (self.scheme, self.netloc)

    def proxy(self) -> Optional[SplitResult]:
        """The proxy that the system names for this server, None where there is none; never one for this machine itself."""
        with contextlib.suppress(ValueError):
            if self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback:
                return None
        known = {} if urllib.request.proxy_bypass("%s:%d" % (self.host, self.port)) else urllib.request.getproxies()
        url = known.get(self.scheme) or known.get("all") or ""
        if not url:
            return None
        with contextlib.suppress(ValueError):  # a port that is no number
            parts = urlsplit(url if "://" in url else "http://" + url)
            if parts.scheme in PORTS and parts.hostname and parts.port != 0:
                return parts
        advice = "Write it like http://proxy.example:3128, or name this server among its exceptions (NO_PROXY)."
        raise SettingsError("the address of the system's proxy cannot be used", advice)

    def trust(self) -> ssl.SSLContext:
        """Whom to believe: the system's authorities, certifi's where it has none, and `ca_file`; `SettingsError`."""
        context = ssl.create_default_context()
        if not context.cert_store_stats()["x509_ca"]:
            with contextlib.suppress(OSError):
                _add_certifi(context)
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
                context.verify_flags |= PARTIAL_CHAIN
        except (OSError, ValueError, TypeError) as error:  # ssl.SSLError among them; the last two for a path that is none
            what = "is not there" if isinstance(error, FileNotFoundError) else "holds no certificate that can be read"
            raise SettingsError("the file of the certificate authority %s" % what, "Check ca_file: %s" % self.ca_file) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _add_certifi(context: ssl.SSLContext) -> None:
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _trimmed(text: str) -> str:
    """Without blanks, line breaks, quotes and invisible characters that come along when an address is copied."""
    return text.strip().strip("\u200b\ufeff\"'").strip()


def _stored(folder: Optional[str]) -> Dict[str, str]:
    """What the file says; nothing of it is ever shown, since it may be a token."""
    path = os.path.join(folder or "", INI)
    if folder is None or not os.path.isfile(path):
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
        return _known(parser.items("server"), KEYS, INI)
    except (configparser.Error, UnicodeError, OSError):
        raise SettingsError("%s cannot be read" % INI, "Write it as UTF-8 text: a line [server], below it lines key = value.") from None


def _is_yes(values: Dict[str, str], key: str, default: str) -> bool:
    answer = configparser.ConfigParser.BOOLEAN_STATES.get(values.get(key, default).lower())
    if answer is None:
        raise SettingsError("%s is neither yes nor no" % key, "Write %s = %s into %s, or leave it out." % (key, default, INI))
    return answer


def _known(pairs: Iterable[Tuple[str, str]], keys: Tuple[str, ...], where: str) -> Dict[str, str]:
    values = {key.strip(): _trimmed(value) for key, value in pairs}
    if not set(values) <= set(keys):
        raise SettingsError("%s has a key that nobody knows" % where, "The keys are %s." % ", ".join(keys))
    return {key: value for key, value in values.items() if value}


def _parsed(text: str) -> Tuple[str, str, int, str]:
    """Scheme, host, port and prefix of an address."""
    if not text:
        raise SettingsError("no server was given", "Write https://server.example into server_url, or url = … into %s." % INI)
    shown = re.sub(r"(?s)\?.*|^/+", "", re.sub(r"(?<=//)[^/]*@|^[^/]*@", "", text))  # what is left out may be secret
    shown = "".join(c if c.isprintable() else " " for c in shown)[:200]
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        bare = re.sub(r"^https?:[/\\]*", "", shown, flags=re.IGNORECASE)
        advice = "Write https://%s, or http://%s where the server has no TLS." % (bare, bare)
        raise SettingsError("the server's address %s has no scheme" % shown, advice)
    scheme = text.partition(":")[0].lower()
    if scheme not in PORTS:
        raise SettingsError("the server's address begins with %s://, which is no way to reach it" % scheme, "Begin it with https://")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", PORTS[scheme] if parts.port is None else parts.port
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError among them
        host, port = "", 0
    if not port or not re.match(r"[\w.:%-]+\Z", host) or any(c.isspace() or not c.isprintable() for c in text):
        raise SettingsError(
            "the server's address %s cannot be read" % shown, "Write it like https://server.example:8443/prefix, no blanks."
        )
    if "@" in parts.netloc or "?" in text:
        raise SettingsError("the server's address holds a user name, a password or a query", "Leave it out; a token goes behind #token=")
    return scheme, host, port, quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
