"""Every box has a handler and every handler a box; what a handler fetches is what the contract lists."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tests.models.reading import read_models
from tests.models.test_agreement import FETCHED


def handlers() -> dict[str, Any]:
    found: dict[str, Any] = dict(import_module("workers.jobs.registry").handlers())
    return found


def test_every_box_has_a_handler_and_every_handler_a_box() -> None:
    boxes = {job for model in read_models().values() for job, type_ in model.jobs.items() if type_ == job}
    # the types of effects come from the policy: effect-<system>, one box for all
    ours = {job_type for job_type in handlers() if not job_type.startswith("effect")}
    assert ours == boxes


def test_a_handler_fetches_what_the_contract_lists_and_never_everything() -> None:
    for job_type, handler in handlers().items():
        assert handler.job_type == job_type
        expected = FETCHED["effect" if job_type.startswith("effect") else job_type]
        assert set(handler.fetch) == expected, job_type
        assert handler.fetch, f"{job_type}: an empty list fetches every variable of the flow"
