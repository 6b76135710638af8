"""Writes the parts of the documentation that follow from the code: charts of the machines, the table of settings. It
must never be told anything by hand that the code knows.

`python -m workers.handbook`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic_core import PydanticUndefined

from domain.machines import MACHINES
from workers.charts import draw_all, draw_chart
from workers.settings import Settings, variable_name

ROOT: Final = Path(__file__).resolve().parents[1]

_BLOCK: Final = re.compile(r"(<!-- settings: [^\n]*-->\n).*?(<!-- /settings -->)", re.DOTALL)

# What each setting is for, and which processes cannot start without it.
_MEANING: Final[Mapping[str, str]] = {
    "database_url": "PostgreSQL as the application's role: api, workers, reconciler",
    "relay_database_url": "the same database as the relay's role: relay",
    "auditor_database_url": "the same as the role that reads all tenants: workers, reconciler, `verify`, `audit`",
    "owner_database_url": "the same as the owner, who may create tables and roles: `migrate` only",
    "kafka_bootstrap": "brokers, `host:port` with commas between: relay",
    "kafka_topic": "where events go",
    "kafka_security": "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`",
    "kafka_mechanism": "`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`, where SASL is",
    "kafka_username": "who the relay is to Kafka, where SASL is",
    "kafka_password": "its password",
    "kafka_cert_file": "the relay's own certificate, PEM, where brokers ask for one",
    "kafka_key_file": "its private key, PEM",
    "engine_grpc": "Camunda's gRPC gateway, `host:port`: workers, relay, reconciler, `models deploy`",
    "engine_rest": "Camunda's REST address: who completed a user task",
    "engine_tls": "`true`: the engine's gRPC over TLS; its REST is over TLS where its address says https",
    "engine_token_url": "where tokens for the engine are had, by OAuth 2 client credentials",
    "engine_client_id": "who we are there; left out: no token is sent",
    "engine_client_secret": "its secret",
    "engine_audience": "what the token is for, where the authorization server wants to know",
    "engine_scope": "the same, in its other way of asking",
    "operate_url": "Operate's address, for links to the flows of an order: api",
    "operate_login": "user:password for Operate, to ask whose a strange incident is on an engine of 8.6: reconcile",
    "tasklist_url": "Tasklist's address, for links to what waits for a person: api",
    "api_host": "where the API listens",
    "api_port": "where the API listens",
    "public_url": "the API as clients and outside systems reach it; left out: where it listens",
    "simulator_host": "where the simulator listens",
    "simulator_port": "where the simulator listens",
    "health_host": "where the other processes answer `/healthz`, `/readyz` and `/metrics`",
    "health_port": "the same; left out: nowhere",
    "ca_file": "certificates that are believed besides the public ones, PEM: issuer, outside systems, engine, Kafka",
    "systems": 'the outside systems, JSON: `{"billing": {"url": "http://…", "secret": "…"}}`; `"*"` is the default',
    "listeners": "who may be [told of orders](docs/tmf622.md#being-told), `https://host[:port]` with commas between; "
    "port `*` is any: api, `worker effects`",
    "listener_secret": "what notifications are signed with; left out: they are not signed",
    "issuer": "who signs the tokens, as their `iss` says: api",
    "audience": "whom they are for, as their `aud` says",
    "jwks_url": "the issuer's keys; left out: `{issuer}/.well-known/jwks.json`",
    "issuer_key_file": "private key of a local issuer, whose keys the API serves; not beside an identity provider",
    "rate_limit": "requests a second that one tenant may send to one API process, twice as many at once; more: 429",
    "otlp_endpoint": "where spans go, OTLP over HTTP: `http://collector:4318`; left out: none are made",
    "otlp_headers": "what is sent along with them, `name=value` with commas between: a key of the receiver",
    "trace_ratio": "the part of all traces that is recorded, where the caller has not decided: 0 to 1",
    "log_level": "`debug`, `info`, `warning` or `error`",
    "log_format": "`json` or `console`",
    "jobs_at_once": "jobs that one worker process has at work; over all processes about 64 per partition of the engine",
    "window": "tasks of one plan in flight at once; fixed at 50 for now",
    "heartbeat": "the flows' heartbeat, as the reconciler knows it: one and a half of it without a sign is silence",
    "poll_interval": "seconds between two looks of the relay into an empty outbox",
    "crash_at": "a named point at which the process kills itself, for fault experiments",
    "state_dir": "data, ports, secrets and logs of an embedded stack",
    "cache": "downloaded parts",
}
# Defaults that depend on the machine.
_DEFAULTS: Final[Mapping[str, str]] = {
    "state_dir": "`~/.local/share/recourse`, for root `/var/lib/recourse`",
    "cache": "`~/.cache/recourse`, for root `/var/cache/recourse`",
}


def write_settings(readme: str) -> str:
    """A README with its table of settings as the code has it. Raises ValueError where it has no place for one."""
    rows = "".join(
        f"| `{variable_name(name)}` | {_default(name)} | {_MEANING[name]} |\n" for name in Settings.model_fields
    )
    table = f"\n| variable | default | what it is |\n|---|---|---|\n{rows}\n"
    written, places = _BLOCK.subn(lambda found: found[1] + table + found[2], readme)
    if places != 1:
        raise ValueError("the README has no block of settings, or more than one")
    return written


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    if name in _DEFAULTS:
        return _DEFAULTS[name]
    if isinstance(default, timedelta):
        return f"`PT{int(default.total_seconds()) // 60}M`"
    if default in ("", None, {}) or default is PydanticUndefined:
        return ""
    return f"`{default}`"


def draw_pages() -> dict[str, str]:
    """Path below the project → what stands there."""
    charts = {f"docs/pictures/states-{entity.lower().replace('_', '-')}.svg": draw_chart(entity) for entity in MACHINES}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return {**charts, "docs/states.svg": draw_all(), "README.md": write_settings(readme)}


if __name__ == "__main__":
    for path, text in draw_pages().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
