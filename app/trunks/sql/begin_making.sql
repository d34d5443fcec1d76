-- Gives one worker the right to make what is missing of a trunk, with the intent written before any call: not while
-- another has it, nor while what an earlier one asked for may still land.
UPDATE trunks
   SET lease_token = %(token)s, lease_until = clock_timestamp() + %(lease)s, intent = %(step)s
  FROM (SELECT id, intent FROM trunks WHERE id = %(trunk)s FOR UPDATE) AS before
 WHERE trunks.id = before.id AND state IN ('CREATING', 'ACTIVE')
   AND CASE %(step)s WHEN 'twilio_trunk' THEN twilio_trunk_sid ELSE twilio_origination_url_sid END IS NULL
   AND (lease_token IS NULL OR lease_until + %(lands)s < clock_timestamp())
   AND (unsettled_until IS NULL OR unsettled_until < clock_timestamp())
RETURNING before.intent IS NOT NULL AS may_have_happened
