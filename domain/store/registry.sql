-- What a tenant keeps beside its orders: policies in force, the installed base, who may decide.

-- name: store_answer
update receipt set answer = :answer::jsonb where tenant_id = :tenant_id and command_id = :command_id;

-- name: find_policy_in_force
select version from policy
where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and effective_from <= clock_timestamp()
order by tenant_id = :tenant_id desc, effective_from desc, version desc limit 1;

-- name: list_live_systems
-- The systems that tasks which have not ended will still call.
select distinct p.types->t.task_type->>'system' as system
from fulfillment_task t join fulfillment_plan p using (tenant_id, plan_id)
where t.tenant_id = :tenant_id and t.state not in ('COMPLETED', 'COMPENSATED', 'CANCELLED', 'SUPERSEDED')
union
select distinct p.types->t.task_type->>'system'
from compensation_task t join compensation_plan p using (tenant_id, plan_id)
where t.tenant_id = :tenant_id and t.state not in ('COMPLETED', 'NOT_REQUIRED', 'RETAINED', 'WAIVED', 'SUPERSEDED');

-- name: lock_asset
select version, row_to_json(asset)::text as document from asset
where tenant_id = :tenant_id and asset_id = :asset_id for update;

-- name: add_asset
-- None where another one of the same id has come first.
insert into asset (
    tenant_id, asset_id, customer_id, offering, configuration, state, version, system_references, relies_on, quantity)
values (
    :tenant_id, :asset_id, :customer_id, :offering, :configuration::jsonb, :state, 1, :system_references::jsonb,
    :relies_on, :quantity)
on conflict (tenant_id, asset_id) do nothing
returning row_to_json(asset)::text as document;

-- name: correct_asset
update asset set
    customer_id = :customer_id, offering = :offering, configuration = :configuration::jsonb, state = :state,
    version = version + 1, system_references = :system_references::jsonb, relies_on = :relies_on, quantity = :quantity
where tenant_id = :tenant_id and asset_id = :asset_id
returning row_to_json(asset)::text as document;

-- name: note_correction
insert into asset_correction (tenant_id, asset_id, version, actor, on_behalf_of, before, after)
values (:tenant_id, :asset_id, :version, :actor, :on_behalf_of, :before::jsonb, :after::jsonb);

-- name: introduce_staff
insert into staff (tenant_id, subject, roles, changed_by) values (:tenant_id, :subject, :roles, :changed_by)
on conflict (tenant_id, subject) do nothing;

-- name: write_staff
insert into staff (tenant_id, subject, roles, changed_by) values (:tenant_id, :subject, :roles, :changed_by)
on conflict (tenant_id, subject) do update set
    roles = excluded.roles, changed_by = excluded.changed_by, changed_at = clock_timestamp()
returning json_build_object(
    'subject', subject, 'roles', roles, 'changed_by', changed_by, 'changed_at', changed_at)::text as document;
