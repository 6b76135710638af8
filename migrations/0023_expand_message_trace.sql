-- Who caused a message to the engine, where that is recorded: the jobs that follow from it belong to the same trace.

alter table engine_outbox add column trace_parent text;

-- The newest one of an order, asked for once per job while spans are recorded; empty where they are not.
create index engine_outbox_traced on engine_outbox (tenant_id, order_id, id) where trace_parent is not null;
