"""The jobs of the flows themselves: one question to the domain each, its verdict back; never a rule of their own."""

from domain.commands import (
    AssessAmendment,
    AssessCancellation,
    BeginAssessment,
    CarryOutAmendment,
    CheckStartDate,
    DecomposeOrder,
    FollowCancellation,
    PlanCompensation,
    RaiseJeopardy,
    ReleaseTasks,
    ValidateOrder,
)
from domain.values import OrderId, PlanId, RequestId, Run
from workers.jobs.job import Context, job, tell
from workers.jobs.outcome import Reply


@job("validate-order", fetch=("order_id", "run"))
async def validate_order(context: Context) -> Reply:
    return tell(await context.command(ValidateOrder(OrderId(context.uuid("order_id")), Run(context.uuid("run")))))


@job("check-start-date", fetch=("order_id", "run"))
async def check_start_date(context: Context) -> Reply:
    return tell(await context.command(CheckStartDate(OrderId(context.uuid("order_id")), Run(context.uuid("run")))))


@job("decompose-order", fetch=("order_id", "run"))
async def decompose_order(context: Context) -> Reply:
    return tell(await context.command(DecomposeOrder(OrderId(context.uuid("order_id")), Run(context.uuid("run")))))


@job("release-tasks", fetch=("order_id", "plan_id", "run", "root"))
async def release_tasks(context: Context) -> Reply:
    command = ReleaseTasks(OrderId(context.uuid("order_id")), PlanId(context.uuid("plan_id")), Run(context.uuid("run")))
    return tell(await context.command(command))


@job("begin-assessment", fetch=("order_id", "request_id", "run"))
async def begin_assessment(context: Context) -> Reply:
    return tell(await context.command(BeginAssessment(*_request(context))))


@job("assess-cancellation", fetch=("order_id", "request_id", "run"))
async def assess_cancellation(context: Context) -> Reply:
    return tell(await context.command(AssessCancellation(*_request(context))))


@job("plan-compensation", fetch=("order_id", "request_id", "run"))
async def plan_compensation(context: Context) -> Reply:
    return tell(await context.command(PlanCompensation(*_request(context))))


@job("assess-amendment", fetch=("order_id", "request_id", "run"))
async def assess_amendment(context: Context) -> Reply:
    return tell(await context.command(AssessAmendment(*_request(context))))


@job("apply-amendment", fetch=("order_id", "request_id", "run"))
async def apply_amendment(context: Context) -> Reply:
    return tell(await context.command(CarryOutAmendment(*_request(context))))


@job("follow-cancellation", fetch=("order_id", "source_id", "request_id", "run"))
async def follow_cancellation(context: Context) -> Reply:
    command = FollowCancellation(
        OrderId(context.uuid("order_id")),
        OrderId(context.uuid("source_id")),
        RequestId(context.uuid("request_id")),
    )
    return tell(await context.command(command))


@job("raise-jeopardy", fetch=("order_id", "subject_id", "kind"))
async def raise_jeopardy(context: Context) -> Reply:
    command = RaiseJeopardy(OrderId(context.uuid("order_id")), context.uuid("subject_id"), context.text("kind"))
    return tell(await context.command(command))


def _request(context: Context) -> tuple[OrderId, RequestId, Run]:
    return OrderId(context.uuid("order_id")), RequestId(context.uuid("request_id")), Run(context.uuid("run"))
