-- Who listens, and what is still to be told. What is told is written with its event, in `orders`.

-- name: count_alone
-- Who adds to a tenant's listeners counts them alone: of many at once each would find room for one more.
select pg_advisory_xact_lock(hashtextextended('recourse.listeners.' || (:tenant_id)::uuid::text, 0));

-- name: add_listener
insert into listener (tenant_id, listener_id, callback, query, heard, created_by)
select :tenant_id, :listener_id, :callback, :asked, :heard::text[], :created_by
where (select count(*) from listener where tenant_id = :tenant_id) < :most
on conflict do nothing
returning listener_id;

-- name: read_listener
select row_to_json(w)::text as document, (
    select count(*) from delivery d where d.tenant_id = w.tenant_id and d.listener_id = w.listener_id) as waiting
from listener w where tenant_id = :tenant_id and listener_id = :listener_id;

-- name: list_listeners
select row_to_json(w)::text as document, (
    select count(*) from delivery d where d.tenant_id = w.tenant_id and d.listener_id = w.listener_id) as waiting
from listener w where tenant_id = :tenant_id
order by created_at desc, listener_id desc limit :limit offset :offset;

-- name: count_listeners
select count(*) as total from listener where tenant_id = :tenant_id;

-- name: remove_listener
delete from listener where tenant_id = :tenant_id and listener_id = :listener_id returning listener_id;

-- name: find_due_listeners
-- Over all tenants: who has something waiting that may be told now; the one that waits longest first.
select tenant_id, listener_id from delivery where due_at <= clock_timestamp()
group by tenant_id, listener_id order by min(due_at) limit :limit;

-- name: claim_deliveries
-- An order's events are told in the order of its versions: the next one only when the one before is gone. A claim that
-- was never answered comes back when its time is over.
with next as (
    select d.order_id, d.sequence from delivery d
    where d.tenant_id = :tenant_id and d.listener_id = :listener_id and d.due_at <= clock_timestamp() and not exists (
        select from delivery b
        where b.tenant_id = d.tenant_id and b.listener_id = d.listener_id and b.order_id = d.order_id
            and b.sequence < d.sequence)
    order by d.due_at limit :size for update of d skip locked),
claimed as (
    update delivery d set attempts = attempts + 1, due_at = clock_timestamp() + :lease::interval
    from next n
    where d.tenant_id = :tenant_id and d.listener_id = :listener_id
        and d.order_id = n.order_id and d.sequence = n.sequence
    returning d.order_id, d.sequence, d.event_id, d.type, d.at, d.payload, d.attempts)
select c.order_id, c.sequence, c.event_id, c.type, c.at, c.payload::text as payload, c.attempts, w.callback
from claimed c left join listener w on w.tenant_id = :tenant_id and w.listener_id = :listener_id;

-- name: end_delivery
delete from delivery
where tenant_id = :tenant_id and listener_id = :listener_id and order_id = :order_id and sequence = :sequence
    and attempts = :attempts
returning sequence;

-- name: note_told
update listener set told_at = clock_timestamp(), trouble = null
where tenant_id = :tenant_id and listener_id = :listener_id;

-- name: note_given_up
update listener set given_up = given_up + 1, trouble = :trouble
where tenant_id = :tenant_id and listener_id = :listener_id;

-- name: put_off
with later as (
    update delivery set due_at = clock_timestamp() + :pause::interval
    where tenant_id = :tenant_id and listener_id = :listener_id and order_id = :order_id and sequence = :sequence
        and attempts = :attempts
    returning sequence)
update listener set trouble = :trouble
where tenant_id = :tenant_id and listener_id = :listener_id and exists (select from later);
