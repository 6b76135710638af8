"""From an accepted order to running tasks: the door's checks, validation, decomposition, waves, the installed base.
It must never judge a cancellation, and never know what an engine is."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from domain.assessment import closure_of
from domain.commands import (
    AcceptOrder,
    CheckStartDate,
    DecomposeOrder,
    HoldOrder,
    ReleaseOrder,
    ReleaseTasks,
    RestartFlow,
    ValidateOrder,
)
from domain.decomposition import check_items, copy_types, describe_circle, draw_plan, find_asset_problem, takes_lock
from domain.errors import (
    AssetBusy,
    AssetNotModifiable,
    ChangeActive,
    DependentAsset,
    FieldError,
    OrderTerminal,
    PlanNotFound,
    ReasonUnknown,
    RelationTargetUnknown,
    Unprocessable,
)
from domain.machines import check_move, has_ended
from domain.order import (
    IN_FLIGHT,
    OPERATOR_HOLD,
    WINDOW,
    Asset,
    Draft,
    Failure,
    Head,
    Item,
    Order,
    Plan,
    Reported,
    Surroundings,
    Task,
)
from domain.policy import Policy
from domain.values import (
    AssetId,
    Json,
    OrderId,
    PlanId,
    Run,
    TenantId,
    derive_id,
    format_time,
    parse_time,
)

# -- the door -------------------------------------------------------------------------------------------------


def blank_order(tenant_id: TenantId, command: AcceptOrder, policy_version: int, now: datetime) -> Order:
    """The order before its first event: nothing but its row."""
    return Order(
        head=Head(
            tenant_id=tenant_id,
            order_id=command.order_id,
            external_id=command.external_id,
            order_type=command.order_type,
            state="ACKNOWLEDGED",
            base="ACKNOWLEDGED",
            resume_state=None,
            version=0,
            sequence=0,
            chain=b"",
            content=command.content,
            policy_version=policy_version,
            plan_version=0,
            run=Run(derive_id(command.order_id, "run", 1)),
            created_at=now,
            updated_at=now,
        ),
        items={},
    )


def accept_order(
    draft: Draft,
    command: AcceptOrder,
    around: Surroundings,
) -> None:
    """T01: refuse at the door what can be seen there, else take the order in with snapshots and asset locks."""
    for item in command.items:
        holder = around.holders.get(AssetId(item.target_asset)) if item.target_asset else None
        if holder is not None and takes_lock(command.order_type, item.action):
            raise AssetBusy(blocked_by=f"/api/v1/orders/{holder}")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    if command.source is not None and not command.proposed:
        _check_reason(draft.policy, command)
    check_items(draft.policy, command.order_type, command.items)
    check_assets(draft.policy, command, around)
    draft.record(
        "ORDER_ACCEPTED",
        "ORDER",
        command.order_id,
        after="ACKNOWLEDGED",
        orderType=command.order_type,
        policyVersion=draft.policy_version,
        items=len(command.items),
    )
    for asked in command.items:
        target = AssetId(asked.target_asset) if asked.target_asset else None
        snapshot = around.assets[target].snapshot() if target else None
        check_move("ITEM", None, "ACKNOWLEDGED")
        draft.items[asked.item_id] = Item(
            item_id=asked.item_id,
            action=asked.action,
            offering=asked.offering,
            state="ACKNOWLEDGED",
            base="ACKNOWLEDGED",
            quantity=asked.quantity,
            ordered_quantity=asked.quantity,
            content=asked.content,
            parent=asked.parent,
            relies_on=asked.relies_on,
            target_asset=target,
            snapshot=snapshot,
        )
        draft.record("ITEM_STATE_CHANGED", "ITEM", asked.item_id, after="ACKNOWLEDGED")
        if target and takes_lock(command.order_type, asked.action):
            draft.locks_taken.add(target)
    if draft.locks_taken:
        draft.record(
            "ASSET_MODIFICATION_STARTED",
            "ORDER",
            command.order_id,
            assets=sorted(str(asset_id) for asset_id in draft.locks_taken),
        )
    if command.source is not None:
        draft.record(
            "SUPPLEMENTAL_CREATED",
            "ORDER",
            command.order_id,
            orderType=command.order_type,
            sourceOrderId=str(command.source),
            reasonCode=command.reason_code,
        )
    _relate(draft, command, around)
    draft.content_changed = True
    draft.send("order-accepted", command.order_id, ttl=3600, order_id=command.order_id, run=draft.head.run)


def _check_reason(policy: Policy, command: AcceptOrder) -> None:
    known = policy.reason_codes["supplemental"]
    if command.reason_code not in known:
        raise ReasonUnknown(
            f"The policy has no supplemental reason {command.reason_code!r}; it knows {', '.join(sorted(known))}.",
            errors=(FieldError("/reasonCode", "unknown reason"),),
        )


def _relate(draft: Draft, command: AcceptOrder, around: Surroundings) -> None:
    """A relation points from this, the newer order, to an older one: no circle can come of it, also where the two are
    taken in at once and each knows the other's id."""
    if around.not_older:
        raise RelationTargetUnknown(errors=(FieldError("/relations", "unknown target order"),))
    named = [(relation["type"], str(relation["targetOrderId"])) for relation in command.relations]
    if len(set(named)) != len(named):
        raise Unprocessable(errors=(FieldError("/relations", "name each relation once"),))
    for kind, target in named:
        draft.record("RELATION_ADDED", "ORDER", command.order_id, type=kind, targetOrderId=target)
    draft.relations += command.relations


