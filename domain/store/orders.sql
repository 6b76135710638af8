-- The order and everything under it.

-- name: claim_receipt
-- The first to insert carries the command out; anybody else waits for that transaction and then finds its answer.
insert into receipt (tenant_id, command_id, fingerprint) values (:tenant_id, :command_id, :fingerprint)
on conflict (tenant_id, command_id) do nothing
returning true;

-- name: read_receipt
select fingerprint, answer::text as answer from receipt where tenant_id = :tenant_id and command_id = :command_id;

-- name: lock_order
-- Only the lock: children read in this statement would be older than it.
select 1 from customer_order where tenant_id = :tenant_id and order_id = :order_id for update;

-- name: load_order
select json_build_object(
    'now', clock_timestamp(),
    'policy', (
        select version from policy
        where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and effective_from <= clock_timestamp()
        order by tenant_id = :tenant_id desc, effective_from desc, version desc limit 1),
    'head', (select row_to_json(o) from customer_order o where tenant_id = :tenant_id and order_id = :order_id),
    'audit', (select row_to_json(h) from audit_head h where tenant_id = :tenant_id and order_id = :order_id),
    'items', (select json_agg(i order by position) from order_item i where tenant_id = :tenant_id and order_id = :order_id),
    'plan', (
        select row_to_json(p) from fulfillment_plan p
        where tenant_id = :tenant_id and order_id = :order_id order by version desc limit 1),
    'tasks', (
        select json_agg(t) from fulfillment_task t where tenant_id = :tenant_id and order_id = :order_id),
    'holds', (select json_agg(h) from task_hold h where tenant_id = :tenant_id and order_id = :order_id),
    'effects', (select json_agg(e order by intended_at) from effect e where tenant_id = :tenant_id and order_id = :order_id),
    'requests', (
        select json_agg(r order by requested_at) from cancellation_request r
        where tenant_id = :tenant_id and order_id = :order_id),
    'amendments', (
        select json_agg(r order by requested_at, request_id) from amendment_request r
        where tenant_id = :tenant_id and order_id = :order_id),
    'plans', (
        select json_agg(p order by created_at) from compensation_plan p
        where tenant_id = :tenant_id and order_id = :order_id),
    'undoings', (
        select json_agg(t) from compensation_task t where tenant_id = :tenant_id and order_id = :order_id),
    'edges', (
        select json_agg(json_build_array(task_id, depends_on)) from compensation_task_dependency
        where tenant_id = :tenant_id and order_id = :order_id),
    'cases', (
        select json_agg(c order by opened_at) from fallout_case c where tenant_id = :tenant_id and order_id = :order_id),
    'assets', (
        select json_agg(a) from asset a where tenant_id = :tenant_id and asset_id in (
            select unnest(array[target_asset, asset]) from order_item
            where tenant_id = :tenant_id and order_id = :order_id)),
    'busy', (
        select json_agg(json_build_array(l.asset_id, l.order_id)) from asset_change_lock l
        where l.tenant_id = :tenant_id and l.order_id <> :order_id and l.asset_id in (
            select unnest(array[target_asset, asset]) from order_item
            where tenant_id = :tenant_id and order_id = :order_id)),
    'relying', (
        select json_agg(json_build_array(i.asset, a.asset_id, a.offering) order by a.asset_id)
        from order_item i
        join asset_reliance r on r.tenant_id = i.tenant_id and r.base = i.asset::text
        join asset a on a.tenant_id = r.tenant_id and a.asset_id = r.asset_id
        where i.tenant_id = :tenant_id and i.order_id = :order_id and i.asset is not null and i.action = 'ADD'
            and a.state = 'ACTIVE' and a.installed_by is distinct from :order_id),
    'dependents', (
        select json_agg(json_build_array(o.order_id, r.relation_type) order by r.created_at)
        from order_relation r join customer_order o on o.tenant_id = r.tenant_id and o.order_id = r.source_order_id
        where r.tenant_id = :tenant_id and r.target_order_id = :order_id
            and r.relation_type in ('SUPPLEMENTS', 'AMENDS') and o.ended_at is null)
)::text as document;

