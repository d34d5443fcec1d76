"""Rows made by SQL: agents to provision, and a past to provision them in."""

from typing import Any

import psycopg

_AGENTS = """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status)
    SELECT gen_random_uuid(), 'Bench ' || n, 'bench', '{}', 'NOT_PROVISIONED' FROM generate_series(1, %s) n
    RETURNING id
"""

HAD_A_NUMBER = 5
"""Every fifth agent of the past had a number once: an operation, its steps, its events and its ledger."""

_PAST = (
    """
    CREATE TEMP TABLE past AS
    SELECT gen_random_uuid() AS agent_id, gen_random_uuid() AS operation_id, n,
           now() - interval '1 year' + n * interval '20 seconds' AS at
      FROM generate_series(1, %(agents)s) n
    """,
    """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, created_at, updated_at)
    SELECT agent_id, 'Agent ' || n, 'agent-' || n, '{"team": "support"}',
           CASE WHEN n %% 50 = 0 THEN 'FAILED' ELSE 'NOT_PROVISIONED' END, at, at FROM past
    """,
    """
    INSERT INTO operations (id, agent_id, kind, phone_number, takeover, status, epoch, idle_kicks, created_at,
                            started_at, finished_at)
    SELECT operation_id, agent_id, CASE WHEN n %% 50 = 0 THEN 'provision' ELSE 'deprovision' END,
           '+1613' || (2000000 + n), false, CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'succeeded' END, 1, 0, at,
           at, at + interval '2 seconds'
      FROM past WHERE n %% %(had)s = 0
    """,
    """
    INSERT INTO operation_steps (operation_id, name, position, state, attempts, started_at, finished_at)
    SELECT operation_id, step.name, step.position, 'UNDONE', 1, at, at + interval '2 seconds'
      FROM past, unnest(ARRAY['twilio_number', 'twilio_trunk', 'twilio_origination_url', 'livekit_inbound_trunk',
                              'livekit_dispatch_rule', 'twilio_number_attachment', 'verification'])
                 WITH ORDINALITY AS step (name, position)
     WHERE n %% %(had)s = 0
    """,
    """
    INSERT INTO events (operation_id, step, event, detail, at)
    SELECT operation_id, 'twilio_trunk', event, '{"attempt": 1}', at
      FROM past, unnest(ARRAY['operation_queued', 'operation_started', 'step_undoing', 'step_undone', 'step_undoing',
                              'step_undone', 'step_undoing', 'step_undone', 'step_undoing', 'step_undone',
                              'step_undoing', 'step_undone', 'operation_succeeded']) event
     WHERE n %% %(had)s = 0
    """,
    """
    INSERT INTO resources (provider, kind, external_id, agent_id, operation_id, seen_at, deleted_at)
    SELECT provider, kind, 'PAST' || n || kind, agent_id, operation_id, at, at + interval '2 seconds'
      FROM past, (VALUES ('twilio', 'twilio_trunk'), ('twilio', 'twilio_origination_url'),
                         ('livekit', 'livekit_inbound_trunk'), ('livekit', 'livekit_dispatch_rule')) k (provider, kind)
     WHERE n %% %(had)s = 0
    """,
)


def add_agents(connection: psycopg.Connection[Any], count: int) -> list[str]:
    """Insert agents without a number; return their ids."""
    return [str(row[0]) for row in connection.execute(_AGENTS, [count])]


def add_past(connection: psycopg.Connection[Any], agents: int) -> None:
    """Fill the tables with the rows that `agents` agents without a number leave."""
    if not agents:
        return
    # What refers to what is right by construction: looking up a million foreign keys would take minutes.
    connection.execute("SET session_replication_role = replica")
    for statement in _PAST:
        connection.execute(statement, {"agents": agents, "had": HAD_A_NUMBER})
    connection.execute("DROP TABLE past")
    connection.execute("RESET session_replication_role")


def settle(connection: psycopg.Connection[Any]) -> None:
    """Do the housekeeping that would otherwise run during the measurement."""
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")
