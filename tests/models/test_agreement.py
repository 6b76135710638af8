"""The models agree with the contract of the engine: jobs, verdicts, messages, variables, waits, calls, names.

The tables below are typed from the contract, not read from the product: a model that drifts from them fails.
"""

from __future__ import annotations

import re

import pytest

from tests.models.reading import NODES, Model, attr, has_definition, names_in, read_forms, read_models
from workers.models import model_files

ORDER = {"tenant_id", "order_id", "run"}

# process → the variables it is started or called with
GIVEN = {
    "fulfillment": ORDER,
    "plan": ORDER | {"plan_id"},
    "task": ORDER | {"task_id", "release", "job_type"},
    "cancellation": ORDER | {"request_id"},
    "amendment": ORDER | {"request_id"},
    "compensation": ORDER | {"request_id", "plan_id", "plan_run", "sla"},
    "review": ORDER | {"request_id", "wait_key", "sla", "exhibit"},
    "repair": ORDER | {"case_id", "wait_key", "sla", "exhibit"},
    "dependence": ORDER | {"source_id", "request_id"},
}

# process → what only the message says that starts it, and no caller
SAID = {"plan": {"root"}}

# what is entered about a repair
REPAIRED = {"action", "comment", "reason_code", "evidence_kind", "evidence_reference", "input", "amount"}

# job → the variables it fetches
FETCHED = {
    "validate-order": ORDER,
    "check-start-date": ORDER,
    "decompose-order": ORDER,
    "release-tasks": ORDER | {"plan_id", "root"},
    "effect": ORDER | {"task_id", "release"},
    "verify-effect": ORDER | {"task_id", "release"},
    "begin-assessment": ORDER | {"request_id"},
    "assess-cancellation": ORDER | {"request_id"},
    "plan-compensation": ORDER | {"request_id"},
    "assess-amendment": ORDER | {"request_id"},
    "apply-amendment": ORDER | {"request_id"},
    "follow-cancellation": ORDER | {"source_id", "request_id"},
    "record-decision": ORDER | {"request_id", "wait_key", "decision", "comment", "disposition"},
    "record-repair": ORDER | {"case_id", "wait_key"} | REPAIRED,
    "offer-case": ORDER | {"case_id"},
    "raise-jeopardy": {"tenant_id", "order_id", "subject_id", "kind"},
}

# job → the variables it may answer with
ANSWERED = {
    "validate-order": {"verdict"},
    "check-start-date": {"verdict", "start_at", "wait_key"},
    "decompose-order": {"verdict", "plan_id", "plan_run"},
    "release-tasks": {"tasks", "closed", "heartbeat"},
    "effect": {"verdict", "wait", "wait_key", "case_id", "sla", "exhibit"},
    "verify-effect": {"verdict", "wait", "wait_key", "case_id", "sla", "exhibit"},
    "begin-assessment": {"verdict", "wait", "wait_key", "heartbeat"},
    "assess-cancellation": {"verdict", "wait", "wait_key", "exhibit", "sla"},
    "plan-compensation": {"verdict", "plan_id", "plan_run", "sla"},
    "assess-amendment": {"verdict", "wait", "wait_key", "exhibit", "sla", "plan_id", "plan_run"},
    "apply-amendment": {"verdict", "wait", "wait_key", "sla", "plan_id", "plan_run"},
    "record-decision": {"verdict", "wait_key", "sla", "exhibit"},
    "record-repair": {"verdict", "wait_key", "sla", "exhibit"},
    "offer-case": {"verdict", "wait_key", "sla", "exhibit"},
    "follow-cancellation": {"verdict"},
    "raise-jeopardy": set(),
}

# job → the verdicts that lead somewhere; every other one takes the default flow
VERDICTS = {
    "validate-order": {"valid", "rejected"},
    "check-start-date": {"go", "wait"},
    "decompose-order": {"planned"},
    "effect": {"confirmed", "accepted", "unknown", "case", "retry"},
    "verify-effect": {"confirmed", "accepted", "unknown", "case", "retry"},
    "begin-assessment": {"quiet", "wait", "parked"},
    "assess-cancellation": {"automatic", "review", "charge", "rejected", "wait"},
    "plan-compensation": {"planned", "done", "assess"},
    "assess-amendment": {"revalidate", "review", "charge", "apply", "rejected"},
    "apply-amendment": {"planned", "done", "assess", "wait"},
    "record-decision": {"again"},
    "record-repair": {"again"},
    "offer-case": {"open"},
}

# message → the variable that names its one wait, or the one live instance of a start
MESSAGES = {
    "order-accepted": "=order_id",
    "cancellation-requested": "=request_id",
    "amendment-requested": "=request_id",
    "dependence-changed": "=order_id",
    "plan-restarted": "=run",
    "plan-progressed": "=run",
    "effect-outcome": "=wait_key",
    "closure-quiesced": "=wait_key",
    "review-decided": "=wait_key",
    "charge-decided": "=wait_key",
    "case-opened": "=case_id",
    "case-decided": "=wait_key",
    "start-date-changed": "=wait_key",
}

