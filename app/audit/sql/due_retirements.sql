-- Trunks to retire: empty for long enough, nobody at work on them, and nothing that may still land. One with somebody
-- else's number on it waits until an audit has seen that the number is gone; what is not whole is in no audit.
SELECT id
  FROM trunks
 WHERE state <> 'GONE' AND emptied_at < clock_timestamp() - %(empty_for)s
   AND (lease_token IS NULL OR lease_until + %(lands)s < clock_timestamp())
   AND (unsettled_until IS NULL OR unsettled_until < clock_timestamp())
   AND (state = 'CREATING' OR NOT health_findings @> %(foreign)s::jsonb)
 ORDER BY emptied_at
 LIMIT %(batch)s
