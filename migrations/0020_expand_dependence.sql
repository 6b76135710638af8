-- Which orders are still to hear that a cancellation which they depend on has begun or ended: a row is owed until the
-- order's own transaction has followed. And what an admin said of an asset, kept beside what orders made of it.

create table dependence (
    tenant_id uuid not null,
    order_id uuid not null,               -- who is to follow; no foreign key: its row is not locked for being told
    source_id uuid not null,              -- whose cancellation it is
    request_id uuid not null,
    run uuid not null,                    -- of the message; told anew, it is another, and hearing the old one settles nothing
    told_at timestamptz not null,
    primary key (tenant_id, order_id, request_id),
    foreign key (tenant_id, source_id) references customer_order,
    foreign key (tenant_id, request_id) references cancellation_request
);
create index dependence_told on dependence (told_at);

create table asset_correction (
    tenant_id uuid not null,
    asset_id uuid not null,
    version bigint not null,              -- of the asset, that came of it
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    on_behalf_of text,
    before jsonb,                         -- null: taken in by it
    after jsonb not null,
    primary key (tenant_id, asset_id, version),
    foreign key (tenant_id, asset_id) references asset
);

-- Who was told before there were such rows hears it once more: it comes to the same.
insert into dependence (tenant_id, order_id, source_id, request_id, run, told_at)
select q.tenant_id, d.order_id, q.order_id, q.request_id, gen_random_uuid(), clock_timestamp()
from cancellation_request q cross join lateral unnest(q.dependents) d (order_id)
where q.ended_at is null
union all
select q.tenant_id, o.order_id, q.order_id, q.request_id, gen_random_uuid(), clock_timestamp()
from customer_order o cross join lateral unnest(o.order_holds) h (holder)
join cancellation_request q on q.tenant_id = o.tenant_id and q.request_id::text = split_part(h.holder, '/', 2)
where o.ended_at is null and h.holder like 'order:%' and q.ended_at is not null;

do $$
declare name text;
begin
    foreach name in array array['dependence','asset_correction'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I to recourse_app using (tenant_id = current_setting(''recourse.tenant'')::uuid)'
            ' with check (tenant_id = current_setting(''recourse.tenant'')::uuid)', name);
        execute format('create policy reads_all on %I for select to recourse_auditor using (true)', name);
        execute format('grant select on %I to recourse_auditor', name);
    end loop;
end $$;
grant select, insert, update, delete on dependence to recourse_app;
grant select, insert on asset_correction to recourse_app;   -- append-only
