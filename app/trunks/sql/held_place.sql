-- The place that an agent has, while the asking worker still holds the step. No row: the lease is lost.
SELECT trunks.id, trunks.state, trunks.twilio_trunk_sid, trunks.twilio_origination_url_sid, trunks.checked_at,
       trunks.lease_until, trunks.unsettled_until, clock_timestamp() AS now
  FROM operation_steps
  JOIN agents ON agents.id = %(agent)s
  LEFT JOIN trunks ON trunks.id = agents.trunk_id
 WHERE operation_id = %(operation)s AND operation_steps.name = %(step)s AND operation_steps.lease_token = %(token)s
