-- What a past assessment rested on.

-- name: list_assessments
-- The stored findings of the tenant, newest first.
select order_id, request_id, assessed_at from cancellation_request
where tenant_id = :tenant_id and assessed_at is not null
    and (:before_at::timestamptz is null or (assessed_at, request_id) < (:before_at, :before_id::uuid))
order by assessed_at desc, request_id desc limit :limit;

-- name: load_past
-- The order after an entry of its audit: its document and items from its history, all states from the audit itself.
select json_build_object(
    'content', (
        select content from order_history
        where tenant_id = :tenant_id and order_id = :order_id and sequence <= :sequence and content is not null
        order by sequence desc limit 1),
    'items', (
        select json_agg(item order by position) from (
            select distinct on (item->>'item_id') item, (item->>'position')::int as position
            from order_history h, jsonb_array_elements(h.items) item
            where h.tenant_id = :tenant_id and h.order_id = :order_id and h.sequence <= :sequence
            order by item->>'item_id', h.sequence desc) i),
    'states', (
        select json_agg(json_build_array(entity, entity_id, after)) from (
            select distinct on (entity, entity_id) entity, entity_id, after from audit_entry
            where tenant_id = :tenant_id and order_id = :order_id and sequence <= :sequence and after is not null
            order by entity, entity_id, sequence desc) s)
)::text as document;
