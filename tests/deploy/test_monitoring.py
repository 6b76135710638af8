"""Alerts, dashboard and scaling speak of metrics that the code has; each alert fires over a series that it is for, and
stays silent over one that it is not for, in Prometheus' own evaluator."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry, Enum

import workers
from tests.deploy.processes import ROOT
from tests.deploy.tools import KUBERNETES, find_promtool, render
from workers.api.edge import Meters

OBJECTS = render(KUBERNETES / "overlays/production")
DASHBOARD = json.loads((KUBERNETES / "monitoring/dashboard.json").read_text(encoding="utf-8"))
(RULES,) = [found["spec"] for found in OBJECTS if found["kind"] == "PrometheusRule"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
RUNBOOKS = ROOT / "docs/runbooks"

SCALERS = [
    trigger["metadata"]["query"]
    for found in OBJECTS
    if found["kind"] == "ScaledObject"
    for trigger in found["spec"]["triggers"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SHOWN = [target["expr"] for panel in PANELS for target in panel["targets"]]

# One sample a minute for an hour: (series, values) that fire the alert, and those that must not. `a+bxn` begins with a
# and grows by b. Time begins at 0, so `time()` is the minute's number times 60.
Series = dict[str, str]
TABLE: dict[str, tuple[Series, Series]] = {
    "RecourseEventsLate": (
        {'recourse_waiting_seconds{kind="events"}': "0+60x60"},
        {
            'recourse_waiting_seconds{kind="events"}': "0 90 0 0x57",
            'recourse_waiting_seconds{kind="messages"}': "900x60",
        },
    ),
    "RecourseWakeUpsLate": (
        {'recourse_waiting_seconds{kind="messages"}': "0+60x60"},
        {'recourse_waiting_seconds{kind="messages"}': "5x60", 'recourse_waiting_seconds{kind="events"}': "900x60"},
    ),
    "RecourseRowsParked": (
        {'recourse_waiting{kind="parked_events"}': "0x30 1x30"},
        {'recourse_waiting{kind="parked_events"}': "0x60", 'recourse_waiting{kind="events"}': "9x60"},
    ),
    "RecourseRelayWithoutLead": (
        {
            'recourse_relay_leads{sink="kafka",pod="a"}': "1x30 0x30",
            'recourse_relay_leads{sink="kafka",pod="b"}': "0x60",
            'recourse_relay_leads{sink="engine",pod="b"}': "1x60",
        },
        {
            # One leads, the other stands by; then they change places.
            'recourse_relay_leads{sink="kafka",pod="a"}': "1x30 0x30",
            'recourse_relay_leads{sink="kafka",pod="b"}': "0x30 1x30",
        },
    ),
    "RecourseNotReady": (
        {'recourse_ready{app_kubernetes_io_component="worker-effects",pod="a"}': "1x30 0x30"},
        {'recourse_ready{app_kubernetes_io_component="worker-effects",pod="a"}': "1x20 0x3 1x37"},
    ),
    "RecourseJobTypeUnserved": (
        {'recourse_jobs_polled_at{job_type="effect-billing",pod="a"}': "0+60x20 1200x40"},
        {
            # One of two pods is gone; the other polls.
            'recourse_jobs_polled_at{job_type="effect-billing",pod="a"}': "0+60x20 1200x40",
            'recourse_jobs_polled_at{job_type="effect-billing",pod="b"}': "0+60x60",
        },
    ),
    "RecourseJobsStuck": (
        {'recourse_jobs_finished_total{job_type="effect-billing",reply="stuck"}': "0x50 1x10"},
        {'recourse_jobs_finished_total{job_type="effect-billing",reply="stuck"}': "7x60"},
    ),
    "RecourseJobsFail": (
        {
            'recourse_jobs_finished_total{job_type="effect-billing",reply="again"}': "0+30x60",
            'recourse_jobs_finished_total{job_type="effect-billing",reply="done"}': "0+60x60",
        },
        {
            'recourse_jobs_finished_total{job_type="effect-billing",reply="again"}': "0+3x60",
            'recourse_jobs_finished_total{job_type="effect-billing",reply="done"}': "0+60x60",
        },
    ),
    "RecourseWorkersSaturated": (
        {
            'recourse_jobs_at_work{app_kubernetes_io_component="worker-effects",job_type="a",pod="a"}': "16x60",
            'recourse_jobs_places{app_kubernetes_io_component="worker-effects",job_type="a",pod="a"}': "16x60",
        },
        {
            # The same work with a second pod beside it.
            'recourse_jobs_at_work{app_kubernetes_io_component="worker-effects",job_type="a",pod="a"}': "16x60",
            'recourse_jobs_places{app_kubernetes_io_component="worker-effects",job_type="a",pod="a"}': "16x60",
            'recourse_jobs_at_work{app_kubernetes_io_component="worker-effects",job_type="a",pod="b"}': "0x60",
            'recourse_jobs_places{app_kubernetes_io_component="worker-effects",job_type="a",pod="b"}': "16x60",
        },
    ),
    "RecourseTasksPile": (
        {'recourse_waiting{kind="tasks"}': "0+100x60"},
        {'recourse_waiting{kind="tasks"}': "0x20 1500x5 40x35", 'recourse_waiting{kind="events"}': "9000x60"},
    ),
    "RecourseEnginePushesBack": (
        {"recourse_engine_pushed_back_total": "0+600x60"},
        {"recourse_engine_pushed_back_total": "0+30x60"},
    ),
    "RecourseApiErrors": (
        {
            'recourse_http_requests_total{method="POST",route="/orders",status="202"}': "0+900x60",
            'recourse_http_requests_total{method="POST",route="/orders",status="503"}': "0+100x60",
        },
        {
            'recourse_http_requests_total{method="POST",route="/orders",status="202"}': "0+900x60",
            'recourse_http_requests_total{method="POST",route="/orders",status="409"}': "0+300x60",
            'recourse_http_requests_total{method="POST",route="/orders",status="503"}': "0+1x60",
        },
    ),
    "RecourseApiSlow": (
        {
            'recourse_http_request_seconds_bucket{method="POST",le="1.0"}': "0+90x60",
            'recourse_http_request_seconds_bucket{method="POST",le="2.0"}': "0+100x60",
            'recourse_http_request_seconds_bucket{method="POST",le="+Inf"}': "0+100x60",
        },
        {
            'recourse_http_request_seconds_bucket{method="POST",le="0.5"}': "0+100x60",
            'recourse_http_request_seconds_bucket{method="POST",le="+Inf"}': "0+100x60",
            # A long list may take long.
            'recourse_http_request_seconds_bucket{method="GET",le="1.0"}': "0x60",
            'recourse_http_request_seconds_bucket{method="GET",le="5.0"}': "0+100x60",
            'recourse_http_request_seconds_bucket{method="GET",le="+Inf"}': "0+100x60",
        },
    ),
    "RecourseTenantLimited": (
        {'recourse_http_requests_total{method="GET",route="/orders",status="429"}': "0+600x60"},
        {'recourse_http_requests_total{method="GET",route="/orders",status="429"}': "0+60x60"},
    ),
    "RecourseFindingsStand": (
        {'recourse_findings{klass="LATE_EFFECT"}': "0x10 1x50"},
        # Found, mended, and found again elsewhere.
        {'recourse_findings{klass="READY_NOT_CLAIMED"}': "0x10 3x10 0x20 2x20"},
    ),
    "RecourseFlowsRestarted": (
        {"recourse_restarts_total": "0x10 0+2x50"},
        {"recourse_restarts_total": "0x10 4x50"},
    ),
    "RecourseReconcilerSilent": (
        {'recourse_swept_at{pod="a"}': "0+60x20 1200x40", 'recourse_swept_at{pod="b"}': "0x60"},
        # The first is lost, the second takes over.
        {'recourse_swept_at{pod="a"}': "0+60x30 0x30", 'recourse_swept_at{pod="b"}': "0x30 1860+60x29"},
    ),
    "RecourseCasesOverdue": (
        {'recourse_waiting{kind="overdue_cases"}': "0x30 1x30"},
        {'recourse_waiting{kind="overdue_cases"}': "0x60", 'recourse_waiting{kind="cases"}': "40x60"},
    ),
}
# Nothing scraped at all: these must see the silence itself.
BLIND = {"RecourseRelayWithoutLead", "RecourseReconcilerSilent"}


def evaluate(folder: Path, tests: list[dict[str, Any]]) -> str:
    """What promtool says of rules and tests; empty when all hold."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES), encoding="utf-8")
    for one in tests:
        one["interval"] = "1m"
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    done = subprocess.run(
        [find_promtool(), "test", "rules", "tests.yaml"],
        cwd=folder, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


def expecting(alert: str, series: Series, *, fires: bool) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    return {
        "name": f"{alert} {'fires' if fires else 'is silent'}",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": "55m", "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
        ],
    }


