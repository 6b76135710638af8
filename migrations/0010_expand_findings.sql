-- What the reconciler found, as long as it stands and afterwards: one open row per class and subject.

create table finding (
    tenant_id uuid not null,
    finding_id uuid not null,
    class text not null,
    subject text not null,
    order_id uuid,
    evidence text not null,
    repair text,                          -- the command that mends it; null: a person's work
    silent_since timestamptz not null,
    first_seen_at timestamptz not null default clock_timestamp(),
    last_seen_at timestamptz not null default clock_timestamp(),
    repaired_at timestamptz,
    resolved_at timestamptz,
    primary key (tenant_id, finding_id),
    foreign key (tenant_id, order_id) references customer_order
);
create unique index finding_open on finding (tenant_id, class, subject) where resolved_at is null;
create index finding_age on finding (tenant_id, first_seen_at, finding_id);

-- For sweeps: healthy orders are not among these.
create index audit_entry_contradicted on audit_entry (tenant_id, at) where kind = 'OUTCOME_CONTRADICTED';
create index customer_order_unplanned on customer_order (tenant_id, order_id)
    where ended_at is null and plan_version = 0;
create index fallout_case_late on fallout_case (tenant_id, opened_at) where context = 'LATE_EFFECT' and closed_at is null;

alter table finding enable row level security;
alter table finding force row level security;
create policy own_tenant on finding to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on finding for select to recourse_auditor using (true);
grant select, insert, update on finding to recourse_app;
grant select on finding to recourse_auditor;
