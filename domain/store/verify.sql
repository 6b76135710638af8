-- Every invariant over the live data, one block each: the rows that break it. Read by the auditor's role, in one
-- snapshot; without a tenant (null) over all of them. The columns are the same everywhere; states come from the machines.

-- name: can_read_all
-- A role that row-level security cuts off would find nothing wrong with nothing.
select rolsuper or rolbypassrls or pg_has_role(current_user, 'recourse_auditor', 'usage') as reads_all
from pg_roles where rolname = current_user;

-- name: ended_orders_stay
-- I1: what moved after the transaction in which its order ended, and rows written after their end.
with ended as (
    select tenant_id, order_id, min(sequence) as sequence, min(at) as at from audit_entry
    where (:tenant_id::uuid is null or tenant_id = :tenant_id) and entity = 'ORDER' and after = any(:ended_order::text[])
    group by tenant_id, order_id)
select a.tenant_id, a.order_id, a.entity, a.entity_id,
    format('moved to %s after the end of its order (audit %s)', a.after, a.sequence) as problem
from ended e
join audit_entry a on a.tenant_id = e.tenant_id and a.order_id = e.order_id and a.sequence > e.sequence and a.at <> e.at
left join fulfillment_task t
    on a.entity = 'TASK' and t.tenant_id = a.tenant_id and t.order_id = a.order_id and t.task_id::text = a.entity_id
where a.after is not null and (a.entity in ('ORDER', 'ITEM') or t.task_id is not null)
union all
select tenant_id, order_id, 'ORDER', order_id::text, format('written at %s, ended at %s', updated_at, ended_at)
from customer_order
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and updated_at > ended_at
limit :limit;

-- name: ends_are_dated
-- What has ended says when, and what has not does not.
select tenant_id, order_id, 'ORDER' as entity, order_id::text as entity_id,
    format('is %s with ended_at %s and resume state %s', state, coalesce(ended_at::text, 'unset'),
        coalesce(resume_state, 'unset')) as problem
from customer_order
where (:tenant_id::uuid is null or tenant_id = :tenant_id)
    and ((state = any(:ended_order::text[])) <> (ended_at is not null) or (ended_at is not null and resume_state is not null))
union all
select tenant_id, order_id, 'REQUEST', request_id::text,
    format('is %s with ended_at %s', status, coalesce(ended_at::text, 'unset'))
from cancellation_request
where (:tenant_id::uuid is null or tenant_id = :tenant_id)
    and (status = any(:ended_request::text[])) <> (ended_at is not null)
union all
select tenant_id, order_id, 'CASE', case_id::text,
    format('is %s with closed_at %s', status, coalesce(closed_at::text, 'unset'))
from fallout_case
where (:tenant_id::uuid is null or tenant_id = :tenant_id)
    and (status = any(:ended_case::text[])) <> (closed_at is not null)
union all
select tenant_id, order_id, 'TASK', task_id::text, format('is %s without ended_at', state)
from (
    select tenant_id, order_id, task_id, state, ended_at, state = any(:ended_task::text[]) as ended
    from fulfillment_task
    union all
    select tenant_id, order_id, task_id, state, ended_at, state = any(:ended_undoing::text[])
    from compensation_task) t
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and ended and ended_at is null
limit :limit;

-- name: what_ended_holds_nothing
-- An ended request holds no task; an ended order has no open request, no original effect under way, no open walker.
select h.tenant_id, h.order_id, 'TASK' as entity, h.task_id::text as entity_id,
    format('is held by %s, which holds nothing any more', h.holder) as problem
from task_hold h join customer_order o using (tenant_id, order_id)
left join (
    select tenant_id, order_id, request_id from cancellation_request where status <> all(:ended_request::text[])
    union all select tenant_id, order_id, request_id from amendment_request where status <> all(:ended_amendment::text[])
) r on r.tenant_id = h.tenant_id and r.order_id = h.order_id and r.request_id::text = h.holder
where (:tenant_id::uuid is null or h.tenant_id = :tenant_id)
    and r.request_id is null and not (
        h.holder = any(o.order_holds) and (
            h.holder = 'operator' or h.holder like 'order:%' or exists (
                select from fallout_case c
                where c.tenant_id = h.tenant_id and c.order_id = h.order_id and c.case_id::text = h.holder
                    and c.closed_at is null)))
union all
select o.tenant_id, o.order_id, 'REQUEST', r.request_id::text, format('is %s although its order is %s', r.status, o.state)
from customer_order o join cancellation_request r using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id)
    and o.state = any(:ended_order::text[]) and r.status <> all(:ended_request::text[])
union all
select o.tenant_id, o.order_id, 'REQUEST', r.request_id::text, format('is %s although its order is %s', r.status, o.state)
from customer_order o join amendment_request r using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id)
    and o.state = any(:ended_order::text[]) and r.status <> all(:ended_amendment::text[])
union all
select o.tenant_id, o.order_id, 'EFFECT', e.effect_id::text, format('is %s although its order is %s', e.state, o.state)
from effect e join customer_order o using (tenant_id, order_id)
where (:tenant_id::uuid is null or e.tenant_id = :tenant_id)
    and e.state in ('INTENDED', 'UNKNOWN') and e.reverses is null and e.withdraws is null
    and o.state = any(:ended_order::text[])
