-- The canonical state: orders, plans, effects, requests, cases, audit, outboxes, receipts; row-level security from the start.
-- Every key begins with tenant_id: foreign and unique keys look past row-level security.

-- Roles belong to the server, not to the database: another database of ours may have made them.
do $$
declare
    name text;
begin
    foreach name in array array['recourse_app', 'recourse_relay', 'recourse_auditor'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I login noinherit nobypassrls', name);
        end if;
    end loop;
end $$;

create table policy (
    tenant_id uuid not null,              -- the nil uuid: in force for every tenant without one of its own
    version bigint generated always as identity,
    name text not null,
    effective_from timestamptz not null,
    document jsonb not null,
    loaded_at timestamptz not null default clock_timestamp(),
    loaded_by text not null,
    primary key (version)
);
create index policy_in_force on policy (tenant_id, effective_from desc, version desc);

create table receipt (
    tenant_id uuid not null,
    command_id uuid not null,
    fingerprint text not null,
    answer jsonb,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, command_id)
);
create index receipt_age on receipt (created_at);

create table customer_order (
    tenant_id uuid not null,
    order_id uuid not null,
    external_id text,
    order_type text not null check (order_type in ('STANDARD','AMENDMENT','CANCELLATION','SUPPLEMENTAL','DISCONNECT','RETURN','REPAIR','BILLING_ADJUSTMENT')),
    state text not null check (state in ('ACKNOWLEDGED','VALIDATED','IN_PROGRESS','FALLOUT','CANCELLATION_REQUESTED','CANCELLATION_ASSESSING','CANCELLING','AMENDING','ON_HOLD','COMPLETED','PARTIALLY_COMPLETED','CANCELLED','FAILED','REJECTED')),
    base text not null check (base in ('ACKNOWLEDGED','VALIDATED','IN_PROGRESS')),
    resume_state text,
    version bigint not null,
    sequence bigint not null,             -- of the last audit entry; ce_orderversion
    chain bytea not null,                 -- its hash
    content jsonb not null,
    customer_id text generated always as (content #>> '{customer,id}') stored,
    policy_version bigint not null,
    plan_version int not null,
    run uuid not null,
    start_key int not null default 0,
    order_holds text[] not null default '{}',
    created_at timestamptz not null,
    updated_at timestamptz not null,
    ended_at timestamptz,
    primary key (tenant_id, order_id)
);
create unique index customer_order_live_external_id on customer_order (tenant_id, external_id)
    where ended_at is null and external_id is not null;
create index customer_order_recent on customer_order (tenant_id, created_at desc, order_id);
create index customer_order_live on customer_order (tenant_id, state, updated_at) where ended_at is null;
create index customer_order_customer on customer_order (tenant_id, customer_id);

create table order_item (
    tenant_id uuid not null,
    order_id uuid not null,
    item_id text not null,
    position int not null,
    action text not null check (action in ('ADD','MODIFY','DISCONNECT','RETURN','NO_CHANGE')),
    offering text not null,
    state text not null check (state in ('ACKNOWLEDGED','IN_PROGRESS','COMPLETED','CANCELLATION_REQUESTED','CANCELLATION_ASSESSING','CANCELLING','CANCELLED','PARTIALLY_COMPLETED','FALLOUT','FAILED','SUPERSEDED')),
    base text not null,
    quantity int not null check (quantity >= 0),
    ordered_quantity int not null check (ordered_quantity >= 1),
    content jsonb not null,
    parent text,
    relies_on text[] not null default '{}',
    target_asset uuid,
    asset uuid,
    snapshot jsonb,
    primary key (tenant_id, order_id, item_id),
    foreign key (tenant_id, order_id) references customer_order
);

create table order_relation (
    tenant_id uuid not null,
    order_relation_id uuid not null,
    source_order_id uuid not null,        -- the newer order
    target_order_id uuid not null,
    relation_type text not null check (relation_type in ('AMENDS','CANCELS','SUPPLEMENTS','REPLACES','COMPENSATES','REPAIRS','ROLLS_BACK','SPLITS_FROM')),
    reason_code text,
    created_at timestamptz not null,
    created_by text not null,
    primary key (tenant_id, order_relation_id),
    unique (tenant_id, source_order_id, target_order_id, relation_type),
    check (source_order_id <> target_order_id),
    foreign key (tenant_id, source_order_id) references customer_order (tenant_id, order_id),
    foreign key (tenant_id, target_order_id) references customer_order (tenant_id, order_id)
);
create index order_relation_target on order_relation (tenant_id, target_order_id);

create table fulfillment_plan (
    tenant_id uuid not null,
    plan_id uuid not null,
    order_id uuid not null,
    version int not null,
    run uuid not null,
    types jsonb not null,                 -- the policy's metadata as it stood at decomposition
    policy_version bigint not null,
    closed boolean not null,
    woken boolean not null,
    primary key (tenant_id, plan_id),
    unique (tenant_id, order_id, version),
    foreign key (tenant_id, order_id) references customer_order
);

create table fulfillment_task (
    tenant_id uuid not null,
    task_id uuid not null,
    order_id uuid not null,
    plan_id uuid not null,
    plan_version int not null,
    step text not null,
    task_type text not null,
    item_ids text[] not null,
    state text not null check (state in ('PENDING','READY','IN_PROGRESS','WAITING_EXTERNAL','COMPLETED','OUTCOME_UNKNOWN','FAILED','CANCELLED','SUPERSEDED','COMPENSATING','COMPENSATED')),
    depends_on uuid[] not null default '{}',
    unmet int not null,
    release int not null,
    handed boolean not null,
    effect_id uuid,
    superseded_by uuid,
    started_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, task_id),
    foreign key (tenant_id, order_id) references customer_order,
    foreign key (tenant_id, plan_id) references fulfillment_plan
);
create index fulfillment_task_order on fulfillment_task (tenant_id, order_id);
create index fulfillment_task_ready on fulfillment_task (tenant_id, order_id) where state = 'READY' and not handed;