-- name: load_neighbourhood
-- One task with its effect, predecessors and successors, for claims and outcomes of an order on which nothing else is
-- going on; null where more must be looked at (a change, a case, an item that this outcome may complete).
with me as (
    select t.* from fulfillment_task t
    where t.tenant_id = :tenant_id and t.order_id = :order_id and t.task_id = coalesce(:task_id::uuid, (
        select task_id from effect where tenant_id = :tenant_id and effect_id = :effect_id))),
near as (
    select t.* from fulfillment_task t, me
    where t.tenant_id = :tenant_id and t.order_id = :order_id
      and (t.task_id = me.task_id or t.task_id = any(me.depends_on) or me.task_id = any(t.depends_on))),
far as (
    select t.* from fulfillment_task t
    where t.tenant_id = :tenant_id and t.order_id = :order_id and t.task_id not in (select task_id from near))
select json_build_object(
    'now', clock_timestamp(),
    'policy', (
        select version from policy
        where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and effective_from <= clock_timestamp()
        order by tenant_id = :tenant_id desc, effective_from desc, version desc limit 1),
    'head', (select row_to_json(o) from customer_order o where tenant_id = :tenant_id and order_id = :order_id),
    'audit', (select row_to_json(h) from audit_head h where tenant_id = :tenant_id and order_id = :order_id),
    'items', (
        select json_agg(i order by position) from order_item i
        where tenant_id = :tenant_id and order_id = :order_id and item_id in (select unnest(item_ids) from near)),
    'plan', (
        select row_to_json(p) from fulfillment_plan p
        where tenant_id = :tenant_id and order_id = :order_id order by version desc limit 1),
    'tasks', (select json_agg(n) from near n),
    'holds', (
        select json_agg(h) from task_hold h
        where tenant_id = :tenant_id and order_id = :order_id and task_id in (select task_id from near)),
    'effects', (
        select json_agg(e) from effect e
        where tenant_id = :tenant_id and order_id = :order_id
          and (effect_id in (select effect_id from near) or effect_id = :effect_id)),
    'requests', null, 'amendments', null, 'plans', null, 'undoings', null, 'edges', null, 'cases', null, 'assets', null,
    'busy', null, 'relying', null, 'dependents', null,
    'at_work', (select count(*) from far where handed and state in ('READY', 'IN_PROGRESS')),
    'waiting', (
        select exists (
            select from far where state = 'READY' and not handed
              and not exists (select from task_hold h where h.tenant_id = :tenant_id and h.task_id = far.task_id)))
)::text as document
from me
where not exists (
        select from cancellation_request where tenant_id = :tenant_id and order_id = :order_id and ended_at is null)
  and not exists (
        select from amendment_request where tenant_id = :tenant_id and order_id = :order_id and ended_at is null)
  -- what an amendment has done again settles what was done before
  and not exists (
        select from fulfillment_task o
        where o.tenant_id = :tenant_id and o.order_id = :order_id
          and (o.superseded_by = me.task_id or (o.superseded_by is not null and o.task_id = any(me.depends_on))))
  and not exists (select from fallout_case where tenant_id = :tenant_id and order_id = :order_id and closed_at is null)
  -- an outcome for an effect that has been settled is late or contradicts: it may concern every plan of the order
  and not exists (
        select from effect
        where tenant_id = :tenant_id and effect_id = :effect_id and state not in ('INTENDED', 'UNKNOWN'))
  and not exists (
        select from unnest(me.item_ids) as item_id
        where not exists (
            select from fulfillment_task t
            where t.tenant_id = :tenant_id and t.order_id = :order_id and t.task_id <> me.task_id
              and item_id = any(t.item_ids) and t.superseded_by is null
              and t.state not in ('COMPLETED', 'SUPERSEDED')));

