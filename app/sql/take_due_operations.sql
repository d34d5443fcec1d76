-- Takes up to a batch of the operations that are due, and postpones their next publication by a growing pause.
-- A CTE runs once: PostgreSQL may run a subquery again for each row, past the rows locked so far, and so take more.
WITH due AS (
    SELECT id
      FROM operations
     WHERE {is_open}
       AND wake_at <= now()
       -- Not a provisioning that waits in its queue: the newest one started lately was opened before it. Queues are
       -- first in, first out, so its message is lost only if a later one has arrived, or if none arrives.
       AND NOT (kind = 'provision' AND status = 'queued' AND created_at > coalesce(
                CASE WHEN bulk_id IS NULL
                     THEN (SELECT max(created_at)
                             FROM operations
                            WHERE kind = 'provision' AND status = 'running' AND bulk_id IS NULL
                              AND started_at > now() - %(moving)s)
                     ELSE (SELECT max(created_at)
                             FROM operations
                            WHERE kind = 'provision' AND status = 'running' AND bulk_id IS NOT NULL
                              AND started_at > now() - %(moving)s)
                END, 'infinity'))
     ORDER BY wake_at
     LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED
)
UPDATE operations
   SET wake_at = now() + least(%(pause_cap)s, %(pause)s * power(2, least(idle_kicks, %(doublings)s))),
       idle_kicks = idle_kicks + 1
 WHERE id IN (SELECT id FROM due)
RETURNING id
