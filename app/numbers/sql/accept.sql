-- Claims a number for an agent and opens its provisioning, while the client of the POST waits. No rule of the state
-- machine is repeated here, since an operation that does not exist yet has no state. Of two concurrent requests the
-- second waits for the agent's row, reads it again and finds it busy; the unique indexes catch what this misses.

-- The item of a bulk that it is opened for, if any: only while it is pending.
WITH bulk_item AS MATERIALIZED (
    SELECT position FROM bulk_items
     WHERE bulk_id = %(bulk)s AND position = %(position)s AND status = 'pending'
       FOR UPDATE
),
-- The agent, if it is free. The list of statuses is that of the partial indexes, which only a constant uses.
agent AS (
    UPDATE agents
       SET phone_provisioning_status = 'PENDING', twilio_phone_number = %(number)s, updated_at = now()
     WHERE id = %(agent)s AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
       AND deleted_at IS NULL AND phone_provisioning_status = ANY(%(free)s)
       AND (%(bulk)s::uuid IS NULL OR EXISTS (SELECT FROM bulk_item))
       AND NOT EXISTS (SELECT FROM operations WHERE agent_id = %(agent)s
                          AND status IN ('needs_attention', 'queued', 'rolling_back', 'running'))
       AND NOT EXISTS (SELECT FROM operations WHERE target_agent_id = %(agent)s
                          AND status IN ('needs_attention', 'queued', 'rolling_back', 'running'))
 RETURNING id, workspace_id
),
operation AS (
    INSERT INTO operations (id, agent_id, workspace_id, kind, phone_number, takeover, status, epoch, wake_at,
                            idle_kicks, requested_by, request_id, traceparent, bulk_id)
    SELECT %(operation)s, id, workspace_id, 'provision', %(number)s, %(takeover)s, 'queued', 0,
           clock_timestamp() + %(grace)s, 0, %(requested_by)s, %(request_id)s, %(traceparent)s, %(bulk)s
      FROM agent
 RETURNING id, workspace_id
),
steps AS (
    INSERT INTO operation_steps (operation_id, name, position, state, attempts)
    SELECT operation.id, step.name, step.number - 1, 'PENDING', 0
      FROM operation, unnest(%(steps)s::text[]) WITH ORDINALITY AS step (name, number)
),
started_item AS (
    UPDATE bulk_items SET status = 'running', operation_id = operation.id
      FROM operation WHERE bulk_items.bulk_id = %(bulk)s AND position = %(position)s
),
queued_event AS (
    INSERT INTO events (operation_id, event, detail)
    SELECT id, 'operation_queued', %(detail)s::jsonb FROM operation
),
-- The audit trail, for requests only: not when the sweeper opens the item of a bulk.
trail AS (
    INSERT INTO activity (workspace_id, action, subject_id, channel, actor, key_id, address, request_id, detail)
    SELECT workspace_id, %(action)s, %(agent)s, %(channel)s, %(requested_by)s, %(key_id)s, %(address)s,
           %(request_id)s, %(trail)s::jsonb
      FROM operation WHERE %(channel)s::text <> 'internal'
)
SELECT id FROM operation
