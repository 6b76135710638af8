-- Which instances of the engine carry an order's flows.

-- name: note_flow
insert into flow (tenant_id, order_id, run, instance_key, process)
values (:tenant_id, :order_id, :run, :instance_key, :process)
on conflict do nothing;

-- name: find_cause
-- What the engine was last told for this flow, or else for its order, by somebody whose trace is recorded.
select trace_parent, created_at from engine_outbox
where tenant_id = :tenant_id and order_id = :order_id and trace_parent is not null
order by (variables->>'run' = :run) desc nulls last, id desc limit 1;
