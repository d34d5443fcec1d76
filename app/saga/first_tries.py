"""The common case, each half of a step in one statement: the first try of a provisioning's step, claimed and kept.

Nothing is decided here that `claims` and `outcomes` decide otherwise: what is not plainly the common case is left to
them. A claim and a result written through the ORM cost 15 ms of CPU together, in some twenty round trips; in one
statement each, a tenth of it.
"""

import json
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from psycopg.types.json import Jsonb

from app.db.engine import Sessions, Statements
from app.domain.events import EventName
from app.domain.findings import Health
from app.domain.statuses import Direction, OperationKind, OperationStatus, PhoneStatus
from app.providers.rate_limiter import Lane
from app.saga.chain_plan import BULK_HINT_GRACE, HINT_GRACE
from app.saga.claims import LEASE_MARGIN, Claim, Refusal, Trail
from app.saga.context import ORIGINATION_URL, TRUNK, Result, StepContext, Toolbox, routing_of
from app.saga.outcomes import Kept
from app.saga.steps import JOINS, STEPS, Step

_GOING_DOWN = {OperationStatus.QUEUED, OperationStatus.RUNNING}

_COLUMNS = {step.name: step.column for step in STEPS if step.column}
_AGENT_COLUMNS = ", ".join(f"agents.{column}" for column in _COLUMNS.values())

_CLAIM = f"""
    WITH operation AS MATERIALIZED (
        SELECT * FROM operations WHERE id = %(operation)s AND epoch = %(epoch)s FOR UPDATE
    ), seen AS MATERIALIZED (
        SELECT bool_or(name = %(step)s AND state = 'DONE') AS is_done,
               coalesce(bool_and(state = 'DONE') FILTER (WHERE name = ANY(%(needs)s)), true) AS is_ready,
               bool_or(attempts > 1 OR unsettled_until IS NOT NULL) AS is_uncertain
          FROM operation_steps WHERE operation_id = %(operation)s
    ), step AS (
        UPDATE operation_steps
           SET state = 'RUNNING', attempts = 1, intent = %(intent)s, lease_token = %(token)s,
               lease_until = clock_timestamp() + %(lease)s, started_at = clock_timestamp(), finished_at = NULL
          FROM operation, seen
         WHERE operation_id = operation.id AND name = %(step)s
           AND state = 'PENDING' AND attempts = 0 AND intent IS NULL AND lease_until IS NULL
           AND operation.kind = '{OperationKind.PROVISION}' AND operation.status IN ('queued', 'running')
           AND coalesce(operation.started_at + %(budget)s >= clock_timestamp(), true)
           AND seen.is_ready AND NOT seen.is_uncertain
     RETURNING operation_id, operation_steps.started_at, lease_until
    ), moved AS (
        UPDATE operations
           SET status = 'running', started_at = coalesce(operations.started_at, step.started_at),
               wake_at = step.lease_until + %(margin)s, idle_kicks = 0
          FROM step WHERE operations.id = step.operation_id
    ), begun AS (
        UPDATE agents SET phone_provisioning_status = 'PROVISIONING', updated_at = now()
          FROM operation, step WHERE agents.id = operation.agent_id AND operation.status = 'queued'
    ), trail AS (
        INSERT INTO events (operation_id, step, event, detail)
        SELECT operation.id, line.step, line.event, line.detail::jsonb
          FROM operation, step,
               (VALUES (1, NULL, '{EventName.OPERATION_STARTED}', '{{}}'),
                       (2, %(step)s, '{EventName.STEP_STARTED}', '{{"attempt": 1}}')
               ) AS line (number, step, event, detail)
         WHERE line.number = 2 OR operation.status = 'queued'
         ORDER BY line.number
    )
    SELECT operation.id, operation.kind, operation.status, operation.phone_number, operation.takeover,
           operation.agent_id, operation.bulk_id, operation.request_id, operation.traceparent, seen.*,
           step.operation_id IS NOT NULL AS is_claimed,
           agents.livekit_agent_name, agents.metadata, agents.previous_routing, {_AGENT_COLUMNS}
      FROM operation JOIN agents ON agents.id = operation.agent_id CROSS JOIN seen LEFT JOIN step ON true
"""  # noqa: S608 - our own constants
"""The operation's row is locked before anything is written, as in `lock_operation`; a wait for it reads it anew.

The steps are read as they stood when the statement began, which can only be too early. A step that was done then is
done; one that another worker has just finished is refused here, and that worker's own message goes on from there.
"""

