"""Which server is meant, and what the client leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import trustme

from delineate.errors import ArchiveError, DeadlineError, SettingsError
from delineate.mim.inference_client import Connection, InferenceClient


def ini(folder: Path, *lines: str, section: str = "[server]", encoding: str = "utf-8") -> str:
    (folder / "delineate.ini").write_text("\n".join([section, *lines]) + "\n", encoding=encoding)
    return str(folder)


# ------------------------------------------------------------ where


@pytest.mark.parametrize(
    ("given", "origin", "prefix"),
    [
        ("https://server.example", "https://server.example", ""),
        ("  http://server.example:8000/a/b/\r\n", "http://server.example:8000", "/a/b"),
        ("HTTPS://Server.Example:443/", "https://server.example", ""),
        ("\ufeffhttp://127.0.0.1:80", "http://127.0.0.1", ""),
        ('"https://server.example/a%20b/ü"', "https://server.example", "/a%20b/%C3%BC"),
        ("https://[::1]:8443/x", "https://[::1]:8443", "/x"),
        ("https://zürich.example", "https://xn--zrich-kva.example", ""),
    ],
)
def test_addresses_as_people_write_them(given: str, origin: str, prefix: str) -> None:
    connection = Connection.of(given, None)
    assert (connection.origin, connection.prefix, connection.token, connection.verify) == (origin, prefix, "", True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("server.example:8000/x", "Write https://server.example:8000/x, or http://server.example:8000/x"),
        ("//server.example", "Write https://server.example, or"),
        ("http:/server.example", "Write https://server.example, or"),
        (r"HTTPS:\\server.example", "Write https://server.example, or"),
        ("ftp://server.example", "begins with ftp://"),
        ("https://user:secret@server.example", "token"),
        ("user:secret@server.example", "has no scheme"),
        ("https://server.example/?a=secret", "query"),
        ("https://server .example", "no blanks"),
        ("https://", "cannot be read"),
        ("https://server.example:port", "cannot be read"),
        ("https://server.example:99999", "cannot be read"),
        ("https://server.example:0", "cannot be read"),
        ("https://server\n.example/x?a\n=secret", "https://server .example/x cannot be read"),
        ("https://" + "a" * 64 + ".example", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("", "no server was given"),
        (" \n", "no server was given"),
        ("https://server.example#tokn=secret", "what follows # in server_url has a key that nobody knows"),
        ("https://server.example#secret", "what follows # in server_url has a key that nobody knows"),
        ("https://server.example#token=secrét", "characters that cannot be sent"),
        ("https://server.example#token=secret%0Ax", "characters that cannot be sent"),
        ("https://server.example#verify=secret", "verify is neither yes nor no"),
        ("https://server.example#timeout=5", "from 30 to 3600"),
        ("https://server.example#timeout=nan", "from 30 to 3600"),
    ],
)
def test_addresses_that_make_no_sense(given: str, words: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Connection.of(given, None)
    assert words in raised.value.sentence()
    assert raised.value.advice
    assert "secr" not in raised.value.sentence()


def test_arguments_behind_the_address(tmp_path: Path) -> None:
    connection = Connection.of("https://server.example/x#token=a+b%26c&ca_file=ca.pem&timeout=300&verify=no&overwrite=yes", str(tmp_path))
    assert (connection.origin, connection.prefix, connection.token) == ("https://server.example", "/x", "a+b&c")
    assert (connection.ca_file, connection.timeout, connection.verify) == (str(tmp_path / "ca.pem"), 300.0, False)
    assert connection.overwrite
    assert "a+b" not in repr(connection)


# ------------------------------------------------------------ the file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_file_beside_the_extension(tmp_path: Path, encoding: str) -> None:
    lines = ("url = https://server.example/x", "token = 10%d$;#=", "ca_file = C.pem", "verify=", "timeout: 60")
    folder = ini(tmp_path, *lines, encoding=encoding)
    connection = Connection.of("", folder)
    assert connection == Connection("https", "server.example", 443, "/x", "10%d$;#=", str(tmp_path / "C.pem"), True, 60.0)
    assert Connection.of("https://server.example/y", folder).token == "10%d$;#=", "the same server by another path"
    assert Connection.of("https://server.example#token=other", folder).token == "other"


@pytest.mark.parametrize(
    "given", ["https://other.example", "https://server.example:8443", "http://server.example", "http://server.example:443"]
)
def test_the_token_of_the_file_goes_to_its_server_alone(tmp_path: Path, given: str) -> None:
    folder = ini(tmp_path, "url=https://server.example", "token=secret", "verify=no", "ca_file=ca.pem")
    connection = Connection.of(given, folder)
    assert (connection.token, connection.verify) == ("", True)
    assert connection.ca_file.endswith("ca.pem")


@pytest.mark.parametrize("line", ["token = secret", "verify = no"])
def test_a_token_for_no_server_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match="no url") as raised:
        Connection.of("https://server.example", ini(tmp_path, line))
    assert "secret" not in raised.value.sentence()


@pytest.mark.parametrize(
    "text",
    [
        "token = secret",
        "[server]\nsecret\n",
        "[server]\ntoken=secret\ntoken=secret",
        "[other]\ntoken=secret",
        "[server]\nsecret=1",
        "",
        "ü\xff",
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    (tmp_path / "delineate.ini").write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"delineate\.ini") as raised:
        Connection.of("https://server.example", str(tmp_path))
    assert "secret" not in raised.value.sentence()
    assert raised.value.advice


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert Connection.of("https://server.example", str(tmp_path)).token == ""


# ------------------------------------------------------------ whom to believe


def test_an_authority_is_added_to_the_public_ones(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    public = Connection.of("https://server.example", str(tmp_path)).trust().cert_store_stats()["x509_ca"]
    both = Connection.of("https://server.example#ca_file=ca.pem", str(tmp_path)).trust().cert_store_stats()["x509_ca"]
    assert public > 10
    assert both == public + 1


def test_without_authorities_of_the_system_there_are_those_of_certifi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "none.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert Connection.of("https://server.example", None).trust().cert_store_stats()["x509_ca"] > 10


@pytest.mark.parametrize("name", ["missing.pem", "text.pem", "nul%00.pem"])
def test_an_authority_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match="certificate authority") as raised:
        Connection.of(f"https://server.example#ca_file={name}", str(tmp_path)).trust()
    assert name.partition("%")[0] in raised.value.advice


# ------------------------------------------------------------ the client


class Backend:
    """Notes what is asked of it; writes `answer` as a result."""

    def __init__(self, answer: bytes | Exception = b"") -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def post(self, model: str, archive: str, timeout: float) -> str:
        self.asked.append((model, Path(archive).read_bytes(), timeout))
        return "uid"

    def get(self, uid: str, sink: BinaryIO, timeout: float, interval: float) -> None:
        self.asked.append((uid, timeout, interval))
        if isinstance(self.answer, Exception):
            raise self.answer
        sink.write(self.answer)


class Task:
    """A task with an archive, as `TaskInput` is one."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self.path = model, folder / "request.zip"

    @contextlib.contextmanager
    def archive(self) -> Iterator[str]:
        self.path.write_bytes(b"archive")
        yield str(self.path)
        self.path.unlink()


