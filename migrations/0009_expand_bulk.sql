-- One command for many orders or cases: a job, and one row per subject with what became of it.

create table bulk_job (
    tenant_id uuid not null,
    job_id uuid not null,
    kind text not null check (kind in ('CANCELLATION','REPAIR')),
    status text not null check (status in ('RUNNING','PAUSED','DONE')),
    body jsonb not null,                  -- what is asked of each
    rate_per_minute int not null check (rate_per_minute > 0),
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null,
    created_roles text[] not null,
    on_behalf_of text,
    next_at timestamptz not null default clock_timestamp(),   -- not before then, by its rate
    finished_at timestamptz,
    primary key (tenant_id, job_id)
);
create index bulk_job_running on bulk_job (next_at) where status = 'RUNNING';

create table bulk_row (
    tenant_id uuid not null,
    job_id uuid not null,
    position int not null,
    subject_id uuid not null,             -- the order, or the case
    order_id uuid,                        -- null: not found in this tenant
    status text not null check (status in ('PENDING','CLAIMED','DONE','REFUSED','FAILED')),
    attempts int not null default 0,
    claimed_until timestamptz,
    code text,
    detail text,
    result_id uuid,
    at timestamptz,
    primary key (tenant_id, job_id, position),
    foreign key (tenant_id, job_id) references bulk_job,
    foreign key (tenant_id, order_id) references customer_order
);
create unique index bulk_row_subject on bulk_row (tenant_id, job_id, subject_id);
create index bulk_row_waiting on bulk_row (tenant_id, job_id, position) where status in ('PENDING','CLAIMED');

do $$
declare name text;
begin
    foreach name in array array['bulk_job','bulk_row'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I to recourse_app using (tenant_id = current_setting(''recourse.tenant'')::uuid)'
            ' with check (tenant_id = current_setting(''recourse.tenant'')::uuid)', name);
        execute format('create policy reads_all on %I for select to recourse_auditor using (true)', name);
        execute format('grant select, insert, update on %I to recourse_app', name);
        execute format('grant select on %I to recourse_auditor', name);
    end loop;
end $$;
