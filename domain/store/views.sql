-- What is read for people: one statement per view, one row per object; no row where the order or object is not there.

-- name: read_order
select json_build_object(
    'head', (select row_to_json(o)),
    'items', (
        select json_agg(i order by position) from order_item i
        where tenant_id = :tenant_id and order_id = :order_id),
    'relations', (
        select json_agg(r order by created_at, order_relation_id) from order_relation r
        where tenant_id = :tenant_id and (source_order_id = :order_id or target_order_id = :order_id)),
    'request', (
        select json_build_object('request_id', request_id, 'status', status, 'scope', scope)
        from cancellation_request
        where tenant_id = :tenant_id and order_id = :order_id and ended_at is null
        order by scope = 'ORDER' desc, requested_at limit 1),
    'amendment', (
        select json_build_object('request_id', request_id, 'status', status)
        from amendment_request
        where tenant_id = :tenant_id and order_id = :order_id and ended_at is null
        order by status = 'APPLYING' desc, requested_at limit 1),
    'flows', (
        select json_agg(instance_key order by noted_at) from flow
        where tenant_id = :tenant_id and order_id = :order_id)
)::text as document
from customer_order o where tenant_id = :tenant_id and order_id = :order_id;

-- name: read_order_then
-- The order as it stood at a time: the latest row of its history up to then, and of each item the latest of its own.
select json_build_object(
    'head', (
        select h.head || jsonb_build_object('content', (
            select content from order_history
            where tenant_id = :tenant_id and order_id = :order_id and at <= :as_of and content is not null
            order by sequence desc limit 1))
        from order_history h
        where tenant_id = :tenant_id and order_id = :order_id and at <= :as_of and head is not null
        order by sequence desc limit 1),
    'items', (
        select json_agg(item order by position) from (
            select distinct on (item->>'item_id') item, (item->>'position')::int as position
            from order_history h, jsonb_array_elements(h.items) item
            where h.tenant_id = :tenant_id and h.order_id = :order_id and h.at <= :as_of
            order by item->>'item_id', h.sequence desc) i),
    'relations', (
        select json_agg(r order by created_at, order_relation_id) from order_relation r
        where tenant_id = :tenant_id and (source_order_id = :order_id or target_order_id = :order_id)
            and created_at <= :as_of),
    'request', (
        select json_build_object('request_id', r.request_id, 'scope', r.scope, 'status', (
            select a.after from audit_entry a
            where a.tenant_id = :tenant_id and a.order_id = :order_id and a.entity = 'REQUEST'
                and a.entity_id = r.request_id::text and a.after is not null and a.at <= :as_of
            order by a.sequence desc limit 1))
        from cancellation_request r
        where r.tenant_id = :tenant_id and r.order_id = :order_id and r.requested_at <= :as_of
            and (r.ended_at is null or r.ended_at > :as_of)
        order by r.scope = 'ORDER' desc, r.requested_at limit 1),
    'amendment', (
        select json_build_object('request_id', r.request_id, 'status', past.status)
        from amendment_request r cross join lateral (
            select a.after as status from audit_entry a
            where a.tenant_id = :tenant_id and a.order_id = :order_id and a.entity = 'REQUEST'
                and a.entity_id = r.request_id::text and a.after is not null and a.at <= :as_of
            order by a.sequence desc limit 1) as past
        where r.tenant_id = :tenant_id and r.order_id = :order_id and r.requested_at <= :as_of
            and (r.ended_at is null or r.ended_at > :as_of)
        order by past.status = 'APPLYING' desc, r.requested_at limit 1)
)::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id and created_at <= :as_of;

-- name: list_orders
select json_build_object(
    'order_id', order_id, 'external_id', external_id, 'order_type', order_type, 'state', state, 'version', version,
    'resume_state', resume_state, 'customer', content->'customer', 'policy_version', policy_version,
    'created_at', created_at, 'updated_at', updated_at, 'ended_at', ended_at
)::text as document
from customer_order
where tenant_id = :tenant_id
    and (:state::text is null or state = :state)
    and (:customer_id::text is null or customer_id = :customer_id)
    and (:external_id::text is null or external_id = :external_id)
    and (:updated_since::timestamptz is null or updated_at >= :updated_since)
    and (:after_at::timestamptz is null or (created_at, order_id) < (:after_at, :after_id::uuid))
order by created_at desc, order_id desc limit :limit;