def test_post(tmp_path: Path) -> None:
    backend: Any = Backend()
    task: Any = Task(" lungs-ct\n", tmp_path)
    assert InferenceClient(backend, timeout=7).post_task(task) == "uid"
    assert backend.asked == [("lungs-ct", b"archive", 7)]
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_name_is_told_before_anything_is_packed(tmp_path: Path) -> None:
    backend: Any = Backend()
    task: Any = Task(" ", tmp_path)
    with pytest.raises(SettingsError, match="no model"):
        InferenceClient(backend).post_task(task)
    assert backend.asked == []


@pytest.mark.parametrize(("given", "used"), [(0, 1.0), (-5, 1.0), (30, 30.0)])
def test_an_interval_is_at_least_a_second(given: int, used: float) -> None:
    backend: Any = Backend(DeadlineError("late"))
    with pytest.raises(DeadlineError):
        InferenceClient(backend, timeout=9, interval=given).get_task(" uid\n")
    assert backend.asked == [("uid", 9, used)]


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_time_limit_that_makes_no_sense(timeout: int) -> None:
    backend: Any = Backend()
    with pytest.raises(SettingsError, match=f"timeout_sec is {timeout}"):
        InferenceClient(backend, timeout=timeout)


@pytest.mark.parametrize(("answer", "kind"), [(DeadlineError("late"), DeadlineError), (b"nonsense", ArchiveError), (KeyError(), KeyError)])
def test_nothing_is_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, kind: type[Exception]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    backend: Any = Backend(answer)
    with pytest.raises(kind):
        InferenceClient(backend).get_task("uid")
    assert list(tmp_path.iterdir()) == []
