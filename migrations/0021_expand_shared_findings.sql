-- What the engine shows of nobody's order is no tenant's finding: it is kept for all, as the shared policy is, and every
-- tenant's operators read it.

drop policy own_tenant on finding;
create policy own_or_shared on finding to recourse_app
    using (tenant_id in (current_setting('recourse.tenant')::uuid, '00000000-0000-0000-0000-000000000000'))
    with check (tenant_id = current_setting('recourse.tenant')::uuid);
