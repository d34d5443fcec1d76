-- Inserts agents without a number: one statement with an array for each column, for 10,000 rows at a time.
INSERT INTO agents (phone_provisioning_status, id, name, livekit_agent_name, metadata, trunk_mode)
SELECT 'NOT_PROVISIONED', *
  FROM unnest(%(id)s::uuid[], %(name)s::text[], %(livekit_agent_name)s::text[], %(metadata)s::jsonb[],
              %(trunk_mode)s::text[])
