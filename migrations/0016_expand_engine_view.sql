-- For the reconciler's sweep: what is looked for is found by an index of its own, however much is healthy beside it.

-- Flows by the key that the engine shows, and the newest of them; cases by the incident that they are about.
create index flow_instance on flow (instance_key);
create index flow_age on flow (noted_at);
create index fallout_case_incident on fallout_case (incident_key) where incident_key is not null;

-- Requests under way, and how long people and systems took lately.
create index cancellation_request_open on cancellation_request (tenant_id, order_id) where ended_at is null;
create index cancellation_request_decided on cancellation_request (ended_at)
    where ended_at is not null and decisions <> '[]';
create index fallout_case_resolved on fallout_case (closed_at) where status = 'RESOLVED';
create index compensation_task_pace on compensation_task (task_type, ended_at) where state = 'COMPLETED';
