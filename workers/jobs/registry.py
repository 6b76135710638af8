"""Every job type of the product and its handler, in one list; it must never be filled by imports elsewhere."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from workers.jobs import changes, people
from workers.jobs.effects import effect_job, verify_job
from workers.jobs.job import JobSpec

# Which job types fall ill, are scaled and are allowed to reach the world together. `effects` alone calls outside
# systems, and so it alone needs their addresses and secrets.
EFFECTS: Final = "effects"
FAMILIES: Final[Mapping[str, tuple[JobSpec, ...]]] = MappingProxyType(
    {
        "orders": (changes.validate_order, changes.check_start_date, changes.decompose_order, changes.release_tasks),
        "changes": (
            changes.begin_assessment,
            changes.assess_cancellation,
            changes.plan_compensation,
            changes.assess_amendment,
            changes.apply_amendment,
            changes.follow_cancellation,
            changes.raise_jeopardy,
        ),
        "people": (people.record_decision, people.offer_case, people.record_repair),
        EFFECTS: (),
    }
)
ALL: Final = frozenset(FAMILIES)


# Without any policy there is nobody to ask; the box has its handler all the same.
_SOME_CALL: Final = timedelta(seconds=10)


def handlers(
    calls: Mapping[str, timedelta] = MappingProxyType({}), families: Collection[str] = ALL
) -> dict[str, JobSpec]:
    """Job type → its row: the boxes of the models, and one `effect-<system>` per system of `calls`, whose value is the
    longest call that any task type makes there. Only those of the families that are named."""
    specs = [spec for family, boxes in FAMILIES.items() if family in families for spec in boxes]
    if EFFECTS in families:
        longest = max(calls.values(), default=_SOME_CALL)
        specs += [verify_job(longest), *(effect_job(system, call) for system, call in sorted(calls.items()))]
    return {spec.job_type: spec for spec in specs}