-- name: load_surroundings
-- For an order that does not exist yet: the time, the policy in force, the assets it aims at and what relies on them, and
-- the orders that it relates to. Whatever this statement sees was there before the time that it tells.
select json_build_object(
    'now', clock_timestamp(),
    'older', (
        select json_agg(json_build_array(order_id, created_at)) from customer_order
        where tenant_id = :tenant_id and order_id = any(:target_ids::uuid[])),
    'policy', (
        select version from policy
        where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000') and effective_from <= clock_timestamp()
        order by tenant_id = :tenant_id desc, effective_from desc, version desc limit 1),
    'assets', (select json_agg(a) from asset a where tenant_id = :tenant_id and asset_id = any(:asset_ids::uuid[])),
    'relying', (
        select json_agg(a) from asset a
        where a.tenant_id = :tenant_id and a.state = 'ACTIVE' and a.asset_id in (
            select asset_id from asset_reliance
            where tenant_id = :tenant_id and base = any(:asset_ids::uuid[]::text[]))),
    'holders', (
        select json_agg(json_build_array(asset_id, order_id)) from asset_change_lock
        where tenant_id = :tenant_id and asset_id = any(:asset_ids::uuid[])),
    'doubtful', (
        select json_agg(a.asset_id) from asset a
        join customer_order o on o.tenant_id = a.tenant_id and o.order_id = a.installed_by
        where a.tenant_id = :tenant_id and a.asset_id = any(:asset_ids::uuid[]) and (
            o.state = 'PARTIALLY_COMPLETED'
            or (o.ended_at is not null and exists (
                select from compensation_plan p
                where p.tenant_id = o.tenant_id and p.order_id = o.order_id and p.state in ('IN_PROGRESS', 'BLOCKED')))
            or exists (
                select from fallout_case f
                where f.tenant_id = o.tenant_id and f.order_id = o.order_id and f.context = 'LATE_EFFECT'
                    and f.closed_at is null)))
)::text as document;

-- name: load_target
-- The older order that a relation would point to, and whether it stands already.
select o.order_id, o.created_at, exists (
    select from order_relation r
    where r.tenant_id = :tenant_id and r.source_order_id = :order_id and r.target_order_id = o.order_id
        and r.relation_type = :kind) as related
from customer_order o where o.tenant_id = :tenant_id and o.order_id = :target;

-- name: load_cause
-- How another order's cancellation stands, and the assets which that order installed and this one is about.
select r.status, (
    select run from dependence d
    where d.tenant_id = :tenant_id and d.order_id = :order_id and d.request_id = :request_id) as owed, (
    select coalesce(array_agg(a.state), '{}')
    from order_item mine
    join order_item theirs on theirs.tenant_id = mine.tenant_id and theirs.asset = mine.target_asset
    join asset a on a.tenant_id = mine.tenant_id and a.asset_id = mine.target_asset
    where mine.tenant_id = :tenant_id and mine.order_id = :order_id
        and theirs.order_id = :source_id and theirs.action = 'ADD') as grounds
from cancellation_request r
where r.tenant_id = :tenant_id and r.order_id = :source_id and r.request_id = :request_id;

-- name: write_order
-- One statement for everything that a decision changed; what it did not touch is not among the rows.
with rows as (select :rows::jsonb as r),
o as (
    insert into customer_order (
        tenant_id, order_id, external_id, order_type, state, base, resume_state, version, content,
        policy_version, plan_version, run, start_key, order_holds, created_at, updated_at, ended_at)
    select
        tenant_id, order_id, external_id, order_type, state, base, resume_state, version, content,
        policy_version, plan_version, run, start_key, order_holds, created_at, updated_at, ended_at
    from rows, jsonb_populate_recordset(null::customer_order, r->'customer_order')
    on conflict (tenant_id, order_id) do update set
        state = excluded.state, base = excluded.base, resume_state = excluded.resume_state, version = excluded.version,
        content = excluded.content,
        plan_version = excluded.plan_version, run = excluded.run, start_key = excluded.start_key,
        order_holds = excluded.order_holds, updated_at = excluded.updated_at, ended_at = excluded.ended_at),
ah as (
    insert into audit_head select d.* from rows, jsonb_populate_recordset(null::audit_head, r->'audit_head') d
    on conflict (tenant_id, order_id) do update set sequence = excluded.sequence, chain = excluded.chain),
i as (
    insert into order_item select d.* from rows, jsonb_populate_recordset(null::order_item, r->'order_item') d
    on conflict (tenant_id, order_id, item_id) do update set
        state = excluded.state, base = excluded.base, offering = excluded.offering, quantity = excluded.quantity,
        ordered_quantity = excluded.ordered_quantity, content = excluded.content, asset = excluded.asset),
p as (
    insert into fulfillment_plan
    select d.* from rows, jsonb_populate_recordset(null::fulfillment_plan, r->'fulfillment_plan') d
    on conflict (tenant_id, plan_id) do update set
        run = excluded.run, closed = excluded.closed, woken = excluded.woken),
