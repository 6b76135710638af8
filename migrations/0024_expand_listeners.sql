-- Who wants to hear of orders at an address of theirs, and what is still to be told to each.

create table listener (
    tenant_id uuid not null,
    listener_id uuid not null,
    callback text not null,
    query text,                           -- as it was asked for
    heard text[] not null,                -- the types of our events that it comes to
    created_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    told_at timestamptz,                  -- when it last took one
    given_up bigint not null default 0,   -- how many it never took
    trouble text,                         -- why the last one was not taken; null: it was
    primary key (tenant_id, listener_id)
);

-- Written in the transaction of the event; gone once it was taken. No foreign key to the listener: one that is being
-- taken out must not stand in a command's way. What is left of it is told to nobody.
create table delivery (
    tenant_id uuid not null,
    listener_id uuid not null,
    order_id uuid not null,
    sequence bigint not null,
    event_id uuid not null,
    type text not null,
    at timestamptz not null,
    payload jsonb not null,
    attempts int not null default 0,
    due_at timestamptz not null default clock_timestamp(),    -- not before then; a claim moves it to its own end
    primary key (tenant_id, listener_id, order_id, sequence)
);
create index delivery_due on delivery (due_at);

do $$
declare name text;
begin
    foreach name in array array['listener','delivery'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format(
            'create policy own_tenant on %I to recourse_app using (tenant_id = current_setting(''recourse.tenant'')::uuid)'
            ' with check (tenant_id = current_setting(''recourse.tenant'')::uuid)', name);
        execute format('create policy reads_all on %I for select to recourse_auditor using (true)', name);
        execute format('grant select, insert, update, delete on %I to recourse_app', name);
        execute format('grant select on %I to recourse_auditor', name);
    end loop;
end $$;