def test_every_alert_is_in_the_table() -> None:
    assert set(TABLE) == set(ALERTS)


@pytest.mark.timeout(1800)  # where promtool has to be built
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = [
        expecting(alert, series, fires=fires)
        for alert, both in TABLE.items()
        for fires, series in zip((True, False), both, strict=True)
    ]
    silence = [expecting(alert, {"up": "1x60"}, fires=alert in BLIND) for alert in ALERTS]
    assert evaluate(tmp_path, [*tests, *silence]) == ""
    # The evaluator would say so if it were otherwise.
    said = evaluate(tmp_path, [expecting(alert, both[0], fires=False) for alert, both in TABLE.items()])
    assert said.count("FAILED") >= 1
    assert all(alert in said for alert in ALERTS)


def test_every_expression_can_be_read(tmp_path: Path) -> None:
    """Those of the dashboard and of the scalers, too."""
    expressions = [*SHOWN, *SCALERS]
    rules = [
        {"record": f"check:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(expressions)
    ]
    file = tmp_path / "shown.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(
        [find_promtool(), "check", "rules", file], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def registered() -> dict[str, set[str]]:
    """Every metric that our code registers → its labels."""
    for module in pkgutil.walk_packages(workers.__path__, "workers."):
        if not module.name.startswith("workers._"):
            importlib.import_module(module.name)
    own = CollectorRegistry()
    Meters(own)
    found: dict[str, set[str]] = {"process_resident_memory_bytes": set()}
    for registry in (REGISTRY, own):
        for name, collector in registry._names_to_collectors.items():
            if name.startswith("recourse_"):
                found[name] = set(collector._labelnames)  # type: ignore[attr-defined]
                if isinstance(collector, Enum):
                    found[name].add(name)  # its state
    return found


# Labels that come from the scrape, not from the code.
SCRAPED = {"app_kubernetes_io_component", "pod"}


def test_every_metric_named_is_one_of_ours_with_its_labels() -> None:
    known = registered()
    expressions = [*SHOWN, *SCALERS, *(rule["expr"] for rule in ALERTS.values())]
    named: set[str] = set()
    for expression in expressions:
        for name, _, labels in re.findall(r"\b((?:recourse|process)_[a-z_]+)(\{([^}]*)\})?", expression):
            assert name in known, expression
            asked = set(re.findall(r"(\w+)\s*=~?", labels))
            assert asked <= known[name] | SCRAPED | {"le"}, expression
            named.add(name)
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            every = {label for name in re.findall(r"\brecourse_[a-z_]+", expression) for label in known[name]}
            assert set(re.split(r",\s*", grouped)) <= every | SCRAPED | {"le"}, expression
    unseen = {name for name in known if not name.endswith(("_created", "_bucket", "_sum", "_count"))} - named
    # A counter is also known by its name without `_total`, a histogram by its name without `_bucket`.
    assert {name for name in unseen if not {f"{name}_total", f"{name}_bucket"} & named} == set()


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on each other"
    assert max(x for x, _ in cells) < 24
    (variable,) = DASHBOARD["templating"]["list"]
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    (delivered,) = [found for found in OBJECTS if found["metadata"]["name"] == "recourse-dashboard"]
    assert json.loads(delivered["data"]["recourse.json"]) == DASHBOARD


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == set(ALERTS)
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/{name}")
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert f"({name}.md)" in index
        page = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {name}\n")
        assert rule["annotations"]["summary"] in page
        for part in ("**What it means.**", "**Look.**", "**Do.**", "**Meanwhile.**"):
            assert part in page, (name, part)
