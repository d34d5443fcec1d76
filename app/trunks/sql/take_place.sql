-- Gives an agent a place on a trunk whose row is locked, unless it is full.
UPDATE agents SET trunk_id = %(trunk)s
 WHERE id = %(agent)s AND (SELECT count(*) FROM agents AS members WHERE members.trunk_id = %(trunk)s) < %(most)s
RETURNING id
