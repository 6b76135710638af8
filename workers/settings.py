"""The settings, one field each, read from RECOURSE_* once at start; nobody else may read the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

PREFIX = "RECOURSE_"

_SSL_MODES = ("prefer", "disable", "allow", "require", "verify-ca", "verify-full")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:(\d{1,5}|\*))?")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what it wants."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{name}: {wanted}" for name, wanted in problems.items()))


def _postgres_url(value: str) -> str:
    parts = urlsplit(value)
    if value and not (parts.scheme in {"postgresql", "postgres"} and parts.hostname and parts.path.strip("/")):
        raise ValueError("wants postgresql://user:password@host:port/database")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if value and not (parts.scheme in {"http", "https"} and parts.hostname):
        raise ValueError("wants http(s)://host[:port][/path]")
    return value.rstrip("/")


def _host_port(value: str) -> str:
    if value and not re.fullmatch(r"[^\s:/,]+:\d{1,5}", value):
        raise ValueError("wants host:port")
    return value


def _host_ports(value: str) -> str:
    for one in value.split(",") if value else ():
        _host_port(one)
    return value


def _origins(value: str) -> str:
    for one in value.split(",") if value else ():
        if not _ORIGIN.fullmatch(one):
            raise ValueError("wants http(s)://host[:port] with commas between; a port of * is any")
    return value


PostgresUrl = Annotated[str, AfterValidator(_postgres_url), Field(repr=False)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HostPort = Annotated[str, AfterValidator(_host_port)]
HostPorts = Annotated[str, AfterValidator(_host_ports)]
Origins = Annotated[str, AfterValidator(_origins)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _default_state_dir() -> Path:
    # PostgreSQL refuses to run as root and root's home is closed to everyone else.
    if os.geteuid() == 0:
        return Path("/var/lib/recourse")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "recourse"


def _default_cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/recourse")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recourse"


class System(BaseModel):
    """Where an outside system answers, and the secret its callbacks are signed with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: HttpUrl
    secret: Annotated[str, Field(repr=False)] = ""


class _SecretFiles(PydanticBaseSettingsSource):
    """RECOURSE_X_FILE names a file that holds RECOURSE_X: how orchestrators hand over secrets."""

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002
        field_name: str,
    ) -> tuple[Any, str, bool]:
        name = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(name)
        if not path or f"{field_name}_file" in self.settings_cls.model_fields:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, field_name == "systems"
        except OSError as error:
            raise SettingsError({name: f"cannot be read: {error.strerror or error}"}) from error

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, is_complex = self.get_field_value(field, name)
            if value is not None:
                found[key] = self.decode_complex_value(name, field, value) if is_complex else value
        return found


class Settings(BaseSettings):
    """All that a process may be told; an empty text means *not given*: `load_settings` knows who needs it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: PostgresUrl = ""
    relay_database_url: PostgresUrl = ""
    auditor_database_url: PostgresUrl = ""
    owner_database_url: PostgresUrl = ""

    kafka_bootstrap: HostPorts = ""
    kafka_topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = "order-changes"

    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: Annotated[str, Field(repr=False)] = ""
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None

    engine_grpc: HostPort = ""
    engine_rest: HttpUrl = ""
    engine_tls: bool = False
    engine_token_url: HttpUrl = ""
    engine_client_id: str = ""
    engine_client_secret: Annotated[str, Field(repr=False)] = ""
    engine_audience: str = ""
    engine_scope: str = ""
    operate_url: HttpUrl = ""
    operate_login: Annotated[str, Field(repr=False)] = ""
    tasklist_url: HttpUrl = ""

    api_host: str = "127.0.0.1"
    api_port: Port = 8080
    public_url: HttpUrl = ""

    simulator_host: str = "127.0.0.1"
    simulator_port: Port = 8090

    health_host: str = "127.0.0.1"
    health_port: Port | None = None

    ca_file: Path | None = None

    systems: Annotated[dict[str, System], Field(repr=False)] = {}

    listeners: Origins = ""
    listener_secret: Annotated[str, Field(repr=False)] = ""

    issuer: HttpUrl = ""
    audience: str = "recourse"
    jwks_url: HttpUrl = ""
    issuer_key_file: Path | None = None
    rate_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 2000

    otlp_endpoint: HttpUrl = ""
    otlp_headers: Annotated[str, Field(repr=False)] = ""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    jobs_at_once: Annotated[int, Field(ge=1, le=1_000)] = 48
    window: Annotated[int, Field(ge=1, le=10_000)] = 50
    heartbeat: Annotated[timedelta, Field(gt=timedelta(0))] = timedelta(minutes=10)
    poll_interval: Annotated[float, Field(gt=0, le=60)] = 0.02
    crash_at: str = ""

    state_dir: Annotated[Path, Field(default_factory=_default_state_dir, validation_alias=f"{PREFIX}HOME")]
    cache: Annotated[Path, Field(default_factory=_default_cache)]

    @property
    def base_url(self) -> str:
        """Where clients reach the API: the public URL, else the address it listens on."""
        return self.public_url or f"http://{self.api_host}:{self.api_port}"

    @property
    def keys_url(self) -> str:
        """Where the issuer's public keys are."""
        return self.jwks_url or f"{self.issuer}/.well-known/jwks.json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)


