-- Ends the rests of steps that wait for the credential of one account, and has the next sweep publish their operations,
-- whose rows are written for every change of a step. Of a step that somebody holds nothing is changed, and where
-- something may still land, nobody looks before that.
WITH waiting AS (
    SELECT DISTINCT operations.id
      FROM operations
      JOIN agents ON agents.id = operations.agent_id
      JOIN operation_steps AS step ON step.operation_id = operations.id
     WHERE operations.status IN ('needs_attention', 'queued', 'rolling_back', 'running')
       AND CASE WHEN %(is_carrier)s THEN agents.carrier_account_id ELSE agents.voice_project_id END = %(account)s
       AND step.error_code = %(code)s AND step.lease_token IS NULL
),
-- In the order of their ids, as all who lock several.
locked AS MATERIALIZED (
    SELECT operations.id FROM operations JOIN waiting USING (id) ORDER BY operations.id FOR NO KEY UPDATE OF operations
),
woken AS (
    UPDATE operations SET wake_at = clock_timestamp(), idle_kicks = 0
      FROM locked
     WHERE operations.id = locked.id AND status IN ('needs_attention', 'queued', 'rolling_back', 'running')
 RETURNING operations.id
),
freed AS (
    UPDATE operation_steps SET lease_until = greatest(clock_timestamp(), unsettled_until)
      FROM woken
     WHERE operation_id = woken.id AND error_code = %(code)s AND lease_token IS NULL
       AND lease_until > clock_timestamp()
)
SELECT id FROM woken