union all
select o.tenant_id, o.order_id, 'PLAN', p.plan_id::text, format('its walker is not told that the order is %s', o.state)
from customer_order o join fulfillment_plan p using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and o.state = any(:ended_order::text[]) and not p.closed
union all
select tenant_id, order_id, 'PLAN', plan_id::text, format('is %s and its walker is not told', state)
from compensation_plan
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and state = any(:ended_plan::text[]) and not closed
limit :limit;

-- name: one_change_at_a_time
-- I2: more than one active cancellation of a whole order.
select tenant_id, order_id, 'ORDER' as entity, order_id::text as entity_id,
    format('%s order-scope cancellations are active', count(*)) as problem
from cancellation_request
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and scope = 'ORDER' and status <> all(:ended_request::text[])
group by tenant_id, order_id
having count(*) > 1
limit :limit;

-- name: calls_have_intents
-- I3: a call before, beside or beyond what its ledger row says.
select a.tenant_id, e.order_id, 'EFFECT' as entity, a.effect_id::text as entity_id,
    case when e.effect_id is null then format('attempt %s has no row in the ledger', a.attempt)
        when e.intended_at > a.started_at then format('attempt %s began before the intent', a.attempt)
        else format('attempt %s of %s', a.attempt, e.attempt) end as problem
from external_call_attempt a left join effect e using (tenant_id, effect_id)
where (:tenant_id::uuid is null or a.tenant_id = :tenant_id)
    and (e.effect_id is null or e.intended_at > a.started_at or a.attempt not between 1 and e.attempt)
union all
select e.tenant_id, e.order_id, 'EFFECT', e.effect_id::text,
    format('%s attempts in the ledger, %s on record', e.attempt, coalesce(a.known, 0))
from effect e left join (
    select tenant_id, effect_id, count(*) as known from external_call_attempt group by tenant_id, effect_id
) a using (tenant_id, effect_id)
where (:tenant_id::uuid is null or e.tenant_id = :tenant_id) and e.attempt <> coalesce(a.known, 0)
limit :limit;

-- name: one_reversal_each
-- I4: reversals that name no original, come twice, or leave their original as if nothing had been; undone by nothing.
select r.tenant_id, r.order_id, 'EFFECT' as entity, r.effect_id::text as entity_id,
    case when o.effect_id is null then format('reverses %s, which this order does not have', r.reverses)
        when o.reverses is not null or o.withdraws is not null then format('reverses %s, no original', r.reverses)
        else format('is CONFIRMED and its original %s is %s', r.reverses, o.state) end as problem
from effect r left join effect o
    on o.tenant_id = r.tenant_id and o.order_id = r.order_id and o.effect_id = r.reverses
where (:tenant_id::uuid is null or r.tenant_id = :tenant_id) and r.reverses is not null
    and (o.effect_id is null or o.reverses is not null or o.withdraws is not null
        or (r.state = 'CONFIRMED' and o.state not in ('REVERSED', 'WAIVED')))
union all
select tenant_id, order_id, 'EFFECT', reverses::text, format('has %s confirmed reversals', count(*))
from effect
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and reverses is not null and state = 'CONFIRMED'
group by tenant_id, order_id, reverses
having count(*) > 1
union all
select e.tenant_id, e.order_id, 'EFFECT', e.effect_id::text, 'is REVERSED by nothing'
from effect e
left join effect r on r.tenant_id = e.tenant_id and r.reverses = e.effect_id and r.state = 'CONFIRMED'
left join compensation_task t
    on t.tenant_id = e.tenant_id and t.reverses = e.effect_id and t.state = 'NOT_REQUIRED'
left join effect again  -- an amendment had it done once more, in its place
    on again.tenant_id = e.tenant_id and again.order_id = e.order_id and again.effect_id = e.reversed_by
    and again.task_type = e.task_type and again.settled_at is not null
where (:tenant_id::uuid is null or e.tenant_id = :tenant_id) and e.state = 'REVERSED'
    and r.effect_id is null and t.task_id is null and again.effect_id is null
union all
select t.tenant_id, t.order_id, 'TASK', t.task_id::text, 'undoes an effect that its ledger row does not name'
from compensation_task t join effect e using (tenant_id, effect_id)
where (:tenant_id::uuid is null or t.tenant_id = :tenant_id)
    and t.reverses is distinct from case t.purpose when 'WITHDRAW' then e.withdraws else e.reverses end
limit :limit;

-- name: cancelled_is_undone
-- I5: what still stands after CANCELLED, felt outside, without a duty to undo it beside it.
select e.tenant_id, e.order_id, 'EFFECT' as entity, e.effect_id::text as entity_id,
    format('%s is %s in a cancelled order', e.task_type, e.state) as problem
