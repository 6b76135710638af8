-- Repairs: parts of a task's input that a person replaced, and the case that a cancelled item was given up for.

alter table fulfillment_task add column replaced_input jsonb;
alter table compensation_task add column replaced_input jsonb;
alter table cancellation_request add column repairs_case uuid;
alter table cancellation_request add foreign key (tenant_id, repairs_case) references fallout_case (tenant_id, case_id);
