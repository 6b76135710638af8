-- The sum of all migrations, written by `python -m tests.store.schema`. To be read; never to be run.

CREATE FUNCTION public.effect_address(wanted uuid) RETURNS TABLE(tenant_id uuid, order_id uuid, system text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog'
    AS $$ select e.tenant_id, e.order_id, e.system from public.effect e where e.effect_id = wanted $$;

CREATE FUNCTION public.keep_asset_reliance() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    if tg_op = 'UPDATE' then
        delete from asset_reliance
        where tenant_id = old.tenant_id and base = any(old.relies_on) and asset_id = old.asset_id;
    end if;
    insert into asset_reliance (tenant_id, base, asset_id)
    select new.tenant_id, base, new.asset_id from unnest(new.relies_on) base
    on conflict do nothing;
    return null;
end $$;

CREATE TABLE public.amendment_request (
    tenant_id uuid NOT NULL,
    request_id uuid NOT NULL,
    order_id uuid NOT NULL,
    status text NOT NULL,
    reason_code text NOT NULL,
    requested_by text NOT NULL,
    on_behalf_of text,
    claimed_at timestamp with time zone,
    requested_at timestamp with time zone NOT NULL,
    run uuid NOT NULL,
    changes jsonb NOT NULL,
    version bigint NOT NULL,
    allow_partial boolean NOT NULL,
    auto_apply boolean NOT NULL,
    repairs_case uuid,
    round integer NOT NULL,
    waiting boolean NOT NULL,
    grace_until timestamp with time zone,
    sla_at timestamp with time zone,
    assessed_at timestamp with time zone,
    assessment jsonb,
    fingerprint text,
    policy_version bigint,
    quote jsonb,
    quote_plan uuid,
    charge jsonb,
    approval jsonb,
    decisions jsonb NOT NULL,
    plan_id uuid,
    new_plan_version integer,
    outcome text,
    jeopardy boolean NOT NULL,
    applied_at timestamp with time zone,
    ended_at timestamp with time zone,
    CONSTRAINT amendment_request_status_check CHECK ((status = ANY (ARRAY['REQUESTED'::text, 'QUEUED'::text, 'ASSESSING'::text, 'REQUIRES_APPROVAL'::text, 'AWAITING_CHARGE_DECISION'::text, 'APPROVED'::text, 'APPLYING'::text, 'APPLIED'::text, 'REJECTED'::text, 'FAILED'::text, 'CANCELLED'::text, 'SUPERSEDED'::text])))
);

ALTER TABLE ONLY public.amendment_request FORCE ROW LEVEL SECURITY;

CREATE TABLE public.asset (
    tenant_id uuid NOT NULL,
    asset_id uuid NOT NULL,
    customer_id text NOT NULL,
    offering text NOT NULL,
    configuration jsonb NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    system_references jsonb NOT NULL,
    relies_on text[] DEFAULT '{}'::text[] NOT NULL,
    installed_by uuid,
    quantity integer NOT NULL,
    CONSTRAINT asset_state_check CHECK ((state = ANY (ARRAY['ACTIVE'::text, 'SUSPENDED'::text, 'TERMINATED'::text])))
);

ALTER TABLE ONLY public.asset FORCE ROW LEVEL SECURITY;

CREATE TABLE public.asset_change_lock (
    tenant_id uuid NOT NULL,
    asset_id uuid NOT NULL,
    order_id uuid NOT NULL,
    locked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.asset_change_lock FORCE ROW LEVEL SECURITY;

CREATE TABLE public.asset_correction (
    tenant_id uuid NOT NULL,
    asset_id uuid NOT NULL,
    version bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    actor text NOT NULL,
    on_behalf_of text,
    before jsonb,
    after jsonb NOT NULL
);

ALTER TABLE ONLY public.asset_correction FORCE ROW LEVEL SECURITY;

CREATE TABLE public.asset_reliance (
    tenant_id uuid NOT NULL,
    base text NOT NULL,
    asset_id uuid NOT NULL
);

ALTER TABLE ONLY public.asset_reliance FORCE ROW LEVEL SECURITY;

CREATE TABLE public.audit_entry (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    on_behalf_of text,
    entity text NOT NULL,
    entity_id text NOT NULL,
    kind text NOT NULL,
    before text,
    after text,
    request_id uuid,
    data jsonb NOT NULL,
    hash bytea NOT NULL,
    previous_hash bytea NOT NULL,
    CONSTRAINT audit_entry_entity_check CHECK ((entity = ANY (ARRAY['ORDER'::text, 'ITEM'::text, 'TASK'::text, 'REQUEST'::text, 'EFFECT'::text, 'PLAN'::text, 'CASE'::text])))
);

ALTER TABLE ONLY public.audit_entry FORCE ROW LEVEL SECURITY;

CREATE TABLE public.audit_head (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    chain bytea NOT NULL
);

ALTER TABLE ONLY public.audit_head FORCE ROW LEVEL SECURITY;

CREATE TABLE public.bulk_job (
    tenant_id uuid NOT NULL,
    job_id uuid NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    body jsonb NOT NULL,
    rate_per_minute integer NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    created_by text NOT NULL,
    created_roles text[] NOT NULL,
    on_behalf_of text,
    next_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    CONSTRAINT bulk_job_kind_check CHECK ((kind = ANY (ARRAY['CANCELLATION'::text, 'REPAIR'::text]))),
    CONSTRAINT bulk_job_rate_per_minute_check CHECK ((rate_per_minute > 0)),
    CONSTRAINT bulk_job_status_check CHECK ((status = ANY (ARRAY['RUNNING'::text, 'PAUSED'::text, 'DONE'::text])))
);

ALTER TABLE ONLY public.bulk_job FORCE ROW LEVEL SECURITY;

CREATE TABLE public.bulk_row (
    tenant_id uuid NOT NULL,
    job_id uuid NOT NULL,
    "position" integer NOT NULL,
    subject_id uuid NOT NULL,
    order_id uuid,
    status text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    claimed_until timestamp with time zone,
    code text,
    detail text,
    result_id uuid,
    at timestamp with time zone,
    CONSTRAINT bulk_row_status_check CHECK ((status = ANY (ARRAY['PENDING'::text, 'CLAIMED'::text, 'DONE'::text, 'REFUSED'::text, 'FAILED'::text])))
);

ALTER TABLE ONLY public.bulk_row FORCE ROW LEVEL SECURITY;

CREATE TABLE public.cancellation_request (
    tenant_id uuid NOT NULL,
    request_id uuid NOT NULL,
    order_id uuid NOT NULL,
    status text NOT NULL,
    scope text NOT NULL,
    item_ids text[] NOT NULL,
    reason_code text NOT NULL,
    reason_text text,
    requested_by text NOT NULL,
    on_behalf_of text,
    claimed_at timestamp with time zone,
    requested_at timestamp with time zone NOT NULL,
    run uuid NOT NULL,
    version bigint NOT NULL,
    force_manual_review boolean NOT NULL,
    round integer NOT NULL,
    waiting boolean NOT NULL,
    grace_until timestamp with time zone,
    sla_at timestamp with time zone,
    assessed_at timestamp with time zone,
    assessment jsonb,
    fingerprint text,
    policy_version bigint,
    charge jsonb,
    approval jsonb,
    dispositions jsonb NOT NULL,
    decisions jsonb NOT NULL,
    proposals jsonb NOT NULL,
    refused_withdrawals uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    plan_id uuid,
    outcome text,
    jeopardy boolean NOT NULL,
    committed_at timestamp with time zone,
    ended_at timestamp with time zone,
    repairs_case uuid,
    quantities jsonb DEFAULT '{}'::jsonb NOT NULL,
    dependents uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    CONSTRAINT cancellation_request_scope_check CHECK ((scope = ANY (ARRAY['ORDER'::text, 'ITEMS'::text]))),
    CONSTRAINT cancellation_request_status_check CHECK ((status = ANY (ARRAY['ACCEPTED_FOR_ASSESSMENT'::text, 'ASSESSING'::text, 'REQUIRES_APPROVAL'::text, 'AWAITING_CHARGE_DECISION'::text, 'APPROVED'::text, 'COMPENSATING'::text, 'COMPLETED'::text, 'PARTIALLY_COMPLETED'::text, 'REJECTED'::text, 'WITHDRAWN'::text, 'SUPERSEDED'::text])))
);

ALTER TABLE ONLY public.cancellation_request FORCE ROW LEVEL SECURITY;

CREATE TABLE public.compensation_plan (
    tenant_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    order_id uuid NOT NULL,
    request_id uuid,
    state text NOT NULL,
    run uuid NOT NULL,
    types jsonb NOT NULL,
    closed boolean NOT NULL,
    woken boolean NOT NULL,
    created_at timestamp with time zone NOT NULL,
    committed_at timestamp with time zone,
    completed_at timestamp with time zone,
    amendment_id uuid,
    purpose text DEFAULT 'UNDO'::text NOT NULL,
    CONSTRAINT compensation_plan_one_owner CHECK ((num_nonnulls(request_id, amendment_id) = 1)),
    CONSTRAINT compensation_plan_purpose_check CHECK ((purpose = ANY (ARRAY['UNDO'::text, 'QUOTE'::text]))),
    CONSTRAINT compensation_plan_state_check CHECK ((state = ANY (ARRAY['PLANNED'::text, 'IN_PROGRESS'::text, 'BLOCKED'::text, 'COMPLETED'::text, 'SUPERSEDED'::text])))
);

ALTER TABLE ONLY public.compensation_plan FORCE ROW LEVEL SECURITY;

CREATE TABLE public.compensation_task (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    order_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    step text NOT NULL,
    task_type text NOT NULL,
    item_ids text[] NOT NULL,
    state text NOT NULL,
    unmet integer NOT NULL,
    release integer NOT NULL,
    handed boolean NOT NULL,
    effect_id uuid,
    original_task uuid,
    reverses uuid,
    purpose text NOT NULL,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    replaced_input jsonb,
    CONSTRAINT compensation_task_purpose_check CHECK ((purpose = ANY (ARRAY['COMPENSATE'::text, 'WITHDRAW'::text, 'MANUAL'::text, 'AWAIT'::text, 'QUOTE'::text]))),
    CONSTRAINT compensation_task_state_check CHECK ((state = ANY (ARRAY['PLANNED'::text, 'AWAITING_ORIGINAL'::text, 'READY'::text, 'NOT_REQUIRED'::text, 'RETAINED'::text, 'SUPERSEDED'::text, 'DISPATCHED'::text, 'COMPLETED'::text, 'WAITING_EXTERNAL'::text, 'FAILED'::text, 'OUTCOME_UNKNOWN'::text, 'IN_FALLOUT'::text, 'WAIVED'::text])))
);

ALTER TABLE ONLY public.compensation_task FORCE ROW LEVEL SECURITY;

CREATE TABLE public.compensation_task_dependency (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    task_id uuid NOT NULL,
    depends_on uuid NOT NULL
);

ALTER TABLE ONLY public.compensation_task_dependency FORCE ROW LEVEL SECURITY;

CREATE TABLE public.customer_order (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    external_id text,
    order_type text NOT NULL,
    state text NOT NULL,
    base text NOT NULL,
    resume_state text,
    version bigint NOT NULL,
    content jsonb NOT NULL,
    customer_id text GENERATED ALWAYS AS ((content #>> '{customer,id}'::text[])) STORED,
    policy_version bigint NOT NULL,
    plan_version integer NOT NULL,
    run uuid NOT NULL,
    start_key integer DEFAULT 0 NOT NULL,
    order_holds text[] DEFAULT '{}'::text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT customer_order_base_check CHECK ((base = ANY (ARRAY['ACKNOWLEDGED'::text, 'VALIDATED'::text, 'IN_PROGRESS'::text]))),
    CONSTRAINT customer_order_order_type_check CHECK ((order_type = ANY (ARRAY['STANDARD'::text, 'AMENDMENT'::text, 'CANCELLATION'::text, 'SUPPLEMENTAL'::text, 'DISCONNECT'::text, 'RETURN'::text, 'REPAIR'::text, 'BILLING_ADJUSTMENT'::text]))),
    CONSTRAINT customer_order_state_check CHECK ((state = ANY (ARRAY['ACKNOWLEDGED'::text, 'VALIDATED'::text, 'IN_PROGRESS'::text, 'FALLOUT'::text, 'CANCELLATION_REQUESTED'::text, 'CANCELLATION_ASSESSING'::text, 'CANCELLING'::text, 'AMENDING'::text, 'ON_HOLD'::text, 'COMPLETED'::text, 'PARTIALLY_COMPLETED'::text, 'CANCELLED'::text, 'FAILED'::text, 'REJECTED'::text])))
);

ALTER TABLE ONLY public.customer_order FORCE ROW LEVEL SECURITY;

CREATE TABLE public.delivery (
    tenant_id uuid NOT NULL,
    listener_id uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    at timestamp with time zone NOT NULL,
    payload jsonb NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.delivery FORCE ROW LEVEL SECURITY;

CREATE TABLE public.dependence (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    source_id uuid NOT NULL,
    request_id uuid NOT NULL,
    run uuid NOT NULL,
    told_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY public.dependence FORCE ROW LEVEL SECURITY;

CREATE TABLE public.effect (
    tenant_id uuid NOT NULL,
    effect_id uuid NOT NULL,
    order_id uuid NOT NULL,
    task_id uuid NOT NULL,
    task_type text NOT NULL,
    system text NOT NULL,
    operation text NOT NULL,
    level text NOT NULL,
    state text NOT NULL,
    basis text NOT NULL,
    input jsonb NOT NULL,
    output jsonb,
    external_reference text,
    reason text,
    attempt integer NOT NULL,
    failures integer NOT NULL,
    lease_until timestamp with time zone,
    intended_at timestamp with time zone NOT NULL,
    called_at timestamp with time zone,
    accepted_at timestamp with time zone,
    unknown_since timestamp with time zone,
    missed_at timestamp with time zone,
    settled_at timestamp with time zone,
    reverses uuid,
    withdraws uuid,
    reversed_by uuid,
    CONSTRAINT effect_basis_check CHECK ((basis = ANY (ARRAY['SYSTEM'::text, 'MANUAL'::text]))),
    CONSTRAINT effect_state_check CHECK ((state = ANY (ARRAY['INTENDED'::text, 'CONFIRMED'::text, 'NO_EFFECT'::text, 'UNKNOWN'::text, 'REVERSED'::text, 'WAIVED'::text])))
);

ALTER TABLE ONLY public.effect FORCE ROW LEVEL SECURITY;

CREATE TABLE public.engine_outbox (
    id bigint NOT NULL,
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    message_id uuid NOT NULL,
    name text NOT NULL,
    correlation_key text NOT NULL,
    variables jsonb NOT NULL,
    ttl integer NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    published_at timestamp with time zone,
    parked_at timestamp with time zone,
    parked_reason text,
    trace_parent text
);

ALTER TABLE ONLY public.engine_outbox FORCE ROW LEVEL SECURITY;

ALTER TABLE public.engine_outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.engine_outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.external_call_attempt (
    tenant_id uuid NOT NULL,
    effect_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    outcome text,
    detail text
);

ALTER TABLE ONLY public.external_call_attempt FORCE ROW LEVEL SECURITY;

CREATE TABLE public.fallout_case (
    tenant_id uuid NOT NULL,
    case_id uuid NOT NULL,
    order_id uuid NOT NULL,
    status text NOT NULL,
    context text NOT NULL,
    category text NOT NULL,
    blocking boolean NOT NULL,
    title text NOT NULL,
    opened_at timestamp with time zone NOT NULL,
    sla_at timestamp with time zone NOT NULL,
    task_id uuid,
    effect_id uuid,
    request_id uuid,
    owner text,
    incident_key text,
    version bigint NOT NULL,
    repairs jsonb NOT NULL,
    resolution text,
    jeopardy boolean NOT NULL,
    closed_at timestamp with time zone,
    CONSTRAINT fallout_case_category_check CHECK ((category = ANY (ARRAY['TECHNICAL'::text, 'BUSINESS'::text, 'DATA'::text, 'CAPACITY'::text, 'UNKNOWN_OUTCOME'::text]))),
    CONSTRAINT fallout_case_context_check CHECK ((context = ANY (ARRAY['FULFILLMENT'::text, 'COMPENSATION'::text, 'AMENDMENT'::text, 'RECONCILIATION'::text, 'LATE_EFFECT'::text]))),
    CONSTRAINT fallout_case_status_check CHECK ((status = ANY (ARRAY['OPEN'::text, 'ASSIGNED'::text, 'REPAIR_SUBMITTED'::text, 'RESOLVED'::text, 'CANCELLED'::text])))
);

ALTER TABLE ONLY public.fallout_case FORCE ROW LEVEL SECURITY;

CREATE TABLE public.finding (
    tenant_id uuid NOT NULL,
    finding_id uuid NOT NULL,
    class text NOT NULL,
    subject text NOT NULL,
    order_id uuid,
    evidence text NOT NULL,
    repair text,
    silent_since timestamp with time zone NOT NULL,
    first_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    repaired_at timestamp with time zone,
    resolved_at timestamp with time zone
);

ALTER TABLE ONLY public.finding FORCE ROW LEVEL SECURITY;

CREATE TABLE public.flow (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    run uuid NOT NULL,
    instance_key bigint NOT NULL,
    process text NOT NULL,
    noted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.flow FORCE ROW LEVEL SECURITY;

CREATE TABLE public.fulfillment_plan (
    tenant_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    order_id uuid NOT NULL,
    version integer NOT NULL,
    run uuid NOT NULL,
    types jsonb NOT NULL,
    policy_version bigint NOT NULL,
    closed boolean NOT NULL,
    woken boolean NOT NULL
);

ALTER TABLE ONLY public.fulfillment_plan FORCE ROW LEVEL SECURITY;

CREATE TABLE public.fulfillment_task (
    tenant_id uuid NOT NULL,
    task_id uuid NOT NULL,
    order_id uuid NOT NULL,
    plan_id uuid NOT NULL,
    plan_version integer NOT NULL,
    step text NOT NULL,
    task_type text NOT NULL,
    item_ids text[] NOT NULL,
    state text NOT NULL,
    depends_on uuid[] DEFAULT '{}'::uuid[] NOT NULL,
    unmet integer NOT NULL,
    release integer NOT NULL,
    handed boolean NOT NULL,
    effect_id uuid,
    superseded_by uuid,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    replaced_input jsonb,
    CONSTRAINT fulfillment_task_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'READY'::text, 'IN_PROGRESS'::text, 'WAITING_EXTERNAL'::text, 'COMPLETED'::text, 'OUTCOME_UNKNOWN'::text, 'FAILED'::text, 'CANCELLED'::text, 'SUPERSEDED'::text, 'COMPENSATING'::text, 'COMPENSATED'::text])))
);

ALTER TABLE ONLY public.fulfillment_task FORCE ROW LEVEL SECURITY;

CREATE TABLE public.listener (
    tenant_id uuid NOT NULL,
    listener_id uuid NOT NULL,
    callback text NOT NULL,
    query text,
    heard text[] NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    told_at timestamp with time zone,
    given_up bigint DEFAULT 0 NOT NULL,
    trouble text
);

ALTER TABLE ONLY public.listener FORCE ROW LEVEL SECURITY;

CREATE TABLE public.order_history (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    head jsonb,
    content jsonb,
    items jsonb NOT NULL
);

ALTER TABLE ONLY public.order_history FORCE ROW LEVEL SECURITY;

CREATE TABLE public.order_item (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    item_id text NOT NULL,
    "position" integer NOT NULL,
    action text NOT NULL,
    offering text NOT NULL,
    state text NOT NULL,
    base text NOT NULL,
    quantity integer NOT NULL,
    ordered_quantity integer NOT NULL,
    content jsonb NOT NULL,
    parent text,
    relies_on text[] DEFAULT '{}'::text[] NOT NULL,
    target_asset uuid,
    asset uuid,
    snapshot jsonb,
    CONSTRAINT order_item_action_check CHECK ((action = ANY (ARRAY['ADD'::text, 'MODIFY'::text, 'DISCONNECT'::text, 'RETURN'::text, 'NO_CHANGE'::text]))),
    CONSTRAINT order_item_ordered_quantity_check CHECK ((ordered_quantity >= 1)),
    CONSTRAINT order_item_quantity_check CHECK ((quantity >= 0)),
    CONSTRAINT order_item_state_check CHECK ((state = ANY (ARRAY['ACKNOWLEDGED'::text, 'IN_PROGRESS'::text, 'COMPLETED'::text, 'CANCELLATION_REQUESTED'::text, 'CANCELLATION_ASSESSING'::text, 'CANCELLING'::text, 'CANCELLED'::text, 'PARTIALLY_COMPLETED'::text, 'FALLOUT'::text, 'FAILED'::text, 'SUPERSEDED'::text])))
);

ALTER TABLE ONLY public.order_item FORCE ROW LEVEL SECURITY;

CREATE TABLE public.order_relation (
    tenant_id uuid NOT NULL,
    order_relation_id uuid NOT NULL,
    source_order_id uuid NOT NULL,
    target_order_id uuid NOT NULL,
    relation_type text NOT NULL,
    reason_code text,
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    CONSTRAINT order_relation_check CHECK ((source_order_id <> target_order_id)),
    CONSTRAINT order_relation_relation_type_check CHECK ((relation_type = ANY (ARRAY['AMENDS'::text, 'CANCELS'::text, 'SUPPLEMENTS'::text, 'REPLACES'::text, 'COMPENSATES'::text, 'REPAIRS'::text, 'ROLLS_BACK'::text, 'SPLITS_FROM'::text])))
);

ALTER TABLE ONLY public.order_relation FORCE ROW LEVEL SECURITY;

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    sequence bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    at timestamp with time zone NOT NULL,
    payload jsonb NOT NULL,
    trace_parent text,
    published_at timestamp with time zone,
    parked_at timestamp with time zone,
    parked_reason text
);

ALTER TABLE ONLY public.outbox FORCE ROW LEVEL SECURITY;

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.policy (
    tenant_id uuid NOT NULL,
    version bigint NOT NULL,
    name text NOT NULL,
    effective_from timestamp with time zone NOT NULL,
    document jsonb NOT NULL,
    loaded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    loaded_by text NOT NULL
);

ALTER TABLE ONLY public.policy FORCE ROW LEVEL SECURITY;

ALTER TABLE public.policy ALTER COLUMN version ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.policy_version_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.preview (
    tenant_id uuid NOT NULL,
    preview_id uuid NOT NULL,
    order_id uuid NOT NULL,
    kind text NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT preview_kind_check CHECK ((kind = ANY (ARRAY['CANCELLATION'::text, 'AMENDMENT'::text])))
);

ALTER TABLE ONLY public.preview FORCE ROW LEVEL SECURITY;

CREATE TABLE public.receipt (
    tenant_id uuid NOT NULL,
    command_id uuid NOT NULL,
    fingerprint text NOT NULL,
    answer jsonb,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.receipt FORCE ROW LEVEL SECURITY;

CREATE TABLE public.schema_migration (
    version integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.staff (
    tenant_id uuid NOT NULL,
    subject text NOT NULL,
    roles text[] NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.staff FORCE ROW LEVEL SECURITY;

CREATE TABLE public.task_hold (
    tenant_id uuid NOT NULL,
    order_id uuid NOT NULL,
    task_id uuid NOT NULL,
    holder text NOT NULL
);

ALTER TABLE ONLY public.task_hold FORCE ROW LEVEL SECURITY;

ALTER TABLE ONLY public.amendment_request
    ADD CONSTRAINT amendment_request_pkey PRIMARY KEY (tenant_id, request_id);

ALTER TABLE ONLY public.asset_change_lock
    ADD CONSTRAINT asset_change_lock_one_holder PRIMARY KEY (tenant_id, asset_id);

ALTER TABLE ONLY public.asset_correction
    ADD CONSTRAINT asset_correction_pkey PRIMARY KEY (tenant_id, asset_id, version);

ALTER TABLE ONLY public.asset
    ADD CONSTRAINT asset_pkey PRIMARY KEY (tenant_id, asset_id);

ALTER TABLE ONLY public.asset_reliance
    ADD CONSTRAINT asset_reliance_pkey PRIMARY KEY (tenant_id, base, asset_id);

ALTER TABLE ONLY public.audit_entry
    ADD CONSTRAINT audit_entry_pkey PRIMARY KEY (tenant_id, order_id, sequence);

ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_pkey PRIMARY KEY (tenant_id, order_id);

ALTER TABLE ONLY public.bulk_job
    ADD CONSTRAINT bulk_job_pkey PRIMARY KEY (tenant_id, job_id);

ALTER TABLE ONLY public.bulk_row
    ADD CONSTRAINT bulk_row_pkey PRIMARY KEY (tenant_id, job_id, "position");

ALTER TABLE ONLY public.cancellation_request
    ADD CONSTRAINT cancellation_request_pkey PRIMARY KEY (tenant_id, request_id);

ALTER TABLE ONLY public.compensation_plan
    ADD CONSTRAINT compensation_plan_pkey PRIMARY KEY (tenant_id, plan_id);

ALTER TABLE ONLY public.compensation_task_dependency
    ADD CONSTRAINT compensation_task_dependency_pkey PRIMARY KEY (tenant_id, task_id, depends_on);

ALTER TABLE ONLY public.compensation_task
    ADD CONSTRAINT compensation_task_pkey PRIMARY KEY (tenant_id, task_id);

ALTER TABLE ONLY public.customer_order
    ADD CONSTRAINT customer_order_pkey PRIMARY KEY (tenant_id, order_id);

ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT delivery_pkey PRIMARY KEY (tenant_id, listener_id, order_id, sequence);

ALTER TABLE ONLY public.dependence
    ADD CONSTRAINT dependence_pkey PRIMARY KEY (tenant_id, order_id, request_id);

ALTER TABLE ONLY public.effect
    ADD CONSTRAINT effect_pkey PRIMARY KEY (tenant_id, effect_id);

ALTER TABLE ONLY public.engine_outbox
    ADD CONSTRAINT engine_outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.external_call_attempt
    ADD CONSTRAINT external_call_attempt_pkey PRIMARY KEY (tenant_id, effect_id, attempt);

ALTER TABLE ONLY public.fallout_case
    ADD CONSTRAINT fallout_case_pkey PRIMARY KEY (tenant_id, case_id);

ALTER TABLE ONLY public.finding
    ADD CONSTRAINT finding_pkey PRIMARY KEY (tenant_id, finding_id);

ALTER TABLE ONLY public.flow
    ADD CONSTRAINT flow_pkey PRIMARY KEY (tenant_id, order_id, run, instance_key);

ALTER TABLE ONLY public.fulfillment_plan
    ADD CONSTRAINT fulfillment_plan_pkey PRIMARY KEY (tenant_id, plan_id);

ALTER TABLE ONLY public.fulfillment_plan
    ADD CONSTRAINT fulfillment_plan_tenant_id_order_id_version_key UNIQUE (tenant_id, order_id, version);

ALTER TABLE ONLY public.fulfillment_task
    ADD CONSTRAINT fulfillment_task_pkey PRIMARY KEY (tenant_id, task_id);

ALTER TABLE ONLY public.listener
    ADD CONSTRAINT listener_pkey PRIMARY KEY (tenant_id, listener_id);

ALTER TABLE ONLY public.order_history
    ADD CONSTRAINT order_history_pkey PRIMARY KEY (tenant_id, order_id, sequence);

ALTER TABLE ONLY public.order_item
    ADD CONSTRAINT order_item_pkey PRIMARY KEY (tenant_id, order_id, item_id);

ALTER TABLE ONLY public.order_relation
    ADD CONSTRAINT order_relation_pkey PRIMARY KEY (tenant_id, order_relation_id);

ALTER TABLE ONLY public.order_relation
    ADD CONSTRAINT order_relation_tenant_id_source_order_id_target_order_id_re_key UNIQUE (tenant_id, source_order_id, target_order_id, relation_type);

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.policy
    ADD CONSTRAINT policy_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.preview
    ADD CONSTRAINT preview_pkey PRIMARY KEY (tenant_id, preview_id);

ALTER TABLE ONLY public.receipt
    ADD CONSTRAINT receipt_pkey PRIMARY KEY (tenant_id, command_id);

ALTER TABLE ONLY public.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.staff
    ADD CONSTRAINT staff_pkey PRIMARY KEY (tenant_id, subject);

ALTER TABLE ONLY public.task_hold
    ADD CONSTRAINT task_hold_pkey PRIMARY KEY (tenant_id, task_id, holder);

CREATE INDEX amendment_request_open ON public.amendment_request USING btree (tenant_id, order_id) WHERE (ended_at IS NULL);

CREATE INDEX amendment_request_order ON public.amendment_request USING btree (tenant_id, order_id, requested_at);

CREATE INDEX asset_change_lock_order ON public.asset_change_lock USING btree (tenant_id, order_id);

CREATE INDEX asset_customer ON public.asset USING btree (tenant_id, customer_id);

CREATE INDEX audit_entry_contradicted ON public.audit_entry USING btree (tenant_id, at) WHERE (kind = 'OUTCOME_CONTRADICTED'::text);

CREATE INDEX bulk_job_running ON public.bulk_job USING btree (next_at) WHERE (status = 'RUNNING'::text);

CREATE UNIQUE INDEX bulk_row_subject ON public.bulk_row USING btree (tenant_id, job_id, subject_id);

CREATE INDEX bulk_row_waiting ON public.bulk_row USING btree (tenant_id, job_id, "position") WHERE (status = ANY (ARRAY['PENDING'::text, 'CLAIMED'::text]));

CREATE INDEX cancellation_request_decided ON public.cancellation_request USING btree (ended_at) WHERE ((ended_at IS NOT NULL) AND (decisions <> '[]'::jsonb));

CREATE UNIQUE INDEX cancellation_request_one_active ON public.cancellation_request USING btree (tenant_id, order_id) WHERE ((scope = 'ORDER'::text) AND (ended_at IS NULL));

CREATE INDEX cancellation_request_open ON public.cancellation_request USING btree (tenant_id, order_id) WHERE (ended_at IS NULL);

CREATE INDEX cancellation_request_order ON public.cancellation_request USING btree (tenant_id, order_id, requested_at);

CREATE INDEX compensation_plan_order ON public.compensation_plan USING btree (tenant_id, order_id, created_at);

CREATE INDEX compensation_task_dependency_order ON public.compensation_task_dependency USING btree (tenant_id, order_id);

CREATE INDEX compensation_task_order ON public.compensation_task USING btree (tenant_id, order_id);

CREATE INDEX compensation_task_pace ON public.compensation_task USING btree (task_type, ended_at) WHERE (state = 'COMPLETED'::text);

CREATE INDEX compensation_task_startable ON public.compensation_task USING btree (tenant_id, order_id) WHERE (state = 'READY'::text);

CREATE INDEX customer_order_customer ON public.customer_order USING btree (tenant_id, customer_id);

CREATE INDEX customer_order_live ON public.customer_order USING btree (tenant_id, state, updated_at) WHERE (ended_at IS NULL);

CREATE UNIQUE INDEX customer_order_live_external_id ON public.customer_order USING btree (tenant_id, external_id) WHERE ((ended_at IS NULL) AND (external_id IS NOT NULL));

CREATE INDEX customer_order_recent ON public.customer_order USING btree (tenant_id, created_at DESC, order_id);

CREATE INDEX customer_order_unplanned ON public.customer_order USING btree (tenant_id, order_id) WHERE ((ended_at IS NULL) AND (plan_version = 0));

CREATE INDEX delivery_due ON public.delivery USING btree (due_at);

CREATE INDEX dependence_told ON public.dependence USING btree (told_at);

CREATE INDEX effect_address ON public.effect USING btree (effect_id);

CREATE UNIQUE INDEX effect_one_reversal ON public.effect USING btree (tenant_id, reverses) WHERE ((state = 'CONFIRMED'::text) AND (reverses IS NOT NULL));

CREATE INDEX effect_open ON public.effect USING btree (intended_at) WHERE (state = ANY (ARRAY['INTENDED'::text, 'UNKNOWN'::text]));

CREATE INDEX effect_order ON public.effect USING btree (tenant_id, order_id);

CREATE INDEX engine_outbox_traced ON public.engine_outbox USING btree (tenant_id, order_id, id) WHERE (trace_parent IS NOT NULL);

CREATE INDEX engine_outbox_waiting ON public.engine_outbox USING btree (id) WHERE (published_at IS NULL);

CREATE INDEX fallout_case_incident ON public.fallout_case USING btree (incident_key) WHERE (incident_key IS NOT NULL);

CREATE INDEX fallout_case_late ON public.fallout_case USING btree (tenant_id, opened_at) WHERE ((context = 'LATE_EFFECT'::text) AND (closed_at IS NULL));

CREATE INDEX fallout_case_open ON public.fallout_case USING btree (tenant_id, opened_at) WHERE (closed_at IS NULL);

CREATE INDEX fallout_case_order ON public.fallout_case USING btree (tenant_id, order_id, opened_at);

CREATE INDEX fallout_case_resolved ON public.fallout_case USING btree (closed_at) WHERE (status = 'RESOLVED'::text);

CREATE INDEX finding_age ON public.finding USING btree (tenant_id, first_seen_at, finding_id);

CREATE UNIQUE INDEX finding_open ON public.finding USING btree (tenant_id, class, subject) WHERE (resolved_at IS NULL);

CREATE INDEX flow_age ON public.flow USING btree (noted_at);

CREATE INDEX flow_instance ON public.flow USING btree (instance_key);

CREATE INDEX fulfillment_task_order ON public.fulfillment_task USING btree (tenant_id, order_id);

CREATE INDEX fulfillment_task_ready ON public.fulfillment_task USING btree (tenant_id, order_id) WHERE ((state = 'READY'::text) AND (NOT handed));

CREATE INDEX fulfillment_task_startable ON public.fulfillment_task USING btree (tenant_id, order_id) WHERE (state = 'READY'::text);

CREATE INDEX fulfillment_task_superseded_by ON public.fulfillment_task USING btree (tenant_id, superseded_by) WHERE (superseded_by IS NOT NULL);

CREATE INDEX order_item_asset ON public.order_item USING btree (tenant_id, asset) WHERE (asset IS NOT NULL);

CREATE INDEX order_item_target_asset ON public.order_item USING btree (tenant_id, target_asset) WHERE (target_asset IS NOT NULL);

CREATE INDEX order_relation_target ON public.order_relation USING btree (tenant_id, target_order_id);

CREATE UNIQUE INDEX outbox_event ON public.outbox USING btree (tenant_id, order_id, sequence);

CREATE INDEX outbox_parked ON public.outbox USING btree (tenant_id, order_id) WHERE ((parked_at IS NOT NULL) AND (published_at IS NULL));

CREATE INDEX outbox_waiting ON public.outbox USING btree (id) WHERE (published_at IS NULL);

CREATE INDEX policy_in_force ON public.policy USING btree (tenant_id, effective_from DESC, version DESC);

CREATE INDEX preview_age ON public.preview USING btree (created_at);

CREATE INDEX receipt_age ON public.receipt USING btree (created_at);

CREATE INDEX task_hold_order ON public.task_hold USING btree (tenant_id, order_id);

CREATE TRIGGER asset_keeps_reliance AFTER INSERT OR UPDATE OF relies_on ON public.asset FOR EACH ROW EXECUTE FUNCTION public.keep_asset_reliance();

ALTER TABLE ONLY public.amendment_request
    ADD CONSTRAINT amendment_request_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.asset_change_lock
    ADD CONSTRAINT asset_change_lock_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.asset_correction
    ADD CONSTRAINT asset_correction_tenant_id_asset_id_fkey FOREIGN KEY (tenant_id, asset_id) REFERENCES public.asset(tenant_id, asset_id);

ALTER TABLE ONLY public.audit_entry
    ADD CONSTRAINT audit_entry_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.audit_head
    ADD CONSTRAINT audit_head_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.bulk_row
    ADD CONSTRAINT bulk_row_tenant_id_job_id_fkey FOREIGN KEY (tenant_id, job_id) REFERENCES public.bulk_job(tenant_id, job_id);

ALTER TABLE ONLY public.bulk_row
    ADD CONSTRAINT bulk_row_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.cancellation_request
    ADD CONSTRAINT cancellation_request_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.cancellation_request
    ADD CONSTRAINT cancellation_request_tenant_id_repairs_case_fkey FOREIGN KEY (tenant_id, repairs_case) REFERENCES public.fallout_case(tenant_id, case_id);

ALTER TABLE ONLY public.compensation_plan
    ADD CONSTRAINT compensation_plan_tenant_id_amendment_id_fkey FOREIGN KEY (tenant_id, amendment_id) REFERENCES public.amendment_request(tenant_id, request_id);

ALTER TABLE ONLY public.compensation_plan
    ADD CONSTRAINT compensation_plan_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.compensation_plan
    ADD CONSTRAINT compensation_plan_tenant_id_request_id_fkey FOREIGN KEY (tenant_id, request_id) REFERENCES public.cancellation_request(tenant_id, request_id);

ALTER TABLE ONLY public.compensation_task_dependency
    ADD CONSTRAINT compensation_task_dependency_tenant_id_task_id_fkey FOREIGN KEY (tenant_id, task_id) REFERENCES public.compensation_task(tenant_id, task_id);

ALTER TABLE ONLY public.compensation_task
    ADD CONSTRAINT compensation_task_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.compensation_task
    ADD CONSTRAINT compensation_task_tenant_id_plan_id_fkey FOREIGN KEY (tenant_id, plan_id) REFERENCES public.compensation_plan(tenant_id, plan_id);

ALTER TABLE ONLY public.dependence
    ADD CONSTRAINT dependence_tenant_id_request_id_fkey FOREIGN KEY (tenant_id, request_id) REFERENCES public.cancellation_request(tenant_id, request_id);

ALTER TABLE ONLY public.dependence
    ADD CONSTRAINT dependence_tenant_id_source_id_fkey FOREIGN KEY (tenant_id, source_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.effect
    ADD CONSTRAINT effect_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.external_call_attempt
    ADD CONSTRAINT external_call_attempt_tenant_id_effect_id_fkey FOREIGN KEY (tenant_id, effect_id) REFERENCES public.effect(tenant_id, effect_id);

ALTER TABLE ONLY public.fallout_case
    ADD CONSTRAINT fallout_case_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.finding
    ADD CONSTRAINT finding_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.flow
    ADD CONSTRAINT flow_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.fulfillment_plan
    ADD CONSTRAINT fulfillment_plan_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.fulfillment_task
    ADD CONSTRAINT fulfillment_task_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.fulfillment_task
    ADD CONSTRAINT fulfillment_task_tenant_id_plan_id_fkey FOREIGN KEY (tenant_id, plan_id) REFERENCES public.fulfillment_plan(tenant_id, plan_id);

ALTER TABLE ONLY public.order_history
    ADD CONSTRAINT order_history_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.order_item
    ADD CONSTRAINT order_item_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.order_relation
    ADD CONSTRAINT order_relation_tenant_id_source_order_id_fkey FOREIGN KEY (tenant_id, source_order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.order_relation
    ADD CONSTRAINT order_relation_tenant_id_target_order_id_fkey FOREIGN KEY (tenant_id, target_order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.preview
    ADD CONSTRAINT preview_tenant_id_order_id_fkey FOREIGN KEY (tenant_id, order_id) REFERENCES public.customer_order(tenant_id, order_id);

ALTER TABLE ONLY public.task_hold
    ADD CONSTRAINT task_hold_tenant_id_task_id_fkey FOREIGN KEY (tenant_id, task_id) REFERENCES public.fulfillment_task(tenant_id, task_id);

ALTER TABLE public.amendment_request ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.asset ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.asset_change_lock ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.asset_correction ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.asset_reliance ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.audit_entry ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.audit_head ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.bulk_job ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.bulk_row ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.cancellation_request ENABLE ROW LEVEL SECURITY;

CREATE POLICY carries ON public.engine_outbox TO recourse_relay USING (true);

CREATE POLICY carries ON public.outbox TO recourse_relay USING (true);

ALTER TABLE public.compensation_plan ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.compensation_task ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.compensation_task_dependency ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.customer_order ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.delivery ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.dependence ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.effect ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.engine_outbox ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.external_call_attempt ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.fallout_case ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.finding ENABLE ROW LEVEL SECURITY;

CREATE POLICY finds_addresses ON public.effect FOR SELECT TO recourse_owner USING (true);

ALTER TABLE public.flow ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.fulfillment_plan ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.fulfillment_task ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.listener ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.order_history ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.order_item ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.order_relation ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.outbox ENABLE ROW LEVEL SECURITY;

CREATE POLICY own_or_shared ON public.finding TO recourse_app USING ((tenant_id = ANY (ARRAY[(current_setting('recourse.tenant'::text))::uuid, '00000000-0000-0000-0000-000000000000'::uuid]))) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_or_shared ON public.policy TO recourse_app USING ((tenant_id = ANY (ARRAY[(current_setting('recourse.tenant'::text))::uuid, '00000000-0000-0000-0000-000000000000'::uuid]))) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.amendment_request TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.asset TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.asset_change_lock TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.asset_correction TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.asset_reliance TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.audit_entry TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.audit_head TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.bulk_job TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.bulk_row TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.cancellation_request TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.compensation_plan TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.compensation_task TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.compensation_task_dependency TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.customer_order TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.delivery TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.dependence TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.effect TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.engine_outbox TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.external_call_attempt TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.fallout_case TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.flow TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.fulfillment_plan TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.fulfillment_task TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.listener TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.order_history TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.order_item TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.order_relation TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.outbox TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.preview TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.receipt TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.staff TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

CREATE POLICY own_tenant ON public.task_hold TO recourse_app USING ((tenant_id = (current_setting('recourse.tenant'::text))::uuid)) WITH CHECK ((tenant_id = (current_setting('recourse.tenant'::text))::uuid));

ALTER TABLE public.policy ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.preview ENABLE ROW LEVEL SECURITY;

CREATE POLICY reads_all ON public.amendment_request FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.asset FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.asset_change_lock FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.asset_correction FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.asset_reliance FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.audit_entry FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.audit_head FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.bulk_job FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.bulk_row FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.cancellation_request FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.compensation_plan FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.compensation_task FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.compensation_task_dependency FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.customer_order FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.delivery FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.dependence FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.effect FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.engine_outbox FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.external_call_attempt FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.fallout_case FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.finding FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.flow FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.fulfillment_plan FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.fulfillment_task FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.listener FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.order_history FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.order_item FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.order_relation FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.outbox FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.policy FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.preview FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.receipt FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.staff FOR SELECT TO recourse_auditor USING (true);

CREATE POLICY reads_all ON public.task_hold FOR SELECT TO recourse_auditor USING (true);

ALTER TABLE public.receipt ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.staff ENABLE ROW LEVEL SECURITY;

ALTER TABLE public.task_hold ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA public TO recourse_app;

GRANT USAGE ON SCHEMA public TO recourse_relay;

GRANT USAGE ON SCHEMA public TO recourse_auditor;

REVOKE ALL ON FUNCTION public.effect_address(wanted uuid) FROM PUBLIC;

GRANT ALL ON FUNCTION public.effect_address(wanted uuid) TO recourse_app;

GRANT SELECT,INSERT,UPDATE ON TABLE public.amendment_request TO recourse_app;

GRANT SELECT ON TABLE public.amendment_request TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.asset TO recourse_app;

GRANT SELECT ON TABLE public.asset TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.asset_change_lock TO recourse_app;

GRANT SELECT ON TABLE public.asset_change_lock TO recourse_auditor;

GRANT SELECT ON TABLE public.asset_correction TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.asset_correction TO recourse_app;

GRANT SELECT,INSERT,DELETE ON TABLE public.asset_reliance TO recourse_app;

GRANT SELECT ON TABLE public.asset_reliance TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.audit_entry TO recourse_app;

GRANT SELECT ON TABLE public.audit_entry TO recourse_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.audit_head TO recourse_app;

GRANT SELECT ON TABLE public.audit_head TO recourse_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.bulk_job TO recourse_app;

GRANT SELECT ON TABLE public.bulk_job TO recourse_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.bulk_row TO recourse_app;

GRANT SELECT ON TABLE public.bulk_row TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.cancellation_request TO recourse_app;

GRANT SELECT ON TABLE public.cancellation_request TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.compensation_plan TO recourse_app;

GRANT SELECT ON TABLE public.compensation_plan TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.compensation_task TO recourse_app;

GRANT SELECT ON TABLE public.compensation_task TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.compensation_task_dependency TO recourse_app;

GRANT SELECT ON TABLE public.compensation_task_dependency TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.customer_order TO recourse_app;

GRANT SELECT ON TABLE public.customer_order TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.delivery TO recourse_app;

GRANT SELECT ON TABLE public.delivery TO recourse_auditor;

GRANT SELECT ON TABLE public.dependence TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.dependence TO recourse_app;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.effect TO recourse_app;

GRANT SELECT ON TABLE public.effect TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.engine_outbox TO recourse_app;

GRANT SELECT,DELETE,UPDATE ON TABLE public.engine_outbox TO recourse_relay;

GRANT SELECT ON TABLE public.engine_outbox TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.external_call_attempt TO recourse_app;

GRANT SELECT ON TABLE public.external_call_attempt TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.fallout_case TO recourse_app;

GRANT SELECT ON TABLE public.fallout_case TO recourse_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.finding TO recourse_app;

GRANT SELECT ON TABLE public.finding TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.flow TO recourse_app;

GRANT SELECT ON TABLE public.flow TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.fulfillment_plan TO recourse_app;

GRANT SELECT ON TABLE public.fulfillment_plan TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.fulfillment_task TO recourse_app;

GRANT SELECT ON TABLE public.fulfillment_task TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.listener TO recourse_app;

GRANT SELECT ON TABLE public.listener TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.order_history TO recourse_app;

GRANT SELECT ON TABLE public.order_history TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_item TO recourse_app;

GRANT SELECT ON TABLE public.order_item TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_relation TO recourse_app;

GRANT SELECT ON TABLE public.order_relation TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.outbox TO recourse_app;

GRANT SELECT,DELETE,UPDATE ON TABLE public.outbox TO recourse_relay;

GRANT SELECT ON TABLE public.outbox TO recourse_auditor;

GRANT SELECT,INSERT ON TABLE public.policy TO recourse_app;

GRANT SELECT ON TABLE public.policy TO recourse_auditor;

GRANT SELECT,INSERT,UPDATE ON TABLE public.preview TO recourse_app;

GRANT SELECT ON TABLE public.preview TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.receipt TO recourse_app;

GRANT SELECT ON TABLE public.receipt TO recourse_auditor;

GRANT SELECT ON TABLE public.schema_migration TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.staff TO recourse_app;

GRANT SELECT ON TABLE public.staff TO recourse_auditor;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.task_hold TO recourse_app;

GRANT SELECT ON TABLE public.task_hold TO recourse_auditor;
