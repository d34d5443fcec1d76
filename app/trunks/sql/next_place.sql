-- The newest trunk of a profile that has room, of those that are there or being made: nothing is locked, nothing noted.
SELECT id, state, twilio_trunk_sid, twilio_origination_url_sid, checked_at, lease_until, unsettled_until,
       clock_timestamp() AS now
  FROM trunks
 WHERE carrier_account_id = %(account)s AND profile_hash = %(hash)s AND state IN ('CREATING', 'ACTIVE')
   AND (SELECT count(*) FROM agents WHERE agents.trunk_id = trunks.id) < %(most)s
 ORDER BY shard DESC
 LIMIT 1
