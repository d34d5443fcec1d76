-- The end of a move, after the agent that had the number has given it up in the same transaction: a unique index knows
-- no order within one statement.
WITH target AS (
    UPDATE agents
       SET ({agent_columns}) = (SELECT {agent_columns} FROM jsonb_populate_record(agents, %(target)s::jsonb))
     WHERE id = %(heir)s
)
-- The ledger of what is left goes with the number.
UPDATE resources SET agent_id = %(heir)s WHERE agent_id = %(holder)s AND deleted_at IS NULL