# user task → its form, who may claim it, what it answers with
PEOPLE = {
    "review-cancellation": ("review-cancellation", "approver", {"decision", "comment", "disposition"}),
    "repair-case": ("repair", "operator,approver", REPAIRED),
}

LONGEST_COMMENT = 500

MODELS = read_models()
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def jobs_of(model: Model) -> set[str]:
    """Our names of the jobs of a model: the element ids, which `effect` keeps although its type is computed."""
    return set(model.jobs)


def known_to(model: Model) -> set[str]:
    """Every variable that can exist in an instance of the model."""
    answered = set().union(*(ANSWERED[job] for job in jobs_of(model)))
    people = set().union(
        *(PEOPLE[attr(node, "id")][2] for node in model.nodes.values() if node.tag.endswith("userTask"))
    )
    elements = {attr(loop, "inputElement") for loop in model.find("//bpmn:extensionElements/zeebe:loopCharacteristics")}
    return (
        GIVEN[model.name]
        | SAID.get(model.name, set())
        | answered
        | people
        | elements
        | model.mapped("input")
        | model.mapped("output")
    )


def next_decision(model: Model, job: str) -> str:
    """The exclusive gateway that reads the verdict of this job, past the gateways that only join."""
    node = job
    while True:
        (flow,) = model.leaving(node)
        node = attr(flow, "targetRef")
        if len(model.leaving(node)) > 1:
            return node


def test_there_is_a_model_for_each_process_and_no_other() -> None:
    assert set(MODELS) == set(GIVEN)
    assert {name for model in MODELS.values() for name in jobs_of(model)} == set(FETCHED)


@each_model
def test_the_file_is_named_after_its_documented_executable_process(model: Model) -> None:
    assert attr(model.process, "id") == model.name
    assert attr(model.process, "isExecutable") == "true"
    (words,) = model.find("bpmn:documentation", model.process)
    assert len((words.text or "").split()) > 10
    assert attr(model.root, "{http://camunda.org/schema/modeler/1.0}executionPlatformVersion") == "8.6.0"


@each_model
def test_every_element_and_every_branch_has_a_name(model: Model) -> None:
    assert attr(model.process, "name")
    assert {id_ for id_, node in model.nodes.items() if not node.get("name")} == set()
    unnamed = {
        attr(flow, "id")
        for id_, node in model.nodes.items()
        if node.tag.endswith("exclusiveGateway") and len(model.leaving(id_)) > 1
        for flow in model.leaving(id_)
        if not flow.get("name")
    }
    assert unnamed == set()


@each_model
def test_the_tests_know_every_kind_of_element_in_the_model(model: Model) -> None:
    others = {"sequenceFlow", "documentation", "extensionElements"}
    kinds = {
        element.tag.rpartition("}")[2]
        for parent in (model.process, *model.find("//bpmn:subProcess"))
        for element in parent
    }
    assert kinds - others - {"incoming", "outgoing"} <= set(NODES)


@each_model
def test_a_job_is_called_as_its_box(model: Model) -> None:
    for element, job_type in model.jobs.items():
        assert job_type == ("=job_type" if element == "effect" else element)
    for definition in model.find("//zeebe:taskDefinition"):
        assert attr(definition, "retries") == "3"


@each_model
def test_what_a_job_fetches_exists_where_it_runs(model: Model) -> None:
    for job in jobs_of(model):
        assert FETCHED[job] <= known_to(model), job


@each_model
def test_a_gateway_reads_the_verdicts_of_its_job_and_ends_on_any_other(model: Model) -> None:
    for job in jobs_of(model) & set(VERDICTS):
        gateway = next_decision(model, job)
        read, default = set(), None
        for flow in model.leaving(gateway):
            conditions = model.find("bpmn:conditionExpression", flow)
            if conditions:
                reading = re.fullmatch(r'=verdict = "(\w+)"', conditions[0].text or "")
                assert reading, conditions[0].text
                read.add(reading[1])
            else:
                default = flow
        assert read == VERDICTS[job]
        assert default is not None
        assert attr(default, "id") == attr(model.nodes[gateway], "default")
        assert model.nodes[attr(default, "targetRef")].tag.endswith("endEvent")


@each_model
def test_every_exclusive_gateway_that_parts_has_a_default(model: Model) -> None:
    for id_, node in model.nodes.items():
        if node.tag.endswith("exclusiveGateway"):
            leaving = {attr(flow, "id") for flow in model.leaving(id_)}
            assert (node.get("default") in leaving) == (len(leaving) > 1), id_


def test_every_message_is_known_with_its_key() -> None:
    found: dict[str, str] = {}
    for model in MODELS.values():
        assert len(model.find("//bpmn:message")) == len(model.subscriptions)
        for name, key in model.subscriptions.items():
            assert found.setdefault(name, key) == key
    assert found == MESSAGES


