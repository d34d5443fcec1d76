-- Queues an event about an account for every enabled endpoint that subscribes to it, of the workspaces whose agents use
-- the account or whose own it is.
INSERT INTO webhook_deliveries (id, endpoint_id, event, payload, status, attempts, next_at)
SELECT gen_random_uuid(), endpoint.id, line ->> 'event', line ->> 'payload', 'pending', 0, now()
  FROM jsonb_array_elements(%(change)s::jsonb -> 'announcements') AS line
  JOIN webhook_endpoints AS endpoint
    ON endpoint.disabled_at IS NULL AND (endpoint.events IS NULL OR line ->> 'event' = ANY (endpoint.events))
 WHERE endpoint.workspace_id IN
       (SELECT workspace_id FROM agents
         WHERE CASE WHEN %(is_carrier)s THEN carrier_account_id ELSE voice_project_id END = %(account)s
         UNION
        SELECT workspace_id FROM carrier_accounts WHERE id = %(account)s
         UNION
        SELECT workspace_id FROM voice_projects WHERE id = %(account)s)
