-- Partial indexes for those who look for unfinished work only: the reconciler's sweep and the relay's parked orders.

create index fulfillment_task_startable on fulfillment_task (tenant_id, order_id) where state = 'READY';
create index compensation_task_startable on compensation_task (tenant_id, order_id) where state = 'READY';
create index outbox_parked on outbox (tenant_id, order_id) where parked_at is not null and published_at is null;