from customer_order o join effect e using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and o.state = 'CANCELLED'
    and e.reverses is null and e.withdraws is null and e.level <> 'NO_EXTERNAL_EFFECT'
    and e.state not in ('REVERSED', 'NO_EFFECT', 'WAIVED')
    and not exists (
        select from compensation_task t
        where t.tenant_id = e.tenant_id and t.order_id = e.order_id and t.reverses = e.effect_id
            and t.state <> all(:ended_undoing::text[]))
    and not exists (
        select from fallout_case c
        where c.tenant_id = e.tenant_id and c.order_id = e.order_id
            and (c.effect_id = e.effect_id or c.task_id = e.task_id))
limit :limit;

-- name: held_tasks_rest
-- I6: calls of fulfillment that began while a request or an operator held the task. An item of which only a part goes
-- is not held as a whole: what is told no quantity goes on.
with held as (
    select tenant_id, order_id, requested_at as since, coalesce(ended_at, 'infinity') as until,
        format('request %s', request_id) as holder, case scope when 'ITEMS' then array(
            select unnest(item_ids) except select jsonb_object_keys(quantities)) end as item_ids
    from cancellation_request
    union all
    select tenant_id, order_id, at, coalesce(until, 'infinity'), holder, null
    from (
        select tenant_id, order_id, kind, at, coalesce(data ->> 'holder', 'the operator') as holder,
            lead(at) over (partition by tenant_id, order_id, data ->> 'holder' order by sequence) as until
        from audit_entry where kind in ('ORDER_HELD', 'ORDER_RELEASED')) h
    where kind = 'ORDER_HELD')
select t.tenant_id, t.order_id, 'TASK' as entity, t.task_id::text as entity_id,
    format('was called at %s, held by %s since %s', a.started_at, h.holder, h.since) as problem
from held h
join fulfillment_task t using (tenant_id, order_id)
join effect e on e.tenant_id = t.tenant_id and e.order_id = t.order_id and e.task_id = t.task_id
join external_call_attempt a on a.tenant_id = e.tenant_id and a.effect_id = e.effect_id
where (:tenant_id::uuid is null or h.tenant_id = :tenant_id)
    and a.started_at > h.since and a.started_at < h.until and (h.item_ids is null or t.item_ids <@ h.item_ids)
limit :limit;

-- name: whoever_holds_holds_all
-- I6: tasks that could start although their order is held as a whole.
select t.tenant_id, t.order_id, 'TASK' as entity, t.task_id::text as entity_id,
    format('is %s and not held by %s', t.state, h.holder) as problem
from (
    select tenant_id, order_id, request_id::text as holder from cancellation_request
    where scope = 'ORDER' and status <> all(:ended_request::text[])
    union all
    select tenant_id, order_id, unnest(order_holds) from customer_order where ended_at is null) h
join fulfillment_task t using (tenant_id, order_id)
left join task_hold k on k.tenant_id = t.tenant_id and k.task_id = t.task_id and k.holder = h.holder
where (:tenant_id::uuid is null or t.tenant_id = :tenant_id) and t.state in ('PENDING', 'READY') and k.task_id is null
limit :limit;

-- name: every_change_is_told
-- I7: audit entries without their outbox row, and the reverse. Sent rows go away after :keep, an order's oldest first:
-- a missing row is right only if it is older than that and nothing before it is still there. What a person wrote is in
-- the audit alone.
with first_told as (select tenant_id, order_id, min(sequence) as sequence from outbox group by tenant_id, order_id)
select a.tenant_id, a.order_id, a.entity, a.entity_id, format('audit %s (%s) has no outbox row', a.sequence, a.kind) as problem
from audit_entry a
left join outbox b on b.tenant_id = a.tenant_id and b.order_id = a.order_id and b.sequence = a.sequence
left join first_told f on f.tenant_id = a.tenant_id and f.order_id = a.order_id
where (:tenant_id::uuid is null or a.tenant_id = :tenant_id) and b.id is null
    and (a.sequence > f.sequence or a.at > now() - :keep::interval)
union all
select b.tenant_id, b.order_id, 'EVENT', b.event_id::text,
    case when a.sequence is null then format('event %s has no audit entry', b.sequence)
        else format('event %s says something else than its audit entry', b.sequence) end
from outbox b
left join audit_entry a on a.tenant_id = b.tenant_id and a.order_id = b.order_id and a.sequence = b.sequence
where (:tenant_id::uuid is null or b.tenant_id = :tenant_id)
    and (a.sequence is null
        or b.type is distinct from 'recourse.' || (:event_types::jsonb->>a.kind) || '.v1'
        or b.payload->>'kind' is distinct from a.kind
        or b.payload->>'entity' is distinct from a.entity
        or b.payload->>'entityId' is distinct from a.entity_id
        or b.payload->>'from' is distinct from a.before
        or b.payload->>'to' is distinct from a.after
        or b.payload->'data' is distinct from a.data - 'note')
limit :limit;

-- name: audit_has_no_leaps
-- I7: moves that do not begin where the one before them ended.
select tenant_id, order_id, entity, entity_id,
    format('audit %s moves it from %s, but it was %s', sequence, coalesce(before, 'nothing'), coalesce(stood, 'nothing'))
    as problem