def check_assets(
    policy: Policy,
    command: AcceptOrder,
    around: Surroundings,
) -> None:
    """Whether each asset can be changed as asked: present, active, the customer's own, compatible, not relied on,
    delivered as a whole where the policy wants that, and by one item alone: each of two would start from what the other
    one changes, and whichever is undone would take the other's change along."""
    careful = policy.supplemental.on_partially_completed_source == "REFUSE" and not command.proposed
    if careful and around.source_state == "PARTIALLY_COMPLETED":
        raise AssetNotModifiable("The order that it follows up has delivered only a part.")
    customer = command.content.get("customer", {}).get("id")
    ended = {item.target_asset for item in command.items if item.action == "DISCONNECT"}
    changed_by: dict[UUID, str] = {}
    for index, item in enumerate(command.items):
        if item.target_asset is None:
            continue
        where = (FieldError(f"/items/{index}/targetAssetId", "see detail"),)
        asset = around.assets.get(AssetId(item.target_asset))
        if asset is None:
            raise AssetNotModifiable("There is no such asset.", errors=where)
        finding = find_asset_problem(policy, command.order_type, item.offering, item.action, asset, customer)
        if finding:
            raise AssetNotModifiable(finding, errors=where)
        if careful and asset.asset_id in around.doubtful:
            raise AssetNotModifiable("The order that installed it has delivered only a part.", errors=where)
        if (
            item.action in {"MODIFY", "DISCONNECT"}
            and changed_by.setdefault(item.target_asset, item.item_id) != item.item_id
        ):
            raise AssetNotModifiable(
                f"Item {changed_by[item.target_asset]} changes the same asset; say it in one item.", errors=where
            )
        if item.action == "DISCONNECT":
            left = _find_left_behind(asset, around, ended)
            if left:
                raise DependentAsset(
                    f"Asset {left.asset_id} ({left.offering}) relies on it; end both in one order.",
                    errors=where,
                    blocked_by=f"/api/v1/assets/{left.asset_id}",
                )


def _find_left_behind(asset: Asset, around: Surroundings, ended: Container[object]) -> Asset | None:
    """An active asset that relies on one which is to end, and does not end with it."""
    return next((other for other in around.relying.get(asset.asset_id, ()) if other.asset_id not in ended), None)


# -- the flow asks ------------------------------------------------------------------------------------------------


def validate_order(draft: Draft, command: ValidateOrder) -> Mapping[str, Json]:
    """T02: what may have changed since the door. A redelivered job hears the same again."""
    if _is_foreign(draft, command.run):
        return {"verdict": "rejected" if draft.head.state == "REJECTED" else "stand_down"}
    if draft.head.base == "ACKNOWLEDGED":
        problem = _find_missing_plan(draft)
        # While a cancellation is under way the order does not end under its hands; decomposition looks again.
        if problem and all(request.has_ended for request in draft.requests.values()):
            reject_order(draft, problem)
            return {"verdict": "rejected"}
        check_move("ORDER", "ACKNOWLEDGED", "VALIDATED")
        draft.change_head(base="VALIDATED")
        draft.record("ORDER_VALIDATED", "ORDER", draft.head.order_id)
    return {"verdict": "valid"}


