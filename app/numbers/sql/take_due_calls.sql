-- The test calls that a worker is to place now: those of monitors, opened here, and those whose message was lost.

-- Agents whose monitor is due, and that no other sweeper takes; not while an operation changes their path, nor while
-- they have had as many calls as may be within a while, those that people asked for included.
WITH due AS MATERIALIZED (
    SELECT id, workspace_id, twilio_phone_number, options
      FROM agents
     WHERE options -> 'monitor' IS NOT NULL
       -- Also where it was scheduled by a longer interval than it has now.
       AND coalesce(monitor_due_at NOT BETWEEN clock_timestamp() AND clock_timestamp()
                    + make_interval(mins => (options #>> '{monitor,everyMinutes}')::int), true)
       AND phone_provisioning_status = 'PROVISIONED' AND deleted_at IS NULL
       AND NOT EXISTS (SELECT FROM operations WHERE agent_id = agents.id
                          AND status IN ('needs_attention', 'queued', 'rolling_back', 'running'))
       AND %(most)s > (SELECT count(*) FROM test_calls
                        WHERE agent_id = agents.id AND created_at > clock_timestamp() - %(window)s)
     ORDER BY monitor_due_at NULLS FIRST
     LIMIT %(batch)s
       FOR NO KEY UPDATE SKIP LOCKED
),
-- The next call of each comes after its interval, counted from now: what was missed is not made up for.
scheduled AS (
    UPDATE agents
       SET monitor_due_at = clock_timestamp() + make_interval(mins => (due.options #>> '{monitor,everyMinutes}')::int)
      FROM due
     WHERE agents.id = due.id
),
opened AS (
    INSERT INTO test_calls (id, agent_id, workspace_id, phone_number, caller, is_monitor, lease_until)
    SELECT gen_random_uuid(), id, workspace_id, twilio_phone_number,
           coalesce(options #>> '{call,allowedCallers,0}', %(caller)s), true, clock_timestamp() + %(republish)s
      FROM due
 RETURNING id
),
-- What no worker has taken in time, or whose worker died.
lost AS MATERIALIZED (
    SELECT id FROM test_calls
     WHERE status <> 'finished' AND lease_until < clock_timestamp()
     ORDER BY created_at
     LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED
),
waiting AS (
    UPDATE test_calls SET status = 'queued', lease_until = clock_timestamp() + %(republish)s
      FROM lost
     WHERE test_calls.id = lost.id
 RETURNING test_calls.id
)
SELECT id FROM opened UNION ALL SELECT id FROM waiting
