-- Counts what the overview shows, of the workspace `workspace`, or of all where it is null: one row for each figure.
-- Agents by status; and those with a path by what its last check has found.
SELECT 'agents' AS part, phone_provisioning_status AS name,
       CASE WHEN phone_provisioning_status <> 'PROVISIONED' THEN NULL
            WHEN health_state <> 'DRIFTED' THEN health_state
            WHEN health_findings @> '[{"severity": "critical"}]' THEN 'CALLS_FAIL'
            ELSE 'WARNINGS' END AS detail,
       NULL::timestamptz AS at, count(*) AS amount
  FROM agents
 WHERE deleted_at IS NULL AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
 GROUP BY 2, 3
UNION ALL
-- Agents whose test calls do not get through; they are among those above.
SELECT 'unreachable', '', NULL, NULL, count(*)
  FROM agents
 WHERE reachability = 'UNREACHABLE' AND deleted_at IS NULL
   AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
UNION ALL
-- Operations that have ended, by the hour of their end and by the error of those that failed. They are found by the
-- index of pages: one that took longer than a day is left out.
SELECT 'ended', status, CASE WHEN status = 'failed' THEN error_code END, date_trunc('hour', finished_at, 'UTC'), count(*)
  FROM operations
 WHERE created_at >= %(since)s - interval '1 day' AND finished_at >= %(since)s
   AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
 GROUP BY 2, 3, 4
UNION ALL
-- Open operations by status, with the time at which the oldest was asked for.
SELECT 'open', status, NULL, min(created_at), count(*)
  FROM operations
 WHERE status IN ('needs_attention', 'queued', 'rolling_back', 'running')
   AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
 GROUP BY status
UNION ALL
-- Open bulks by status, and how many of their numbers wait.
SELECT 'bulks', status, sum(pending)::text, min(created_at), count(*)
  FROM bulks
 WHERE status IN ('queued', 'running', 'cancelling') AND (%(workspace)s::uuid IS NULL OR workspace_id = %(workspace)s)
 GROUP BY status
