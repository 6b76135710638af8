-- The two outboxes, as the relay sees them: across all tenants, oldest first. Never a cursor over ids: a row with a
-- smaller id may be committed after one with a greater.

-- name: take_lead
select pg_try_advisory_lock(hashtextextended('recourse.relay.' || :sink, 0)) as leads;

-- name: next_events
-- An order with a parked event waits as a whole; the others pass.
select id, tenant_id, order_id, sequence, event_id, type, at, payload::text as payload, trace_parent
from outbox o
where published_at is null and parked_at is null and id <> all(:without::bigint[]) and not exists (
    select from outbox p
    where p.parked_at is not null and p.published_at is null
        and p.tenant_id = o.tenant_id and p.order_id = o.order_id)
order by id
limit :limit;

-- name: mark_events
update outbox set published_at = clock_timestamp() where id = any(:ids::bigint[]);

-- name: park_event
update outbox set parked_at = clock_timestamp(), parked_reason = :reason where id = :id;

-- name: next_messages
select
    id, tenant_id, order_id, message_id, name, correlation_key, variables::text as variables, ttl, trace_parent, created_at
from engine_outbox
where published_at is null and parked_at is null
order by id
limit :limit;

-- name: mark_messages
update engine_outbox set published_at = clock_timestamp() where id = any(:ids::bigint[]);

-- name: park_message
update engine_outbox set parked_at = clock_timestamp(), parked_reason = :reason where id = :id;

-- name: list_parked
select 'kafka' as sink, id, tenant_id, order_id, type as name, parked_at, parked_reason from outbox
where published_at is null and parked_at is not null
union all
select 'engine', id, tenant_id, order_id, name, parked_at, parked_reason from engine_outbox
where published_at is null and parked_at is not null
order by parked_at, id limit :limit;

-- name: release_event
update outbox set parked_at = null, parked_reason = null
where id = :id and published_at is null and parked_at is not null returning id;

-- name: release_message
update engine_outbox set parked_at = null, parked_reason = null
where id = :id and published_at is null and parked_at is not null returning id;

-- name: prune_events
-- The oldest that were sent, a batch at a time; the look at the primary key's low end costs the same however much is kept.
delete from outbox where id in (
    select id from (select id, published_at from outbox where published_at is not null order by id limit :limit) oldest
    where published_at < clock_timestamp() - :keep::interval)
returning id;

-- name: prune_messages
delete from engine_outbox where id in (
    select id from (
        select id, published_at from engine_outbox where published_at is not null order by id limit :limit) oldest
    where published_at < clock_timestamp() - :keep::interval)
returning id;