t as (
    insert into fulfillment_task
    select d.* from rows, jsonb_populate_recordset(null::fulfillment_task, r->'fulfillment_task') d
    on conflict (tenant_id, task_id) do update set
        state = excluded.state, plan_id = excluded.plan_id, depends_on = excluded.depends_on, unmet = excluded.unmet,
        release = excluded.release, handed = excluded.handed, effect_id = excluded.effect_id,
        item_ids = excluded.item_ids, superseded_by = excluded.superseded_by, started_at = excluded.started_at,
        replaced_input = excluded.replaced_input,
        ended_at = excluded.ended_at),
h as (
    insert into task_hold select d.* from rows, jsonb_populate_recordset(null::task_hold, r->'task_hold') d
    on conflict do nothing),
u as (
    delete from task_hold using rows, jsonb_populate_recordset(null::task_hold, r->'unhold') d
    where task_hold.tenant_id = d.tenant_id and task_hold.task_id = d.task_id and task_hold.holder = d.holder),
e as (
    insert into effect select d.* from rows, jsonb_populate_recordset(null::effect, r->'effect') d
    on conflict (tenant_id, effect_id) do update set
        state = excluded.state, basis = excluded.basis, output = excluded.output,
        external_reference = excluded.external_reference, reason = excluded.reason, attempt = excluded.attempt,
        failures = excluded.failures, lease_until = excluded.lease_until, called_at = excluded.called_at,
        accepted_at = excluded.accepted_at, unknown_since = excluded.unknown_since, missed_at = excluded.missed_at,
        settled_at = excluded.settled_at, reversed_by = excluded.reversed_by),
a as (
    insert into external_call_attempt
    select d.* from rows, jsonb_populate_recordset(null::external_call_attempt, r->'external_call_attempt') d
    on conflict (tenant_id, effect_id, attempt) do update set
        finished_at = excluded.finished_at, outcome = excluded.outcome, detail = excluded.detail),
c as (
    insert into cancellation_request
    select d.* from rows, jsonb_populate_recordset(null::cancellation_request, r->'cancellation_request') d
    on conflict (tenant_id, request_id) do update set
        status = excluded.status, run = excluded.run, version = excluded.version, round = excluded.round,
        waiting = excluded.waiting, grace_until = excluded.grace_until, sla_at = excluded.sla_at,
        assessed_at = excluded.assessed_at, assessment = excluded.assessment, fingerprint = excluded.fingerprint,
        policy_version = excluded.policy_version, charge = excluded.charge, approval = excluded.approval,
        dispositions = excluded.dispositions, decisions = excluded.decisions, proposals = excluded.proposals,
        refused_withdrawals = excluded.refused_withdrawals, plan_id = excluded.plan_id, outcome = excluded.outcome,
        jeopardy = excluded.jeopardy, committed_at = excluded.committed_at, ended_at = excluded.ended_at,
        dependents = excluded.dependents),
am as (
    insert into amendment_request
    select d.* from rows, jsonb_populate_recordset(null::amendment_request, r->'amendment_request') d
    on conflict (tenant_id, request_id) do update set
        status = excluded.status, run = excluded.run, changes = excluded.changes, version = excluded.version,
        auto_apply = excluded.auto_apply, round = excluded.round, waiting = excluded.waiting,
        grace_until = excluded.grace_until, sla_at = excluded.sla_at, assessed_at = excluded.assessed_at,
        assessment = excluded.assessment, fingerprint = excluded.fingerprint, policy_version = excluded.policy_version,
        quote = excluded.quote, quote_plan = excluded.quote_plan, charge = excluded.charge,
        approval = excluded.approval, decisions = excluded.decisions, plan_id = excluded.plan_id,
        new_plan_version = excluded.new_plan_version, outcome = excluded.outcome, jeopardy = excluded.jeopardy,
        applied_at = excluded.applied_at, ended_at = excluded.ended_at),
cp as (
    insert into compensation_plan
    select d.* from rows, jsonb_populate_recordset(null::compensation_plan, r->'compensation_plan') d
    on conflict (tenant_id, plan_id) do update set
        state = excluded.state, run = excluded.run, types = excluded.types, closed = excluded.closed,
        woken = excluded.woken, committed_at = excluded.committed_at, completed_at = excluded.completed_at),
