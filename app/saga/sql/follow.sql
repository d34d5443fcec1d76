-- What follows from a change that was just written, in the same transaction: the rarer part of it.
WITH given AS (
    SELECT %(change)s::jsonb AS change
),
-- The operation that begins where another ends, or by itself.
opened AS (
    INSERT INTO operations (id, agent_id, workspace_id, kind, phone_number, target_agent_id, takeover, status, epoch,
                            wake_at, idle_kicks, requested_by, request_id, traceparent, bulk_id, former_ids,
                            former_trunk_id, wanted, former_options, keeps_path)
    SELECT new.id, new.agent_id, agents.workspace_id, new.kind, new.phone_number, new.target_agent_id, new.takeover,
           new.status, new.epoch, new.wake_at, new.idle_kicks, new.requested_by, new.request_id, new.traceparent,
           new.bulk_id, nullif(new.former_ids, '{}'), new.former_trunk_id, new.wanted,
           new.former_options, new.keeps_path
      FROM given, jsonb_populate_record(NULL::operations, change -> 'opened') AS new
      JOIN agents ON agents.id = new.agent_id
),
opened_steps AS (
    INSERT INTO operation_steps (operation_id, name, position, state, attempts, resource_id)
    SELECT new.operation_id, new.name, new.position, new.state, new.attempts, new.resource_id
      FROM given, jsonb_populate_recordset(NULL::operation_steps, change -> 'opened_steps') AS new
),
trail AS (
    INSERT INTO events (operation_id, event, detail)
    SELECT new.operation_id, new.event, new.detail
      FROM given, jsonb_populate_recordset(NULL::events, change -> 'opened_events') AS new
)
-- Who asked for it, in the trail of the workspace that the agent or the operation is of.
INSERT INTO activity (workspace_id, action, subject_id, channel, actor, key_id, address, request_id, detail)
SELECT coalesce((SELECT workspace_id FROM agents WHERE id = new.subject_id),
                (SELECT workspace_id FROM operations WHERE id = new.subject_id)),
       new.action, new.subject_id, new.channel, new.actor, new.key_id, new.address, new.request_id, new.detail
  FROM given, jsonb_populate_recordset(NULL::activity, change -> 'activity') AS new
