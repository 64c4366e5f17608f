from __future__ import annotations

from pathlib import Path

import pytest

from delineate.errors import InputError, SettingsError
from delineate.server.service import Service, priority_of
from delineate.server.settings import Settings, is_loopback


def test_precedence_is_argument_environment_file_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'port = 1\nworkers = 2\nhost = "::1"\nmodels = ["a", "b"]\n[tokens]\nward = "s3cret"\n[runners.container]\nengine = "podman"\n'
    )
    environment = {"DELINEATE_PORT": "3", "DELINEATE_WORKERS": "4"}
    settings = Settings.load(file, environment, workers=5, host=None)
    assert (settings.port, settings.workers, settings.host, settings.log_level) == (3, 5, "::1", "info")
    assert settings.models == (Path("a"), Path("b"))
    assert settings.named_tokens == {"ward": "s3cret"}
    assert settings.runners == {"container": {"engine": "podman"}}


def test_the_file_is_named_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("port = 7\n")
    assert Settings.load(environment={"DELINEATE_SETTINGS": str(file)}).port == 7


def test_environment_values_are_converted() -> None:
    environment = {
        "DELINEATE_SYNC": "no", "DELINEATE_GRACE": "2.5", "DELINEATE_MODELS": "/m:/n", "DELINEATE_TOKENS": "a=1,b=2",
        "DELINEATE_TRUSTED_PROXIES": "10.0.0.0/8, ::1", "DELINEATE_STUDIES": "", "DELINEATE_DATA": "/data",
    }  # fmt: skip
    settings = Settings.load(environment=environment)
    assert settings.sync is False
    assert settings.grace == 2.5
    assert settings.models == (Path("/m"), Path("/n"))
    assert settings.tokens == {"a": "1", "b": "2"}
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.studies is None
    assert settings.database_url == "sqlite:////data/delineate.db"


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"port": "http"}, "port"), ({"port": 70000}, "port"), ({"workers": -1}, "workers"), ({"workers": 1.5}, "workers"),
        ({"log_level": "loud"}, "log_level"), ({"tls_key": "k.pem"}, "tls_certificate"), ({"root_path": "/a?b"}, "root_path"),
        ({"cors_origins": ["viewer"]}, "cors_origins"), ({"trusted_proxies": ["proxy"]}, "trusted_proxies"),
        ({"sync": "perhaps"}, "sync"), ({"tokens": {"a": ""}}, "tokens"), ({"max_upload_mb": 0}, "max_upload_mb"),
        ({"colour": 1}, "colour"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(given: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Settings.load(environment={}, **given)


@pytest.mark.parametrize("text", ["port = ", "colour = 1\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        Settings.load(file, {})


def test_a_secret_is_shown_nowhere() -> None:
    assert "hush" not in repr(Settings(token="hush", tokens={"a": "hush"}))
    with pytest.raises(SettingsError) as caught:
        Settings.load(environment={"DELINEATE_TOKENS": "hush"})
    assert "hush" not in caught.value.sentence()


@pytest.mark.parametrize(("given", "normal"), [("", ""), ("/", ""), ("x/y/", "/x/y"), ("/x", "/x")])
def test_root_path_has_one_form(given: str, normal: str) -> None:
    assert Settings(root_path=given).root_path == normal


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("localhost", True), ("LOCALHOST.", True), ("a.localhost", True),
     ("0.0.0.0", False), ("::", False), ("localhost.evil.example", False), ("evil.example", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(("text", "value"), [("", 10), ("batch", 0), ("interactive", 20), ("7", 7), ("20", 20)])
def test_priorities(text: str, value: int) -> None:
    assert priority_of(text) == value


@pytest.mark.parametrize("text", ["21", "-1", "+5", "\u0663", "\uff15", "1_0", "9" * 5000, "Batch", " 5", "5\n"])
def test_what_is_no_priority(text: str) -> None:
    with pytest.raises(InputError, match="is no priority"):
        priority_of(text)


def test_models_that_cannot_be_used_are_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.toml").write_text("name = ")
    service = Service(Settings(data=tmp_path / "data", models=(tmp_path / "models",), sync=False))
    service.prepare()
    service.close()
    assert "a model cannot be used" in caplog.text
    assert "broken/model.toml" in caplog.text
