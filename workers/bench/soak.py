"""Small load with faults, for as long as one likes, on the running stack: nothing acknowledged is lost, nothing happens
twice, memory stays flat, nothing is left lying. It must never touch another tenant's orders."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx

from domain.store.measuring import count_leftovers, count_rows_of, read_size
from domain.store.pool import Pool, open_pool
from workers.bench.harness import machine_facts
from workers.local.home import Home
from workers.local.issuer import mint_token
from workers.local.status import read_status
from workers.local.supervisor import find_children
from workers.settings import Settings
from workers.verification import verify

KILLED: Final = ("workers", "relay", "api", "reconciler", "postgres")
_WATCHED: Final = ("api", "workers", "relay", "reconciler")
_FAULTS: Final = ("lose-answer", "error-before", "error-after", "answer-twice", "delay", "accept")

# People besides the one who orders and cancels. What no load may decide by itself is theirs: a call that is given up is
# a case, and a shipment that could not be called off is a review.
_AGENT: Final = "soak"
_APPROVER: Final = "soak-approver"
_OPERATOR: Final = "soak-operator"
_ROLES: Final = {_AGENT: ["agent", "auditor"], _APPROVER: ["approver"], _OPERATOR: ["operator"]}
_DECISIONS: Final = ("approved", "repaired")

# How an order's life is to end, and what is ordered for it. A router's shipment is only ever promised here, so that a
# cancellation that comes at any moment can still undo everything, and mostly by itself.
_KEPT: Final = "COMPLETED"
_GIVEN_UP: Final = "CANCELLED"
_OFFERINGS: Final = {_KEPT: "fiber-500", _GIVEN_UP: "router"}
# The call of the first order of either kind that fails until nobody tries any more: more often than the policy allows
# attempts, for one that dies with its worker is not counted.
_GIVEN_UP_CALLS: Final = {_KEPT: "start-billing", _GIVEN_UP: "stop-shipment"}
_FAILING_TIMES: Final = 5
_ENDED: Final = frozenset({"CANCELLED", "COMPLETED", "PARTIALLY_COMPLETED", "FAILED", "REJECTED"})

_PATIENCE: Final = 240.0  # for one answer, and for one part to be back
_DRAIN_SECONDS: Final = 60.0
_PAUSE: Final = 0.2
_DESK_SECONDS: Final = 2.0  # between two looks at what waits for people
_TELL_SECONDS: Final = 10.0
_SAMPLE_SECONDS: Final = 1.0
_LONGEST_BETWEEN_KILLS: Final = 60.0
_TOKEN_SECONDS: Final = 300.0
# A process's memory is compared between the first and the last third of its life under load, without its start. What it
# may gain: a share of what it had, and what an allocator keeps.
_WARM_UP: Final = 10.0
_GROWTH: Final = 1.2
_SLACK_BYTES: Final = 16 * 2**20
_SLACK_ROWS: Final = 2.0

# How often the outside world's book shows an effect done that the ledger has in this state. Others are not at rest.
_DONE_TIMES: Final = {"CONFIRMED": 1, "REVERSED": 1, "WAIVED": 1, "NO_EFFECT": 0}

_ADDRESS: Final = {"street": "Weg 1", "city": "Berlin", "postalCode": "12930", "country": "DE"}
_CANCELLATION: Final = {"reasonCode": "CUSTOMER_CHANGED_MIND", "scope": {"type": "ORDER", "orderItemIds": []}}


class SoakError(Exception):
    """The run cannot begin or go on, or the product gave an answer that no load explains; the message says which."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was judged. found: what was seen · wanted: what would be good"""

    name: str
    found: str
    wanted: str
    good: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything that was judged; good when all of it is. load: what the stack was under, {seconds, rate, orders}"""

    rows: tuple[Row, ...]
    seconds: float
    load: Mapping[str, float] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return all(row.good for row in self.rows)

    def to_text(self) -> str:
        """A table, a row a line."""
        table = [("", "what", "found", "wanted")]
        table += [("ok" if row.good else "BAD", row.name, row.found, row.wanted) for row in self.rows]
        widths = [max(len(line[column]) for line in table) for column in range(3)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]])
            for line in table
        ]
        return "\n".join([*lines, f"{'good' if self.good else 'NOT GOOD'} after {self.seconds:.0f} s"])

    def to_json(self) -> dict[str, Any]:
        rows = [{"name": row.name, "found": row.found, "wanted": row.wanted, "good": row.good} for row in self.rows]
        return {
            "good": self.good,
            "seconds": round(self.seconds, 1),
            "load": dict(self.load),
            "rows": rows,
            "machine": machine_facts(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """An order that was acknowledged, how it is to end, and the acknowledged request for its cancellation."""

    order_id: str
    end: str
    request: str | None = None


@dataclass
class Soak:
    """One run in tenants of its own. seconds: of load · rate: orders per second, half of them cancelled"""

    settings: Settings
    seconds: float
    rate: float
    say: Callable[[str], None]
    tenants: dict[str, UUID] = field(default_factory=lambda: {end: uuid4() for end in _OFFERINGS})
    accepted: dict[str, Accepted] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    memory: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=dict)
    decided: Counter[str] = field(default_factory=Counter)

    async def run(self) -> Verdict:
        """Load, faults and kills for `seconds`, then wait until everything has ended and judge. SoakError"""
        self._home = Home(self.settings.state_dir)
        self._tokens: dict[tuple[str, str], tuple[float, str]] = {}
        if not (await read_status(self._home)).ready:
            raise SoakError(f"no stack is ready in {self._home.path}: `recourse up --detach --light` starts one")
        if "*" not in self.settings.systems:
            raise SoakError("the outside systems of this stack are others' than the simulator's; they have no script")
        self._started = time.monotonic()
        system = self.settings.systems["*"].url
        async with (
            httpx.AsyncClient(base_url=self.settings.base_url, timeout=10, trust_env=False) as self._api,
            httpx.AsyncClient(base_url=system, timeout=60, trust_env=False) as self._outside,
        ):
            async with self._auditor() as pool:
                self._size = await read_size(pool)
            try:
                async with asyncio.TaskGroup() as group:
                    people = group.create_task(self._attend())
                    await self._load()
                    ends = await self._judge_ends()
                    people.cancel()
            except* SoakError as errors:
                problems = "\n".join(dict.fromkeys(map(str, _leaves(errors))))
            else:
                return await self._judge(ends)
            raise SoakError(problems)

    def _tell(self, message: str) -> None:
        self.say(f"{time.monotonic() - self._started:7.1f} s  {message}")

    # -- load -----------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Orders, faults and kills until the time is over and the last answer is there."""
        await self._script(_GIVEN_UP, fault="accept-silent", taskType="ship-device")
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            killing = group.create_task(self._kill())
            orders: set[asyncio.Task[None]] = set()
            for number in itertools.count():
                if (wait := self._started + number / self.rate - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                if time.monotonic() - self._started >= self.seconds:
                    break
                scripted = asyncio.Event()
                task = group.create_task(self._one_order(number, scripted))
                orders.add(task)
                task.add_done_callback(orders.discard)
                if number < len(_OFFERINGS):
                    await scripted.wait()
            watching.cancel()
            if orders:
                await asyncio.wait(orders)
            await killing

    async def _one_order(self, number: int, scripted: asyncio.Event) -> None:
        """Order; half of them are given up after a moment, at whatever point they have reached.

        The first of either kind meets faults of its own, until it needs a person. They are in store (`scripted`) before
        any fault that fits every order: the script plays the first that fits.
        """
        dice = random.Random(number)
        end = _GIVEN_UP if number % 2 else _KEPT
        if not (first := number < len(_OFFERINGS)):
            await self._disturb(end, dice.choice(_FAULTS))
        told = await self._insist(end, "POST", "/api/v1/orders", f"order-{number}", _order(_OFFERINGS[end]))
        order_id = str(told.json()["orderId"])
        path = f"/api/v1/orders/{order_id}"
        self.accepted[order_id] = Accepted(order_id, end)
        if first:
            call = _GIVEN_UP_CALLS[end]
            await self._script(end, fault="error-before", orderId=order_id, taskType=call, times=_FAILING_TIMES)
        scripted.set()
        if end == _KEPT:
            return
        if first:
            await self._wait_for_promise(end, order_id)
        else:
            await asyncio.sleep(dice.uniform(0, 3))
        for attempt in itertools.count():
            seen = await self._insist(end, "GET", path)
            if seen.status_code == httpx.codes.NOT_FOUND:
                return  # lost: it will be judged so
            etag = seen.headers["etag"]
            key = f"cancel-{number}-{attempt}"  # another version is another command
            asked = await self._insist(end, "POST", f"{path}/cancellation-requests", key, _CANCELLATION, etag)
            if asked.is_success:
                self.accepted[order_id] = Accepted(order_id, end, str(asked.json()["links"]["self"]))
                return

    async def _disturb(self, end: str, fault: str) -> None:
        """One fault for whoever of this tenant calls next. Never two in store: they would be one call's bad luck."""
        script = (await self._ask_outside("GET", "/faults"))["faults"]
        mine = [one for one in script if one.get("tenantId") == str(self.tenants[end])]
        if not any("times" in one and "orderId" not in one for one in mine):
            await self._script(end, fault=fault, times=1, delayMs=300)

    async def _script(self, end: str, **fault: Any) -> None:
        await self._ask_outside("POST", "/faults", {"tenantId": str(self.tenants[end]), **fault})

    async def _ask_outside(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return (await self._outside.request(method, path, json=body)).raise_for_status().json()
        except httpx.HTTPError as error:
            raise SoakError(f"the outside world: {method} {path}: {type(error).__name__} {error}") from error

    async def _wait_for_promise(self, end: str, order_id: str) -> None:
        """Until the order's shipment is promised."""
        deadline = time.monotonic() + _PATIENCE
        while not await self._read_promises(end, order_id):
            if time.monotonic() > deadline:
                raise SoakError(f"nothing was promised to order {order_id} for {_PATIENCE:.0f} s")
            await asyncio.sleep(_PAUSE)

    async def _read_promises(self, end: str, order_id: str) -> list[str]:
        """Effects of an order that a system has accepted and not yet done."""
        answer = await self._insist(end, "GET", f"/api/v1/orders/{order_id}/effects?limit=200")
        effects = answer.json()["items"] if answer.is_success else []
        return [one["effectId"] for one in effects if one["state"] == "INTENDED" and one.get("acceptedAt")]

    async def _insist(
        self,
        end: str,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        etag: str | None = None,
        subject: str = _AGENT,
    ) -> httpx.Response:
        """Ask until there is an answer, with the same key: through a killed API or database, as a client would."""
        headers = self._identity(end, subject)
        if key is not None:
            headers["Idempotency-Key"] = key
        if etag is not None:
            headers["If-Match"] = etag
        deadline = time.monotonic() + _PATIENCE
        last = "nothing"
        while time.monotonic() < deadline:
            try:
                answer = await self._api.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                last = type(error).__name__
            else:
                last = f"{answer.status_code} {answer.text[:300]}"
                lost = method == "GET" and answer.status_code == httpx.codes.NOT_FOUND
                if answer.is_success or lost or answer.status_code == httpx.codes.PRECONDITION_FAILED:
                    return answer
                busy = answer.status_code >= 500 or answer.status_code == httpx.codes.TOO_MANY_REQUESTS
                if not busy and answer.json().get("code") != "IDEMPOTENCY_IN_FLIGHT":
                    raise SoakError(f"{method} {path}: {last}")
            await asyncio.sleep(_PAUSE)
        raise SoakError(f"{method} {path}: no good answer for {_PATIENCE:.0f} s, the last was {last}")

    def _identity(self, end: str, subject: str) -> dict[str, str]:
        minted, token = self._tokens.get((end, subject), (0.0, ""))
        if not token or time.monotonic() - minted > _TOKEN_SECONDS:
            assert self.settings.issuer_key_file is not None
            token = mint_token(
                self.settings.issuer_key_file,
                subject=subject,
                roles=_ROLES[subject],
                tenant=self.tenants[end],
                issuer=self.settings.issuer,
                audience=self.settings.audience,
                ttl=int(_TOKEN_SECONDS + 2 * _PATIENCE),
            )
            self._tokens[end, subject] = (time.monotonic(), token)
        return {"Authorization": f"Bearer {token}"}

    # -- people ---------------------------------------------------------------------------------------------

    async def _attend(self) -> None:
        """People who decide what asks for a person, over HTTP like anybody: an approver agrees to a cancellation with
        which something may stay, and an operator tries again what was given up."""
        owed: set[str] = set()
        while True:
            for end in self.tenants:
                waiting = await self._insist(end, "GET", "/api/v1/orders?state=CANCELLATION_ASSESSING&limit=200")
                for order in waiting.json()["items"]:
                    if await self._approve(end, order["orderId"]):
                        owed.update(await self._read_promises(end, order["orderId"]))
                cases = await self._insist(end, "GET", "/api/v1/fallout-cases?status=OPEN&limit=200")
                for case in cases.json()["items"]:
                    await self._retry(end, case["caseId"])
            owed = {effect_id for effect_id in owed if not await self._break_promise(effect_id)}
            await asyncio.sleep(_DESK_SECONDS)

    async def _approve(self, end: str, order_id: str) -> bool:
        """Agree to the order's cancellation, if that is what it waits for."""
        active = (await self._insist(end, "GET", f"/api/v1/orders/{order_id}")).json().get("activeRequest", {})
        if active.get("status") != "REQUIRES_APPROVAL":
            return False
        path = active["links"]["self"]
        etag = (await self._insist(end, "GET", path)).headers["etag"]
        return await self._decide(end, _APPROVER, "approved", f"{path}/approve", {"comment": "It was tried."}, etag)

    async def _retry(self, end: str, case_id: str) -> None:
        path = f"/api/v1/fallout-cases/{case_id}"
        case = await self._insist(end, "GET", path)
        if any(one["action"] == "RETRY" for one in case.json()["possibleRepairs"]):
            body = {"action": "RETRY", "reasonCode": "SYSTEM_RECOVERED"}
            await self._decide(end, _OPERATOR, "repaired", f"{path}/repairs", body, case.headers["etag"])

    async def _decide(self, end: str, subject: str, decision: str, path: str, body: Any, etag: str) -> bool:
        """False where somebody or something was faster."""
        answer = await self._insist(end, "POST", path, f"{path}:{etag}", body, etag, subject)
        if answer.is_success:
            self.decided[decision] += 1
            self._tell(f"a person {decision}: {path}")
        return answer.is_success

    async def _break_promise(self, effect_id: str) -> bool:
        """What could not be called off and was only promised: its system says that it will not happen after all. Tells
        whether the API has heard it."""
        told = await self._ask_outside("POST", f"/effects/{effect_id}/callback", {"state": "NO_EFFECT"})
        return bool(told["status"] == httpx.codes.OK)

    # -- faults ---------------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        """kill -9 of one part after the other, in the first half: in the second it shows whether memory is flat."""
        pause = min(self.seconds / 2 / (len(KILLED) + 1), _LONGEST_BETWEEN_KILLS)
        for name in itertools.cycle(KILLED):
            await asyncio.sleep(pause)
            if time.monotonic() - self._started > self.seconds / 2 and len(self.kills) == len(KILLED):
                return
            child = await self._wait_for(name)
            self._tell(f"kill -9 {name}")
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                self.kills[name] += 1

    async def _wait_for(self, name: str) -> int:
        """The process id of a part, once it is there: it may still be starting after the last time."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if child := find_children(self._home).get(name):
                return child.pid
            await asyncio.sleep(_PAUSE)
        raise SoakError(f"{name} did not run for {_PATIENCE:.0f} s; only a part of the embedded stack can be killed")

    async def _watch(self) -> None:
        told = 0.0
        while True:
            now = time.monotonic() - self._started
            for name, child in find_children(self._home).items():
                if name in _WATCHED and (resident := _resident(child.pid)):
                    self.memory.setdefault((name, child.pid), []).append((now, resident))
            if now - told >= _TELL_SECONDS:
                told = now
                self._tell(f"{len(self.accepted)} orders accepted")
            await asyncio.sleep(_SAMPLE_SECONDS)

    # -- judging ----------------------------------------------------------------------------------------------

    async def _judge(self, ends: list[Row]) -> Verdict:
        rows = [self._judge_kills(), self._judge_people(), *ends]
        rows += [await self._judge_requests(), await self._judge_book()]
        rows += await self._judge_leftovers()
        rows += await self._judge_invariants()
        rows += self._judge_memory()
        rows.append(await self._judge_growth())
        load = {"seconds": self.seconds, "rate": self.rate, "orders": len(self.accepted)}
        return Verdict(tuple(rows), time.monotonic() - self._started, load)

    def _judge_kills(self) -> Row:
        told = ", ".join(f"{name} {self.kills[name]}" for name in KILLED)
        return Row("parts killed", told, "each at least once", all(self.kills[name] for name in KILLED))

    def _judge_people(self) -> Row:
        told = ", ".join(f"{decision} {self.decided[decision]}" for decision in _DECISIONS)
        return Row("decided by people", told, "each at least once", all(self.decided[one] for one in _DECISIONS))

    async def _judge_ends(self) -> list[Row]:
        """Waits for two heartbeats at least: what lost its wake-up is found by then."""
        patience = max(_PATIENCE, 2 * self.settings.heartbeat.total_seconds())
        deadline = time.monotonic() + patience
        states: dict[str, str] = {}
        left = dict(self.accepted)
        told = 0.0
        while left and time.monotonic() < deadline:
            for order_id, one in list(left.items()):
                answer = await self._insist(one.end, "GET", f"/api/v1/orders/{order_id}")
                states[order_id] = answer.json()["state"] if answer.is_success else "LOST"
                if states[order_id] in {*_ENDED, "LOST"}:
                    del left[order_id]
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self._tell(f"waiting for {len(left)} of {len(self.accepted)} orders, {patience:.0f} s at most")
            await asyncio.sleep(_PAUSE)
        return [self._judge_end(end, states) for end in _OFFERINGS]

    def _judge_end(self, end: str, states: dict[str, str]) -> Row:
        mine = [one for one in self.accepted.values() if one.end == end]
        counts = Counter(states.get(one.order_id, "?") for one in mine)
        found = ", ".join(f"{state} {count}" for state, count in sorted(counts.items())) or "none was accepted"
        if wrong := [one.order_id for one in mine if states.get(one.order_id) != end]:
            found += f" (first: {wrong[0]})"
        return Row(f"{_OFFERINGS[end]} orders", found, f"all {end}", bool(mine) and not wrong)

    async def _judge_requests(self) -> Row:
        counts: Counter[str] = Counter()
        for one in self.accepted.values():
            if one.end == _GIVEN_UP:
                answer = await self._insist(one.end, "GET", one.request) if one.request else None
                counts[str(answer.json()["status"]) if answer and answer.is_success else "LOST"] += 1
        found = ", ".join(f"{status} {count}" for status, count in sorted(counts.items())) or "none"
        return Row("acknowledged cancellations", found, "all COMPLETED", set(counts) == {"COMPLETED"})

    async def _judge_book(self) -> Row:
        """The ledger against the outside world's own book, effect by effect, both ways."""
        lines = (await self._ask_outside("GET", "/book"))["lines"]
        ours = [line for line in lines if line["orderId"] in self.accepted]
        done = Counter(str(line["effectId"]) for line in ours if line["event"] == "DONE")
        promised = {str(line["effectId"]) for line in ours if line["event"] == "PROMISED"}
        wrong: list[str] = []
        known: set[str] = set()
        for one in self.accepted.values():
            answer = await self._insist(one.end, "GET", f"/api/v1/orders/{one.order_id}/effects?limit=200")
            for effect in answer.json()["items"] if answer.is_success else []:
                known.add(effect["effectId"])
                if done[effect["effectId"]] != _DONE_TIMES.get(effect["state"]):
                    wrong.append(f"{effect['effectId']} is {effect['state']}, done {done[effect['effectId']]} times")
        wrong += [f"{effect_id} is in no ledger" for effect_id in done if effect_id not in known]
        found = f"{len(known)} effects, {done.total()} done, {len(promised)} promised first, {len(wrong)} otherwise"
        if wrong:
            found += f" (first: {wrong[0]})"
        return Row("effects outside", found, "as often as the ledger says", bool(done) and not wrong)

    async def _judge_leftovers(self) -> list[Row]:
        """What must be nothing when all orders have ended, after the relay had time to carry the last of it."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        async with self._auditor() as pool:
            while True:
                left: Counter[str] = Counter()
                for tenant in self.tenants.values():
                    left.update(await count_leftovers(pool, tenant))
                if not left.total() or time.monotonic() > deadline:
                    break
                await asyncio.sleep(_PAUSE)
        return [Row(name.replace("_", " "), str(count), "0", count == 0) for name, count in left.items()]

    async def _judge_invariants(self) -> list[Row]:
        rows: list[Row] = []
        for end, tenant in self.tenants.items():
            report = await verify(self.settings.auditor_database_url, tenant_id=tenant, at_rest=True)
            broken = [f"{one.check.rule} {one.check.says}" for one in report.findings if not one.holds]
            told = "; ".join(broken) or f"{len(report.findings)} checks hold"
            rows.append(Row(f"verify --at-rest, {end}", told, "all hold", report.valid))
        return rows

    @asynccontextmanager
    async def _auditor(self) -> AsyncIterator[Pool]:
        pool = await open_pool(self.settings.auditor_database_url, size=1, name="soak")
        try:
            yield pool
        finally:
            await pool.close()

    async def _judge_growth(self) -> Row:
        """An order leaves as much behind late in the run as early in it."""
        accepted = list(self.accepted)
        half = len(accepted) // 4 * 2  # as many that are given up on either side
        async with self._auditor() as pool:
            early = await count_rows_of(pool, accepted[:half])
            late = await count_rows_of(pool, accepted[half : 2 * half])
            grown = (await read_size(pool) - self._size) / 2**20
        return judge_growth(half, early, late, f"{grown:.0f} MiB more in all")

    def _judge_memory(self) -> list[Row]:
        """Of the processes that lived at the end of the load."""
        last = {name: samples for (name, _), samples in self.memory.items()}
        return [judge_memory(name, last.get(name, [])) for name in _WATCHED]


def _leaves(errors: ExceptionGroup[SoakError]) -> list[Exception]:
    """What was raised, out of the groups of every group of tasks that it passed."""
    return [leaf for one in errors.exceptions for leaf in (_leaves(one) if isinstance(one, ExceptionGroup) else [one])]


def judge_growth(orders: int, early: Mapping[str, int], late: Mapping[str, int], told: str) -> Row:
    """Whether tables grow by the order and not by what is there; tells of the one that does least. early, late: rows
    about `orders` orders each, by table"""
    if not orders:
        return Row("rows per order", "too few orders to be compared", "some", good=False)
    worst = max(early, key=lambda name: late[name] / orders - early[name] / orders * _GROWTH)
    before, after = early[worst] / orders, late[worst] / orders
    found = f"{worst} {before:.1f} → {after:.1f}, {told}"
    wanted = f"at most {_GROWTH} times and {_SLACK_ROWS:g} more"
    return Row("rows per order", found, wanted, after <= before * _GROWTH + _SLACK_ROWS)


def judge_memory(name: str, samples: list[tuple[float, int]]) -> Row:
    """Whether a process stays as big as it was. samples: (second, resident bytes) of its life, oldest first"""
    wanted = f"at most {_GROWTH} times and {_SLACK_BYTES >> 20} MiB more"
    lived = [(at, size) for at, size in samples if at - samples[0][0] >= _WARM_UP]
    third = len(lived) // 3
    if not third:
        return Row(f"memory of {name}", "did not live long enough to be judged", wanted, good=False)
    before = statistics.median(size for _, size in lived[:third])
    after = statistics.median(size for _, size in lived[-third:])
    found = f"{before / 2**20:.1f} → {after / 2**20:.1f} MiB within {lived[-1][0] - lived[0][0]:.0f} s"
    return Row(f"memory of {name}", found, wanted, after <= before * _GROWTH + _SLACK_BYTES)


def _order(offering: str) -> dict[str, Any]:
    return {
        "customer": {"id": "c-9", "name": "Ada"},
        "contact": {"name": "Ada", "phone": "+49 30 1234567"},
        "deliveryAddress": _ADDRESS,
        "installationAddress": _ADDRESS,
        "items": [
            {
                "itemId": "1",
                "action": "ADD",
                "productOfferingId": offering,
                "quantity": 1,
                "configuration": {"bandwidth": "500M", "deviceModel": "R7"},
                "price": {"amountMinor": 3999, "currency": "EUR"},
            }
        ],
    }


def _resident(pid: int) -> int:
    """Bytes in memory; 0 of a process that has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
