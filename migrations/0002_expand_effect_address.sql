-- A callback carries an effect's id and a signature, no tenant: this is the one question that is asked across tenants,
-- and its answer is an address, never a fact.

create index effect_address on effect (effect_id);

-- Row-level security is forced on the owner too; this lets the function below, and nobody else, look the address up.
create policy finds_addresses on effect for select to current_user using (true);

create function effect_address(wanted uuid) returns table (tenant_id uuid, order_id uuid, system text)
    language sql stable security definer
    set search_path = pg_catalog
    as $$ select e.tenant_id, e.order_id, e.system from public.effect e where e.effect_id = wanted $$;

revoke all on function effect_address(uuid) from public;
grant execute on function effect_address(uuid) to recourse_app;
