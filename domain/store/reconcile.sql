-- What the reconciler looks at, over all tenants (the auditor's role). Every query begins at a partial index of unfinished
-- work: a healthy order costs nothing.

-- name: take_watch
select pg_try_advisory_lock(hashtextextended('recourse.reconciler', 0)) as watches;

-- name: find_idle_tasks
-- Free to start, held by nobody, and its order has been silent for longer than its flow's heartbeat.
select c.tenant_id, c.order_id, c.plan_id, c.task_id, c.handed, entry.at as silent_since, (
    select count(*) from audit_entry r
    where r.tenant_id = c.tenant_id and r.order_id = c.order_id and r.entity_id = c.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarts
from (
    select tenant_id, order_id, plan_id, task_id, handed from fulfillment_task where state = 'READY'
    union all
    select tenant_id, order_id, plan_id, task_id, handed from compensation_task
    where state = 'READY' and purpose <> 'MANUAL') c
join customer_order o on o.tenant_id = c.tenant_id and o.order_id = c.order_id
join audit_head head on head.tenant_id = o.tenant_id and head.order_id = o.order_id
join audit_entry entry on entry.tenant_id = o.tenant_id and entry.order_id = o.order_id and entry.sequence = head.sequence
where entry.at < clock_timestamp() - :settle::interval
    and not exists (select from task_hold h where h.tenant_id = c.tenant_id and h.task_id = c.task_id)
limit :limit;

-- name: find_overdue_effects
-- Open, and past the moment by which its flow should have asked: the lease, the callback's time, or the end of asking.
-- A task with an open case is a person's, not ours.
select e.tenant_id, e.order_id, t.plan_id, e.task_id, e.effect_id, due.class, due.at as silent_since, (
    select count(*) from audit_entry r
    where r.tenant_id = e.tenant_id and r.order_id = e.order_id and r.entity_id = t.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarts, (
    select max(r.at) from audit_entry r
    where r.tenant_id = e.tenant_id and r.order_id = e.order_id and r.entity_id = t.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarted_at
from effect e
join (
    select f.tenant_id, f.task_id, f.plan_id, f.task_type, p.types from fulfillment_task f
    join fulfillment_plan p on p.tenant_id = f.tenant_id and p.plan_id = f.plan_id
    union all
    select c.tenant_id, c.task_id, c.plan_id, c.task_type, p.types from compensation_task c
    join compensation_plan p on p.tenant_id = c.tenant_id and p.plan_id = c.plan_id
) t on t.tenant_id = e.tenant_id and t.task_id = e.task_id
cross join lateral (
    select case
        when e.unknown_since is not null then e.unknown_since + (t.types #>> array[t.task_type, 'verify', 'give_up_after'])::interval
        when e.accepted_at is not null then e.accepted_at + (t.types #>> array[t.task_type, 'callback_timeout'])::interval
        else coalesce(e.lease_until, e.intended_at) end as at,
    case
        when e.unknown_since is not null then 'UNKNOWN_TOO_LONG'
        when e.accepted_at is not null then 'CALLBACK_OVERDUE'
        else 'INTENT_WITHOUT_OUTCOME' end as class) due
where e.state in ('INTENDED', 'UNKNOWN')
    and due.at < clock_timestamp() - :settle::interval
    and not exists (
        select from fallout_case c
        where c.tenant_id = e.tenant_id and c.order_id = e.order_id and c.task_id = e.task_id and c.closed_at is null)
limit :limit;

-- name: find_stuck_outboxes
-- Rows that wait longer than any relay should take, or that were held back.
select 'outbox' as outbox, count(*) as rows, min(at) as silent_since, count(parked_at) as parked
from outbox where published_at is null and (at < clock_timestamp() - :settle::interval or parked_at is not null)
having count(*) > 0
union all
select 'engine_outbox', count(*), min(created_at), count(parked_at)
from engine_outbox where published_at is null and (created_at < clock_timestamp() - :settle::interval or parked_at is not null)
having count(*) > 0;