@each_model
def test_every_wait_has_a_timer(model: Model) -> None:
    for id_, node in model.nodes.items():
        if node.tag.endswith("eventBasedGateway"):
            targets = [model.nodes[attr(flow, "targetRef")] for flow in model.leaving(id_)]
            assert {has_definition(model, target, "timer") for target in targets} == {True, False}, id_
        if node.tag.endswith("intermediateCatchEvent") and has_definition(model, node, "message"):
            sources = [model.nodes[attr(flow, "sourceRef")] for flow in model.entering(id_)]
            assert all(source.tag.endswith("eventBasedGateway") for source in sources), id_
        if node.tag.endswith("userTask"):
            attached = [event for event in model.find("//bpmn:boundaryEvent") if attr(event, "attachedToRef") == id_]
            by_kind = {
                kind: event for event in attached for kind in ("timer", "message") if has_definition(model, event, kind)
            }
            assert attr(by_kind["timer"], "cancelActivity") == "false"
            assert by_kind["message"].get("cancelActivity", "true") == "true"


@each_model
def test_a_deadline_leads_to_something_visible(model: Model) -> None:
    for id_, node in model.nodes.items():
        if node.tag.endswith("boundaryEvent") and has_definition(model, node, "timer"):
            (flow,) = model.leaving(id_)
            job = model.nodes[attr(flow, "targetRef")]
            assert attr(job, "id") == "raise-jeopardy"
            assert model.mapped("input", job) == {"subject_id", "kind"}


@each_model
def test_a_call_binds_by_deployment_and_hands_over_what_the_process_needs_by_name(model: Model) -> None:
    for id_, called in model.calls.items():
        assert attr(called, "processId") in MODELS
        assert attr(called, "bindingType") == "deployment"
        assert attr(called, "propagateAllParentVariables") == "false"
        assert attr(called, "propagateAllChildVariables") == "false"
        assert model.mapped("input", model.nodes[id_]) == GIVEN[attr(called, "processId")]


@each_model
def test_no_expression_reads_a_variable_that_nobody_sets(model: Model) -> None:
    read = set().union(*(names_in(feel) for feel in model.expressions()))
    assert read - known_to(model) == set()


@each_model
def test_no_flow_holds_a_variable_beyond_the_contract(model: Model) -> None:
    contract = set().union(*GIVEN.values(), *FETCHED.values(), *ANSWERED.values()) | {"task"}
    assert known_to(model) - contract == set()


def test_a_wave_works_on_its_own_copy_of_the_list() -> None:
    plan = MODELS["plan"]
    (wave,) = plan.find("//bpmn:subProcess")
    assert plan.mapped("input", wave) == {"tasks"}
    (loop,) = plan.find("//zeebe:loopCharacteristics")
    assert (attr(loop, "inputCollection"), attr(loop, "inputElement")) == ("=tasks", "task")


def test_what_people_answer_is_mapped_out_by_name_and_their_words_are_not_kept() -> None:
    seen = {}
    for model in MODELS.values():
        for task in model.find("//bpmn:userTask"):
            id_ = attr(task, "id")
            (form,) = model.find("bpmn:extensionElements/zeebe:formDefinition", task)
            (groups,) = model.find("bpmn:extensionElements/zeebe:assignmentDefinition", task)
            assert attr(form, "bindingType") == "deployment"
            assert model.mapped("input", task) == {"exhibit"}
            # mapping by name is what keeps a completion from overwriting the ids of the flow
            seen[id_] = (attr(form, "formId"), attr(groups, "candidateGroups"), model.mapped("output", task))
            answers = PEOPLE[id_][2]
            (message,) = [e for e in model.find("//bpmn:boundaryEvent") if has_definition(model, e, "message")]
            (job,) = [n for n in model.find("//bpmn:serviceTask") if attr(n, "id").startswith("record-")]
            for node in (message, job):
                cleared = {
                    attr(m, "target")
                    for m in model.find("bpmn:extensionElements/zeebe:ioMapping/zeebe:output", node)
                    if attr(m, "source") == '=""'
                }
                assert cleared == answers
    assert seen == PEOPLE


def test_a_form_asks_for_what_its_task_maps_out() -> None:
    forms = read_forms()
    assert set(forms) == {form for form, _, _ in PEOPLE.values()}
    for name, _, answers in PEOPLE.values():
        form = forms[name]
        assert form["id"] == name
        assert form["executionPlatformVersion"] == "8.6.0"
        fields = {row["key"]: row for row in form["components"] if "key" in row}
        assert set(fields) == answers
        assert all(field["label"] for field in fields.values())
        assert fields["comment"]["validate"]["maxLength"] == LONGEST_COMMENT
        choice = fields["action" if "action" in answers else "decision"]
        assert choice["validate"]["required"]
        assert "=exhibit" in {row.get("text") for row in form["components"]}


@each_model
def test_everything_is_drawn(model: Model) -> None:
    shapes = {attr(shape, "bpmnElement") for shape in model.find("//bpmndi:BPMNShape")}
    edges = {attr(edge, "bpmnElement") for edge in model.find("//bpmndi:BPMNEdge")}
    assert shapes == set(model.nodes)
    assert edges == {attr(flow, "id") for flow in model.flows}


def test_every_file_is_deployed_under_a_name_of_its_own() -> None:
    names = [path.name for path in model_files()]
    assert len(set(names)) == len(names) == len(MODELS) + len(read_forms())
