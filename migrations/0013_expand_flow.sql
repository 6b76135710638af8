-- Which instances of the engine carry an order's flows: for links to Operate; nothing is decided by it.

create table flow (
    tenant_id uuid not null,
    order_id uuid not null,
    run uuid not null,                    -- an engine that lost its data counts its keys anew; a run never comes again
    instance_key bigint not null,
    process text not null,
    noted_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, order_id, run, instance_key),
    foreign key (tenant_id, order_id) references customer_order
);

alter table flow enable row level security;
alter table flow force row level security;
create policy own_tenant on flow to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on flow for select to recourse_auditor using (true);
grant select, insert on flow to recourse_app;
grant select on flow to recourse_auditor;
