-- Notes since when no agent has a place on a trunk, and forgets it where one has. Rows that somebody has locked are left
-- to the next time: whoever takes a place waits for no more than one trunk.
UPDATE trunks
   SET emptied_at = CASE WHEN seen.is_used THEN NULL ELSE clock_timestamp() END
  FROM (SELECT id, EXISTS (SELECT FROM agents WHERE agents.trunk_id = trunks.id) AS is_used
          FROM trunks
         WHERE state <> 'GONE'
           AND (emptied_at IS NOT NULL) = EXISTS (SELECT FROM agents WHERE agents.trunk_id = trunks.id)
           FOR NO KEY UPDATE SKIP LOCKED) AS seen
 WHERE trunks.id = seen.id