from (
    select tenant_id, order_id, entity, entity_id, sequence, before,
        lag(after) over (partition by tenant_id, order_id, entity, entity_id order by sequence) as stood
    from audit_entry
    where (:tenant_id::uuid is null or tenant_id = :tenant_id) and after is not null) moves
where before is distinct from stood
limit :limit;

-- name: audit_moves_are_legal
-- I7: moves that the machines do not have.
select a.tenant_id, a.order_id, a.entity, a.entity_id,
    format('audit %s: %s → %s is no move', a.sequence, coalesce(a.before, 'nothing'), a.after) as problem
from audit_entry a
left join compensation_task c
    on a.entity = 'TASK' and c.tenant_id = a.tenant_id and c.order_id = a.order_id and c.task_id::text = a.entity_id
left join amendment_request am
    on a.entity = 'REQUEST' and am.tenant_id = a.tenant_id and am.order_id = a.order_id
    and am.request_id::text = a.entity_id
left join jsonb_to_recordset(:moves::jsonb) as m(machine text, before text, after text)
    on m.machine = case when c.task_id is not null then 'COMPENSATION_TASK'
        when am.request_id is not null then 'AMENDMENT' else a.entity end
    and m.before = coalesce(a.before, '') and m.after = a.after
where (:tenant_id::uuid is null or a.tenant_id = :tenant_id) and a.after is not null and m.machine is null
limit :limit;

-- name: audit_tells_the_states
-- I7: the last move on record of each thing is the state that is stored.
with told as (
    select distinct on (tenant_id, order_id, entity, entity_id) tenant_id, order_id, entity, entity_id, after
    from audit_entry
    where (:tenant_id::uuid is null or tenant_id = :tenant_id) and after is not null
    order by tenant_id, order_id, entity, entity_id, sequence desc),
stored (tenant_id, order_id, entity, entity_id, state) as (
    select tenant_id, order_id, 'ORDER', order_id::text, state from customer_order
    union all select tenant_id, order_id, 'ITEM', item_id, state from order_item
    union all select tenant_id, order_id, 'TASK', task_id::text, state from fulfillment_task
    union all select tenant_id, order_id, 'TASK', task_id::text, state from compensation_task
    union all select tenant_id, order_id, 'EFFECT', effect_id::text, state from effect
    union all select tenant_id, order_id, 'REQUEST', request_id::text, status from cancellation_request
    union all select tenant_id, order_id, 'REQUEST', request_id::text, status from amendment_request
    union all select tenant_id, order_id, 'PLAN', plan_id::text, state from compensation_plan
    union all select tenant_id, order_id, 'CASE', case_id::text, status from fallout_case)
select tenant_id, order_id, entity, entity_id,
    format('is %s, the audit says %s', coalesce(s.state, 'not there'), coalesce(t.after, 'nothing')) as problem
from (select * from stored where :tenant_id::uuid is null or tenant_id = :tenant_id) s
full join told t using (tenant_id, order_id, entity, entity_id)
where s.state is distinct from t.after
limit :limit;

-- name: four_eyes_decided
-- I8: decisions by who asked or for whom it was asked; reviews that nobody decided.
select r.tenant_id, r.order_id, 'REQUEST' as entity, r.request_id::text as entity_id,
    format('%s by %s, who asked for it', d->>'decision', d->>'by') as problem
from cancellation_request r cross join lateral jsonb_array_elements(r.decisions) d
where (:tenant_id::uuid is null or r.tenant_id = :tenant_id) and d->>'by' in (r.requested_by, r.on_behalf_of)
union all
select tenant_id, order_id, 'REQUEST', request_id::text,
    case when approval is null then format('is %s, needed an approval and has none', status)
        else format('approved by %s, who asked for it', approval->>'by') end
from cancellation_request
where (:tenant_id::uuid is null or tenant_id = :tenant_id)
    and (approval->>'by' in (requested_by, on_behalf_of)
        or (approval is null and assessment->>'automatic' = 'false'
            and status in ('AWAITING_CHARGE_DECISION', 'APPROVED', 'COMPENSATING', 'COMPLETED', 'PARTIALLY_COMPLETED')))
union all
select tenant_id, order_id, 'REQUEST', request_id::text,
    case when approval is null then format('is %s, needed an approval and has none', status)
        else format('approved by %s, who asked for it', approval->>'by') end
from amendment_request
where (:tenant_id::uuid is null or tenant_id = :tenant_id)
    and (approval->>'by' in (requested_by, on_behalf_of)
        or (approval is null and assessment->>'automatic' = 'false'
            and status in ('AWAITING_CHARGE_DECISION', 'APPROVED', 'APPLYING', 'APPLIED')))
limit :limit;

-- name: assets_are_locked
-- I9: targets of live orders that are not theirs, and locks that nobody alive has a use for.
select i.tenant_id, i.order_id, 'ASSET' as entity, i.target_asset::text as entity_id,
    format('is not locked by the %s order whose item %s is about it', o.state, i.item_id) as problem
