-- What an order looked like at any time: per transaction that moved its row or its items, what it wrote of them.

create table order_history (
    tenant_id uuid not null,
    order_id uuid not null,
    sequence bigint not null,             -- of the last audit entry of that transaction
    at timestamptz not null,
    head jsonb,                           -- the order's own row without its content; null where it did not move
    content jsonb,                        -- the customer's document; null where it did not change
    items jsonb not null,                 -- the rows of the items that were written
    primary key (tenant_id, order_id, sequence),
    foreign key (tenant_id, order_id) references customer_order
);
insert into order_history (tenant_id, order_id, sequence, at, head, content, items)
select o.tenant_id, o.order_id, 0, o.created_at, to_jsonb(o) - 'content', o.content, coalesce((
    select jsonb_agg(to_jsonb(i) order by i.position) from order_item i
    where i.tenant_id = o.tenant_id and i.order_id = o.order_id), '[]')
from customer_order o;                    -- of what is older than this table, only how it stands is known

alter table order_history enable row level security;
alter table order_history force row level security;
create policy own_tenant on order_history to recourse_app using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on order_history for select to recourse_auditor using (true);
grant select, insert on order_history to recourse_app;   -- append-only
grant select on order_history to recourse_auditor;
