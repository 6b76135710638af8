-- What the reconciler looks at, over all tenants (the auditor's role), or within one (the application's). Every query begins at a partial index of unfinished
-- work: a healthy order costs nothing.

-- name: take_watch
select pg_try_advisory_lock(hashtextextended('recourse.reconciler', 0)) as watches;

-- name: find_idle_tasks
-- Free to start, held by nobody (an undoing: by no cancellation of the whole order, `Draft.is_held`), and its order has
-- been silent for longer than its flow's heartbeat.
select c.tenant_id, c.order_id, c.plan_id, c.task_id, c.handed, entry.at as silent_since, (
    select count(*) from audit_entry r
    where r.tenant_id = c.tenant_id and r.order_id = c.order_id and r.entity_id = c.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarts
from (
    select tenant_id, order_id, plan_id, task_id, handed from fulfillment_task where state = 'READY'
    union all
    select tenant_id, order_id, plan_id, task_id, handed from compensation_task t
    where state = 'READY' and purpose <> 'MANUAL' and not exists (
        select from cancellation_request larger
        join compensation_plan p on p.tenant_id = t.tenant_id and p.plan_id = t.plan_id
        left join cancellation_request own on own.tenant_id = p.tenant_id and own.request_id = p.request_id
        where larger.tenant_id = t.tenant_id and larger.order_id = t.order_id and larger.scope = 'ORDER'
            and larger.ended_at is null
            and (p.request_id is null or (own.scope = 'ITEMS' and own.committed_at is null)))) c
join customer_order o on o.tenant_id = c.tenant_id and o.order_id = c.order_id
join audit_head head on head.tenant_id = o.tenant_id and head.order_id = o.order_id
join audit_entry entry on entry.tenant_id = o.tenant_id and entry.order_id = o.order_id and entry.sequence = head.sequence
where entry.at < clock_timestamp() - :settle::interval
    and not exists (select from task_hold h where h.tenant_id = c.tenant_id and h.task_id = c.task_id)
limit :limit;

-- name: find_overdue_effects
-- Open, and past the moment by which its flow should have asked: the lease, the callback's time, or the end of asking.
-- A task with an open case is a person's, not ours. Of one page: most of what is open is in time. The limit keeps the look
-- at each effect's own task: whoever joins them reads every task there is, in every sweep.
select e.tenant_id, e.order_id, t.plan_id, e.task_id, e.effect_id, due.class, due.at as silent_since, (
    select count(*) from audit_entry r
    where r.tenant_id = e.tenant_id and r.order_id = e.order_id and r.entity_id = t.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarts, (
    select max(r.at) from audit_entry r
    where r.tenant_id = e.tenant_id and r.order_id = e.order_id and r.entity_id = t.plan_id::text
        and r.kind = 'FLOW_RESTARTED') as restarted_at
from effect e
cross join lateral (
    select f.plan_id, f.task_type, p.types from fulfillment_task f
    join fulfillment_plan p on p.tenant_id = f.tenant_id and p.plan_id = f.plan_id
    where f.tenant_id = e.tenant_id and f.task_id = e.task_id
    union all
    select c.plan_id, c.task_type, p.types from compensation_task c
    join compensation_plan p on p.tenant_id = c.tenant_id and p.plan_id = c.plan_id
    where c.tenant_id = e.tenant_id and c.task_id = e.task_id
    limit 1) t
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
    and e.intended_at between coalesce(:after::timestamptz, '-infinity') and coalesce(:until::timestamptz, 'infinity')
    and due.at < clock_timestamp() - :settle::interval
    and not exists (
        select from fallout_case c
        where c.tenant_id = e.tenant_id and c.order_id = e.order_id and c.task_id = e.task_id and c.closed_at is null)
limit :limit;

-- name: find_page_of_effects
-- Where the page of open effects that begins there ends; null: it is the last one.
select case when count(*) = :limit then max(intended_at) end as ends
from (
    select intended_at from effect
    where state in ('INTENDED', 'UNKNOWN') and intended_at >= coalesce(:after::timestamptz, '-infinity')
    order by intended_at limit :limit) page;

-- name: find_stuck_outboxes
-- Rows that wait longer than any relay should take, or that were held back.
select tenant_id, 'outbox' as outbox, count(*) as rows, min(at) as silent_since, count(parked_at) as parked
from outbox where published_at is null and (at < clock_timestamp() - :settle::interval or parked_at is not null)
group by tenant_id
union all
select tenant_id, 'engine_outbox', count(*), min(created_at), count(parked_at)
from engine_outbox where published_at is null and (created_at < clock_timestamp() - :settle::interval or parked_at is not null)
group by tenant_id;

-- name: find_silent_flows
-- Flows without a plan: of orders before theirs (unless they wait for their date), of requests before they undo anything,
-- not with a person and not waiting for a larger one or for what an amendment has in the air (`Draft.is_parked`), of
-- amendments before they are in the order: not with a person, and waiting neither for prices nor for another amendment.
-- A case about the order as a whole is a person's.
select o.tenant_id, o.order_id, null::uuid as request_id, o.state as status, entry.at as silent_since, (
    select count(*) from audit_entry r
    where r.tenant_id = o.tenant_id and r.order_id = o.order_id and r.entity_id = o.order_id::text
        and r.kind = 'FLOW_RESTARTED') as restarts
from customer_order o
join audit_head head using (tenant_id, order_id)
join audit_entry entry
    on entry.tenant_id = o.tenant_id and entry.order_id = o.order_id and entry.sequence = head.sequence
where o.ended_at is null and o.plan_version = 0 and entry.at < clock_timestamp() - :settle::interval
    and o.state in ('ACKNOWLEDGED', 'VALIDATED')
    and (o.content->>'startOnRequestedDate' is distinct from 'true'
        or coalesce((o.content->>'requestedStartDate')::timestamptz, '-infinity') < clock_timestamp() - :settle::interval)
    and not exists (
        select from fallout_case c
        where c.tenant_id = o.tenant_id and c.order_id = o.order_id and c.task_id is null and c.closed_at is null)
union all
select q.tenant_id, q.order_id, q.request_id, q.status, entry.at, (
    select count(*) from audit_entry r
    where r.tenant_id = q.tenant_id and r.order_id = q.order_id and r.entity_id = q.request_id::text
        and r.kind = 'FLOW_RESTARTED')
from cancellation_request q
join audit_head head using (tenant_id, order_id)
join audit_entry entry
    on entry.tenant_id = q.tenant_id and entry.order_id = q.order_id and entry.sequence = head.sequence
where q.ended_at is null and q.committed_at is null and entry.at < clock_timestamp() - :settle::interval
    and (q.status in ('ACCEPTED_FOR_ASSESSMENT', 'APPROVED')
        or (q.status = 'ASSESSING' and q.grace_until < clock_timestamp() - :settle::interval)
        or (q.status = 'AWAITING_CHARGE_DECISION'
            and (q.charge->>'respondBy')::timestamptz < clock_timestamp() - :settle::interval))
    and not (q.scope = 'ITEMS' and exists (
        select from cancellation_request larger
        where larger.tenant_id = q.tenant_id and larger.order_id = q.order_id and larger.scope = 'ORDER'
            and larger.ended_at is null))
    and not (q.status = 'ACCEPTED_FOR_ASSESSMENT' and (
        exists (
            select from amendment_request a
            where a.tenant_id = q.tenant_id and a.order_id = q.order_id and a.status = 'APPLYING')
        or exists (
            select from compensation_plan p
            join compensation_task t on t.tenant_id = p.tenant_id and t.plan_id = p.plan_id
            where p.tenant_id = q.tenant_id and p.order_id = q.order_id and p.amendment_id is not null
                and p.purpose = 'UNDO' and p.state not in ('COMPLETED', 'SUPERSEDED') and t.ended_at is null
                and (t.state in ('DISPATCHED', 'WAITING_EXTERNAL', 'OUTCOME_UNKNOWN')
                    or (q.scope = 'ITEMS' and t.state <> 'PLANNED')))))
union all
select a.tenant_id, a.order_id, a.request_id, a.status, entry.at, (
    select count(*) from audit_entry r
    where r.tenant_id = a.tenant_id and r.order_id = a.order_id and r.entity_id = a.request_id::text
        and r.kind = 'FLOW_RESTARTED')
from amendment_request a
join audit_head head using (tenant_id, order_id)
join audit_entry entry
    on entry.tenant_id = a.tenant_id and entry.order_id = a.order_id and entry.sequence = head.sequence
where a.ended_at is null and a.applied_at is null and entry.at < clock_timestamp() - :settle::interval
    and (a.status = 'REQUESTED'
        or (a.status = 'ASSESSING' and not exists (
            select from compensation_plan p
            where p.tenant_id = a.tenant_id and p.plan_id = a.quote_plan and p.state not in ('COMPLETED', 'SUPERSEDED')))
        or (a.status = 'APPROVED' and a.auto_apply and not exists (
            select from amendment_request other
            where other.tenant_id = a.tenant_id and other.order_id = a.order_id and other.status = 'APPLYING'))
        or (a.status = 'APPLYING' and a.grace_until < clock_timestamp() - :settle::interval)
        or (a.status = 'AWAITING_CHARGE_DECISION'
            and (a.charge->>'respondBy')::timestamptz < clock_timestamp() - :settle::interval))
limit :limit;

-- name: find_untold
-- Orders that were to hear of a cancellation which they depend on, and have not followed it.
select tenant_id, order_id, source_id, request_id, run, told_at from dependence
where told_at < clock_timestamp() - :settle::interval
order by told_at limit :limit;

-- name: find_oddities
-- What the books themselves show, of the last days: contradictions, and effects that came too late and are not settled.
select 'OUTCOME_CONTRADICTION' as class, tenant_id, order_id, entity_id as effect_id, max(at) as at,
    format('recorded %s, reported %s', max(data->>'recorded'), max(data->>'reported')) as evidence
from audit_entry where kind = 'OUTCOME_CONTRADICTED' and at > clock_timestamp() - interval '7 days'
group by tenant_id, order_id, entity_id
union all
select 'LATE_EFFECT', tenant_id, order_id, coalesce(effect_id, case_id)::text, opened_at, title
from fallout_case where context = 'LATE_EFFECT' and closed_at is null
limit :limit;

-- name: find_cases_in_engine
select tenant_id, order_id, case_id, closed_at is null as is_open, incident_key from fallout_case
where case_id = any(:case_ids::uuid[]) or incident_key = any(:incident_keys::text[]);

-- name: find_newest_flows
-- As canaries: whether the engine still knows what was begun lately; or, page by page, all that are older.
select instance_key, noted_at from flow
where noted_at < coalesce(:before::timestamptz, clock_timestamp() - :settle::interval)
order by noted_at desc limit :limit;

-- name: find_live_flows
-- As canaries where all that was begun lately has ended: those of some orders that have not, whichever.
select f.instance_key from (select tenant_id, order_id from customer_order where ended_at is null limit :limit) o
join flow f using (tenant_id, order_id)
where f.noted_at < clock_timestamp() - :settle::interval;

-- name: find_late_loss
-- Whether flows that the engine has lost were found so lately that whoever looked may not have come to the end of them.
select clock_timestamp() as now from finding
where class in ('ENGINE_LOST_DATA', 'INSTANCE_UNKNOWN') and last_seen_at > clock_timestamp() - :within::interval limit 1;

-- name: find_flows_of_orders
select f.instance_key from unnest(:tenant_ids::uuid[], :order_ids::uuid[]) as o (tenant_id, order_id)
join flow f on f.tenant_id = o.tenant_id and f.order_id = o.order_id;

-- name: find_flows
-- What our books know of these instances. On an engine that lost its data keys come again: whatever was noted under one
-- before its newest note is displaced, and runs nowhere. A part whose plan was started anew is carried by the instance
-- that runs the plan, and by no older one.
select row_number() over (partition by f.instance_key order by f.noted_at desc) > 1 as displaced, f.tenant_id, f.order_id, f.run, f.instance_key, f.process, f.noted_at,
    part.id as part, coalesce(part.restarts, 0) as restarts,
    case when o.ended_at is not null
        and not exists (
            select from compensation_plan p
            where p.tenant_id = f.tenant_id and p.order_id = f.order_id and p.state not in ('COMPLETED', 'SUPERSEDED'))
        and not exists (
            select from fallout_case c
            where c.tenant_id = f.tenant_id and c.order_id = f.order_id and c.closed_at is null)
        then greatest(o.ended_at, f.noted_at) end as idle_since
from flow f
join customer_order o on o.tenant_id = f.tenant_id and o.order_id = f.order_id
left join lateral (
    select carried.id, (
        select count(*) from audit_entry r
        where r.tenant_id = f.tenant_id and r.order_id = f.order_id and r.entity_id = carried.id::text
            and r.kind = 'FLOW_RESTARTED') as restarts
    from (
        select coalesce(p.plan_id, o.order_id) as id
        from (select) one left join fulfillment_plan p
            on p.tenant_id = f.tenant_id and p.order_id = f.order_id and p.version = o.plan_version
        where f.process = 'fulfillment' and f.run = o.run and o.ended_at is null and not coalesce(p.closed, false)
        union all
        select p.plan_id from fulfillment_plan p
        where f.process = 'plan' and p.tenant_id = f.tenant_id and p.order_id = f.order_id and p.run = f.run
            and not p.closed and o.ended_at is null
        union all
        select p.plan_id from compensation_plan p
        where f.process = 'plan' and p.tenant_id = f.tenant_id and p.order_id = f.order_id and p.run = f.run
            and not p.closed and p.state not in ('COMPLETED', 'SUPERSEDED')
        union all
        select case when q.committed_at is null then q.request_id else q.plan_id end from cancellation_request q
        where f.process = 'cancellation' and q.tenant_id = f.tenant_id and q.order_id = f.order_id and q.run = f.run
            and q.ended_at is null and (q.committed_at is null or exists (
                select from compensation_plan p
                where p.tenant_id = q.tenant_id and p.plan_id = q.plan_id and not p.closed))
        union all
        select case when a.applied_at is null then a.request_id else a.plan_id end from amendment_request a
        where f.process = 'amendment' and a.tenant_id = f.tenant_id and a.order_id = f.order_id and a.run = f.run
            and a.ended_at is null and a.status <> 'QUEUED' and (a.status <> 'APPROVED' or a.auto_apply)
            and (a.applied_at is null or exists (
                select from compensation_plan p
                where p.tenant_id = a.tenant_id and p.plan_id = a.plan_id and not p.closed))
    ) carried
) part on f.process = 'plan' or part.restarts = 0 or part.id in (
    select request_id from cancellation_request q where q.tenant_id = f.tenant_id and q.order_id = f.order_id
    union all
    select request_id from amendment_request a where a.tenant_id = f.tenant_id and a.order_id = f.order_id
    union all
    select o.order_id)
where f.instance_key = any(:keys::bigint[]);

-- name: find_persons_waits
-- Reviews and cases that wait for people, and by when.
select tenant_id, order_id, request_id as subject_id, 'REVIEW' as kind, coalesce(assessed_at, requested_at) as since,
    sla_at as due, jeopardy as told
from cancellation_request where status = 'REQUIRES_APPROVAL' and sla_at is not null and ended_at is null
union all
select tenant_id, order_id, request_id, 'REVIEW', coalesce(assessed_at, requested_at), sla_at, jeopardy
from amendment_request where status = 'REQUIRES_APPROVAL' and sla_at is not null and ended_at is null
union all
select tenant_id, order_id, case_id, category, opened_at, sla_at, jeopardy
from fallout_case where closed_at is null
order by told, due limit :limit;

-- name: find_paces
-- How long people took lately: per category of case, and for reviews; in seconds, of the newest only.
select kind, percentile_cont(0.5) within group (order by seconds) as seconds
from (
    select * from (
        select category as kind, extract(epoch from closed_at - opened_at) as seconds
        from fallout_case where status = 'RESOLVED' order by closed_at desc limit 1000) cases
    union all
    select * from (
        select 'REVIEW', extract(epoch from (decisions -> -1 ->> 'at')::timestamptz - assessed_at)
        from cancellation_request
        where ended_at is not null and assessed_at is not null and decisions <> '[]'
        order by ended_at desc limit 1000) reviews
) past
where seconds >= 0
group by kind having count(*) >= 5;

-- name: find_orders
-- Those that our books know of the orders that somebody else named.
select tenant_id, order_id from customer_order
join unnest(:tenant_ids::uuid[], :order_ids::uuid[]) as named (tenant_id, order_id) using (tenant_id, order_id);

-- name: find_tenants_with_findings
select distinct tenant_id from finding where resolved_at is null;

-- name: lock_findings
-- A sweep asked for beside the one that watches: they write one after the other.
select pg_advisory_xact_lock(hashtextextended('recourse.findings', 0));

-- name: keep_findings
insert into finding (tenant_id, finding_id, class, subject, order_id, evidence, repair, silent_since, repaired_at)
select :tenant_id, gen_random_uuid(), f.class, f.subject, f.order_id, f.evidence, f.repair, f.silent_since, f.repaired_at
from jsonb_to_recordset(:findings::jsonb) as f (
    class text, subject text, order_id uuid, evidence text, repair text, silent_since timestamptz,
    repaired_at timestamptz)
order by f.class, f.subject
on conflict (tenant_id, class, subject) where resolved_at is null do update set
    evidence = excluded.evidence, repair = excluded.repair, silent_since = excluded.silent_since,
    last_seen_at = clock_timestamp(), repaired_at = coalesce(excluded.repaired_at, finding.repaired_at);

-- name: end_findings
-- What was not found any more has been mended, by whomever; only of the classes that were looked for, and of those that
-- are looked for page by page what was on no page of the round.
update finding set resolved_at = clock_timestamp()
where tenant_id = :tenant_id and resolved_at is null and class = any(:classes::text[])
    and (class <> all(:paged::text[]) or last_seen_at < coalesce(:round_began::timestamptz, 'infinity'))
    and not exists (
        select from jsonb_to_recordset(:findings::jsonb) as f (class text, subject text)
        where f.class = finding.class and f.subject = finding.subject);

-- name: list_findings
select row_to_json(f)::text as document from finding f
where tenant_id in (:tenant_id, '00000000-0000-0000-0000-000000000000')
    and (:klass::text is null or class = :klass)
    and (:standing::boolean is null or (resolved_at is null) = :standing)
    and (:after_at::timestamptz is null or (first_seen_at, finding_id) < (:after_at, :after_id::uuid))
order by first_seen_at desc, finding_id desc limit :limit;

-- name: read_clock
select clock_timestamp() as now;

-- name: measure_waiting
-- How much waits for a process of ours and since when, up to 10 000 of each: enough to see that it is too much. What is
-- held or parked waits for somebody else.
select 'tasks' as kind, count(*) as rows, null::timestamptz as since from (
    select from fulfillment_task t where state = 'READY'
        and not exists (select from task_hold h where h.tenant_id = t.tenant_id and h.task_id = t.task_id)
    union all
    select from compensation_task where state = 'READY' and purpose <> 'MANUAL'
    limit 10000) ready
union all
select 'events', count(*), min(at) from (
    select at from outbox where published_at is null and parked_at is null order by id limit 10000) waiting
union all
select 'messages', count(*), min(created_at) from (
    select created_at from engine_outbox where published_at is null and parked_at is null order by id limit 10000) waiting
union all
select 'cases', count(*), min(opened_at) from fallout_case where closed_at is null
union all
select 'overdue_cases', count(*), min(sla_at) from fallout_case where closed_at is null and sla_at < clock_timestamp()
union all
select 'parked_events', count(*), min(at) from outbox where published_at is null and parked_at is not null
union all
select 'parked_messages', count(*), min(created_at) from engine_outbox
where published_at is null and parked_at is not null;

-- name: find_running_plans
-- Undoings under way, with what is left of them and by when the policy wants them done.
select q.tenant_id, q.order_id, q.request_id, q.jeopardy as told, p.created_at as started_at,
    p.created_at + (
        select document #>> '{cancellation,compensation_sla}' from policy
        where policy.version = q.policy_version and policy.tenant_id in (q.tenant_id, '00000000-0000-0000-0000-000000000000')
        order by policy.tenant_id = q.tenant_id desc limit 1)::interval as due,
    (
        select json_agg(json_build_object(
            'task_id', t.task_id, 'task_type', t.task_type, 'started_at', t.started_at,
            'allowance', extract(epoch from (p.types #>> array[t.task_type, 'callback_timeout'])::interval),
            'after', (
                select json_agg(d.depends_on) from compensation_task_dependency d
                where d.tenant_id = t.tenant_id and d.order_id = t.order_id and d.task_id = t.task_id)))
        from compensation_task t
        where t.tenant_id = p.tenant_id and t.plan_id = p.plan_id and t.ended_at is null)::text as tasks
from cancellation_request q
join compensation_plan p on p.tenant_id = q.tenant_id and p.plan_id = q.plan_id
where q.ended_at is null and q.status = 'COMPENSATING'
order by q.jeopardy, p.created_at limit :limit;

-- name: find_medians
-- How long undoings took lately, per type, in seconds.
select wanted.task_type, percentile_cont(0.5) within group (order by extract(epoch from past.ended_at - past.started_at)) as seconds
from unnest(:types::text[]) as wanted (task_type)
join lateral (
    select started_at, ended_at from compensation_task t
    where t.task_type = wanted.task_type and t.state = 'COMPLETED' and t.started_at is not null
    order by t.ended_at desc limit 1000) past on true
group by wanted.task_type;