def _is_foreign(draft: Draft, run: Run) -> bool:
    return draft.head.has_ended or draft.head.run != run


def _live_items(draft: Draft) -> list[Item]:
    return [item for item in draft.items.values() if not has_ended("ITEM", item.base) and item.action != "NO_CHANGE"]


def _find_missing_plan(draft: Draft) -> str | None:
    """An offering or plan that was there at the door and is no more, or work that waits for itself by now: an order
    without work would end as completed."""
    for item in _live_items(draft):
        offering = draft.policy.offerings.get(item.offering)
        if offering is None:
            return f"The offering {item.offering} is no longer sold."
        if offering.plan_for(draft.head.order_type, item.action) is None:
            return f"{item.offering} has no plan for {item.action} any more."
    circle = describe_circle(draft.policy, draft.head.order_type, _live_items(draft))
    return f"The work of these items would wait for itself: {circle}." if circle else None


def _find_lost_asset(draft: Draft, around: Surroundings) -> str | None:
    """T03: an asset that could be changed at the door and cannot be any more, with what could be done."""
    customer = draft.head.content.get("customer", {}).get("id")
    ended = {item.target_asset for item in _live_items(draft) if item.action == "DISCONNECT"}
    for item in _live_items(draft):
        if item.target_asset is None:
            continue
        asset = draft.assets.get(item.target_asset)
        if asset is None:
            return f"Item {item.item_id}: there is no such asset any more."
        problem = find_asset_problem(draft.policy, draft.head.order_type, item.offering, item.action, asset, customer)
        if problem:
            return f"Item {item.item_id}: {problem}"
        left = _find_left_behind(asset, around, ended) if item.action == "DISCONNECT" else None
        if left:
            return (
                f"Item {item.item_id}: asset {left.asset_id} ({left.offering}) has come to rely on what would end; "
                "disconnect it first and try again, or cancel this order and end both in one."
            )
    return None


def reject_order(draft: Draft, reason: str) -> None:
    before = draft.head.state
    check_move("ORDER", before, "REJECTED")
    draft.change_head(state="REJECTED", resume_state=None, ended_at=draft.now)
    draft.locks_released = True
    draft.record("ORDER_REJECTED", "ORDER", draft.head.order_id, before=before, after="REJECTED", reason=reason)


def check_start_date(draft: Draft, command: CheckStartDate) -> Mapping[str, Json]:
    """T03's guard: wait for the wished date only if the order says that fulfillment should."""
    if _is_foreign(draft, command.run):
        return {"verdict": "stand_down"}
    wished = draft.head.content.get("requestedStartDate")
    if draft.head.content.get("startOnRequestedDate") and wished and draft.head.base == "VALIDATED":
        start_at = parse_time(wished)
        if start_at > draft.now:
            draft.change_head(start_key=draft.head.start_key + 1)
            return {
                "verdict": "wait",
                "start_at": format_time(start_at),
                "wait_key": f"{draft.head.order_id}:{draft.head.start_key}",
            }
    return {"verdict": "go"}


def decompose_order(
    draft: Draft, command: DecomposeOrder, around: Surroundings, reported: Reported
) -> Mapping[str, Json]:
    """Store plan version 1 as a whole and start the items; a repeated question gets the plan that is there. What can
    no longer be carried out is a case; the flow that comes back from its repair asks again."""
    if _is_foreign(draft, command.run) or draft.head.base == "ACKNOWLEDGED":
        return {"verdict": "stand_down"}
    if draft.head.base == "VALIDATED":
        problem = _find_missing_plan(draft) or _find_lost_asset(draft, around)
        if problem:
            reported.failures.append(Failure(None, "DATA", problem))
            return {"verdict": "stand_down"}
        _store_plan(draft)
        draft.change_head(base="IN_PROGRESS", plan_version=1)
        draft.content_changed = True
        for item in draft.items.values():
            if item.base == "ACKNOWLEDGED":
                draft.change_item(item.item_id, base="IN_PROGRESS")
    assert draft.plan is not None
    return {"verdict": "planned", "plan_id": str(draft.plan.plan_id), "plan_run": str(draft.plan.run)}


