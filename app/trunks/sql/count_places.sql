-- How many places the trunks of a profile have left: on those that Twilio has, and on those that are still to be made.
SELECT count(*) AS trunks,
       count(*) FILTER (WHERE twilio_trunk_sid IS NULL) AS unmade,
       coalesce(sum(free) FILTER (WHERE twilio_trunk_sid IS NULL), 0) AS free_on_unmade,
       coalesce(sum(free) FILTER (WHERE twilio_trunk_sid IS NOT NULL), 0) AS free
  FROM trunks
  LEFT JOIN (SELECT trunk_id, count(*) AS members FROM agents WHERE trunk_id IS NOT NULL GROUP BY trunk_id) AS counted
         ON counted.trunk_id = trunks.id
 CROSS JOIN LATERAL (SELECT greatest(%(most)s - coalesce(members, 0), 0) AS free) AS left_over
 WHERE carrier_account_id = %(account)s AND profile_hash = %(hash)s AND state IN ('CREATING', 'ACTIVE')
