-- The Twilio trunks of the installation, the newest first: those that numbers share, and those that are an agent's own,
-- whose state is that of its number. The members are counted for the rows of the page only.
WITH listed AS (
    SELECT id, created_at, 'shared' AS mode, state, twilio_trunk_sid, profile, shard, health_state, health_checked_at,
           health_findings, emptied_at, NULL::uuid AS agent_id
      FROM trunks
     UNION ALL
    SELECT agents.id, coalesce(made.seen_at, agents.created_at), 'dedicated',
           CASE phone_provisioning_status
                WHEN 'PROVISIONED' THEN 'ACTIVE'
                WHEN 'PENDING' THEN 'CREATING'
                WHEN 'PROVISIONING' THEN 'CREATING'
                ELSE 'RETIRING'
           END,
           twilio_trunk_sid, NULL, NULL, health_state, health_checked_at, health_findings, NULL, agents.id
      FROM agents
      LEFT JOIN resources AS made
             ON made.provider = 'twilio' AND made.kind = 'twilio_trunk' AND made.external_id = twilio_trunk_sid
     WHERE trunk_id IS NULL AND twilio_trunk_sid IS NOT NULL
),
page AS (
    SELECT *
      FROM listed
     WHERE (%(mode)s::text IS NULL OR mode = %(mode)s)
       AND CASE WHEN %(state)s::text IS NULL THEN state <> 'GONE' OR id = %(id)s::uuid ELSE state = %(state)s END
       AND (%(id)s::uuid IS NULL OR id = %(id)s)
       AND (%(after_at)s::timestamptz IS NULL OR (created_at, id) < (%(after_at)s, %(after_id)s::uuid))
     ORDER BY created_at DESC, id DESC
     LIMIT %(limit)s
)
SELECT page.*, CASE WHEN agent_id IS NULL THEN (SELECT count(*) FROM agents WHERE trunk_id = page.id) ELSE 1 END AS members
  FROM page
 ORDER BY created_at DESC, id DESC