_KEEP = """
    WITH operation AS MATERIALIZED (
        SELECT id, agent_id FROM operations WHERE id = %(operation)s AND status = 'running' {only} FOR UPDATE
    ), step AS (
        UPDATE operation_steps
           SET state = 'DONE', resource_id = %(resource)s, finished_at = clock_timestamp(), lease_token = NULL,
               lease_until = NULL, intent = NULL, error_code = NULL, error_detail = NULL
          FROM operation WHERE operation_id = operation.id AND name = %(step)s AND lease_token = %(token)s
     RETURNING operation.id, operation.agent_id, operation_steps.finished_at
    ), {writes} moved AS (
        UPDATE operations SET {move} FROM step WHERE operations.id = step.id
    ), trail AS (
        INSERT INTO events (operation_id, step, event, detail)
        SELECT id, line.step, line.event, line.detail::jsonb FROM step, (VALUES {trail}) AS line (step, event, detail)
    )
    SELECT id FROM step
"""

_DONE = f"(%(step)s, '{EventName.STEP_DONE}', %(detail)s)"

_WAIT = "wake_at = clock_timestamp() + CASE WHEN bulk_id IS NULL THEN %(grace)s ELSE %(bulk_grace)s END"

# Rows of earlier releases have JSON's null where nothing is known.
_WRITE_AGENT = """agent AS (
        UPDATE agents SET {column} = %(resource)s, updated_at = now(),
                          previous_routing = coalesce(nullif(previous_routing, 'null'), %(routing)s)
          FROM step WHERE agents.id = step.agent_id
    ), """

_WRITE_LEDGER = """ledger AS (
        INSERT INTO resources (provider, kind, external_id, agent_id, operation_id, parent_id)
        SELECT %(provider)s, %(step)s, %(resource)s, agent_id, id, %(parent)s FROM step
            ON CONFLICT DO NOTHING
    ), """

# What ends otherwise, or is to be announced to webhooks, is written in `outcomes`.
_ENDS_PLAINLY = f"""
           AND kind = '{OperationKind.PROVISION}' AND error_code IS NULL
           AND EXISTS (SELECT FROM agents
                        WHERE id = agent_id AND phone_provisioning_status = '{PhoneStatus.PROVISIONING}')
           AND NOT EXISTS (SELECT FROM operation_steps
                            WHERE operation_id = operations.id AND name <> %(step)s AND state <> 'DONE')
           AND NOT EXISTS (SELECT FROM webhook_endpoints WHERE disabled_at IS NULL)"""  # noqa: S608 - our own constants

_END_AGENT = f"""agent AS (
        UPDATE agents SET phone_provisioning_status = '{PhoneStatus.PROVISIONED}', health_state = '{Health.IN_SYNC}',
                          health_checked_at = step.finished_at, health_findings = '[]', updated_at = now()
          FROM step WHERE agents.id = step.agent_id
    ), """  # noqa: S608 - our own constants

_END = f"status = '{OperationStatus.SUCCEEDED}', finished_at = step.finished_at, wake_at = NULL"

_ENDED = f"""(NULL, '{EventName.OPERATION_SUCCEEDED}', '{{"code": null}}')"""


def _keep_statement(step: Step) -> str:
    if step is STEPS[-1]:
        return _KEEP.format(only=_ENDS_PLAINLY, writes=_END_AGENT, move=_END, trail=f"{_DONE}, {_ENDED}")
    agent = _WRITE_AGENT.format(column=step.column) if step.column else ""
    return _KEEP.format(only="", writes=agent + (_WRITE_LEDGER if step.makes else ""), move=_WAIT, trail=_DONE)


