-- Orders and cancellations in pages with a number and a total, as TM Forum's clients ask for them.

-- name: list_product_orders
select json_build_object('head', row_to_json(o), 'items', (
    select json_agg(i order by position) from order_item i
    where i.tenant_id = o.tenant_id and i.order_id = o.order_id))::text as document
from (
    select * from customer_order
    where tenant_id = :tenant_id
        and (:order_id::uuid is null or order_id = :order_id)
        and (:states::text[] is null or state = any(:states))
        and (:external_id::text is null or external_id = :external_id)
        and (:customer_id::text is null or customer_id = :customer_id)
        and (:kept::jsonb is null or content->'tmf' @> :kept)
        and (:since::timestamptz is null or created_at >= :since)
        and (:until::timestamptz is null or created_at < :until)
    order by created_at desc, order_id desc limit :limit offset :offset) o
order by created_at desc, order_id desc;

-- name: count_product_orders
select count(*) as total from customer_order
where tenant_id = :tenant_id
    and (:order_id::uuid is null or order_id = :order_id)
    and (:states::text[] is null or state = any(:states))
    and (:external_id::text is null or external_id = :external_id)
    and (:customer_id::text is null or customer_id = :customer_id)
    and (:kept::jsonb is null or content->'tmf' @> :kept)
    and (:since::timestamptz is null or created_at >= :since)
    and (:until::timestamptz is null or created_at < :until);

-- name: read_product_order
select json_build_object('head', row_to_json(o), 'items', (
    select json_agg(i order by position) from order_item i
    where i.tenant_id = o.tenant_id and i.order_id = o.order_id))::text as document
from customer_order o where tenant_id = :tenant_id and order_id = :order_id;

-- name: list_cancel_tasks
select row_to_json(r)::text as document from (
    select * from cancellation_request
    where tenant_id = :tenant_id and scope = 'ORDER'
        and (:order_id::uuid is null or order_id = :order_id)
        and (:request_id::uuid is null or request_id = :request_id)
        and (:statuses::text[] is null or status = any(:statuses))
    order by requested_at desc, request_id desc limit :limit offset :offset) r;

-- name: count_cancel_tasks
select count(*) as total from cancellation_request
where tenant_id = :tenant_id and scope = 'ORDER'
    and (:order_id::uuid is null or order_id = :order_id)
    and (:request_id::uuid is null or request_id = :request_id)
    and (:statuses::text[] is null or status = any(:statuses));

-- name: read_cancel_task
select row_to_json(r)::text as document from cancellation_request r
where tenant_id = :tenant_id and request_id = :request_id and scope = 'ORDER';
