-- Takes a number for an agent and opens its provisioning: what every POST waits for. Nothing that the saga's rules decide
-- is decided here, since an operation that does not exist yet has no state. Of two requests the second waits for the
-- agent's row, reads it anew and finds it taken; whatever the conditions miss in that moment meets the unique indexes.

-- The item of a bulk for which it is opened, if any: only while it waits.
WITH place AS MATERIALIZED (
    SELECT position FROM bulk_items
     WHERE bulk_id = %(bulk)s AND position = %(position)s AND status = 'pending'
       FOR UPDATE
),
-- The agent, if it is free. The list of statuses is that of the partial indexes, which only a constant uses.
agent AS (
    UPDATE agents
       SET phone_provisioning_status = 'PENDING', twilio_phone_number = %(number)s, updated_at = now()
     WHERE id = %(agent)s AND deleted_at IS NULL AND phone_provisioning_status = ANY(%(free)s)
       AND (%(bulk)s::uuid IS NULL OR EXISTS (SELECT FROM place))
       AND NOT EXISTS (SELECT FROM operations WHERE agent_id = %(agent)s
                          AND status IN ('needs_attention', 'queued', 'rolling_back', 'running'))
       AND NOT EXISTS (SELECT FROM operations WHERE target_agent_id = %(agent)s
                          AND status IN ('needs_attention', 'queued', 'rolling_back', 'running'))
 RETURNING id
),
operation AS (
    INSERT INTO operations (id, agent_id, kind, phone_number, takeover, status, epoch, wake_at, idle_kicks,
                            requested_by, request_id, traceparent, bulk_id)
    SELECT %(operation)s, id, 'provision', %(number)s, %(takeover)s, 'queued', 0, clock_timestamp() + %(grace)s, 0,
           %(requested_by)s, %(request_id)s, %(traceparent)s, %(bulk)s
      FROM agent
 RETURNING id
),
steps AS (
    INSERT INTO operation_steps (operation_id, name, position, state, attempts)
    SELECT operation.id, step.name, step.place - 1, 'PENDING', 0
      FROM operation, unnest(%(steps)s::text[]) WITH ORDINALITY AS step (name, place)
),
item AS (
    UPDATE bulk_items SET status = 'running', operation_id = operation.id
      FROM operation WHERE bulk_items.bulk_id = %(bulk)s AND position = %(position)s
),
trail AS (
    INSERT INTO events (operation_id, event, detail)
    SELECT id, 'operation_queued', %(detail)s::jsonb FROM operation
),
-- Who asked; nobody did where the item of a bulk is opened.
asked AS (
    INSERT INTO activity (action, subject_id, channel, actor, key_id, address, request_id, detail)
    SELECT %(action)s, %(agent)s, %(channel)s, %(requested_by)s, %(key_id)s, %(address)s, %(request_id)s,
           %(asked)s::jsonb
      FROM operation WHERE %(channel)s::text <> 'internal'
)
SELECT id FROM operation
