-- Gives an agent a place on a trunk whose row is locked, unless it is full, and notes when the last place is taken.
WITH members AS (
    SELECT count(*) AS number FROM agents WHERE trunk_id = %(trunk)s
),
placed AS (
    UPDATE agents SET trunk_id = %(trunk)s
      FROM members
     WHERE agents.id = %(agent)s AND number < %(most)s
 RETURNING agents.id
),
full_now AS (
    UPDATE trunks SET is_full = true FROM members WHERE trunks.id = %(trunk)s AND number >= %(most)s - 1
)
SELECT id FROM placed
