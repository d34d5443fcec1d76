-- Another trunk for a profile, still to be made; of two who add the same one, the second adds nothing.
INSERT INTO trunks (id, profile, profile_hash, shard, state)
VALUES (%(id)s, %(profile)s::jsonb, %(hash)s, %(shard)s, 'CREATING')
    ON CONFLICT DO NOTHING
