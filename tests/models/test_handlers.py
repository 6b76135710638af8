"""Every box has a handler and every handler a box; what a handler fetches is what the contract lists."""

from __future__ import annotations

from datetime import timedelta

from tests.models.reading import read_models
from tests.models.test_agreement import FETCHED
from workers.jobs.registry import ALL, handlers


def test_every_box_has_a_handler_and_every_handler_a_box() -> None:
    boxes = {job for model in read_models().values() for job, type_ in model.jobs.items() if type_ == job}
    assert set(handlers()) == boxes


def test_the_one_box_of_effects_has_a_handler_for_each_system() -> None:
    systems = {"inventory": timedelta(seconds=5), "billing": timedelta(seconds=2)}
    assert set(handlers(systems)) - set(handlers()) == {"effect-inventory", "effect-billing"}


def test_every_job_type_is_in_one_family() -> None:
    systems = {"inventory": timedelta(seconds=5)}
    served = [job_type for family in sorted(ALL) for job_type in handlers(systems, {family})]
    assert sorted(served) == sorted(handlers(systems))
    assert {job_type for job_type in handlers(systems, {"effects"}) if "effect" not in job_type} == set()


def test_a_handler_fetches_what_the_contract_lists() -> None:
    for job_type, handler in handlers({"inventory": timedelta(seconds=5)}).items():
        assert handler.job_type == job_type
        assert set(handler.fetch) == FETCHED["effect" if job_type == "effect-inventory" else job_type], job_type
