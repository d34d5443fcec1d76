"""Takes a number for an agent and opens its provisioning, all rows in one statement: what every POST waits for."""

import json
import uuid
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import IS_OPEN, Agent
from app.db.statements import Statements
from app.domain.activity import Action, Channel, Origin
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.events import EventName
from app.domain.statuses import PHONE_MOVES, Direction, OperationKind, PhoneStatus
from app.provisioning.bulk_place import BulkPlace
from app.provisioning.hints import BULK_HINT_GRACE, HINT_GRACE
from app.provisioning.plans import Plan
from app.provisioning.steps import STEPS
from app.provisioning.transitions import refuse_busy

_FREE = ", ".join(f"'{status}'" for status, moves in PHONE_MOVES.items() if PhoneStatus.PENDING in moves)
_NAMES = tuple(step.name for step in STEPS)
_STEPS = ", ".join(f"('{name}', {position})" for position, name in enumerate(_NAMES))

_ACCEPT = f"""
    WITH place AS MATERIALIZED (
        SELECT position FROM bulk_items
         WHERE bulk_id = %(bulk)s AND position = %(position)s AND status = 'pending'
           FOR UPDATE
    ), agent AS (
        UPDATE agents
           SET phone_provisioning_status = 'PENDING', twilio_phone_number = %(number)s, updated_at = now()
         WHERE id = %(agent)s AND deleted_at IS NULL AND phone_provisioning_status IN ({_FREE})
           AND (%(bulk)s::uuid IS NULL OR EXISTS (SELECT FROM place))
           AND NOT EXISTS (SELECT FROM operations WHERE agent_id = %(agent)s AND {IS_OPEN})
           AND NOT EXISTS (SELECT FROM operations WHERE target_agent_id = %(agent)s AND {IS_OPEN})
     RETURNING id
    ), operation AS (
        INSERT INTO operations (id, agent_id, kind, phone_number, takeover, status, epoch, wake_at, idle_kicks,
                                requested_by, request_id, traceparent, bulk_id)
        SELECT %(operation)s, id, 'provision', %(number)s, %(takeover)s, 'queued', 0, clock_timestamp() + %(grace)s, 0,
               %(requested_by)s, %(request_id)s, %(traceparent)s, %(bulk)s
          FROM agent
     RETURNING id
    ), steps AS (
        INSERT INTO operation_steps (operation_id, name, position, state, attempts)
        SELECT operation.id, step.name, step.position, 'PENDING', 0
          FROM operation, (VALUES {_STEPS}) AS step (name, position)
    ), item AS (
        UPDATE bulk_items SET status = 'running', operation_id = operation.id
          FROM operation WHERE bulk_items.bulk_id = %(bulk)s AND position = %(position)s
    ), trail AS (
        INSERT INTO events (operation_id, event, detail)
        SELECT id, '{EventName.OPERATION_QUEUED}', %(detail)s::jsonb FROM operation
    ), asked AS (
        INSERT INTO activity (action, subject_id, channel, actor, key_id, address, request_id, detail)
        SELECT '{Action.PROVISION}', %(agent)s, %(channel)s, %(requested_by)s, %(key_id)s, %(address)s, %(request_id)s,
               %(asked)s::jsonb
          FROM operation WHERE %(channel)s <> '{Channel.INTERNAL}'
    )
    SELECT id FROM operation
"""  # noqa: S608 - our own constants
"""The agent's row is taken first (an item of a bulk before it): of two requests the second waits, reads the row anew
and finds it taken.

Whatever the conditions miss in that moment meets the unique indexes, as it would in a transaction of many statements.
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new operation, as far as an answer speaks of it: its row as an object would cost more than the answer."""

    id: uuid.UUID
    agent_id: uuid.UUID
    phone_number: str


def accept(
    statements: Statements,
    agent_id: uuid.UUID,
    number: str,
    origin: Origin,
    *,
    takeover: bool,
    place: BulkPlace | None = None,
) -> tuple[Opened, Plan] | None:
    """Claim the number and open the operation, for the bulk's item at `place` if there is one.

    None where the item no longer waits (`BulkPlace.check` says so) or the agent is not free (`refuse` says why).
    """
    operation_id = uuid.uuid4()
    detail = {"kind": OperationKind.PROVISION, "takeover": takeover}
    values = {
        "operation": operation_id,
        "agent": agent_id,
        "number": number,
        "takeover": takeover,
        "grace": BULK_HINT_GRACE if place else HINT_GRACE,
        "bulk": place.bulk_id if place else None,
        "position": place.position if place else None,
        "requested_by": origin.requested_by,
        "request_id": origin.request_id,
        "channel": origin.channel.value,
        "key_id": origin.key_id,
        "address": origin.address,
        "detail": json.dumps(detail | origin.in_trail()),
        "asked": json.dumps({"operation_id": str(operation_id)} | detail),
        "traceparent": origin.traceparent,
    }
    if statements.one(_ACCEPT, values) is None:
        return None
    plan = Plan(operation_id, 0, OperationKind.PROVISION, Direction.DO, _NAMES, is_bulk=place is not None)
    return Opened(operation_id, agent_id, number), plan


def refuse(session: Session, agent_id: uuid.UUID) -> NoReturn:
    """Raise what stands in an agent's way: 404 `agent_not_found`, 409 `agent_has_phone` or `operation_in_progress`."""
    agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
    if agent is None:
        raise agent_not_found(agent_id)
    if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
        raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
    refuse_busy(session, agent_id)
    # What was in the way is over since: it was there when the client asked.
    raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Another operation has just ended for this agent: ask again.")