ct as (
    insert into compensation_task
    select d.* from rows, jsonb_populate_recordset(null::compensation_task, r->'compensation_task') d
    on conflict (tenant_id, task_id) do update set
        state = excluded.state, unmet = excluded.unmet, release = excluded.release, handed = excluded.handed,
        effect_id = excluded.effect_id, started_at = excluded.started_at, replaced_input = excluded.replaced_input, ended_at = excluded.ended_at),
cd as (
    insert into compensation_task_dependency
    select d.* from rows, jsonb_populate_recordset(null::compensation_task_dependency, r->'edge') d
    on conflict do nothing),
f as (
    insert into fallout_case select d.* from rows, jsonb_populate_recordset(null::fallout_case, r->'fallout_case') d
    on conflict (tenant_id, case_id) do update set
        status = excluded.status, category = excluded.category, blocking = excluded.blocking, title = excluded.title,
        context = excluded.context, request_id = excluded.request_id, owner = excluded.owner, incident_key = excluded.incident_key,
        version = excluded.version, repairs = excluded.repairs, resolution = excluded.resolution,
        jeopardy = excluded.jeopardy, closed_at = excluded.closed_at),
s as (
    insert into asset select d.* from rows, jsonb_populate_recordset(null::asset, r->'asset') d
    on conflict (tenant_id, asset_id) do update set
        offering = excluded.offering, configuration = excluded.configuration, state = excluded.state,
        -- an admin may have put it right since it was read: a version is never given twice
        version = greatest(asset.version + 1, excluded.version), system_references = excluded.system_references,
        relies_on = excluded.relies_on, quantity = excluded.quantity),
rel as (
    insert into order_relation
    select d.* from rows, jsonb_populate_recordset(null::order_relation, r->'order_relation') d),
l as (
    insert into asset_change_lock (tenant_id, asset_id, order_id)
    select d.tenant_id, d.asset_id, d.order_id
    from rows, jsonb_populate_recordset(null::asset_change_lock, r->'lock') d order by d.asset_id),
x as (
    delete from asset_change_lock using rows, jsonb_populate_recordset(null::asset_change_lock, r->'unlock') d
    where asset_change_lock.tenant_id = d.tenant_id and asset_change_lock.order_id = d.order_id),
d as (
    insert into dependence select d.* from rows, jsonb_populate_recordset(null::dependence, r->'dependence') d
    on conflict (tenant_id, order_id, request_id) do update set run = excluded.run, told_at = excluded.told_at),
hd as (
    delete from dependence using rows, jsonb_populate_recordset(null::dependence, r->'heard') d
    where dependence.tenant_id = d.tenant_id and dependence.order_id = d.order_id
        and dependence.request_id = d.request_id and dependence.run = d.run),
au as (
    insert into audit_entry select d.* from rows, jsonb_populate_recordset(null::audit_entry, r->'audit_entry') d),
oh as (
    insert into order_history
    select d.* from rows, jsonb_populate_recordset(null::order_history, r->'order_history') d),
ob as (
    insert into outbox (tenant_id, order_id, sequence, event_id, type, at, payload, trace_parent)
    select d.tenant_id, d.order_id, d.sequence, d.event_id, d.type, d.at, d.payload, d.trace_parent
    from rows, jsonb_populate_recordset(null::outbox, r->'outbox') d order by d.sequence
    returning tenant_id, order_id, sequence, event_id, type, at, payload),
dl as (
    insert into delivery (tenant_id, listener_id, order_id, sequence, event_id, type, at, payload)
    select e.tenant_id, w.listener_id, e.order_id, e.sequence, e.event_id, e.type, e.at, e.payload
    from ob e join listener w on w.tenant_id = e.tenant_id and e.type = any(w.heard)),
eo as (
    insert into engine_outbox (tenant_id, order_id, message_id, name, correlation_key, variables, ttl, trace_parent)
    select d.tenant_id, d.order_id, d.message_id, d.name, d.correlation_key, d.variables, d.ttl, d.trace_parent
    from rows, jsonb_populate_recordset(null::engine_outbox, r->'engine_outbox') d)
update receipt set answer = rows.r->'answer' from rows
where receipt.tenant_id = :tenant_id and receipt.command_id = :command_id;

-- name: find_asset_holder
select order_id from asset_change_lock where tenant_id = :tenant_id and asset_id = any(:asset_ids::uuid[]) limit 1;

-- name: find_external_id_holder
select order_id from customer_order
where tenant_id = :tenant_id and external_id = :external_id and ended_at is null;
