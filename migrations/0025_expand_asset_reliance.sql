-- What relies on an asset, by that asset: under row-level security an index of arrays is not used, so whoever aimed at
-- one asset looked at all of its tenant's. Kept by a trigger, so that workers of any release keep it.

create table asset_reliance (
    tenant_id uuid not null,
    base text not null,                   -- as an asset names it in relies_on; it need not be there
    asset_id uuid not null,
    primary key (tenant_id, base, asset_id)
);

create function keep_asset_reliance() returns trigger language plpgsql as $$
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
create trigger asset_keeps_reliance after insert or update of relies_on on asset
    for each row execute function keep_asset_reliance();

-- Also an owner who is no superuser must see the rows that are there.
alter table asset no force row level security;
insert into asset_reliance (tenant_id, base, asset_id)
select tenant_id, base, asset_id from asset cross join unnest(relies_on) base
on conflict do nothing;
alter table asset force row level security;

drop index asset_relies_on;

alter table asset_reliance enable row level security;
alter table asset_reliance force row level security;
create policy own_tenant on asset_reliance to recourse_app
    using (tenant_id = current_setting('recourse.tenant')::uuid)
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
create policy reads_all on asset_reliance for select to recourse_auditor using (true);
grant select, insert, delete on asset_reliance to recourse_app;
grant select on asset_reliance to recourse_auditor;
