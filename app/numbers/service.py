"""Provision, deprovision, retry, wait. Row first; the message after the commit."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import NoReturn, Protocol

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.bulk.items import BulkPlace, PlaceTakenError
from app.bulk.service import wait_again
from app.db.access import record_activity
from app.db.engine import Sessions, Statements
from app.db.models import IS_OPEN, Agent, Operation
from app.domain.errors import ErrorCode, RefusedError, agent_not_found, operation_not_found
from app.domain.events import Action, Channel, EventName, Origin
from app.domain.numbers import mask_number
from app.domain.statuses import (
    OPEN_STATUSES,
    PHONE_MOVES,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.saga.chain_plan import BULK_HINT_GRACE, HINT_GRACE, Plan, plan_from
from app.saga.claims import Locked, lock_operation
from app.saga.opening import open_operation
from app.saga.steps import STEPS
from app.saga.transitions import lock_agent, plan_now, record, record_request, refuse_busy, turn_round

log = structlog.get_logger(__name__)

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


WAIT_POLL_S = (0.02, 0.05, 0.1, 0.2)
"""Seconds between looks at an operation that a client waits for; the last repeats. One primary-key read each."""

UNIQUE_NUMBER = "uq_agents_twilio_phone_number"
UNIQUE_OPERATION = "uq_operations_open_agent"


_OPEN = f"""
    SELECT epoch, kind, status, bulk_id IS NOT NULL AS is_bulk,
           (SELECT jsonb_object_agg(name, state) FROM operation_steps WHERE operation_id = operations.id) AS states
      FROM operations WHERE id = %(operation)s AND {IS_OPEN}
"""  # noqa: S608 - our own constants


class Publisher(Protocol):
    """Sends the hint to look at an operation; the rows do not depend on its arrival."""

    def publish(self, plan: Plan) -> bool:
        """Queue the plan's chain, best effort and within seconds; say whether the broker took it. Never raises."""

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit that was asked for, likewise."""

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue the hint that a webhook has something to be told, likewise."""


@dataclass(frozen=True)
class ProvisioningService:
    """Every change that a client may ask for."""

    sessions: Sessions
    publisher: Publisher
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self.sessions)

    def provision(
        self,
        agent_id: uuid.UUID,
        phone_number: str,
        *,
        takeover: bool,
        origin: Origin,
        place: BulkPlace | None = None,
    ) -> Opened:
        """Claim the number for the agent and queue its provisioning; for an item of a bulk, take its `place` as well.

        Refused with 404 `agent_not_found`, or 409 `operation_in_progress`, `agent_has_phone`, `number_in_use`.
        """
        try:
            accepted = accept(self._statements, agent_id, phone_number, origin, takeover=takeover, place=place)
        except IntegrityError as error:
            raise refusal_of(error) from error
        if accepted is None:
            with self.sessions() as session:
                if place is not None:
                    place.check(session)
                refuse(session, agent_id)
        operation, plan = accepted
        log.info("provision_queued", operation_id=str(operation.id), phone_number=mask_number(phone_number))
        self.publisher.publish(plan)
        return operation

    def deprovision(self, agent_id: uuid.UUID, *, origin: Origin) -> Operation | None:
        """Queue the way down, cancel a running provisioning, or join the one under way; None where nothing is to do."""
        operation: Operation | None
        try:
            with self.sessions.begin() as session:
                locked = _lock_open(session, agent_id)
                if locked is not None and locked.operation.kind is OperationKind.REPAIR:
                    operation, plan = _deprovision_instead(session, locked, origin)
                elif locked is not None:
                    operation, plan = locked.operation, _cancel(session, locked, origin)
                else:
                    operation, plan = _open_deprovision(session, agent_id, origin)
        except IntegrityError as error:
            raise refusal_of(error) from error
        if plan is not None and operation is not None:
            log.info("deprovision_queued", operation_id=str(operation.id), status=operation.status)
            self.publisher.publish(plan)
        return operation

    def retry(self, operation_id: uuid.UUID, *, origin: Origin) -> Operation:
        """Publish an open operation again at once; start afresh after a failed or cancelled provisioning."""
        with self.sessions.begin() as session:
            locked = lock_operation(session, operation_id)
            if locked is None:
                raise operation_not_found(operation_id)
            operation = locked.operation
            if not operation.status.is_final:
                _end_rests(locked)
                operation.wake_at = locked.now
                record(session, operation, EventName.OPERATION_RETRIED, **origin.in_trail())
                record_activity(session, origin, Action.OPERATION_RETRY, operation.id)
                plan = plan_now(session, operation)
        if operation.status.is_final:
            return self._start_afresh(operation, origin)
        self.publisher.publish(plan)
        return operation

    def _start_afresh(self, operation: Operation, origin: Origin) -> Operation:
        if operation.status is OperationStatus.SUCCEEDED:
            raise RefusedError(ErrorCode.OPERATION_FINISHED, "The operation succeeded: there is nothing to retry.")
        if operation.kind is not OperationKind.PROVISION:
            detail = f"A {operation.kind} is not retried once it has ended: ask for another."
            raise RefusedError(ErrorCode.OPERATION_FINISHED, detail)
        place, agent_id, number = wait_again(self.sessions, operation), operation.agent_id, operation.phone_number
        try:
            afresh = self.provision(agent_id, number, takeover=operation.takeover, origin=origin, place=place)
        except PlaceTakenError:
            raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Its bulk has just begun it again.") from None
        with self.sessions() as session:
            return session.get_one(Operation, afresh.id)

    def kick(self, operation_id: uuid.UUID) -> bool:
        """Publish what is left of an open operation, False when there is none; safe to call at any time, and again."""
        row = self._statements.one(_OPEN, {"operation": operation_id})
        if row is None:
            return False
        states = {name: StepState(state) for name, state in row.states.items()}
        kind, status = OperationKind(row.kind), OperationStatus(row.status)
        plan = plan_from(operation_id, row.epoch, kind, status, states, is_bulk=row.is_bulk)
        return self.publisher.publish(plan)

    def wait(self, operation_id: uuid.UUID, timeout: timedelta) -> Operation:
        """Return the operation when it is final or needs attention, or as it is at the timeout."""
        deadline, pauses = self.clock() + timeout.total_seconds(), iter(WAIT_POLL_S)
        while True:
            with self.sessions.begin() as session:
                operation = session.get_one(Operation, operation_id)
            if operation.status.is_final or operation.status is OperationStatus.NEEDS_ATTENTION:
                return operation
            left = deadline - self.clock()
            if left <= 0:
                return operation
            self.sleep(min(next(pauses, WAIT_POLL_S[-1]), left))


