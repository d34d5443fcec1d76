-- One change of an operation, whole or not at all. Rows come as JSON with the columns that change, and only those.
-- Nothing is decided here: the first parts alone say whether the change still fits what it was made of. Parts in
-- brackets are left out of a change that has nothing for them: each costs PostgreSQL 0.1 ms even so (measured).
WITH given AS (
    SELECT %(id)s::uuid AS id, %(version)s::text AS version, %(now)s::timestamptz AS now,
           %(change)s::jsonb AS change
),
-- The operation, and only as it was when it was read: a new version of it refuses whoever has read an older one. What
-- was made from memory brings its time along, and is refused if that is not this server's, within a lease's margin.
operation AS (
    UPDATE operations
       SET (
-- [former]
            former_options,
-- [end]
            status, epoch, wake_at, idle_kicks, error_code, error_detail, started_at, cancelled_at, finished_at) =
           (SELECT
-- [former]
                   new.former_options,
-- [end]
                   new.status, new.epoch, new.wake_at, new.idle_kicks, new.error_code, new.error_detail, new.started_at,
                   new.cancelled_at, new.finished_at
              FROM jsonb_populate_record(operations, change -> 'operation') AS new)
      FROM given
     WHERE operations.id = given.id AND operations.xmin = given.version::xid
       AND coalesce(given.now BETWEEN clock_timestamp() - interval '1 second' AND clock_timestamp() + interval '1 second',
                    true)
 RETURNING operations.xmin::text AS version
),
-- An operation that is only being opened has no version to fit: the caller holds its agents' locks.
fits AS MATERIALIZED (
    SELECT given.* FROM given WHERE version IS NULL OR EXISTS (SELECT FROM operation)
),
-- [steps]
steps AS (
    UPDATE operation_steps
       SET (state, attempts, lease_token, lease_until, intent, unsettled_until, resource_id, error_code, error_detail,
            started_at, finished_at) =
           (SELECT new.state, new.attempts, new.lease_token, new.lease_until, new.intent, new.unsettled_until,
                   new.resource_id, new.error_code, new.error_detail, new.started_at, new.finished_at
              FROM jsonb_populate_record(operation_steps, changed) AS new)
      FROM fits, jsonb_array_elements(change -> 'steps') AS changed
     WHERE operation_id = fits.id AND name = changed ->> 'name'
),
-- [end]
-- [left]
-- A trunk that a number leaves has room again, for whoever looks for a place next.
room AS (
    UPDATE trunks SET is_full = false
      FROM fits, jsonb_array_elements_text(change -> 'left') AS leaver JOIN agents ON agents.id = leaver::uuid
     WHERE trunks.id = agents.trunk_id AND is_full
),
-- [end]
-- [agents]
changed_agents AS (
    UPDATE agents
       SET ({agent_columns}) = (SELECT {agent_columns} FROM jsonb_populate_record(agents, changed))
      FROM fits, jsonb_array_elements(change -> 'agents') AS changed
     WHERE agents.id = (changed ->> 'id')::uuid
),
-- [end]
-- [ledger]
-- The ledger takes every id that anybody learned of, once.
ledger AS (
    INSERT INTO resources (provider, kind, external_id, parent_id, agent_id, operation_id)
    SELECT new.provider, new.kind, new.external_id, new.parent_id, new.agent_id, id
      FROM fits, jsonb_populate_recordset(NULL::resources, change -> 'ledger') AS new
        ON CONFLICT DO NOTHING
),
-- [end]
-- [deleted]
deleted AS (
    UPDATE resources SET deleted_at = now()
      FROM fits, jsonb_array_elements_text(change -> 'deleted') AS gone
     WHERE agent_id = (change ->> 'holder')::uuid AND deleted_at IS NULL AND external_id = gone
),
-- [end]
-- [ended]
-- What becomes of an operation after its end is read by the next one of the same agent: nobody goes on with that from
-- memory.
next AS (
    UPDATE operations SET idle_kicks = idle_kicks
      FROM fits, jsonb_array_elements_text(change -> 'ended') AS owner
     WHERE operations.agent_id = owner::uuid AND operations.id <> fits.id
       AND status IN ('needs_attention', 'queued', 'rolling_back', 'running')
),
-- [end]
-- [announcements]
announced AS (
    {announce}
),
-- [end]
trail AS (
    INSERT INTO events (operation_id, step, event, detail)
    SELECT id, line ->> 'step', line ->> 'event', line -> 'detail'
      FROM fits, jsonb_array_elements(change -> 'events') WITH ORDINALITY AS told (line, position)
     ORDER BY position
)
SELECT (SELECT version FROM operation) AS version FROM fits