def _store_plan(draft: Draft) -> None:
    plan_id = PlanId(derive_id(draft.head.order_id, "plan", 1))
    items = [item for item in draft.items.values() if not item.has_ended]
    tasks = draw_plan(draft.head.order_id, plan_id, draft.head.order_type, items, draft.policy)
    types = copy_types(draft.policy, (task.task_type for task in tasks))
    draft.plan = Plan(plan_id, 1, Run(draft.new_id("run")), types, draft.policy_version)
    draft.record(
        "ORDER_DECOMPOSED",
        "ORDER",
        draft.head.order_id,
        planVersion=1,
        tasks=len(tasks),
        policyVersion=draft.policy_version,
    )
    for task in tasks:
        draft.add_task(task)
    for holder in draft.order_holds:
        draft.hold((task.task_id for task in tasks), holder)
    for request in draft.requests.values():
        if not request.has_ended:  # what a waiting cancellation covers does not start under its hands
            draft.hold(closure_of(draft, request).tasks, str(request.request_id))


# -- waves ---------------------------------------------------------------------------------------------------------


def release_tasks(draft: Draft, command: ReleaseTasks) -> Mapping[str, Json]:
    """The walker asks what may start now; it alone hands tasks out, at most WINDOW at work at a time.

    Answers {"tasks": [{task_id, release, job_type}], "closed"}; closed: this plan will never hand out anything again.
    """
    plan = draft.plans.get(command.plan_id) or draft.plan
    if plan is None or plan.plan_id != command.plan_id or plan.run != command.run:
        return {"tasks": [], "closed": True}
    room = WINDOW - count_at_work(draft, command.plan_id)
    wave = [task for task in draft.tasks_of_plan(command.plan_id) if may_be_handed(draft, task)][: max(room, 0)]
    for task in wave:
        draft.change_task(task.task_id, handed=True)
    draft.change_plan(command.plan_id, woken=False)
    return {
        "tasks": [
            {
                "task_id": str(task.task_id),
                "release": task.release,
                "job_type": f"effect-{draft.task_type(task).system}",
            }
            for task in wave
        ],
        "closed": plan.closed,
    }


def may_be_handed(draft: Draft, task: Task) -> bool:
    """Ready and free, or already under way and lost by the engine (a restart takes `handed` back)."""
    if task.handed:
        return False
    return task.state in IN_FLIGHT or (task.state == "READY" and not draft.is_held(task) and task.purpose != "MANUAL")


def count_at_work(draft: Draft, plan_id: PlanId) -> int:
    """Tasks that cost the engine something right now; those that wait for the world do not count."""
    return sum(
        1
        for task in draft.tasks_of_plan(plan_id)
        if task.handed and task.state in {"READY", "IN_PROGRESS", "DISPATCHED"}
    )


def restart_order(draft: Draft, command: RestartFlow) -> Mapping[str, Json]:
    """An order that has no plan yet is looked at anew; what is left of the old flow stands down."""
    if draft.plan is not None or draft.head.has_ended:
        return {"verdict": "stand_down"}
    run = Run(draft.new_id("run"))
    draft.change_head(run=run)
    draft.record("FLOW_RESTARTED", "ORDER", draft.head.order_id, reason=command.reason)
    # A key of its own: while the old flow is there, stuck, a start under the order's would wait for its end.
    draft.send("order-accepted", f"{draft.head.order_id}:{run}", ttl=3600, order_id=draft.head.order_id, run=run)
    return {"run": str(run)}


def restart_plan(draft: Draft, command: RestartFlow) -> Mapping[str, Json]:
    """Give a plan a new run: every unfinished task goes out again, whatever the old flow still believes."""
    assert command.plan_id is not None
    plan = draft.plans.get(command.plan_id) or draft.plan
    if plan is None or plan.plan_id != command.plan_id:
        raise PlanNotFound
    run = Run(draft.new_id("run"))
    for task in draft.tasks_of_plan(command.plan_id):
        if not task.has_ended and task.handed:
            draft.change_task(task.task_id, handed=False, release=task.release + 1)
    draft.change_plan(command.plan_id, run=run, woken=True)
    draft.record("FLOW_RESTARTED", "PLAN", command.plan_id, reason=command.reason)
    draft.send(
        "plan-restarted",
        run,
        ttl=3600,
        order_id=draft.head.order_id,
        plan_id=command.plan_id,
        run=run,
        root=command.plan_id,
    )
    return {"run": str(run)}


