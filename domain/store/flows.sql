-- Which instances of the engine carry an order's flows.

-- name: note_flow
insert into flow (tenant_id, order_id, run, instance_key, process)
values (:tenant_id, :order_id, :run, :instance_key, :process)
on conflict do nothing;
