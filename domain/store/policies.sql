-- The policy documents, versioned; a version never changes.

-- name: read_policy
select document::text as document from policy where version = :version;

-- name: add_policy
insert into policy (tenant_id, name, effective_from, document, loaded_by)
values (:tenant_id, :name, :effective_from, :document::jsonb, :loaded_by)
returning version, loaded_at;

-- name: find_latest_same
select version, loaded_at from policy
where version = (select max(version) from policy where tenant_id = :tenant_id) and document = :document::jsonb;

-- name: list_policies
select version, name, effective_from, loaded_at, loaded_by, tenant_id from policy
order by version desc limit :limit;

-- name: list_documents
-- Across all tenants (the auditor's role): what the fleet must be able to call.
select version, document::text as document from policy where version > :after order by version;
