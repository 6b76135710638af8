-- What measurements ask of a server, and how they fill a database before they begin.

-- name: read_server
select
    current_setting('server_version') as version,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('shared_buffers') as shared_buffers;

-- name: count_unsent
select count(*) as unsent from outbox where published_at is null;

-- name: count_leftovers
-- What must be nothing once all orders of a tenant have ended and everything that was decided has been carried.
select
    (select count(*) from outbox where tenant_id = :tenant_id and published_at is null) as unsent_events,
    (select count(*) from engine_outbox where tenant_id = :tenant_id and published_at is null) as unsent_messages,
    (select count(*) from asset_change_lock where tenant_id = :tenant_id) as asset_locks,
    (select count(*) from task_hold where tenant_id = :tenant_id) as task_holds,
    (select count(*) from fallout_case where tenant_id = :tenant_id and closed_at is null) as open_cases,
    (select count(*) from receipt where tenant_id = :tenant_id and answer is null) as receipts_without_answer;

-- name: read_ends
-- When each of the tenant's cancellations ended; null of one that has not.
select order_id, extract(epoch from ended_at)::float8 as ended from cancellation_request where tenant_id = :tenant_id;

-- name: list_columns
-- What a copy of a row must be given.
select column_name as name, data_type = 'uuid' as is_id, udt_name = '_uuid' as is_ids
from information_schema.columns
where table_schema = 'public' and table_name = :table and is_identity = 'NO' and is_generated = 'NEVER'
order by ordinal_position;

-- name: make_copies
-- The copies of an order, in the order of what their ids begin with.
create temporary table copies as
select head, row_number() over (order by head) as place
from (select left(md5(g::text), 16) as head from generate_series(1, :count::int) g) heads;

-- name: index_copies
create unique index on copies (place);

-- name: find_tenant
select tenant_id from customer_order where order_id = :order_id;

-- name: mark_all_sent
with events as (update outbox set published_at = clock_timestamp() where published_at is null)
update engine_outbox set published_at = clock_timestamp() where published_at is null;

-- name: read_sent
select order_id, case when bool_and(published_at is not null) then extract(epoch from max(published_at))::float8 end as sent
from outbox where order_id = any(:order_ids::uuid[]) group by order_id;

-- name: read_parked
select incident_key, order_id from fallout_case where tenant_id = :tenant_id and incident_key is not null;

-- name: count_rows_of
-- What has been written about these orders, by table.
select 'audit_entry' as name, count(*) as rows from audit_entry where order_id = any(:order_ids::uuid[])
union all select 'order_history', count(*) from order_history where order_id = any(:order_ids::uuid[])
union all select 'outbox', count(*) from outbox where order_id = any(:order_ids::uuid[])
union all select 'engine_outbox', count(*) from engine_outbox where order_id = any(:order_ids::uuid[])
union all select 'effect', count(*) from effect where order_id = any(:order_ids::uuid[])
union all select 'compensation_task', count(*) from compensation_task where order_id = any(:order_ids::uuid[])
union all select 'flow', count(*) from flow where order_id = any(:order_ids::uuid[]);

-- name: read_size
select pg_database_size(current_database()) as bytes;
