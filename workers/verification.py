"""`recourse verify`: every invariant over the live data, and who breaks it. It must never call anything sound that it
did not look at, and says what it cannot see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from domain.audit import Walk
from domain.store.verify import AT_REST, BEYOND, CHAINS, CHECKS, STANDING, Auditor, Check, Offence, open_auditor
from workers.relay.run import KEEP

# What is looked at now, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and the first rows that break it. more: there are others."""

    check: Check
    offences: tuple[Offence, ...]
    more: bool
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.offences

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.check.rule,
            "name": self.check.name,
            "says": self.check.says,
            "holds": self.holds,
            "offences": [
                {
                    "tenantId": str(offence.tenant_id),
                    "orderId": str(offence.order_id) if offence.order_id else None,
                    "entity": offence.entity,
                    "entityId": offence.entity_id,
                    "problem": offence.problem,
                }
                for offence in self.offences
            ],
            "more": self.more,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and how many audit entries were recomputed."""

    findings: tuple[Finding, ...]
    entries: int

    @property
    def valid(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "entries": self.entries,
            "checks": [finding.to_json() for finding in self.findings],
            "beyond": dict(BEYOND),
        }

    def to_text(self) -> str:
        """One line per check, those who break it beneath, and what rows cannot show at the end."""
        lines: list[str] = []
        for finding in self.findings:
            mark = "holds " if finding.holds else "BROKEN"
            lines.append(f"{mark}  {finding.check.rule:<9} {finding.check.says}  ({finding.seconds:.1f} s)")
            for offence in finding.offences:
                where = f"order {offence.order_id} " if offence.order_id else ""
                lines.append(f"          {where}{offence.entity} {offence.entity_id}: {offence.problem}")
            if finding.more:
                lines.append("          … and more (--limit)")
        lines += ["", "Rows alone do not show:"]
        lines += [f"          {rule:<9} {what}" for rule, what in BEYOND.items()]
        broken = sum(not finding.holds for finding in self.findings)
        verdict = f"{broken} of {len(self.findings)} checks are broken" if broken else "everything holds"
        return "\n".join([*lines, "", f"{verdict}; {self.entries} audit entries recomputed"])


async def verify(
    auditor_url: str,
    *,
    tenant_id: UUID | None = None,
    limit: int = 20,
    at_rest: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run every check, and recompute every chain beside them, in one snapshot.

    limit: offences told per check · at_rest: also that nothing is stuck, which is true only once faults and load have
    stopped. Raises NotAnAuditorError, OSError or asyncpg.PostgresError as `open_auditor`.
    """
    say = progress or (lambda *_: None)
    async with (
        open_auditor(auditor_url, tenant_id=tenant_id, limit=limit + 1) as auditor,
        open_auditor(auditor_url, tenant_id=tenant_id, limit=limit + 1, beside=auditor) as walker,
    ):
        # Chains are recomputed here while the server is busy with the checks: each takes about half of the time.
        walking = asyncio.create_task(_walk(walker, limit, say))
        try:
            findings = await _ask(auditor, (*CHECKS, AT_REST) if at_rest else CHECKS, limit, say)
            entries, chains = await walking
        finally:
            walking.cancel()
            await asyncio.wait([walking])
    return Report((*findings, chains), entries)


async def _ask(auditor: Auditor, checks: Sequence[Check], limit: int, say: Progress) -> list[Finding]:
    findings: list[Finding] = []
    for number, check in enumerate((*checks, STANDING)):
        say(check.says, number, len(checks) + 1)
        started = time.monotonic()
        found = auditor.find_misstated() if check is STANDING else auditor.find_offences(check, keep=KEEP["kafka"])
        findings.append(_finding(check, await found, limit, started))
    return findings


async def _walk(auditor: Auditor, limit: int, say: Progress) -> tuple[int, Finding]:
    started = time.monotonic()
    total = await auditor.count_entries()
    walk = Walk()
    found: list[Offence] = []
    async for broken in auditor.walk_chains(walk):
        say(CHAINS.says, walk.entries, total)
        if broken is not None:
            problem = f"first broken link: audit {broken.sequence}"
            found.append(Offence(broken.tenant_id, broken.order_id, "ORDER", str(broken.order_id), problem))
            if len(found) > limit:
                break
    return walk.entries, _finding(CHAINS, found, limit, started)


@contextmanager
def show_progress(*, visible: bool) -> Iterator[Progress]:
    """Two bars on standard error, where a person is looking: the checks one by one, and the chains beside them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not visible) as bar:
        bars = {chains: bar.add_task("") for chains in (False, True)}
        yield lambda what, done, total: bar.update(
            bars[what == CHAINS.says], description=what, completed=done, total=total
        )


def _finding(check: Check, offences: Iterable[Offence], limit: int, started: float) -> Finding:
    found = tuple(offences)
    return Finding(check, found[:limit], len(found) > limit, time.monotonic() - started)