_KEEPS = {step.name: _keep_statement(step) for step in STEPS}

_IS_READY = """
    SELECT coalesce(bool_and(state = 'DONE'), true) AS is_ready
      FROM operation_steps WHERE operation_id = %(operation)s AND name = ANY(%(joins)s)
"""
"""The other branch's last step writes under the same lock: of two that end at the same moment the second sees both."""


@dataclass(frozen=True)
class FirstTries:
    """Claims and keeps first tries; safe to use from many threads."""

    sessions: Sessions
    tools: Toolbox

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self.sessions)

    def claim(self, operation_id: uuid.UUID, epoch: int, step: Step) -> Claim | Refusal | None:
        """Claim the step's first try on the way down; a refusal as `claim_step` has it, None where that must decide."""
        timing, token = self.tools.timing, uuid.uuid4()
        values = {
            "operation": operation_id,
            "epoch": epoch,
            "step": step.name,
            "needs": list(step.needs),
            "intent": Jsonb({"do": step.name, "attempt": 1}),
            "token": token,
            "lease": timing.lease,
            "budget": timing.budget,
            "margin": LEASE_MARGIN,
        }
        row = self._statements.one(_CLAIM, values)
        if row is None or OperationStatus(row.status) not in _GOING_DOWN:
            return "stale"
        if row.is_claimed:
            context = self._context(row)
            lane = Lane.BULK if row.bulk_id else Lane.SINGLE
            trail = Trail(OperationKind.PROVISION, row.request_id, row.traceparent)
            return Claim(step, Direction.DO, token, 1, False, None, row.agent_id, False, False, context, lane, trail)
        if row.kind != OperationKind.PROVISION:
            return None
        if row.is_done:
            return "done"
        return None if row.is_ready else "stale"

    def keep(self, claim: Claim, result: Result) -> Kept | None:
        """Keep the result of a first try; None where nothing was written and `keep_result` must decide."""
        is_plain = claim.attempt == 1 and claim.direction is Direction.DO and not claim.mends and not result.removed
        # A routing that the attachment found replaces the one that is kept.
        is_plain = is_plain and not (claim.step.changes and result.previous_routing)
        if not is_plain or (claim.step.makes and not result.resource_id):
            return None
        routing = result.previous_routing
        values = {
            "operation": claim.context.operation_id,
            "step": claim.step.name,
            "token": claim.token,
            "resource": result.resource_id,
            "routing": None if routing is None else Jsonb(asdict(routing)),
            "provider": claim.step.provider,
            "parent": claim.context.ids.get(TRUNK) if claim.step.name == ORIGINATION_URL else None,
            "grace": HINT_GRACE,
            "bulk_grace": BULK_HINT_GRACE,
            "detail": Jsonb({"resource_id": result.resource_id}),
            "joins": list(JOINS.get(claim.step.name, ())),
        }
        statement = _KEEPS[claim.step.name]
        if claim.step.name not in JOINS:
            return "done" if self._statements.one(statement, values) else None
        kept, ready = self._statements.two(statement, _IS_READY, values)
        if kept is None:
            return None
        return "done" if ready and ready.is_ready else "parted"

    def _context(self, row: Any) -> StepContext:
        ids = {name: getattr(row, column) for name, column in _COLUMNS.items()}
        return StepContext(
            tools=self.tools,
            agent_id=row.agent_id,
            operation_id=row.id,
            phone_number=row.phone_number,
            takeover=row.takeover,
            agent_name=row.livekit_agent_name,
            job_metadata=json.dumps(row.metadata),
            ids={name: found for name, found in ids.items() if found},
            parents={},
            ledger={},
            previous_routing=routing_of(row.previous_routing),
            is_uncertain=False,
            started=self.tools.clock(),
        )