from order_item i join customer_order o using (tenant_id, order_id)
left join asset_change_lock l on l.tenant_id = i.tenant_id and l.asset_id = i.target_asset and l.order_id = i.order_id
where (:tenant_id::uuid is null or i.tenant_id = :tenant_id)
    and o.state <> all(:ended_order::text[]) and o.order_type not in ('RETURN', 'BILLING_ADJUSTMENT')
    and i.target_asset is not null and i.action not in ('NO_CHANGE', 'RETURN') and l.asset_id is null
union all
select l.tenant_id, l.order_id, 'ASSET', l.asset_id::text, format('is locked by an order that is %s', o.state)
from asset_change_lock l join customer_order o using (tenant_id, order_id)
where (:tenant_id::uuid is null or l.tenant_id = :tenant_id)
    and (o.state = any(:ended_order::text[]) or not exists (
        select from order_item i
        where i.tenant_id = l.tenant_id and i.order_id = l.order_id and i.target_asset = l.asset_id))
limit :limit;

-- name: versions_have_no_gaps
-- I11: the audit of an order counts from one to what its head says.
select o.tenant_id, o.order_id, 'ORDER' as entity, o.order_id::text as entity_id,
    format('%s audit entries from %s to %s, its head says %s', coalesce(a.known, 0), a.lowest, a.highest, h.sequence) as problem
from customer_order o left join audit_head h using (tenant_id, order_id) left join (
    select tenant_id, order_id, count(*) as known, min(sequence) as lowest, max(sequence) as highest
    from audit_entry group by tenant_id, order_id
) a using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id)
    and (a.known is distinct from h.sequence or a.lowest <> 1 or a.highest is distinct from h.sequence)
limit :limit;

-- name: events_leave_in_order
-- I11: events that lie in the outbox, or left it, before an earlier one of their order.
select tenant_id, order_id, 'EVENT' as entity, event_id::text as entity_id,
    case when sequence <= earlier then format('event %s lies behind event %s', sequence, earlier)
        else format('event %s was sent while an earlier one waits', sequence) end as problem
from (
    select tenant_id, order_id, event_id, sequence, published_at,
        lag(sequence) over by_id as earlier,
        bool_or(published_at is null) over (by_id rows between unbounded preceding and 1 preceding) as waits
    from outbox
    where :tenant_id::uuid is null or tenant_id = :tenant_id
    window by_id as (partition by tenant_id, order_id order by id)) e
where sequence <= earlier or (published_at is not null and waits)
limit :limit;

-- name: tenants_agree
-- I12: links that lead out of the tenant, out of the order, or nowhere.
with links (tenant_id, order_id, entity, entity_id, link, wanted, found) as (
    select c.tenant_id, c.order_id, 'ITEM', c.item_id, 'order', c.order_id, p.order_id
    from order_item c left join customer_order p using (tenant_id, order_id)
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'plan', c.plan_id, p.plan_id
    from fulfillment_task c left join fulfillment_plan p using (tenant_id, order_id, plan_id)
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'plan', c.plan_id, p.plan_id
    from compensation_task c left join compensation_plan p using (tenant_id, order_id, plan_id)
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'predecessor', d.id, p.task_id
    from fulfillment_task c cross join unnest(c.depends_on) d(id)
    left join (
        select tenant_id, order_id, task_id from fulfillment_task
        union all select tenant_id, order_id, task_id from compensation_task
    ) p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.task_id = d.id
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'predecessor', c.depends_on, p.task_id
    from compensation_task_dependency c
    left join (
        select tenant_id, order_id, task_id from fulfillment_task
        union all select tenant_id, order_id, task_id from compensation_task
    ) p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.task_id = c.depends_on
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'original', c.original_task, p.task_id
    from compensation_task c
    left join fulfillment_task p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.task_id = c.original_task
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'undone effect', c.reverses, p.effect_id
    from compensation_task c
    left join effect p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.effect_id = c.reverses
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'effect', c.effect_id, p.effect_id
    from (
        select tenant_id, order_id, task_id, effect_id from fulfillment_task
        union all select tenant_id, order_id, task_id, effect_id from compensation_task) c
    left join effect p using (tenant_id, order_id, task_id, effect_id)
    union all
    select c.tenant_id, c.order_id, 'EFFECT', c.effect_id::text, 'task', c.task_id, p.task_id
    from effect c left join (
        select tenant_id, order_id, task_id from fulfillment_task
        union all select tenant_id, order_id, task_id from compensation_task) p using (tenant_id, order_id, task_id)
    union all
    select c.tenant_id, c.order_id, 'EFFECT', c.effect_id::text, 'other effect', l.id, p.effect_id
    from effect c cross join lateral (values (c.reverses), (c.withdraws), (c.reversed_by)) l(id)
    left join effect p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.effect_id = l.id
    union all
    select c.tenant_id, c.order_id, 'REQUEST', c.request_id::text, 'plan', c.plan_id, p.plan_id
    from cancellation_request c left join compensation_plan p using (tenant_id, order_id, plan_id)
    union all
    select c.tenant_id, c.order_id, 'PLAN', c.plan_id::text, 'request', c.request_id, p.request_id
    from compensation_plan c left join cancellation_request p using (tenant_id, order_id, request_id)
    union all
    select c.tenant_id, c.order_id, 'PLAN', c.plan_id::text, 'amendment', c.amendment_id, p.request_id
    from compensation_plan c left join amendment_request p
        on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.request_id = c.amendment_id
    union all
    select c.tenant_id, c.order_id, 'REQUEST', c.request_id::text, 'plan', l.id, p.plan_id
    from amendment_request c cross join lateral (values (c.plan_id), (c.quote_plan)) l(id)
    left join compensation_plan p on p.tenant_id = c.tenant_id and p.order_id = c.order_id and p.plan_id = l.id
    union all
    select c.tenant_id, c.order_id, 'CASE', c.case_id::text, 'request', c.request_id, p.request_id
    from fallout_case c left join (
        select tenant_id, order_id, request_id from cancellation_request
        union all select tenant_id, order_id, request_id from amendment_request) p using (tenant_id, order_id, request_id)
    union all
    select c.tenant_id, c.order_id, 'CASE', c.case_id::text, 'effect', c.effect_id, p.effect_id
    from fallout_case c left join effect p using (tenant_id, order_id, effect_id)
    union all
    select c.tenant_id, c.order_id, 'ASSET', c.asset_id::text, 'asset', c.asset_id, p.asset_id
    from asset_change_lock c left join asset p using (tenant_id, asset_id)
    union all
    select c.tenant_id, c.order_id, 'TASK', c.task_id::text, 'held task', c.task_id, p.task_id
    from task_hold c left join fulfillment_task p using (tenant_id, order_id, task_id)
    union all
    select c.tenant_id, c.order_id, 'EVENT', c.event_id::text, 'order', c.order_id, p.order_id
    from outbox c left join customer_order p using (tenant_id, order_id)
    union all
    select c.tenant_id, c.order_id, 'MESSAGE', c.message_id::text, 'order', c.order_id, p.order_id
    from engine_outbox c left join customer_order p using (tenant_id, order_id)
    union all
    select c.tenant_id, c.source_order_id, 'RELATION', c.order_relation_id::text, 'target', c.target_order_id, p.order_id
    from order_relation c
    left join customer_order p on p.tenant_id = c.tenant_id and p.order_id = c.target_order_id)
