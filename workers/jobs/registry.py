"""Every job type of the product and its handler, in one list; it must never be filled by imports elsewhere."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from workers.jobs import changes, people
from workers.jobs.effects import effect_job, verify_job
from workers.jobs.job import JobSpec

BOXES: Final[tuple[JobSpec, ...]] = (
    changes.validate_order,
    changes.check_start_date,
    changes.decompose_order,
    changes.release_tasks,
    changes.begin_assessment,
    changes.assess_cancellation,
    changes.plan_compensation,
    changes.assess_amendment,
    changes.apply_amendment,
    changes.raise_jeopardy,
    people.record_decision,
    people.record_repair,
)


# Without any policy there is nobody to ask; the box has its handler all the same.
_SOME_CALL: Final = timedelta(seconds=10)


def handlers(calls: Mapping[str, timedelta] = MappingProxyType({})) -> dict[str, JobSpec]:
    """Job type → its row: the boxes of the models, and one `effect-<system>` per system of `calls`, whose value is the
    longest call that any task type makes there."""
    longest = max(calls.values(), default=_SOME_CALL)
    specs = (*BOXES, verify_job(longest), *(effect_job(system, call) for system, call in sorted(calls.items())))
    return {spec.job_type: spec for spec in specs}
