-- Inserts the items of a bulk: one statement with an array for each column, for 10,000 rows at a time.
INSERT INTO bulk_items (bulk_id, position, agent_id, phone_number, takeover, status, error_code, error_detail, kind,
                        target_agent_id, wanted, waits_for)
SELECT %(bulk_id)s::uuid, position, agent_id, phone_number, takeover, status, error_code, error_detail, kind,
       target_agent_id, wanted::jsonb, waits_for::int[]
  FROM unnest(%(position)s::int[], %(agent_id)s::uuid[], %(phone_number)s::text[], %(takeover)s::bool[],
              %(status)s::text[], %(error_code)s::text[], %(error_detail)s::text[], %(kind)s::text[],
              %(target_agent_id)s::uuid[], %(wanted)s::text[], %(waits_for)s::text[])
       AS item (position, agent_id, phone_number, takeover, status, error_code, error_detail, kind, target_agent_id,
                wanted, waits_for)