select tenant_id, order_id, entity, entity_id, format('names %s %s, which is not there', link, wanted) as problem
from links
where (:tenant_id::uuid is null or tenant_id = :tenant_id) and wanted is not null and found is null
limit :limit;

-- name: read_standing
-- I13: of every live order what its shown state is computed from.
select o.tenant_id, o.order_id, o.state, o.resume_state, o.base,
    exists (select from unnest(o.order_holds) h where h = 'operator' or h like 'order:%') as on_hold,
    r.status as request_status, coalesce(r.request_id = any(c.stuck_requests), false) as request_stuck,
    coalesce(c.work_stuck, false) as work_stuck, coalesce(c.amendment_stuck, false) as amendment_stuck,
    exists (
        select from amendment_request a
        where a.tenant_id = o.tenant_id and a.order_id = o.order_id and a.status = 'APPLYING') as amending
from customer_order o
left join cancellation_request r
    on r.tenant_id = o.tenant_id and r.order_id = o.order_id and r.scope = 'ORDER' and r.ended_at is null
left join (
    select tenant_id, order_id, bool_or(context in ('FULFILLMENT', 'RECONCILIATION')) as work_stuck,
        bool_or(context = 'AMENDMENT') as amendment_stuck,
        array_agg(request_id) filter (where context = 'COMPENSATION') as stuck_requests
    from fallout_case where closed_at is null and blocking group by tenant_id, order_id
) c on c.tenant_id = o.tenant_id and c.order_id = o.order_id
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and o.ended_at is null;

-- name: counters_are_true
-- The counters of unmet predecessors are what counting gives, and say who is READY.
select t.tenant_id, t.order_id, 'TASK' as entity, t.task_id::text as entity_id,
    format('is %s with %s unmet predecessors, counted %s', t.state, t.unmet, t.counted) as problem
from (
    select t.tenant_id, t.order_id, t.task_id, t.state, t.unmet,
        count(p.task_id) filter (where p.open) as counted
    from fulfillment_task t left join (
        select tenant_id, order_id, task_id, state <> all(:satisfied_task::text[]) as open from fulfillment_task
        union all select tenant_id, order_id, task_id, state <> all(:ended_undoing::text[]) from compensation_task
    ) p on p.tenant_id = t.tenant_id and p.order_id = t.order_id and p.task_id = any(t.depends_on)
    where (:tenant_id::uuid is null or t.tenant_id = :tenant_id) and t.state <> all(:ended_task::text[])
    group by t.tenant_id, t.task_id) t
where t.unmet <> t.counted or (t.state = 'PENDING') <> (t.counted > 0)
union all
select t.tenant_id, t.order_id, 'TASK', t.task_id::text,
    format('is %s with %s unmet predecessors, counted %s', t.state, t.unmet, t.counted)
