"""Settings: the variable that is wrong is named, with what it wants."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from workers.settings import Settings, SettingsError, load_settings, variable_name


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("RECOURSE_DATABASE_URL", "mysql://x/y", "wants postgresql://user:password@host:port/database"),
        ("RECOURSE_DATABASE_URL", "postgresql://host", "wants postgresql://user:password@host:port/database"),
        ("RECOURSE_API_PORT", "many", "should be a valid integer"),
        ("RECOURSE_API_PORT", "70000", "should be less than or equal to 65535"),
        ("RECOURSE_ENGINE_GRPC", "http://engine:26500", "wants host:port"),
        ("RECOURSE_ENGINE_REST", "engine:8080", "wants http(s)://host"),
        ("RECOURSE_KAFKA_BOOTSTRAP", "one:9092,two", "wants host:port"),
        ("RECOURSE_SYSTEMS", "{", "wants JSON"),
        ("RECOURSE_SYSTEMS", '{"billing": {"url": "billing"}}', "wants http(s)://host"),
        ("RECOURSE_SYSTEMS", '{"billing": {"uri": "http://billing"}}', "Field required"),
        ("RECOURSE_LOG_LEVEL", "loud", "should be 'debug', 'info', 'warning' or 'error'"),
        ("RECOURSE_WINDOW", "0", "should be greater than or equal to 1"),
        ("RECOURSE_HEARTBEAT", "soon", "should be a valid timedelta"),
    ],
)
def test_a_wrong_value_is_told_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    name, message = next(iter(caught.value.problems.items()))
    assert name.startswith(variable)
    assert wanted in message


@pytest.mark.parametrize(
    ("told", "name", "wanted"),
    [
        ({"CA_FILE": "/nowhere.pem"}, "CA_FILE", "cannot be read: No such file"),
        ({"CA_FILE": __file__}, "CA_FILE", "is not a PEM file"),
        ({"DATABASE_URL": "postgresql://a:b@db/x?sslmode=always"}, "DATABASE_URL", "sslmode wants"),
        ({"DATABASE_URL": "postgresql://a:b@db/x?sslmode=verify-full"}, "DATABASE_URL", "sslrootcert is needed"),
        ({"RELAY_DATABASE_URL": "postgresql://a:b@db/x?sslmode=verify-ca&sslrootcert=/no"}, "RELAY_DATABASE_URL",
         "sslrootcert cannot be read"),
        ({"KAFKA_SECURITY": "TLS"}, "KAFKA_SECURITY", "should be 'PLAINTEXT', 'SSL'"),
        ({"KAFKA_SECURITY": "SASL_SSL", "KAFKA_USERNAME": "relay"}, "KAFKA_PASSWORD", "is needed for SASL_SSL"),
        ({"KAFKA_PASSWORD": "x"}, "KAFKA_SECURITY", "wants SASL_SSL beside RECOURSE_KAFKA_PASSWORD"),
        ({"KAFKA_CERT_FILE": __file__}, "KAFKA_CERT_FILE", "goes with RECOURSE_KAFKA_KEY_FILE only"),
        ({"ENGINE_CLIENT_ID": "x", "ENGINE_TLS": "true", "ENGINE_TOKEN_URL": "https://id/token"},
         "ENGINE_CLIENT_SECRET", "is needed beside RECOURSE_ENGINE_CLIENT_ID"),
        ({"ENGINE_CLIENT_ID": "x", "ENGINE_CLIENT_SECRET": "x", "ENGINE_TOKEN_URL": "https://id/token"},
         "ENGINE_TLS", "must not travel in the clear"),
        ({"ENGINE_CLIENT_ID": "x", "ENGINE_CLIENT_SECRET": "x", "ENGINE_TOKEN_URL": "http://id/token"},
         "ENGINE_TOKEN_URL", "wants https"),
        ({"ENGINE_CLIENT_ID": "x", "ENGINE_REST": "http://camunda:8080"}, "ENGINE_REST", "wants https"),
        ({"ENGINE_TLS": "perhaps"}, "ENGINE_TLS", "should be a valid boolean"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other_stop_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], name: str, wanted: str
) -> None:
    for variable, value in told.items():
        monkeypatch.setenv(f"RECOURSE_{variable}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert wanted in caught.value.problems[f"RECOURSE_{name}"]


def test_every_missing_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("database_url", "engine_grpc"):
        monkeypatch.delenv(variable_name(field), raising=False)
    with pytest.raises(SettingsError) as caught:
        load_settings("database_url", "engine_grpc", "audience")
    assert str(caught.value) == "RECOURSE_DATABASE_URL: is not set\nRECOURSE_ENGINE_GRPC: is not set"


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://recourse_app:secret@db/recourse\n")
    (tmp_path / "systems").write_text('{"*": {"url": "http://outside/", "secret": "s"}}')
    monkeypatch.delenv("RECOURSE_DATABASE_URL", raising=False)
    monkeypatch.setenv("RECOURSE_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("RECOURSE_SYSTEMS_FILE", str(tmp_path / "systems"))
    settings = load_settings("database_url", "systems")
    assert settings.database_url == "postgresql://recourse_app:secret@db/recourse"
    assert settings.systems["*"].url == "http://outside"
    monkeypatch.setenv("RECOURSE_DATABASE_URL_FILE", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match="RECOURSE_DATABASE_URL_FILE: cannot be read"):
        load_settings()


def test_secrets_are_not_shown_when_settings_are() -> None:
    settings = Settings.model_validate(
        {
            "database_url": "postgresql://a:hush@db/x",
            "systems": {"*": {"url": "http://x", "secret": "hush"}},
            "kafka_password": "hush",
            "engine_client_secret": "hush",
        }
    )
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)


def test_what_follows_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOURSE_HEARTBEAT", "PT10M")
    monkeypatch.setenv("RECOURSE_ISSUER", "https://login.example/")
    settings = load_settings()
    assert settings.heartbeat == timedelta(minutes=10)
    assert settings.keys_url == "https://login.example/.well-known/jwks.json"
    assert settings.base_url == "http://127.0.0.1:8080"