-- name: find_order
select 1 from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: find_request
select requested_by from cancellation_request
where tenant_id = :tenant_id and order_id = :order_id and request_id = :request_id;

-- name: find_case
select order_id from fallout_case where tenant_id = :tenant_id and case_id = :case_id;

-- name: read_plan
select json_build_object(
    'now', clock_timestamp(),
    'content', o.content,
    'plans', (
        select json_agg(json_build_object('version', version, 'types', types) order by version) from fulfillment_plan
        where tenant_id = :tenant_id and order_id = :order_id),
    'tasks', (
        select json_agg(json_build_object(
            'task_id', task_id, 'item_ids', item_ids, 'step', step, 'task_type', task_type, 'state', state,
            'plan_version', plan_version, 'depends_on', depends_on, 'effect_id', effect_id,
            'superseded_by', superseded_by, 'started_at', started_at, 'ended_at', ended_at))
        from fulfillment_task where tenant_id = :tenant_id and order_id = :order_id),
    'holds', (
        select json_object_agg(task_id, holders) from (
            select task_id, json_agg(holder order by holder) as holders from task_hold
            where tenant_id = :tenant_id and order_id = :order_id group by task_id) held)
)::text as document
from customer_order o where tenant_id = :tenant_id and order_id = :order_id;

-- name: list_effects
select coalesce((
    select json_agg(e order by intended_at, effect_id) from (
        select effect_id, system, operation, task_type, level, state, basis, task_id, reverses, withdraws, reversed_by,
            external_reference, output, reason, intended_at, called_at, accepted_at, settled_at, (
                select json_agg(json_build_object(
                    'attempt', a.attempt, 'startedAt', a.started_at, 'finishedAt', a.finished_at,
                    'outcome', a.outcome, 'detail', a.detail) order by a.attempt)
                from external_call_attempt a where a.tenant_id = :tenant_id and a.effect_id = effect.effect_id
            ) as attempts
        from effect
        where tenant_id = :tenant_id and order_id = :order_id
            and (:after_at::timestamptz is null or (intended_at, effect_id) > (:after_at, :after_id::uuid))
        order by intended_at, effect_id limit :limit) e
), '[]')::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: list_audit
select coalesce((
    select json_agg(a order by sequence) from (
        select sequence, at, actor, on_behalf_of, entity, entity_id, kind, before, after, request_id, data,
            encode(hash, 'hex') as hash, encode(previous_hash, 'hex') as previous_hash
        from audit_entry
        where tenant_id = :tenant_id and order_id = :order_id and sequence > :after_sequence
        order by sequence limit :limit) a
), '[]')::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: read_progress
select json_build_object(
    'state', o.state,
    'tasks', (
        select json_agg(json_build_object(
            'task_id', task_id, 'step', step, 'task_type', task_type, 'state', state, 'plan_id', plan_id,
            'depends_on', depends_on, 'kind', 'FULFILLMENT', 'held', exists (
                select from task_hold h where h.tenant_id = :tenant_id and h.task_id = t.task_id))
            order by plan_version, task_id)
        from fulfillment_task t
        where tenant_id = :tenant_id and order_id = :order_id and state <> 'SUPERSEDED' and superseded_by is null),
    'undoings', (
        select json_agg(json_build_object(
            'task_id', t.task_id, 'step', t.step, 'task_type', t.task_type, 'state', t.state, 'plan_id', t.plan_id,
            'purpose', t.purpose, 'original_task', t.original_task) order by t.task_id)
        from compensation_task t where t.tenant_id = :tenant_id and t.order_id = :order_id and t.state <> 'SUPERSEDED'),
    'edges', (
        select json_agg(json_build_array(task_id, depends_on) order by depends_on) from compensation_task_dependency
        where tenant_id = :tenant_id and order_id = :order_id),
    'open_effects', (
        select json_agg(json_build_object(
            'task_id', e.task_id, 'system', e.system, 'accepted_at', e.accepted_at,
            'callback_timeout', coalesce(p.types, '{}') -> e.task_type ->> 'callback_timeout') order by e.intended_at)
        from effect e
        left join fulfillment_task t on t.tenant_id = e.tenant_id and t.task_id = e.task_id
        left join compensation_task c on c.tenant_id = e.tenant_id and c.task_id = e.task_id
        left join (
            select plan_id, types from fulfillment_plan where tenant_id = :tenant_id and order_id = :order_id
            union all
            select plan_id, types from compensation_plan where tenant_id = :tenant_id and order_id = :order_id
        ) p on p.plan_id = coalesce(t.plan_id, c.plan_id)
        where e.tenant_id = :tenant_id and e.order_id = :order_id and e.state in ('INTENDED', 'UNKNOWN')),
    'operator_hold', 'operator' = any(o.order_holds),
    'cause_holds', (select json_agg(h order by h) from unnest(o.order_holds) h where h like 'order:%'),
    'starts_at', case
        when o.base = 'VALIDATED' and (o.content ->> 'startOnRequestedDate')::boolean
            and (o.content ->> 'requestedStartDate')::timestamptz > clock_timestamp()
        then (o.content ->> 'requestedStartDate')::timestamptz end,
    'request', (
        select json_build_object(
            'request_id', request_id, 'status', status, 'scope', scope, 'plan_id', plan_id, 'sla_at', sla_at,
            'grace_until', grace_until, 'charge', charge, 'requested_at', requested_at)
        from cancellation_request
        where tenant_id = :tenant_id and order_id = :order_id and ended_at is null
        order by scope = 'ORDER' desc, requested_at limit 1),
    'amendment', (
        select json_build_object(
            'request_id', request_id, 'status', status, 'plan_id', plan_id, 'quote_plan', quote_plan,
            'sla_at', sla_at, 'grace_until', grace_until, 'charge', charge, 'auto_apply', auto_apply)
        from amendment_request
        where tenant_id = :tenant_id and order_id = :order_id and ended_at is null
        order by status = 'APPLYING' desc, requested_at limit 1),
    'cases', (
        select json_agg(json_build_object(
            'case_id', case_id, 'title', title, 'category', category, 'task_id', task_id, 'sla_at', sla_at,
            'owner', owner, 'blocking', blocking) order by opened_at)
        from fallout_case where tenant_id = :tenant_id and order_id = :order_id and closed_at is null)
)::text as document
from customer_order o where tenant_id = :tenant_id and order_id = :order_id;

