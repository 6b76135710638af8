-- Amendments: what was asked for, what was found, what became of it; and compensation plans that belong to one.

create table amendment_request (
    tenant_id uuid not null,
    request_id uuid not null,
    order_id uuid not null,
    status text not null check (status in ('REQUESTED','QUEUED','ASSESSING','REQUIRES_APPROVAL','AWAITING_CHARGE_DECISION','APPROVED','APPLYING','APPLIED','REJECTED','FAILED','CANCELLED','SUPERSEDED')),
    reason_code text not null,
    requested_by text not null,
    on_behalf_of text,
    claimed_at timestamptz,
    requested_at timestamptz not null,
    run uuid not null,
    changes jsonb not null,               -- per change: path, command, before, after, and what the assessment says of it
    version bigint not null,
    allow_partial boolean not null,
    auto_apply boolean not null,
    repairs_case uuid,
    round int not null,
    waiting boolean not null,
    grace_until timestamptz,
    sla_at timestamptz,
    assessed_at timestamptz,
    assessment jsonb,
    fingerprint text,
    policy_version bigint,
    quote jsonb,
    quote_plan uuid,
    charge jsonb,
    approval jsonb,
    decisions jsonb not null,
    plan_id uuid,
    new_plan_version int,
    outcome text,
    jeopardy boolean not null,
    applied_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, request_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index amendment_request_order on amendment_request (tenant_id, order_id, requested_at);
create index amendment_request_open on amendment_request (tenant_id, order_id) where ended_at is null;

alter table amendment_request enable row level security;
alter table amendment_request force row level security;
create policy own_tenant on amendment_request to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on amendment_request for select to recourse_auditor using (true);
grant select, insert, update on amendment_request to recourse_app;
grant select on amendment_request to recourse_auditor;

-- A compensation plan is one cancellation's or one amendment's; one that only asks for prices undoes nothing.
alter table compensation_plan
    alter column request_id drop not null,
    add column amendment_id uuid,
    add column purpose text not null default 'UNDO' check (purpose in ('UNDO','QUOTE')),
    add constraint compensation_plan_one_owner check (num_nonnulls(request_id, amendment_id) = 1),
    add foreign key (tenant_id, amendment_id) references amendment_request (tenant_id, request_id);

alter table compensation_task
    drop constraint compensation_task_purpose_check,
    add constraint compensation_task_purpose_check check (purpose in ('COMPENSATE','WITHDRAW','MANUAL','AWAIT','QUOTE'));

-- The tasks that an amendment replaced, by the one that came for them.
create index fulfillment_task_superseded_by on fulfillment_task (tenant_id, superseded_by) where superseded_by is not null;
