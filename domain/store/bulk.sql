-- Jobs over many orders or cases.

-- name: find_orders
-- Live orders that a filter means, oldest first.
select order_id as subject_id, order_id, state as word from customer_order
where tenant_id = :tenant_id and ended_at is null
    and (:states::text[] is null or state = any(:states))
    and (:customer_id::text is null or customer_id = :customer_id)
    and (:external_id::text is null or external_id = :external_id)
    and (:order_type::text is null or order_type = :order_type)
    and (:updated_since::timestamptz is null or updated_at >= :updated_since)
    and (:offering::text is null or exists (
        select from order_item i
        where i.tenant_id = customer_order.tenant_id and i.order_id = customer_order.order_id and i.offering = :offering))
order by created_at, order_id;

-- name: find_named_orders
-- Each id once; what this tenant does not have, without an order.
select wanted.id as subject_id, o.order_id, coalesce(o.state, 'NOT_FOUND') as word
from unnest(:ids::uuid[]) with ordinality as wanted (id, place)
left join customer_order o on o.tenant_id = :tenant_id and o.order_id = wanted.id
order by wanted.place;

-- name: find_cases
-- Open cases that a filter means, oldest first.
select c.case_id as subject_id, c.order_id, c.category as word from fallout_case c
left join effect e on e.tenant_id = c.tenant_id and e.effect_id = c.effect_id
where c.tenant_id = :tenant_id and c.closed_at is null
    and (:ids::uuid[] is null or c.case_id = any(:ids))
    and (:statuses::text[] is null or c.status = any(:statuses))
    and (:category::text is null or c.category = :category)
    and (:context::text is null or c.context = :context)
    and (:order_id::uuid is null or c.order_id = :order_id)
    and (:system::text is null or e.system = :system)
    and (:task_type::text is null or e.task_type = :task_type)
order by c.opened_at, c.case_id;

-- name: add_job
insert into bulk_job (
    tenant_id, job_id, kind, status, body, rate_per_minute, created_by, created_roles, on_behalf_of, finished_at)
values (
    :tenant_id, :job_id, :kind, case when :total::int = 0 then 'DONE' else 'RUNNING' end, :body::jsonb, :rate,
    :created_by, :created_roles::text[], :on_behalf_of,
    case when :total::int = 0 then clock_timestamp() end);

-- name: add_rows
insert into bulk_row (tenant_id, job_id, position, subject_id, order_id, status)
select :tenant_id, :job_id, wanted.place, wanted.subject_id, wanted.order_id, 'PENDING'
from unnest(:subjects::uuid[], :orders::uuid[]) with ordinality as wanted (subject_id, order_id, place);

-- name: read_job
select json_build_object(
    'job', row_to_json(j),
    'counts', (
        select json_object_agg(status, count) from (
            select status, count(*) from bulk_row
            where tenant_id = :tenant_id and job_id = :job_id group by status) c)
)::text as document
from bulk_job j where tenant_id = :tenant_id and job_id = :job_id and kind = :kind;

-- name: list_results
select row_to_json(r)::text as document from bulk_row r
where tenant_id = :tenant_id and job_id = :job_id and position > :after
order by position limit :limit;

-- name: lock_job
select status from bulk_job where tenant_id = :tenant_id and job_id = :job_id and kind = :kind for update;

-- name: set_status
update bulk_job set status = :status, next_at = clock_timestamp() where tenant_id = :tenant_id and job_id = :job_id;

-- name: find_due_jobs
-- Over all tenants (the auditor's role).
select tenant_id, job_id from bulk_job where status = 'RUNNING' and next_at <= clock_timestamp() order by next_at limit 20;

-- name: claim_rows
-- The next few rows of a job that nobody is at, as the job's rate allows; a claim that was never answered comes back. From the
-- first to the last of them, for of a table that was filled a moment ago the planner knows nothing, and would read the job's
-- rows one and all to find these.
with job as (
    select * from bulk_job
    where tenant_id = :tenant_id and job_id = :job_id and status = 'RUNNING' and next_at <= clock_timestamp()
    for update skip locked),
next as (
    select r.position from bulk_row r, job
    where r.tenant_id = :tenant_id and r.job_id = :job_id
        and (r.status = 'PENDING' or (r.status = 'CLAIMED' and r.claimed_until < clock_timestamp()))
    order by r.position limit :size for update of r),
paced as (
    update bulk_job set next_at = greatest(next_at, clock_timestamp() - interval '1 second')
        + (select count(*) from next) * interval '1 minute' / bulk_job.rate_per_minute
    where tenant_id = :tenant_id and job_id in (select job_id from job))
update bulk_row set status = 'CLAIMED', attempts = attempts + 1, claimed_until = clock_timestamp() + interval '30 seconds'
where tenant_id = :tenant_id and job_id = :job_id and position in (select position from next)
    and position between (select min(position) from next) and (select max(position) from next)
returning position, subject_id, order_id, attempts;

-- name: read_orders_of_job
select kind, body::text as body, created_by, created_roles, on_behalf_of, rate_per_minute from bulk_job
where tenant_id = :tenant_id and job_id = :job_id;

-- name: finish_row
update bulk_row set status = :status, code = :code, detail = :detail, result_id = :result_id, claimed_until = null,
    at = clock_timestamp()
where tenant_id = :tenant_id and job_id = :job_id and position = :position and status = 'CLAIMED';

-- name: finish_job
update bulk_job set status = 'DONE', finished_at = clock_timestamp()
where tenant_id = :tenant_id and job_id = :job_id and status = 'RUNNING' and not exists (
    select from bulk_row r
    where r.tenant_id = :tenant_id and r.job_id = :job_id and r.status in ('PENDING','CLAIMED'));

-- name: read_version
select o.version as order_version, c.version as case_version, c.status as case_status
from customer_order o
left join fallout_case c on c.tenant_id = o.tenant_id and c.order_id = o.order_id and c.case_id = :case_id
where o.tenant_id = :tenant_id and o.order_id = :order_id;
