-- A cancellation may be about a part of an item's quantity: which items only become fewer, and by how many.

alter table cancellation_request add column quantities jsonb not null default '{}';
