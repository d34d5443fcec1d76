-- Locks the newest trunk of a profile that may have room, of those that are there or being made. Its members are counted
-- under the lock.
SELECT id, state, twilio_trunk_sid, twilio_origination_url_sid, checked_at, lease_until, unsettled_until,
       clock_timestamp() AS now
  FROM trunks
 WHERE carrier_account_id = %(account)s AND profile_hash = %(hash)s
   AND state IN ('CREATING', 'ACTIVE') AND NOT is_full
 ORDER BY shard DESC
 LIMIT 1
   FOR UPDATE
