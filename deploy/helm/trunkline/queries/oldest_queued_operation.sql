-- Seconds that the oldest operation has waited for a worker to begin it, in one queue; 0 where none waits.
-- It is trunkline_oldest_queued_operation_seconds (docs/metrics.md); KEDA takes an integer.
SELECT coalesce(ceil(extract(epoch FROM now() - min(created_at))), 0)::bigint
FROM operations
WHERE status = 'queued'
  AND CASE
        WHEN kind = 'deprovision' THEN 'rollback'
        WHEN bulk_id IS NOT NULL THEN 'bulk'
        ELSE 'provision'
      END = '%s'
