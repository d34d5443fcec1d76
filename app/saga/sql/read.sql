-- All that the rules need to know of one operation, as of one moment; `version` changes with every write of the row.
SELECT operations.xmin::text AS version,
       clock_timestamp() AS now,
       json_strip_nulls(row_to_json(operations)) AS operation,
       -- Whole: a null in an agent's metadata is a value.
       operations.wanted, operations.former_options,
       row_to_json(agents) AS agent,
       CASE WHEN targets.id IS NOT NULL THEN row_to_json(targets) END AS target,

       (SELECT json_strip_nulls(json_agg(operation_steps ORDER BY position))
          FROM operation_steps
         WHERE operation_id = operations.id) AS steps,

       -- The ledger: what anybody ever learned of at the providers, and nobody has deleted.
       (SELECT json_agg(resources ORDER BY seen_at)
          FROM resources
         WHERE resources.agent_id = operations.agent_id AND deleted_at IS NULL) AS ledger,

       -- Until when something may land that other operations of this agent have asked for: of a request without an
       -- answer, or of a worker that still held its step when its operation ended. Always, whichever way the operation
       -- goes now: a process goes on with what it has read once, also when the operation turns to its rollback.
       (SELECT json_object_agg(older.name, older.until)
          FROM (SELECT step.name,
                       max(greatest(step.unsettled_until,
                                    CASE WHEN step.lease_token IS NOT NULL
                                         THEN step.lease_until + %(lands)s END)) AS until
                  FROM operations AS other
                  JOIN operation_steps AS step ON step.operation_id = other.id
                 WHERE (other.agent_id = operations.agent_id OR other.target_agent_id = operations.agent_id)
                   AND other.id <> operations.id
                 GROUP BY step.name) AS older
         WHERE older.until IS NOT NULL) AS older_unsettled,

       -- How long its steps have stood in line: for a provider that took no more requests, or for a credential; for that
       -- one also how late they came back.
       (SELECT coalesce(sum(coalesce((detail ->> 'rest_s')::float8, 0) + (detail ->> 'waited_s')::float8), 0)
          FROM events
         WHERE events.operation_id = operations.id
           AND (event = 'step_rests' AND detail ->> 'code' IN ('provider_busy', 'credentials_refused')
                OR event IN ('step_started', 'step_undoing') AND detail ->> 'waited_s' IS NOT NULL)) AS waited_s
  FROM operations
  JOIN agents ON agents.id = operations.agent_id
  LEFT JOIN agents AS targets ON targets.id = operations.target_agent_id
 WHERE operations.id = %(operation)s
