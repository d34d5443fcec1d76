-- Gives an agent a place on a trunk whose row is locked, unless it is full, and notes when the last place is taken, and
-- that the trunk is empty no more: the day before it may retire begins anew.
WITH members AS (
    SELECT count(*) AS number FROM agents WHERE trunk_id = %(trunk)s
),
placed AS (
    UPDATE agents SET trunk_id = %(trunk)s
      FROM members
     WHERE agents.id = %(agent)s AND number < %(most)s
 RETURNING agents.id
),
noted AS (
    UPDATE trunks SET is_full = number >= %(most)s - 1, emptied_at = NULL
      FROM members
     WHERE trunks.id = %(trunk)s AND (number >= %(most)s - 1 OR emptied_at IS NOT NULL)
)
SELECT id FROM placed