-- name: read_relations
-- The whole graph around an order, however far it reaches.
with recursive near (order_id) as (
    select order_id from customer_order where tenant_id = :tenant_id and order_id = :order_id
    union
    select case when r.source_order_id = n.order_id then r.target_order_id else r.source_order_id end
    from near n join order_relation r
        on r.tenant_id = :tenant_id and (r.source_order_id = n.order_id or r.target_order_id = n.order_id)
)
select json_build_object(
    'nodes', (
        select json_agg(json_build_object('orderId', o.order_id, 'orderType', o.order_type, 'state', o.state)
            order by o.created_at, o.order_id)
        from customer_order o join near using (order_id) where o.tenant_id = :tenant_id),
    'edges', (
        select json_agg(json_build_object(
            'source', source_order_id, 'target', target_order_id, 'type', relation_type, 'reasonCode', reason_code,
            'createdAt', created_at) order by created_at, order_relation_id)
        from order_relation
        where tenant_id = :tenant_id and source_order_id in (select order_id from near))
)::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: list_requests
select coalesce((
    select json_agg(r order by requested_at, request_id) from (
        select * from cancellation_request
        where tenant_id = :tenant_id and order_id = :order_id
            and (:after_at::timestamptz is null or (requested_at, request_id) > (:after_at, :after_id::uuid))
        order by requested_at, request_id limit :limit) r
), '[]')::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: read_request
select json_build_object('request', row_to_json(r), 'order_state', o.state)::text as document
from cancellation_request r join customer_order o using (tenant_id, order_id)
where r.tenant_id = :tenant_id and r.order_id = :order_id and r.request_id = :request_id;

-- name: list_amendments
select coalesce((
    select json_agg(r order by requested_at, request_id) from (
        select * from amendment_request
        where tenant_id = :tenant_id and order_id = :order_id
            and (:after_at::timestamptz is null or (requested_at, request_id) > (:after_at, :after_id::uuid))
        order by requested_at, request_id limit :limit) r
), '[]')::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: read_amendment
select json_build_object('request', row_to_json(r), 'order_state', o.state)::text as document
from amendment_request r join customer_order o using (tenant_id, order_id)
where r.tenant_id = :tenant_id and r.order_id = :order_id and r.request_id = :request_id;

-- name: find_amendment
select requested_by from amendment_request
where tenant_id = :tenant_id and order_id = :order_id and request_id = :request_id;

