-- What a preview rested on, so that a command can say "as shown" and be told when that no longer stands.

create table preview (
    tenant_id uuid not null,
    preview_id uuid not null,
    order_id uuid not null,
    kind text not null check (kind in ('CANCELLATION','AMENDMENT')),
    fingerprint text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant_id, preview_id),
    foreign key (tenant_id, order_id) references customer_order
);
create index preview_age on preview (created_at);

alter table preview enable row level security;
alter table preview force row level security;
create policy own_tenant on preview to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on preview for select to recourse_auditor using (true);
grant select, insert, update on preview to recourse_app;
grant select on preview to recourse_auditor;
