-- Who may decide what in Tasklist, per tenant.

-- name: read_roles
select roles from staff where tenant_id = :tenant_id and subject = :subject;
