-- Where no trunk of a profile is known to have room, they are counted before another one is added: 0.1 s for a million
-- numbers, once in as many as a trunk takes. Returns the newest shard, from which the next follows; no row: there is room.
-- Shards that are gone count: two who add at once, before and after one goes, would follow from two different ones.
-- The newest trunk with room is enough: whoever writes one trunk waits for nobody who waits for another.
WITH regained AS (
    UPDATE trunks SET is_full = false
     WHERE id = (SELECT id
                   FROM trunks
                  WHERE carrier_account_id = %(account)s AND profile_hash = %(hash)s
                    AND state IN ('CREATING', 'ACTIVE') AND is_full
                    AND (SELECT count(*) FROM agents WHERE agents.trunk_id = trunks.id) < %(most)s
                  ORDER BY shard DESC
                  LIMIT 1)
 RETURNING id
)
SELECT coalesce(max(shard), 0) AS newest
  FROM trunks
 WHERE carrier_account_id = %(account)s AND profile_hash = %(hash)s
HAVING NOT EXISTS (SELECT FROM regained)
   AND NOT coalesce(bool_or(state IN ('CREATING', 'ACTIVE') AND NOT is_full), false)
