-- Another trunk for a profile, still to be made; of two who add the same one, the second adds nothing.
INSERT INTO trunks (id, profile, profile_hash, shard, state)
SELECT %(id)s, %(profile)s::jsonb, %(hash)s, coalesce(max(shard), 0) + 1, 'CREATING'
  FROM trunks
 WHERE profile_hash = %(hash)s AND state <> 'GONE'
    ON CONFLICT DO NOTHING