from (
    select t.tenant_id, t.order_id, t.task_id, t.state, t.unmet,
        count(p.task_id) filter (where p.open) as counted
    from compensation_task t
    left join compensation_task_dependency d on d.tenant_id = t.tenant_id and d.task_id = t.task_id
    left join (
        select tenant_id, task_id, state <> all(:satisfied_task::text[]) as open from fulfillment_task
        union all select tenant_id, task_id, state <> all(:ended_undoing::text[]) from compensation_task
    ) p on p.tenant_id = d.tenant_id and p.task_id = d.depends_on
    where (:tenant_id::uuid is null or t.tenant_id = :tenant_id) and t.state <> all(:ended_undoing::text[])
    group by t.tenant_id, t.task_id) t
where t.unmet <> t.counted
limit :limit;

-- name: answers_are_kept
-- Receipts without an answer, or with an answer about something that is not there.
select r.tenant_id, null::uuid as order_id, 'RECEIPT' as entity, r.command_id::text as entity_id,
    case when r.answer is null then 'has no answer'
        else format('answers about %s, which is not there', coalesce(r.request_id, r.order_id)) end as problem
from (
    select tenant_id, command_id, answer, answer #>> '{body,orderId}' as order_id,
        answer #>> '{body,cancellationRequestId}' as request_id
    from receipt where :tenant_id::uuid is null or tenant_id = :tenant_id) r
left join customer_order o on o.tenant_id = r.tenant_id and o.order_id::text = r.order_id
left join cancellation_request q on q.tenant_id = r.tenant_id and q.request_id::text = r.request_id
where r.answer is null or (r.order_id is not null and o.order_id is null)
    or (r.request_id is not null and q.request_id is null)
limit :limit;

-- name: commands_are_on_record
-- Every order and every request was taken in exactly once, and the audit says so.
select s.tenant_id, s.order_id, s.entity, s.entity_id, format('%s entries of %s', coalesce(a.known, 0), s.kind) as problem
from (
    select tenant_id, order_id, 'ORDER' as entity, order_id::text as entity_id, 'ORDER_ACCEPTED' as kind
    from customer_order
    union all
    select tenant_id, order_id, 'REQUEST', request_id::text, 'CANCELLATION_REQUESTED' from cancellation_request) s
left join (
    select tenant_id, order_id, entity_id, kind, count(*) as known from audit_entry
    where kind in ('ORDER_ACCEPTED', 'CANCELLATION_REQUESTED') group by tenant_id, order_id, entity_id, kind
) a using (tenant_id, order_id, entity_id, kind)
where (:tenant_id::uuid is null or s.tenant_id = :tenant_id) and a.known is distinct from 1
limit :limit;

-- name: history_tells_the_order
-- The newest word of the kept history on an order, its content and each of its items is how they stand, and every row of
-- it was written with the audit entry that it names; 0 stands for what is older than the history.
with kept as materialized (
    select * from order_history where :tenant_id::uuid is null or tenant_id = :tenant_id),
heads as (
    select distinct on (tenant_id, order_id) tenant_id, order_id, head from kept
    where head is not null order by tenant_id, order_id, sequence desc),
contents as (
    select distinct on (tenant_id, order_id) tenant_id, order_id, content from kept
    where content is not null order by tenant_id, order_id, sequence desc),
items as (
    select distinct on (k.tenant_id, k.order_id, item->>'item_id') k.tenant_id, k.order_id, item
    from kept k, jsonb_array_elements(k.items) item
    order by k.tenant_id, k.order_id, item->>'item_id', k.sequence desc)
select o.tenant_id, o.order_id, 'ORDER' as entity, o.order_id::text as entity_id,
    format('is %s in version %s, its history says %s in version %s', o.state, o.version,
        coalesce(h.head->>'state', 'nothing'), coalesce(h.head->>'version', 'none')) as problem
from customer_order o left join heads h using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id)
    and (h.head->>'state', h.head->>'version') is distinct from (o.state, o.version::text)
union all
select o.tenant_id, o.order_id, 'ORDER', o.order_id::text, 'its history says another content'
from customer_order o left join contents c using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and c.content is distinct from o.content
union all
select i.tenant_id, i.order_id, 'ITEM', i.item_id,
    format('is %s with quantity %s, its history says %s with %s', i.state, i.quantity,
        coalesce(k.item->>'state', 'nothing'), coalesce(k.item->>'quantity', 'none'))
from order_item i
left join items k on k.tenant_id = i.tenant_id and k.order_id = i.order_id and k.item->>'item_id' = i.item_id
where (:tenant_id::uuid is null or i.tenant_id = :tenant_id)
    and (k.item->>'state', k.item->>'quantity') is distinct from (i.state, i.quantity::text)
union all
select k.tenant_id, k.order_id, 'ORDER', k.order_id::text,
    format('its history was written with audit %s at %s, which says %s', k.sequence, k.at, coalesce(a.at::text, 'nothing'))
from kept k left join audit_entry a using (tenant_id, order_id, sequence)
where k.sequence > 0 and a.at is distinct from k.at
limit :limit;

