-- Stores what a check has found of many agents; nothing else of their rows changes.
UPDATE agents SET health_state = found.state, health_checked_at = now(), health_findings = found.findings
  FROM unnest(%(ids)s::uuid[], %(states)s::text[], %(findings)s::jsonb[]) AS found (id, state, findings)
 WHERE agents.id = found.id
RETURNING agents.id, agents.health_checked_at
