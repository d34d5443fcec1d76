-- The provisionings of bulks that can be verified together now, with the reads of one pair of accounts: on a trunk that
-- numbers share, all done but the verification, which nobody has tried, and nothing tried twice on the way, so that
-- there can be no duplicates to look for.
SELECT coalesce(array_agg(id ORDER BY finished_at, id) FILTER (WHERE is_ready), '{}') AS ids,
       coalesce(extract(epoch FROM clock_timestamp() - min(finished_at) FILTER (WHERE is_ready)), 0)::float8 AS waited_s,
       count(*) FILTER (WHERE NOT is_attached) AS on_their_way
  FROM (SELECT operations.id, attachment.finished_at, attachment.state = 'DONE' AS is_attached,
               agents.trunk_id IS NOT NULL AND attachment.state = 'DONE'
               AND verification.state = 'PENDING' AND verification.attempts = 0
               AND coalesce(verification.lease_until <= clock_timestamp(), true)
               AND NOT EXISTS (SELECT FROM operation_steps AS step
                                WHERE step.operation_id = operations.id
                                  AND (step.attempts > 1 OR step.unsettled_until IS NOT NULL)) AS is_ready
          FROM operations
          JOIN agents ON agents.id = operations.agent_id
          JOIN operation_steps AS attachment
            ON attachment.operation_id = operations.id AND attachment.name = 'twilio_number_attachment'
          JOIN operation_steps AS verification
            ON verification.operation_id = operations.id AND verification.name = 'verification'
         WHERE operations.{is_open} AND operations.status IN ('queued', 'running')
           AND operations.kind = 'provision' AND operations.bulk_id IS NOT NULL
           AND agents.carrier_account_id = %(account)s AND agents.voice_project_id = %(project)s) AS provisionings