-- name: money_is_conserved
-- No more is asked back for an effect than it took; of an amount that cannot be read a person has said how much.
select e.tenant_id, e.order_id, 'EFFECT' as entity, e.effect_id::text as entity_id,
    format('took %s and %s were given back', e.captured, e.refunded + sum(r.refunded)) as problem
from (
    select tenant_id, order_id, effect_id, case when coalesce(output->'captured', 'null') = 'null' then 0 else
            coalesce(jsonb_path_query_first(output, '$.captured ? (@.type() == "number")'),
                jsonb_path_query_first(output, '$.captured.amountMinor ? (@.type() == "number")'))::numeric
            end as captured,
        case when coalesce(output->'refunded', 'null') = 'null' then 0 else
            coalesce(jsonb_path_query_first(output, '$.refunded ? (@.type() == "number")'),
                jsonb_path_query_first(output, '$.refunded.amountMinor ? (@.type() == "number")'))::numeric
            end as refunded
    from effect where (:tenant_id::uuid is null or tenant_id = :tenant_id) and reverses is null) e
join (
    select tenant_id, reverses, greatest((input #>> '{refund,amountMinor}')::numeric,
        coalesce(jsonb_path_query_first(output, '$.refunded ? (@.type() == "number")'),
                jsonb_path_query_first(output, '$.refunded.amountMinor ? (@.type() == "number")'))::numeric) as refunded
    from effect where input ? 'refund' and state = 'CONFIRMED'
) r on r.tenant_id = e.tenant_id and r.reverses = e.effect_id
group by e.tenant_id, e.order_id, e.effect_id, e.captured, e.refunded
having e.refunded + sum(r.refunded) > e.captured
limit :limit;

-- name: messages_carry_ids
-- The engine is told ids and nothing else.
select m.tenant_id, m.order_id, 'MESSAGE' as entity, m.message_id::text as entity_id,
    format('%s carries %s, which is no id', m.name, v.key) as problem
from engine_outbox m cross join lateral jsonb_each(m.variables) v
where (:tenant_id::uuid is null or m.tenant_id = :tenant_id)
    and (v.value #>> '{}') !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
limit :limit;

-- name: nothing_is_stuck
-- Once faults have stopped: live orders that wait for no person and no date, outbox rows that nobody carries, and orders
-- that were never told what they depend on.
select o.tenant_id, o.order_id, 'ORDER' as entity, o.order_id::text as entity_id,
    format('is %s since %s, and nobody is asked to do anything', o.state, o.updated_at) as problem
from customer_order o
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and o.ended_at is null
    and not 'operator' = any(o.order_holds)
    and not exists (
        select from unnest(o.order_holds) h
        join cancellation_request r on h like 'order:%' and r.request_id::text = split_part(h, '/', 2)
        where r.tenant_id = o.tenant_id and r.ended_at is null)
    and not (o.base = 'VALIDATED' and o.start_key > 0 and (o.content->>'requestedStartDate')::timestamptz > now())
    and not exists (
        select from cancellation_request r
        where r.tenant_id = o.tenant_id and r.order_id = o.order_id
            and r.status in ('REQUIRES_APPROVAL', 'AWAITING_CHARGE_DECISION'))
    and not exists (
        select from amendment_request a
        where a.tenant_id = o.tenant_id and a.order_id = o.order_id
            and (a.status in ('REQUIRES_APPROVAL', 'AWAITING_CHARGE_DECISION') or a.status = 'APPROVED' and not a.auto_apply))
    and not exists (
        select from fallout_case c
        where c.tenant_id = o.tenant_id and c.order_id = o.order_id and c.closed_at is null)
union all
select tenant_id, order_id, 'EVENT', event_id::text, case when parked_at is null then 'was never sent' else 'is parked' end
from outbox where (:tenant_id::uuid is null or tenant_id = :tenant_id) and published_at is null
union all
select tenant_id, order_id, 'MESSAGE', message_id::text, case when parked_at is null then 'was never sent' else 'is parked' end
from engine_outbox where (:tenant_id::uuid is null or tenant_id = :tenant_id) and published_at is null
union all
select tenant_id, order_id, 'ORDER', order_id::text, format('has not heard of cancellation %s of order %s', request_id, source_id)
from dependence where :tenant_id::uuid is null or tenant_id = :tenant_id
limit :limit;

-- name: count_entries
select coalesce(sum(sequence), 0)::bigint as entries from audit_head
where :tenant_id::uuid is null or tenant_id = :tenant_id;

-- name: export_instant
-- The name under which another session can look at what this one sees, until this one ends.
select pg_export_snapshot();

-- name: read_chains
-- Whole chains, order by order, each with the end that its order's head names.
select a.tenant_id, a.order_id, a.sequence, a.at, a.actor, a.on_behalf_of, a.entity, a.entity_id, a.kind, a.before, a.after,
    a.request_id, a.data::text as data, a.previous_hash, a.hash, o.sequence as last_sequence, o.chain
from audit_head o join audit_entry a using (tenant_id, order_id)
where (:tenant_id::uuid is null or o.tenant_id = :tenant_id) and (:order_id::uuid is null or o.order_id = :order_id)
order by a.tenant_id, a.order_id, a.sequence;
