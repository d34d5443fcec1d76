"""Rows made by SQL: agents to provision, and a past to provision them in."""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from app.domain.operations import TrunkMode

_AGENTS = """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, trunk_mode)
    SELECT gen_random_uuid(), 'Bench ' || n, 'bench', '{}', 'NOT_PROVISIONED', %s FROM generate_series(1, %s) n
    RETURNING id
"""

_CLAIMED = """
    WITH operation AS (
        INSERT INTO operations (id, agent_id, workspace_id, kind, phone_number, takeover, status, epoch, idle_kicks)
        SELECT %(operation_id)s, id, workspace_id, 'provision', '+15145551234', false, 'running', 1, 0
          FROM agents WHERE id = %(agent_id)s
    )
    INSERT INTO operation_steps (operation_id, name, position, state, attempts, lease_token, lease_until)
    VALUES (%(operation_id)s, %(step)s, 1, 'RUNNING', 1, %(token)s, now() + interval '1 hour')
"""


@dataclass(frozen=True)
class Claimed:
    """A step that a worker holds by its token."""

    agent_id: uuid.UUID
    operation_id: uuid.UUID
    token: uuid.UUID


HAD_A_NUMBER = 5
"""Every fifth agent of the past had a number once: an operation, its steps, its events and its ledger."""

ON_A_TRUNK = 500
"""Numbers on a shared trunk: as many as it takes by default, so that all of them are full."""

_DAYS = """
    CREATE TEMP TABLE past AS
    SELECT gen_random_uuid() AS agent_id, gen_random_uuid() AS operation_id, n,
           now() - interval '1 year' + n * interval '20 seconds' AS at
      FROM generate_series(1, %(agents)s) n
"""

_UNCONNECTED = """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, created_at, updated_at)
    SELECT agent_id, 'Agent ' || n, 'agent-' || n, '{"team": "support"}',
           CASE WHEN n %% 50 = 0 THEN 'FAILED' ELSE 'NOT_PROVISIONED' END, at, at FROM past
"""

_CONNECTED = (
    """
    INSERT INTO trunks (id, profile, profile_hash, shard, state, twilio_trunk_sid, twilio_origination_url_sid, is_full)
    SELECT gen_random_uuid(), '{}', %(profile)s, n, 'ACTIVE', 'TKPAST' || n, 'OUPAST' || n, true
      FROM generate_series(1, %(agents)s / %(on_a_trunk)s) n
    """,
    """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, created_at, updated_at,
                        twilio_phone_number, trunk_id, twilio_phone_number_sid, twilio_trunk_sid,
                        twilio_origination_url_sid, livekit_inbound_trunk_id, livekit_dispatch_rule_id, health_state)
    SELECT agent_id, 'Agent ' || n, 'agent-' || n, '{"team": "support"}', 'PROVISIONED', at, at,
           '+1613' || (2000000 + n), trunks.id, 'PNPAST' || n, twilio_trunk_sid, twilio_origination_url_sid,
           'ST_PAST' || n, 'SDR_PAST' || n, 'IN_SYNC'
      FROM past JOIN trunks ON shard = (n - 1) / %(on_a_trunk)s + 1
    """,
    """
    INSERT INTO resources (provider, kind, external_id, agent_id, operation_id, seen_at)
    SELECT 'livekit', kind, prefix || 'PAST' || n, agent_id, operation_id, at
      FROM past, (VALUES ('livekit_inbound_trunk', 'ST_'), ('livekit_dispatch_rule', 'SDR_')) k (kind, prefix)
    """,
)
"""Every agent has a number, all trunks that numbers share are full, and nothing of them is at the providers."""

_PAST = (
    """
    INSERT INTO operations (id, agent_id, workspace_id, kind, phone_number, takeover, status, epoch, idle_kicks,
                            created_at, started_at, finished_at)
    SELECT operation_id, agent_id, (SELECT id FROM workspaces LIMIT 1),
           CASE WHEN n %% 50 = 0 THEN 'provision' ELSE 'deprovision' END,
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


def add_agents(connection: psycopg.Connection[Any], count: int, trunk_mode: TrunkMode = TrunkMode.SHARED) -> list[str]:
    """Insert agents without a number; return their ids."""
    return [str(row[0]) for row in connection.execute(_AGENTS, [trunk_mode, count])]


def add_past(connection: psycopg.Connection[Any], agents: int, profile_hash: str = "") -> None:
    """Fill the tables with the rows that `agents` agents leave: without a number, or on full trunks of a profile."""
    if not agents:
        return
    values = {"agents": agents, "had": HAD_A_NUMBER, "on_a_trunk": ON_A_TRUNK, "profile": profile_hash}
    # What refers to what is right by construction: looking up a million foreign keys would take minutes.
    connection.execute("SET session_replication_role = replica")
    for statement in (_DAYS, *(_CONNECTED if profile_hash else [_UNCONNECTED]), *_PAST):
        connection.execute(statement, values)
    connection.execute("DROP TABLE past")
    connection.execute("RESET session_replication_role")


def add_claimed(connection: psycopg.Connection[Any], agents: Sequence[str], step: str) -> list[Claimed]:
    """Open an operation for each agent whose `step` is held by a worker."""
    claimed = [Claimed(uuid.UUID(agent), uuid.uuid4(), uuid.uuid4()) for agent in agents]
    with connection.cursor() as cursor:
        for one in claimed:
            cursor.execute(_CLAIMED, {**asdict(one), "step": step})
    return claimed


def settle(connection: psycopg.Connection[Any]) -> None:
    """Do the housekeeping that would otherwise run during the measurement."""
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")
