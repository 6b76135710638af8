-- The end of an order's audit moves out of the order's row: a wish that comes after the end is recorded, and the row of
-- the ended order stays as it is, to the byte.

create table audit_head (
    tenant_id uuid not null,
    order_id uuid not null,
    sequence bigint not null,             -- of the last audit entry; ce_orderversion
    chain bytea not null,                 -- its hash
    primary key (tenant_id, order_id),
    foreign key (tenant_id, order_id) references customer_order
);
insert into audit_head select tenant_id, order_id, sequence, chain from customer_order;
alter table customer_order drop column sequence, drop column chain;

alter table audit_head enable row level security;
alter table audit_head force row level security;
create policy own_tenant on audit_head to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on audit_head for select to recourse_auditor using (true);
grant select, insert, update on audit_head to recourse_app;
grant select on audit_head to recourse_auditor;
