-- Where no trunk of a profile is known to have room, all are counted before another one is added: once in as many numbers
-- as a trunk takes, 0.1 s for a million. Returns the newest shard, from which the next one follows; no row: there is room.
WITH regained AS (
    UPDATE trunks SET is_full = false
     WHERE profile_hash = %(hash)s AND state IN ('CREATING', 'ACTIVE') AND is_full
       AND (SELECT count(*) FROM agents WHERE agents.trunk_id = trunks.id) < %(most)s
 RETURNING id
)
SELECT coalesce(max(shard), 0) AS newest
  FROM trunks
 WHERE profile_hash = %(hash)s AND state <> 'GONE'
HAVING NOT EXISTS (SELECT FROM regained)
   AND NOT coalesce(bool_or(state IN ('CREATING', 'ACTIVE') AND NOT is_full), false)
