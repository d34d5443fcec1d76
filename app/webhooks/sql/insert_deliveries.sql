-- Inserts a delivery of each event for every enabled endpoint of its agent's workspace that subscribes to it; none where
-- there is no endpoint.
-- `given` is what it takes them from: a column `change` with the list `announcements`.
INSERT INTO webhook_deliveries (id, endpoint_id, event, payload, status, attempts, next_at)
SELECT gen_random_uuid(), endpoint.id, line ->> 'event', line ->> 'payload', 'pending', 0, now()
  FROM {given}, jsonb_array_elements(change -> 'announcements') AS line
  JOIN agents ON agents.id = (line ->> 'agent')::uuid
  JOIN webhook_endpoints AS endpoint
    ON endpoint.workspace_id = agents.workspace_id AND endpoint.disabled_at IS NULL
   AND (endpoint.events IS NULL OR line ->> 'event' = ANY (endpoint.events))
