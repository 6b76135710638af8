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