-- name: list_compensation_plans
-- Whole plans. Tasks, edges and attempts come side by side and are put together by the reader: a join of theirs is
-- quadratic wherever the planner does not know yet how large an order is.
select json_build_object(
    'plans', (
        select json_agg(p order by created_at, plan_id) from (
            select plan_id, request_id, amendment_id, state, created_at, committed_at, completed_at
            from compensation_plan
            where tenant_id = :tenant_id and order_id = :order_id and purpose = 'UNDO'
                and (:plan_id::uuid is null or plan_id = :plan_id)
                and (:after_at::timestamptz is null or (created_at, plan_id) > (:after_at, :after_id::uuid))
            order by created_at, plan_id limit :limit) p),
    'tasks', (
        select json_agg(json_build_object(
            'plan_id', plan_id, 'task_id', task_id, 'step', step, 'task_type', task_type, 'item_ids', item_ids,
            'state', state, 'purpose', purpose, 'original_task', original_task, 'reverses', reverses,
            'effect_id', effect_id, 'started_at', started_at, 'ended_at', ended_at))
        from compensation_task where tenant_id = :tenant_id and order_id = :order_id),
    'edges', (
        select json_agg(json_build_array(task_id, depends_on) order by depends_on) from compensation_task_dependency
        where tenant_id = :tenant_id and order_id = :order_id),
    'attempts', (
        select json_agg(json_build_array(e.task_id, json_build_object(
            'effectId', a.effect_id, 'attempt', a.attempt, 'startedAt', a.started_at, 'finishedAt', a.finished_at,
            'outcome', a.outcome, 'detail', a.detail)) order by a.started_at, a.attempt)
        from effect e join external_call_attempt a using (tenant_id, effect_id)
        where e.tenant_id = :tenant_id and e.order_id = :order_id)
)::text as document
from customer_order where tenant_id = :tenant_id and order_id = :order_id;

-- name: list_cases
select row_to_json(f)::text as document from fallout_case f
where tenant_id = :tenant_id
    and (:status::text is null or status = :status)
    and (:category::text is null or category = :category)
    and (:context::text is null or context = :context)
    and (:order_id::uuid is null or order_id = :order_id)
    and (:after_at::timestamptz is null or (opened_at, case_id) < (:after_at, :after_id::uuid))
order by opened_at desc, case_id desc limit :limit;

-- name: read_case
select row_to_json(f)::text as document from fallout_case f where tenant_id = :tenant_id and case_id = :case_id;

-- name: list_assets
select row_to_json(a)::text as document from asset a
where tenant_id = :tenant_id
    and (:customer_id::text is null or customer_id = :customer_id)
    and (:after_id::uuid is null or asset_id > :after_id)
order by asset_id limit :limit;

-- name: read_asset
-- With every item of an order that installed it, changed it, or builds on it, and with what admins said of it, oldest first.
select json_build_object('asset', row_to_json(a), 'history', (
    select json_agg(json_build_object(
        'orderId', o.order_id, 'orderType', o.order_type, 'orderState', o.state, 'itemId', i.item_id,
        'action', i.action, 'productOfferingId', i.offering, 'itemState', i.state,
        'installed', i.asset is not distinct from a.asset_id, 'before', i.snapshot, 'orderedAt', o.created_at,
        'endedAt', o.ended_at) order by o.created_at, o.order_id, i.position)
    from order_item i join customer_order o using (tenant_id, order_id)
    where i.tenant_id = :tenant_id and (i.target_asset = :asset_id or i.asset = :asset_id)),
    'corrections', (
        select json_agg(json_build_object(
            'version', c.version, 'at', c.at, 'by', c.actor, 'onBehalfOf', c.on_behalf_of, 'before', c.before,
            'after', c.after) order by c.version)
        from asset_correction c where c.tenant_id = :tenant_id and c.asset_id = :asset_id),
    'holder', (select order_id from asset_change_lock where tenant_id = :tenant_id and asset_id = :asset_id)
)::text as document
from asset a where tenant_id = :tenant_id and asset_id = :asset_id;

-- name: list_policies
-- Those that concern the tenant: its own and the shared ones.
select json_build_object(
    'version', version, 'name', name, 'effective_from', effective_from, 'loaded_at', loaded_at,
    'loaded_by', loaded_by, 'shared', tenant_id <> :tenant_id,
    'in_force', version = (
        select version from policy
        where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000')
            and effective_from <= clock_timestamp()
        order by tenant_id = :tenant_id desc, effective_from desc, version desc limit 1)
)::text as document
from policy
where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000')
    and (:before_version::bigint is null or version < :before_version)
