-- Inserts agents without a number: one statement with an array for each column, for 10,000 rows at a time.
INSERT INTO agents (workspace_id, phone_provisioning_status, id, external_id, name, livekit_agent_name, metadata, options, trunk_mode,
                    carrier_account_id, voice_project_id)
SELECT %(workspace)s::uuid, 'NOT_PROVISIONED', *
  FROM unnest(%(id)s::uuid[], %(external_id)s::text[], %(name)s::text[], %(livekit_agent_name)s::text[], %(metadata)s::jsonb[],
              %(options)s::jsonb[], %(trunk_mode)s::text[], %(carrier_account_id)s::uuid[], %(voice_project_id)s::uuid[])