create table task_hold (
    tenant_id uuid not null,
    order_id uuid not null,
    task_id uuid not null,
    holder text not null,
    primary key (tenant_id, task_id, holder),
    foreign key (tenant_id, task_id) references fulfillment_task
);
create index task_hold_order on task_hold (tenant_id, order_id);

create table effect (
    tenant_id uuid not null,
    effect_id uuid not null,
    order_id uuid not null,
    task_id uuid not null,                -- a fulfillment task or a compensation task
    task_type text not null,
    system text not null,
    operation text not null,
    level text not null,
    state text not null check (state in ('INTENDED','CONFIRMED','NO_EFFECT','UNKNOWN','REVERSED','WAIVED')),
    basis text not null check (basis in ('SYSTEM','MANUAL')),
    input jsonb not null,
    output jsonb,
    external_reference text,
    reason text,
    attempt int not null,
    failures int not null,
    lease_until timestamptz,
    intended_at timestamptz not null,
    called_at timestamptz,
    accepted_at timestamptz,
    unknown_since timestamptz,
    missed_at timestamptz,
    settled_at timestamptz,
    reverses uuid,
    withdraws uuid,
    reversed_by uuid,
    primary key (tenant_id, effect_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index effect_order on effect (tenant_id, order_id);
-- I4: an effect is reversed at most once, whoever tries.
create unique index effect_one_reversal on effect (tenant_id, reverses) where state = 'CONFIRMED' and reverses is not null;
create index effect_open on effect (intended_at) where state in ('INTENDED','UNKNOWN');

create table external_call_attempt (
    tenant_id uuid not null,
    effect_id uuid not null,
    attempt int not null,
    started_at timestamptz not null,
    finished_at timestamptz,
    outcome text,
    detail text,
    primary key (tenant_id, effect_id, attempt),
    foreign key (tenant_id, effect_id) references effect
);

create table cancellation_request (
    tenant_id uuid not null,
    request_id uuid not null,
    order_id uuid not null,
    status text not null check (status in ('ACCEPTED_FOR_ASSESSMENT','ASSESSING','REQUIRES_APPROVAL','AWAITING_CHARGE_DECISION','APPROVED','COMPENSATING','COMPLETED','PARTIALLY_COMPLETED','REJECTED','WITHDRAWN','SUPERSEDED')),
    scope text not null check (scope in ('ORDER','ITEMS')),
    item_ids text[] not null,
    reason_code text not null,
    reason_text text,
    requested_by text not null,
    on_behalf_of text,
    claimed_at timestamptz,
    requested_at timestamptz not null,
    run uuid not null,
    version bigint not null,
    force_manual_review boolean not null,
    round int not null,
    waiting boolean not null,
    grace_until timestamptz,
    sla_at timestamptz,
    assessed_at timestamptz,
    assessment jsonb,
    fingerprint text,
    policy_version bigint,
    charge jsonb,
    approval jsonb,
    dispositions jsonb not null,
    decisions jsonb not null,
    proposals jsonb not null,
    refused_withdrawals uuid[] not null default '{}',
    plan_id uuid,
    outcome text,
    jeopardy boolean not null,
    committed_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, request_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index cancellation_request_order on cancellation_request (tenant_id, order_id, requested_at);
-- I2: at most one order-scope change is active.
create unique index cancellation_request_one_active on cancellation_request (tenant_id, order_id)
    where scope = 'ORDER' and ended_at is null;

create table compensation_plan (
    tenant_id uuid not null,
    plan_id uuid not null,
    order_id uuid not null,
    request_id uuid not null,
    state text not null check (state in ('PLANNED','IN_PROGRESS','BLOCKED','COMPLETED','SUPERSEDED')),
    run uuid not null,
    types jsonb not null,
    closed boolean not null,
    woken boolean not null,
    created_at timestamptz not null,
    committed_at timestamptz,
    completed_at timestamptz,
    primary key (tenant_id, plan_id),
    foreign key (tenant_id, order_id) references customer_order,
    foreign key (tenant_id, request_id) references cancellation_request
);
create index compensation_plan_order on compensation_plan (tenant_id, order_id, created_at);

create table compensation_task (
    tenant_id uuid not null,
    task_id uuid not null,
    order_id uuid not null,
    plan_id uuid not null,
    step text not null,
    task_type text not null,
    item_ids text[] not null,
    state text not null check (state in ('PLANNED','AWAITING_ORIGINAL','READY','NOT_REQUIRED','RETAINED','SUPERSEDED','DISPATCHED','COMPLETED','WAITING_EXTERNAL','FAILED','OUTCOME_UNKNOWN','IN_FALLOUT','WAIVED')),
    unmet int not null,
    release int not null,
    handed boolean not null,
    effect_id uuid,
    original_task uuid,
    reverses uuid,
    purpose text not null check (purpose in ('COMPENSATE','WITHDRAW','MANUAL','AWAIT')),
    started_at timestamptz,
    ended_at timestamptz,
    primary key (tenant_id, task_id),
    foreign key (tenant_id, order_id) references customer_order,
    foreign key (tenant_id, plan_id) references compensation_plan
);
create index compensation_task_order on compensation_task (tenant_id, order_id);

create table compensation_task_dependency (
    tenant_id uuid not null,
    order_id uuid not null,
    task_id uuid not null,
    depends_on uuid not null,
    primary key (tenant_id, task_id, depends_on),
    foreign key (tenant_id, task_id) references compensation_task
);
create index compensation_task_dependency_order on compensation_task_dependency (tenant_id, order_id);

create table fallout_case (
    tenant_id uuid not null,
    case_id uuid not null,
    order_id uuid not null,
    status text not null check (status in ('OPEN','ASSIGNED','REPAIR_SUBMITTED','RESOLVED','CANCELLED')),
    context text not null check (context in ('FULFILLMENT','COMPENSATION','AMENDMENT','RECONCILIATION','LATE_EFFECT')),
    category text not null check (category in ('TECHNICAL','BUSINESS','DATA','CAPACITY','UNKNOWN_OUTCOME')),
    blocking boolean not null,
    title text not null,
    opened_at timestamptz not null,
    sla_at timestamptz not null,
    task_id uuid,
    effect_id uuid,
    request_id uuid,
    owner text,
    incident_key text,
    version bigint not null,
    repairs jsonb not null,
    resolution text,
    jeopardy boolean not null,
    closed_at timestamptz,
    primary key (tenant_id, case_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index fallout_case_order on fallout_case (tenant_id, order_id, opened_at);
create index fallout_case_open on fallout_case (tenant_id, opened_at) where closed_at is null;

create table asset (
    tenant_id uuid not null,
    asset_id uuid not null,
    customer_id text not null,
    offering text not null,
    configuration jsonb not null,
    state text not null check (state in ('ACTIVE','SUSPENDED','TERMINATED')),
    version bigint not null,
    system_references jsonb not null,
    relies_on text[] not null default '{}',
    installed_by uuid,
    quantity int not null,
    primary key (tenant_id, asset_id)
);
create index asset_customer on asset (tenant_id, customer_id);
create index asset_relies_on on asset using gin (relies_on);

-- I9: one live order per asset, from its acceptance to its end, whatever state it is in between.
create table asset_change_lock (
    tenant_id uuid not null,
    asset_id uuid not null,
    order_id uuid not null,
    locked_at timestamptz not null default clock_timestamp(),
    constraint asset_change_lock_one_holder primary key (tenant_id, asset_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index asset_change_lock_order on asset_change_lock (tenant_id, order_id);

create table audit_entry (
    tenant_id uuid not null,
    order_id uuid not null,
    sequence bigint not null,
    at timestamptz not null,
    actor text not null,
    on_behalf_of text,
    entity text not null check (entity in ('ORDER','ITEM','TASK','REQUEST','EFFECT','PLAN','CASE')),
    entity_id text not null,
    kind text not null,
    before text,
    after text,
    request_id uuid,
    data jsonb not null,
    hash bytea not null,
    previous_hash bytea not null,
    primary key (tenant_id, order_id, sequence),
    foreign key (tenant_id, order_id) references customer_order
);

create table outbox (
    id bigint generated always as identity primary key,
    tenant_id uuid not null,
    order_id uuid not null,
    sequence bigint not null,
    event_id uuid not null,
    type text not null,
    at timestamptz not null,
    payload jsonb not null,
    trace_parent text,
    published_at timestamptz,
    parked_at timestamptz,
    parked_reason text
);
create index outbox_waiting on outbox (id) where published_at is null;
create unique index outbox_event on outbox (tenant_id, order_id, sequence);

create table engine_outbox (
    id bigint generated always as identity primary key,
    tenant_id uuid not null,
    order_id uuid not null,
    message_id uuid not null,
    name text not null,
    correlation_key text not null,
    variables jsonb not null,
    ttl int not null,                     -- seconds that the engine keeps it for a late listener
    created_at timestamptz not null default clock_timestamp(),
    published_at timestamptz,
    parked_at timestamptz,
    parked_reason text
);
create index engine_outbox_waiting on engine_outbox (id) where published_at is null;

create table staff (
    tenant_id uuid not null,
    subject text not null,
    roles text[] not null,
    changed_by text not null,
    changed_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, subject)
);

-- Tenants: the setting is read with a cast and without a default, so a query that forgot it fails; it never sees all rows.
do $$
declare
    name text;
begin
    foreach name in array array[
        'receipt','customer_order','order_item','order_relation','fulfillment_plan','fulfillment_task','task_hold',
        'effect','external_call_attempt','cancellation_request','compensation_plan','compensation_task',
        'compensation_task_dependency','fallout_case','asset','asset_change_lock','audit_entry','staff'
    ] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I to recourse_app using (tenant_id = current_setting(''recourse.tenant'')::uuid)'
            ' with check (tenant_id = current_setting(''recourse.tenant'')::uuid)', name);
        execute format('create policy reads_all on %I for select to recourse_auditor using (true)', name);
    end loop;
end $$;

alter table policy enable row level security;
alter table policy force row level security;
create policy own_or_shared on policy to recourse_app
    using (tenant_id in (current_setting('recourse.tenant')::uuid, '00000000-0000-0000-0000-000000000000'))
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on policy for select to recourse_auditor using (true);

alter table outbox enable row level security;
alter table outbox force row level security;
create policy own_tenant on outbox to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy carries on outbox to recourse_relay using (true);
create policy reads_all on outbox for select to recourse_auditor using (true);

alter table engine_outbox enable row level security;
alter table engine_outbox force row level security;
create policy own_tenant on engine_outbox to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy carries on engine_outbox to recourse_relay using (true);
create policy reads_all on engine_outbox for select to recourse_auditor using (true);

grant usage on schema public to recourse_app, recourse_relay, recourse_auditor;
grant select, insert, update, delete on
    receipt, customer_order, order_item, order_relation, fulfillment_plan, fulfillment_task, task_hold, effect,
    external_call_attempt, cancellation_request, compensation_plan, compensation_task, compensation_task_dependency,
    fallout_case, asset, asset_change_lock, staff to recourse_app;
grant select, insert on audit_entry, outbox, engine_outbox, policy to recourse_app;   -- append-only
grant select, update, delete on outbox, engine_outbox to recourse_relay;
grant select on all tables in schema public to recourse_auditor;
