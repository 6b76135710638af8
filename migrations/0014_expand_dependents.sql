-- Which other orders have been told to follow a cancellation; each is told again when it ends.

alter table cancellation_request add column dependents uuid[] not null default '{}';