order by version desc limit :limit;

-- name: read_policy
select json_build_object(
    'version', version, 'name', name, 'effective_from', effective_from, 'loaded_at', loaded_at,
    'loaded_by', loaded_by, 'shared', tenant_id <> :tenant_id, 'document', document
)::text as document
from policy
where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and version = :version;

-- name: read_dashboard
-- Live orders only: what has ended needs nobody's eye, and is without bound.
select json_build_object(
    'orders', (
        select json_agg(json_build_object('state', state, 'count', count, 'oldest', oldest) order by state) from (
            select state, count(*), min(created_at) as oldest from customer_order
            where tenant_id = :tenant_id and ended_at is null group by state) s),
    'requests', (
        select json_agg(json_build_object('status', status, 'count', count, 'oldest', oldest) order by status) from (
            select status, count(*), min(requested_at) as oldest from (
                select status, requested_at from cancellation_request where tenant_id = :tenant_id and ended_at is null
                union all
                select status, requested_at from amendment_request where tenant_id = :tenant_id and ended_at is null) q
            group by status) r),
    'cases', (
        select json_agg(json_build_object('category', category, 'count', count, 'oldest', oldest) order by category)
        from (
            select category, count(*), min(opened_at) as oldest from fallout_case
            where tenant_id = :tenant_id and closed_at is null group by category) c),
    'outbox', (select min(at) from outbox where tenant_id = :tenant_id and published_at is null),
    'engine_outbox', (select min(created_at) from engine_outbox where tenant_id = :tenant_id and published_at is null),
    'jeopardy', (
        select count(*) from cancellation_request where tenant_id = :tenant_id and ended_at is null and jeopardy)
        + (select count(*) from amendment_request where tenant_id = :tenant_id and ended_at is null and jeopardy)
        + (select count(*) from fallout_case where tenant_id = :tenant_id and closed_at is null and jeopardy),
    'in_jeopardy', (
        select json_agg(j order by due nulls last, since) from (
            select 'REQUEST' as kind, request_id as id, order_id, status, requested_at as since, sla_at as due
            from cancellation_request where tenant_id = :tenant_id and ended_at is null and jeopardy
            union all
            select 'AMENDMENT', request_id, order_id, status, requested_at, sla_at
            from amendment_request where tenant_id = :tenant_id and ended_at is null and jeopardy
            union all
            select 'CASE', case_id, order_id, status, opened_at, sla_at
            from fallout_case where tenant_id = :tenant_id and closed_at is null and jeopardy
            limit 100) j),
    'contexts', (
        select json_agg(json_build_object('context', context, 'count', count, 'oldest', oldest) order by context)
        from (
            select context, count(*), min(opened_at) as oldest from fallout_case
            where tenant_id = :tenant_id and closed_at is null group by context) c),
    'findings', (
        select json_agg(json_build_object('class', class, 'count', count, 'oldest', oldest) order by class)
        from (
            select class, count(*), min(first_seen_at) as oldest from finding
            where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and resolved_at is null group by class) f),
    'unknown', (select count(*) from effect where tenant_id = :tenant_id and state = 'UNKNOWN'),
    'now', clock_timestamp()
)::text as document;

-- name: list_chains
-- The end of each order's chain as it is remembered beside the order.
select order_id, created_at, sequence, chain from customer_order join audit_head using (tenant_id, order_id)
where tenant_id = :tenant_id
    and (:order_id::uuid is null or order_id = :order_id)
    and (:after_at::timestamptz is null or (created_at, order_id) > (:after_at, :after_id::uuid))
order by created_at, order_id limit :limit;

-- name: read_chain
select order_id, sequence, at, actor, on_behalf_of, entity, entity_id, kind, before, after, request_id,
    data::text as data, previous_hash, hash
from audit_entry where tenant_id = :tenant_id and order_id = :order_id order by sequence;

-- name: read_staff
select json_build_object(
    'subject', subject, 'roles', roles, 'changed_by', changed_by, 'changed_at', changed_at)::text as document
from staff where tenant_id = :tenant_id and subject = :subject;

-- name: list_staff
select json_build_object(
    'subject', subject, 'roles', roles, 'changed_by', changed_by, 'changed_at', changed_at)::text as document
from staff where tenant_id = :tenant_id order by subject;

-- name: find_effect
-- A callback names nothing but the effect: its tenant is found by a function that looks past row-level security.
select tenant_id, order_id, system from effect_address(:effect_id);

-- name: ping
select 1;
