"""The contract as OpenAPI 3.1 and as a page, drawn from the rows that serve it; it must never promise another route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

import orjson
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse

from workers.api.pages import html_page
from workers.api.problems import list_problems
from workers.api.routes.effects import PATH as CALLBACK
from workers.api.routing import PREFIX, Route
from workers.api.schemas import Body, OutcomeBody

Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_ID: Final[Schema] = {"type": "string", "format": "uuid"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer"}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {}
_FREE: Final[Schema] = {"type": "object"}


def _ref(name: str) -> Schema:
    return {"$ref": _REF.format(model=name)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(optional: Mapping[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An answer: members may be added to it in later releases, none of the required ones is ever missing."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": sorted(required)}


def _page(name: str) -> Schema:
    return _object(items=_list(_ref(name)), next=_maybe(_TEXT))


_ATTEMPT: Final = _object(attempt=_NUMBER, startedAt=_TIME, finishedAt=_maybe(_TIME), outcome=_maybe(_TEXT))
_LINKS: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_REJUDGED: Final = _object(
    feasibility=_TEXT,
    automatic=_FLAG,
    manualReviewRequired=_FLAG,
    decision={"enum": ["AUTOMATIC", "APPROVAL", "REJECT"]},
    estimatedCost=_ref("Money"),
    retained=_NUMBER,
)

# TM Forum's resources, as far as they are used here; their own rules allow members beside them.
_PARTY: Final = _object({"name": _TEXT, "role": _TEXT, "@referredType": _TEXT}, id=_TEXT)
_PRODUCT_ORDER: Final[Mapping[str, Schema]] = {
    "externalId": _maybe(_TEXT),
    "category": _TEXT,
    "description": _TEXT,
    "requestedStartDate": _TIME,
    "relatedParty": _list(_PARTY),
    "appointment": _FREE,
    "contact": _FREE,
    "deliveryAddress": _FREE,
    "deliveryNote": _TEXT,
    "installationAddress": _FREE,
}
_CHOSEN_ORDER: Final = {**_PRODUCT_ORDER, "state": _TEXT, "orderDate": _TIME, "productOrderItem": _list(_FREE)}
_CANCEL_TASK: Final[Mapping[str, Schema]] = {
    "cancellationReason": _TEXT,
    "requestedCancellationDate": _TIME,
    "effectiveCancellationDate": _TIME,
    "productOrder": _FREE,
    "state": {"enum": ["acknowledged", "inProgress", "done", "terminatedWithError"]},
}
_LISTENER: Final[Mapping[str, Schema]] = {
    "query": _TEXT,
    "waiting": _NUMBER,
    "givenUp": _NUMBER,
    "toldAt": _TIME,
    "trouble": _TEXT,
}

ANSWERS: Final[Mapping[str, Schema]] = {
    "Problem": _object(
        {
            "errors": _list(_object(path=_TEXT, message=_TEXT)),
            "blockedBy": {"type": "string", "format": "uri-reference"},
        },
        type={"type": "string", "format": "uri"},
        title=_TEXT,
        status=_NUMBER,
        code=_TEXT,
        detail=_TEXT,
        traceId=_TEXT,
    ),
    "OrderAnswer": _object(orderId=_ID, externalId=_maybe(_TEXT), state=_TEXT, version=_NUMBER, links=_LINKS),
    "OrderSummary": _object(
        {"resumeState": _TEXT, "endedAt": _TIME, "customer": _FREE},
        orderId=_ID,
        externalId=_maybe(_TEXT),
        orderType=_TEXT,
        state=_TEXT,
        version=_NUMBER,
        policyVersion=_NUMBER,
        createdAt=_TIME,
        updatedAt=_TIME,
        links=_LINKS,
    ),
    "Order": _object(
        {"resumeState": _TEXT, "endedAt": _TIME, "activeRequest": _FREE, "contact": _maybe(_FREE)},
        orderId=_ID,
        externalId=_maybe(_TEXT),
        orderType=_TEXT,
        state=_TEXT,
        version=_NUMBER,
        planVersion=_NUMBER,
        policyVersion=_NUMBER,
        held=_FLAG,
        heldBy=_list(_TEXT),
        customer=_FREE,
        items=_list(
            _object(
                {"assetId": _ID, "configuration": _maybe(_FREE), "price": _maybe(_FREE)},
                itemId=_TEXT,
                action=_TEXT,
                productOfferingId=_TEXT,
                quantity=_NUMBER,
                orderedQuantity=_NUMBER,
                state=_TEXT,
                parentItemId=_maybe(_TEXT),
                reliesOn=_list(_TEXT),
                targetAssetId=_maybe(_ID),
            )
        ),
        relations=_list(
            _object(type=_TEXT, sourceOrderId=_ID, targetOrderId=_ID, reasonCode=_maybe(_TEXT), createdAt=_TIME)
        ),
        createdAt=_TIME,
        updatedAt=_TIME,
        links=_LINKS,
    ),
    "Task": _object(
        {
            "compensation": _TEXT,
            "effectId": _ID,
            "supersededBy": _ID,
            "startedAt": _TIME,
            "endedAt": _TIME,
            "pointOfNoReturn": _object(
                {"irreversibleAfterState": _TEXT, "softAt": _TIME, "hardAt": _TIME}, passed=_FLAG
            ),
        },
        taskId=_ID,
        itemIds=_list(_TEXT),
        step=_TEXT,
        type=_TEXT,
        state=_TEXT,
        planVersion=_NUMBER,
        dependsOn=_list(_ID),
        held=_FLAG,
        heldBy=_list(_TEXT),
        system=_TEXT,
        reversibility=_TEXT,
        externalEffectLevel=_TEXT,
    ),
    "Effect": _object(
        {
            "reverses": _ID,
            "withdraws": _ID,
            "reversedBy": _ID,
            "externalReference": _TEXT,
            "output": _ANY,
            "reason": _TEXT,
            "calledAt": _TIME,
            "acceptedAt": _TIME,
            "settledAt": _TIME,
        },
        effectId=_ID,
        system=_TEXT,
        operation=_TEXT,
        taskType=_TEXT,
        externalEffectLevel=_TEXT,
        state={"enum": ["INTENDED", "CONFIRMED", "NO_EFFECT", "UNKNOWN", "REVERSED", "WAIVED"]},
        basis={"enum": ["SYSTEM", "MANUAL"]},
        taskId=_ID,
        intendedAt=_TIME,
        attempts=_list(_ATTEMPT),
    ),
    "AuditEntry": _object(
        {"onBehalfOf": _TEXT, "from": _TEXT, "to": _TEXT, "requestId": _ID},
        sequence=_NUMBER,
        at=_TIME,
        actor=_TEXT,
        entity={"enum": ["ORDER", "ITEM", "TASK", "REQUEST", "EFFECT", "PLAN", "CASE"]},
        entityId=_TEXT,
        kind=_TEXT,
        data=_FREE,
        hash=_TEXT,
        previousHash=_TEXT,
    ),
    "Progress": _object(
        orderId=_ID,
        state=_TEXT,
        change=_object(
            {"cancellationRequestId": _ID, "amendmentRequestId": _ID, "status": _TEXT, "scope": _TEXT},
            kind={"enum": ["FULFILLMENT", "CANCELLATION", "AMENDMENT"]},
        ),
        done=_NUMBER,
        total=_NUMBER,
        tasks=_list(_object(taskId=_ID, step=_TEXT, type=_TEXT, state=_TEXT)),
        blockers=_list(_object({"id": _ID, "by": _TIME, "taskId": _ID}, kind=_TEXT, message=_TEXT, actor=_TEXT)),
        sentence=_TEXT,
    ),
    "OrderGraph": _object(
        nodes=_list(_object(orderId=_ID, orderType=_TEXT, state=_TEXT)),
        edges=_list(_object(source=_ID, target=_ID, type=_TEXT, reasonCode=_maybe(_TEXT), createdAt=_TIME)),
    ),
    "RequestAnswer": _object(
        {"outcome": _TEXT, "version": _NUMBER},
        cancellationRequestId=_ID,
        orderId=_ID,
        status=_TEXT,
        currentOrderState=_TEXT,
        links=_LINKS,
    ),
    "Assessment": _object(
        feasibility={
            "enum": ["FULLY_CANCELLABLE", "PARTIALLY_CANCELLABLE", "NOT_CANCELLABLE", "REQUIRES_MANUAL_REVIEW"]
        },
        manualReviewRequired=_FLAG,
        automatic=_FLAG,
        taskImpacts=_list(
            _object(
                {"effectState": _TEXT, "effectId": _ID, "replaced": _FLAG},
                taskId=_ID,
                type=_TEXT,
                state=_TEXT,
                reversibility=_TEXT,
                externalEffectLevel=_TEXT,
                consequence=_TEXT,
            )
        ),
        compensations=_list(_object(taskType=_TEXT, reverses=_ID, dependsOn=_list(_ID))),
        retainedEffects=_list(_FREE),
        blockers=_list(_object(code=_TEXT, message=_TEXT, ruleId=_TEXT)),
        estimatedCost=_ref("Money"),
        orderVersion=_NUMBER,
        planVersion=_NUMBER,
        ledgerVersion=_NUMBER,
        policyVersion=_NUMBER,
        dependentOrders=_list(
            _object(orderId=_ID, because=_TEXT, proposal={"enum": ["BLOCKED", "CANCEL", "HOLD"]}, links=_LINKS)
        ),
        trace=_list(_object(ruleId=_TEXT, inputs=_FREE, result=_TEXT, severity=_TEXT, sentence=_TEXT)),
        assessedAt=_TIME,
    ),
    "Preview": _object(
        {"outcome": _TEXT},
        previewId=_ID,
        kind={"enum": ["CANCELLATION", "AMENDMENT"]},
        assessment={"anyOf": [_ref("Assessment"), _ref("AmendmentAssessment"), {"type": "null"}]},
        compensationPlan=_maybe(_FREE),
        newOrders=_list(_FREE),
        estimatedCost=_maybe(_ref("Money")),
        validUntilChanged=_FLAG,
    ),
    "Request": _object(
        {
            "onBehalfOf": _TEXT,
            "claimedAt": _TIME,
            "charge": _object({"respondBy": _TIME}, code=_TEXT, amount=_ref("Money"), blocking=_FLAG, status=_TEXT),
            "compensationPlanId": _ID,
            "outcome": _TEXT,
            "graceUntil": _TIME,
            "slaAt": _TIME,
            "committedAt": _TIME,
            "endedAt": _TIME,
            "currentOrderState": _TEXT,
        },
        cancellationRequestId=_ID,
        orderId=_ID,
        status=_TEXT,
        scope=_ref("Scope"),
        reasonCode=_TEXT,
        reasonText=_maybe(_TEXT),
        requestedBy=_TEXT,
        requestedAt=_TIME,
        forceManualReview=_FLAG,
        assessment=_maybe(_ref("Assessment")),
        dispositions=_list(_ref("Disposition")),
        proposals=_list(_FREE),
        decisions=_list(_FREE),
        jeopardy=_FLAG,
        version=_NUMBER,
        links=_LINKS,
    ),
    "AmendmentAnswer": _object(
        {"outcome": _TEXT, "version": _NUMBER},
        amendmentRequestId=_ID,
        orderId=_ID,
        status=_TEXT,
        currentOrderState=_TEXT,
        links=_LINKS,
    ),
    "AmendmentAssessment": _object(
        {"changes": _list(_FREE)},
        feasibility={"enum": ["APPLICABLE", "PARTIALLY_APPLICABLE", "REQUIRES_APPROVAL", "NOT_APPLICABLE"]},
        automatic=_FLAG,
        changeImpacts=_list(_FREE),
        requiresRepricing=_FLAG,
        requiresReconfiguration=_FLAG,
        requiresRedecomposition=_FLAG,
        requiresApproval=_FLAG,
        requiresManualReview=_FLAG,
        blockers=_list(_object(code=_TEXT, message=_TEXT, ruleId=_TEXT)),
        strategy=_list(_FREE),
        prices=_list(_FREE),
        estimatedCost=_ref("Money"),
        orderVersion=_NUMBER,
        planVersion=_NUMBER,
        ledgerVersion=_NUMBER,
        policyVersion=_NUMBER,
        trace=_list(_object(ruleId=_TEXT, inputs=_FREE, result=_TEXT, severity=_TEXT, sentence=_TEXT)),
        assessedAt=_TIME,
    ),
    "Amendment": _object(
        {
            "onBehalfOf": _TEXT,
            "claimedAt": _TIME,
            "charge": _object({"respondBy": _TIME}, code=_TEXT, amount=_ref("Money"), blocking=_FLAG, status=_TEXT),
            "repairsCaseId": _ID,
            "compensationPlanId": _ID,
            "newPlanVersion": _NUMBER,
            "outcome": _TEXT,
            "graceUntil": _TIME,
            "slaAt": _TIME,
            "appliedAt": _TIME,
            "endedAt": _TIME,
            "currentOrderState": _TEXT,
        },
        amendmentRequestId=_ID,
        orderId=_ID,
        status=_TEXT,
        reasonCode=_TEXT,
        requestedBy=_TEXT,
        requestedAt=_TIME,
        changes=_list(_FREE),
        allowPartial=_FLAG,
        autoApply=_FLAG,
        assessment=_maybe(_ref("AmendmentAssessment")),
        decisions=_list(_FREE),
        jeopardy=_FLAG,
        version=_NUMBER,
        links=_LINKS,
    ),
    "CompensationPlan": _object(
        {"committedAt": _TIME, "completedAt": _TIME, "cancellationRequestId": _ID, "amendmentRequestId": _ID},
        compensationPlanId=_ID,
        orderId=_ID,
        state=_TEXT,
        createdAt=_TIME,
        tasks=_list(
            _object(
                {"originalTaskId": _ID, "reverses": _ID, "effectId": _ID, "startedAt": _TIME, "endedAt": _TIME},
                taskId=_ID,
                type=_TEXT,
                step=_TEXT,
                itemIds=_list(_TEXT),
                state=_TEXT,
                purpose={"enum": ["COMPENSATE", "WITHDRAW", "MANUAL", "AWAIT"]},
                dependsOn=_list(_ID),
                attempts=_list(_ATTEMPT),
            )
        ),
        edges=_list(_object(source=_ID, target=_ID)),
        links=_LINKS,
    ),
    "CaseAnswer": _object(
        {"resolution": _TEXT, "n": _NUMBER, "createdOrderId": _ID},
        caseId=_ID,
        orderId=_ID,
        status=_TEXT,
        version=_NUMBER,
        currentOrderState=_TEXT,
        links=_LINKS,
    ),
    "Case": _object(
        {
            "taskId": _ID,
            "effectId": _ID,
            "requestId": _ID,
            "assignee": _TEXT,
            "incidentKey": _TEXT,
            "resolution": _TEXT,
            "closedAt": _TIME,
            "possibleRepairs": _list(
                _object(action=_TEXT, sentence=_TEXT, needsEvidence=_FLAG, needsSecondPerson=_FLAG)
            ),
        },
        caseId=_ID,
        orderId=_ID,
        status=_TEXT,
        context=_TEXT,
        category=_TEXT,
        blocking=_FLAG,
        title=_TEXT,
        openedAt=_TIME,
        slaAt=_TIME,
        jeopardy=_FLAG,
        repairs=_list(_FREE),
        version=_NUMBER,
        links=_LINKS,
    ),
    "Finding": _object(
        {},
        **{"class": _TEXT},
        findingId=_ID,
        subject=_TEXT,
        orderId=_maybe(_ID),
        explanation=_TEXT,
        remedy=_TEXT,
        evidence=_TEXT,
        repair=_maybe(_TEXT),
        silentSince=_TIME,
        firstSeenAt=_TIME,
        lastSeenAt=_TIME,
        repairedAt=_maybe(_TIME),
        resolvedAt=_maybe(_TIME),
    ),
    "FindingPage": _page("Finding"),
    "ReconciliationRun": _object(
        runId=_ID,
        reportOnly=_FLAG,
        at=_TIME,
        findings=_NUMBER,
        repaired=_NUMBER,
        byClass=_FREE,
        engineView=_TEXT,
        links=_LINKS,
    ),
    "BulkJob": _object(
        {"finishedAt": _maybe(_TIME)},
        jobId=_ID,
        kind=_TEXT,
        status=_TEXT,
        total=_NUMBER,
        pending=_NUMBER,
        done=_NUMBER,
        refused=_NUMBER,
        failed=_NUMBER,
        ratePerMinute=_NUMBER,
        createdAt=_TIME,
        createdBy=_TEXT,
        links=_LINKS,
    ),
    "BulkTotals": _object(
        {by: {"type": "object", "additionalProperties": _NUMBER} for by in ("byState", "byCategory")},
        dryRun={"const": True},
        total=_NUMBER,
    ),
    "BulkResult": _object(
        {"caseId": _ID, "cancellationRequestId": _ID, "code": _TEXT, "detail": _TEXT, "at": _TIME},
        orderId=_ID,
        status=_TEXT,
    ),
    "BulkResultPage": _page("BulkResult"),
    "Asset": _object(
        {"installedByOrderId": _ID, "lockedByOrderId": _ID, "history": _list(_FREE), "corrections": _list(_FREE)},
        assetId=_ID,
        customerId=_TEXT,
        productOfferingId=_TEXT,
        configuration=_FREE,
        state=_TEXT,
        quantity=_NUMBER,
        reliesOn=_list(_TEXT),
        references=_FREE,
        version=_NUMBER,
        links=_LINKS,
    ),
    "PolicySummary": _object(
        version=_NUMBER,
        name=_TEXT,
        effectiveFrom=_TIME,
        loadedAt=_TIME,
        loadedBy=_TEXT,
        shared=_FLAG,
        inForce=_FLAG,
        links=_LINKS,
    ),
    "Policy": _object(
        version=_NUMBER,
        name=_TEXT,
        effectiveFrom=_TIME,
        loadedAt=_TIME,
        loadedBy=_TEXT,
        shared=_FLAG,
        document=_FREE,
        links=_LINKS,
    ),
    "PolicyAnswer": _object(version=_NUMBER, name=_TEXT, links=_LINKS),
    "Staff": _object(subject=_TEXT, roles=_list(_TEXT), changedBy=_maybe(_TEXT), changedAt=_maybe(_TIME)),
    "Dashboard": _object(
        at=_TIME,
        orders=_list(_object(state=_TEXT, count=_NUMBER, oldest=_TIME)),
        openRequests=_list(_object(status=_TEXT, count=_NUMBER, oldest=_TIME)),
        cases=_list(_object(category=_TEXT, count=_NUMBER, oldest=_TIME)),
        outboxAgeSeconds={"type": "number"},
        engineOutboxAgeSeconds={"type": "number"},
        jeopardy=_NUMBER,
        unknownOutcomes=_NUMBER,
        inJeopardy=_list(_object(kind=_TEXT, id=_ID, orderId=_ID, status=_TEXT, since=_TIME, due=_maybe(_TIME))),
        casesByContext=_list(_object(context=_TEXT, count=_NUMBER, oldest=_TIME)),
        findings=_list(_object(**{"class": _TEXT}, explanation=_TEXT, remedy=_TEXT, count=_NUMBER, oldest=_TIME)),
    ),
    "Verification": _object({"orderId": _ID, "firstBroken": _NUMBER}, valid=_FLAG, entries=_NUMBER, next=_maybe(_TEXT)),
    "OutcomeAnswer": _object(effectId=_ID, state=_TEXT),
    "ProductOrder": _object(
        _PRODUCT_ORDER, id=_ID, href=_TEXT, state=_TEXT, orderDate=_TIME, productOrderItem=_list(_FREE)
    ),
    # Whoever looks may choose the fields.
    "ProductOrderView": _object(_CHOSEN_ORDER, id=_ID, href=_TEXT),
    "ProductOrders": _list(_object(_CHOSEN_ORDER, id=_ID, href=_TEXT)),
    "ProductOrderCreate": _object(_PRODUCT_ORDER, productOrderItem=_list(_FREE)),
    "ProductOrderPatch": _object({**_PRODUCT_ORDER, "productOrderItem": _list(_FREE)}, amendmentReason=_TEXT),
    "CancelProductOrder": _object(_CANCEL_TASK, id=_ID, href=_TEXT),
    "CancelProductOrders": _list(_object(_CANCEL_TASK, id=_ID, href=_TEXT)),
    "Listener": _object(_LISTENER, id=_ID, callback=_TEXT),
    "Listeners": _list(_object({**_LISTENER, "callback": _TEXT}, id=_ID)),
    "OrderPage": _page("OrderSummary"),
    "TaskPage": _page("Task"),
    "EffectPage": _page("Effect"),
    "AuditPage": _page("AuditEntry"),
    "RequestPage": _page("Request"),
    "AmendmentPage": _page("Amendment"),
    "CompensationPlanPage": _page("CompensationPlan"),
    "CasePage": _page("Case"),
    "AssetPage": _page("Asset"),
    "PolicyPage": _page("PolicySummary"),
    "ReplayPage": _object(
        policyVersion=_NUMBER,
        totals=_object(judged=_NUMBER, different=_NUMBER, notJudged=_NUMBER),
        items=_list(
            _object(
                orderId=_ID,
                cancellationRequestId=_ID,
                assessedAt=_TIME,
                policyVersion=_NUMBER,
                before=_REJUDGED,
                after=_REJUDGED,
                links=_LINKS,
            )
        ),
        notJudged=_list(
            _object(
                orderId=_ID,
                cancellationRequestId=_ID,
                reason={"enum": ["PAST_UNKNOWN", "TASK_TYPE_UNKNOWN"]},
                detail=_TEXT,
                links=_LINKS,
            )
        ),
        next=_maybe(_TEXT),
    ),
}

# What a route may be told, by what it is: every route can say 401, 403, 429 and 503.
_ALWAYS: Final = ("401", "403", "429", "503")
_COMMAND: Final = ("400", "409", "413", "422")
_PAGED: Final = (
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}},
    {"name": "cursor", "in": "query", "schema": _TEXT, "description": "`next` of the page before"},
)


def make_openapi(routes: Iterable[Route], *, base_url: str) -> Schema:
    """The document of what these routes serve."""
    routes = list(routes)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.address, {})[route.method.lower()] = _operation(route)
    paths[PREFIX + CALLBACK] = {"post": _callback()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Recourse",
            "version": "1",
            "description": "Cancel, amend and compensate orders that are already on their way.",
        },
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**_body_schemas([route.body for route in routes if route.body]), **ANSWERS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _body_schemas(models: Iterable[type[Body]]) -> dict[str, Schema]:
    wanted = [(model, "validation") for model in dict.fromkeys([*models, OutcomeBody])]
    _, document = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    return dict(document["$defs"])


def _operation(route: Route) -> Schema:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _NUMBER if name == "version" else _path_schema(name)}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    parameters += [
        {"name": one.name, "in": "query", "schema": one.schema, **_described(one.description)} for one in route.query
    ]
    if route.answer.endswith("Page") or route.path == "/audit/verification":
        parameters += _PAGED
    if route.key:
        pattern = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        needed = not route.keyless
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": needed, "schema": pattern})
    if route.if_match:
        example = f'"{route.if_match}-version-17"'
        parameters.append({"name": "If-Match", "in": "header", "required": True, "schema": _TEXT, "example": example})
    roles = ", ".join(sorted(route.roles))
    operation: Schema = {
        "operationId": route.handler.__name__,
        "tags": [route.path.split("/")[1]],
        "summary": route.summary,
        "description": f"Roles: {roles}.",
        "parameters": parameters,
        "responses": _responses(route),
    }
    body = _body(route)
    return {**operation, "requestBody": body} if body else operation


def _path_schema(name: str) -> Schema:
    return _TEXT if name == "subject" else _ID


def _described(description: str) -> Schema:
    return {"description": description} if description else {}


def _body(route: Route) -> Schema | None:
    if route.body is not None:
        schema = _ref(route.body.__name__)
        needed = any(field.is_required() for field in route.body.model_fields.values())
        return {"required": needed, "content": {"application/json": {"schema": schema}}}
    if route.sent:
        return {"required": True, "content": {"application/json": {"schema": _ref(route.sent)}}}
    if route.method == "POST" and route.media:
        return {"required": True, "content": {kind: {"schema": _FREE} for kind in route.media}}
    return None


def _responses(route: Route) -> Schema:
    media = route.media if route.method == "GET" else ("application/json",)
    content = {kind: {"schema": _ref(route.answer) if kind == "application/json" else _TEXT} for kind in media}
    told = [*_ALWAYS, *route.also, *(("404",) if "{" in route.path or route.path == "/audit/verification" else ())]
    if route.query or route.answer.endswith("Page"):
        told.append("400")
    answers: Schema = {str(route.status): {"description": "Done", **({"content": content} if route.answer else {})}}
    if route.key:
        told += _COMMAND
        again = {"description": "Done before: the stored answer (Idempotent-Replayed: true)", "content": content}
        if any(parameter.name == "dryRun" for parameter in route.query):
            totals = {"anyOf": [_ref(route.answer), _ref("BulkTotals")]}
            again = {
                "description": "Done before: the stored answer (Idempotent-Replayed: true). With dryRun: the totals",
                "content": {"application/json": {"schema": totals}},
            }
        answers.setdefault("200", again)
    elif route.method != "GET":
        told += _COMMAND
    if route.if_match or (route.path == "/assets" and route.key):
        told += ["412", "428"]
    return {**answers, **{status: _problem(status) for status in sorted(set(told))}}


def _problem(status: str) -> Schema:
    codes = [kind.code for kind in list_problems() if str(kind.status) == status]
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {"description": ", ".join(codes), "content": content}


def _callback() -> Schema:
    headers = [
        {"name": name, "in": "header", "required": True, "schema": schema}
        for name, schema in (
            ("X-Recourse-Timestamp", {"type": "string", "pattern": r"^\d{1,12}$"}),
            ("X-Recourse-Signature", {"type": "string", "pattern": "^sha256=[0-9a-f]{64}$"}),
        )
    ]
    return {
        "operationId": "record_outcome",
        "tags": ["effects"],
        "summary": "What an outside system says of an effect, signed with its secret.",
        "security": [],
        "parameters": [{"name": "effectId", "in": "path", "required": True, "schema": _ID}, *headers],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("OutcomeBody")}}},
        "responses": {
            "200": {"description": "Heard", "content": {"application/json": {"schema": _ref("OutcomeAnswer")}}},
            **{status: _problem(status) for status in ("400", "401", "404", "409", "413", "422", "503")},
        },
    }


# -- as a page ------------------------------------------------------------------------------------------------


def docs_page(document: Schema) -> HTMLResponse:
    """The document for people: every operation with its roles, parameters, body and answers."""
    parts = [
        f"<h1>{escape(document['info']['title'])}</h1><p>{escape(document['info']['description'])}</p>",
        '<p><a href="/openapi.json">openapi.json</a> · <a href="/docs/problems">problems</a></p>',
    ]
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"<h2>{escape(tag)}</h2>")
            parts.append(_describe_operation(method, path, operation))
    parts.append("<h2>schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
        parts.append(
            f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
            f"<pre>{escape(text)}</pre></details>"
        )
    return html_page(document["info"]["title"], "".join(parts))


def _describe_operation(method: str, path: str, operation: Schema) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{one['in']}</td>"
        f"<td>{'required' if one.get('required') else 'optional'}</td></tr>"
        for one in operation["parameters"]
    )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    answers = "".join(
        f"<tr><td>{status}</td><td>{_link(answer)}</td><td class=quiet>{escape(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<details><summary><span class=method>{method.upper()}</span> <code>{escape(path)}</code> — "
        f"{escape(operation['summary'])}</summary>"
        f"<p class=quiet>{escape(operation.get('description', 'No token: signed.'))}</p>"
        + (f"<table>{rows}</table>" if rows else "")
        + (f"<p>Body: {_schema_link(body)}</p>" if body.get("$ref") else "")
        + f"<table>{answers}</table></details>"
    )


def _link(answer: Schema) -> str:
    return next((_schema_link(media["schema"]) for media in answer.get("content", {}).values()), "")


def _schema_link(schema: Schema) -> str:
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>' if name else ""
