-- Another trunk for a profile, still to be made; of two who add the same one, the second adds nothing.
INSERT INTO trunks (id, carrier_account_id, profile, profile_hash, shard, state)
VALUES (%(id)s, %(account)s, %(profile)s::jsonb, %(hash)s, %(shard)s, 'CREATING')
    ON CONFLICT DO NOTHING