# -- operator's hold ----------------------------------------------------------------------------------------------


def hold_order(draft: Draft, command: HoldOrder) -> None:
    if draft.head.has_ended:
        raise OrderTerminal
    if OPERATOR_HOLD in draft.order_holds:
        raise ChangeActive("The order is on hold already.")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    draft.hold_all(OPERATOR_HOLD, command.reason)


def release_order(draft: Draft, command: ReleaseOrder) -> None:
    if draft.head.has_ended:
        raise OrderTerminal
    if OPERATOR_HOLD not in draft.order_holds:
        raise ChangeActive("The order is not on hold.")
    if command.invalid:
        raise Unprocessable(errors=command.invalid)
    draft.unhold_all(OPERATOR_HOLD, command.reason)


# -- the installed base ---------------------------------------------------------------------------------------------


def write_asset(draft: Draft, item: Item, tasks: Iterable[Task]) -> None:
    """A completed item leaves its mark: ADD installs, MODIFY changes, DISCONNECT ends; the references that its tasks
    have are kept."""
    references = {
        task.task_type: {"externalReference": effect.external_reference, "output": effect.output}
        for task in tasks
        if (effect := draft.effect_of(task)) and effect.state == "CONFIRMED"
    }
    if item.action == "ADD":
        asset_id = AssetId(derive_id(draft.head.order_id, "asset", item.item_id))
        relies_on = [
            str(derive_id(draft.head.order_id, "asset", base.item_id) if base.action == "ADD" else base.target_asset)
            for base in (draft.items[other] for other in item.relies_on)
            if base.action == "ADD" or base.target_asset
        ]
        if item.target_asset:
            relies_on.append(str(item.target_asset))
        draft.assets[asset_id] = Asset(
            asset_id=asset_id,
            customer_id=str(draft.head.content.get("customer", {}).get("id", "")),
            offering=item.offering,
            configuration=item.content.get("configuration") or {},
            state="ACTIVE",
            version=1,
            references=references,
            relies_on=tuple(relies_on),
            installed_by=OrderId(draft.head.order_id),
            quantity=item.quantity,
        )
        draft.change_item(item.item_id, asset=asset_id)
    elif item.target_asset in draft.assets and takes_lock(draft.head.order_type, item.action):
        assert item.target_asset is not None
        asset = draft.assets[item.target_asset]
        if item.action == "MODIFY":
            draft.assets[asset.asset_id] = replace(
                asset,
                offering=item.offering,
                version=asset.version + 1,
                configuration={**asset.configuration, **(item.content.get("configuration") or {})},
                quantity=item.quantity,
                references={**asset.references, **references},
            )
        elif item.action == "DISCONNECT":
            draft.assets[asset.asset_id] = replace(
                asset,
                state="TERMINATED",
                version=asset.version + 1,
                references={**asset.references, **references},
            )


def undo_asset(draft: Draft, item: Item) -> None:
    """The asset follows its item's undoing: what ADD installed ends, what MODIFY or DISCONNECT touched is as before."""
    if item.action == "ADD" and item.asset and item.asset in draft.assets:
        asset = draft.assets[item.asset]
        if asset.state != "TERMINATED":
            draft.assets[asset.asset_id] = replace(asset, state="TERMINATED", version=asset.version + 1)
    elif (
        item.base == "COMPLETED"
        and item.snapshot
        and item.target_asset in draft.assets
        and takes_lock(draft.head.order_type, item.action)
    ):
        assert item.target_asset is not None
        asset = draft.assets[item.target_asset]
        draft.assets[asset.asset_id] = replace(
            asset,
            offering=item.snapshot["productOfferingId"],
            configuration=item.snapshot["configuration"],
            state=item.snapshot["state"],
            references=item.snapshot["references"],
            quantity=item.snapshot["quantity"],
            version=asset.version + 1,
        )