def variable_name(field: str) -> str:
    """The environment variable that sets a field."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{PREFIX}{field.upper()}"


def load_settings(*needed: str) -> Settings:
    """Read the settings; the fields named in `needed` must have been given.

    Raises SettingsError with every problem found, each under the variable's name.
    """
    try:
        settings = Settings()
    except SourceError as error:
        named = re.search(r'field "(\w+)"', str(error))
        field = named.group(1) if named else "systems"
        raise SettingsError({variable_name(field): "wants JSON"}) from error
    except ValidationError as error:
        raise SettingsError({_named(e["loc"]): _wanted(e["msg"]) for e in error.errors()}) from error
    missing = {variable_name(name): "is not set" for name in needed if not getattr(settings, name)}
    if problems := missing | {variable_name(name): wanted for name, wanted in find_contradictions(settings)}:
        raise SettingsError(problems)
    return settings


def find_contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """(field, what it wants) where one setting does not fit another, or the file that it names."""
    for name in ("ca_file", "kafka_cert_file", "kafka_key_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and (wrong := _unreadable(path, "-----BEGIN")):
            yield name, wrong
    for name in ("database_url", "relay_database_url", "auditor_database_url", "owner_database_url"):
        if wrong := _wrong_tls(getattr(settings, name)):
            yield name, wrong
    if not all("=" in pair for pair in settings.otlp_headers.split(",") if pair):
        yield "otlp_headers", "wants name=value, with commas between"
    yield from _contradictions_of_kafka(settings)
    yield from _contradictions_of_engine(settings)


def _contradictions_of_kafka(settings: Settings) -> Iterator[tuple[str, str]]:
    sasl, tls = settings.kafka_security.startswith("SASL"), settings.kafka_security.endswith("SSL")
    for name in ("kafka_username", "kafka_password"):
        if sasl and not getattr(settings, name):
            yield name, f"is needed for {settings.kafka_security}"
        if not sasl and getattr(settings, name):
            yield "kafka_security", f"wants SASL_SSL beside {variable_name(name)}"
    if (settings.kafka_cert_file is None) != (settings.kafka_key_file is None):
        yield "kafka_cert_file", f"goes with {variable_name('kafka_key_file')} only"
    if settings.kafka_cert_file and not tls:
        yield "kafka_security", f"wants SSL or SASL_SSL beside {variable_name('kafka_cert_file')}"


def _contradictions_of_engine(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.engine_client_id:
        return
    for name in ("engine_client_secret", "engine_token_url"):
        if not getattr(settings, name):
            yield name, f"is needed beside {variable_name('engine_client_id')}"
    if not settings.engine_tls:
        yield "engine_tls", "wants true where a token is sent: it must not travel in the clear"
    for name in ("engine_token_url", "engine_rest"):
        parts = urlsplit(getattr(settings, name))
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            yield name, "wants https where a token or its secret is sent"


def _unreadable(path: Path, begins: str) -> str | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if begins in text else f"{path} is not a PEM file"


def _wrong_tls(url: str) -> str | None:
    """PostgreSQL takes its TLS from the address: `?sslmode=verify-full&sslrootcert=/path`."""
    told = dict(parse_qsl(urlsplit(url).query))
    mode = told.get("sslmode", _SSL_MODES[0])
    if mode not in _SSL_MODES:
        return f"sslmode wants {', '.join(_SSL_MODES)}"
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if name in told and (wrong := _unreadable(Path(told[name]), "-----BEGIN")):
            return f"{name} {wrong}"
    if mode.startswith("verify") and "sslrootcert" not in told:
        return f"sslrootcert is needed for sslmode={mode}"
    return None


def _named(location: tuple[int | str, ...]) -> str:
    first, *rest = (str(part) for part in location)
    head = first if first.startswith(PREFIX) else variable_name(first)
    return ".".join([head, *rest])


def _wanted(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Input ")
