-- Names a trunk's origination URL on the agents whose numbers are on it, where they still name one that is gone.
UPDATE agents SET twilio_origination_url_sid = stale.now
  FROM (SELECT agents.id, trunks.twilio_origination_url_sid AS now
          FROM agents JOIN trunks ON trunks.id = agents.trunk_id AND trunks.twilio_trunk_sid = agents.twilio_trunk_sid
         WHERE trunks.id = %(trunk)s AND agents.phone_provisioning_status = 'PROVISIONED'
           AND agents.twilio_origination_url_sid <> trunks.twilio_origination_url_sid
         ORDER BY agents.id
           FOR UPDATE OF agents) AS stale
 WHERE agents.id = stale.id