def _lock_open(session: Session, agent_id: uuid.UUID) -> Locked | None:
    """Take the agent's open operation: always the operation's lock before the agent's, as the runner does."""
    open_id = session.scalar(
        select(Operation.id).where(Operation.agent_id == agent_id, Operation.status.in_(OPEN_STATUSES))
    )
    locked = lock_operation(session, open_id) if open_id else None
    return locked if locked and not locked.operation.status.is_final else None


def _open_deprovision(session: Session, agent_id: uuid.UUID, origin: Origin) -> tuple[Operation | None, Plan | None]:
    agent, now = lock_agent(session, agent_id)
    refuse_busy(session, agent.id)  # opened in the moment between two locks: the client asks again
    if agent.phone_provisioning_status is PhoneStatus.FAILED:
        agent.move_to(PhoneStatus.NOT_PROVISIONED)
        record_activity(session, origin, Action.DEPROVISION, agent_id)
    if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED or agent.twilio_phone_number is None:
        return None, None
    agent.move_to(PhoneStatus.DEPROVISIONING)
    kind, number = OperationKind.DEPROVISION, agent.twilio_phone_number
    operation = open_operation(session, agent, kind, number, now, origin, takeover=False)
    return operation, plan_now(session, operation)


def _deprovision_instead(session: Session, locked: Locked, origin: Origin) -> tuple[Operation | None, Plan | None]:
    """Cancel a repair for the way down, which waits for whatever call the repair may still have under way."""
    locked.operation.cancelled_at = locked.now
    for row in locked.rows.values():
        # Nobody's: a holder has lost it, and whoever works on the path next waits until its call must have landed.
        row.lease_token = uuid.uuid4() if row.lease_token else None
    record(session, locked.operation, EventName.OPERATION_CANCEL_REQUESTED, **origin.in_trail())
    _turn_back(session, locked)
    session.flush()
    return _open_deprovision(session, locked.agent.id, origin)


def _cancel(session: Session, locked: Locked, origin: Origin) -> Plan | None:
    """Turn a provisioning round; one that is on its way back anyway ends cancelled, a deprovisioning just goes on."""
    operation = locked.operation
    if operation.kind is OperationKind.MOVE:
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "The number is being moved to another agent: ask again.")
    if operation.kind is OperationKind.DEPROVISION or operation.cancelled_at:
        return None
    operation.cancelled_at = locked.now
    record_request(session, operation, EventName.OPERATION_CANCEL_REQUESTED, Action.DEPROVISION, origin)
    if operation.status in {OperationStatus.QUEUED, OperationStatus.RUNNING}:
        _turn_back(session, locked)
    return None if operation.status.is_final else plan_now(session, operation)


def _turn_back(session: Session, locked: Locked) -> None:
    code, detail = ErrorCode.CANCELLED, "Cancelled by a request to deprovision."
    turn_round(session, locked.operation, locked.agent, locked.rows.values(), locked.now, code=code, detail=detail)


def _end_rests(locked: Locked) -> None:
    """Let the next try of a resting step start now, except while an unknown outcome may still land."""
    for row in locked.rows.values():
        # Once an undo was tried, the quiet period before it is over.
        if row.lease_token is None and row.attempts and (row.intent is None or row.state is StepState.UNDOING):
            row.lease_until = None


def refusal_of(error: IntegrityError) -> RefusedError:
    """Say which rule of the database a request met; any other breach is a defect and is raised again."""
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if constraint == UNIQUE_NUMBER:
        return RefusedError(ErrorCode.NUMBER_IN_USE, "The number belongs to another agent.")
    if constraint == UNIQUE_OPERATION:
        return RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Another operation was opened for this agent just now.")
    raise error
