-- Previews: what was shown, by the fingerprint that it rested on.

-- name: add_preview
insert into preview (tenant_id, preview_id, order_id, kind, fingerprint)
values (:tenant_id, :preview_id, :order_id, :kind, :fingerprint)
on conflict (tenant_id, preview_id) do update set fingerprint = excluded.fingerprint;

-- name: find_preview
select fingerprint from preview
where tenant_id = :tenant_id and order_id = :order_id and preview_id = :preview_id and kind = :kind;
