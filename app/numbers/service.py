"""Provision, deprovision, retry and wait. The row is committed first, then the message is published."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NoReturn, Protocol

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.bulk.items import BulkItemRef, ItemTakenError
from app.bulk.service import requeue_item
from app.db.access import record_activity
from app.db.engine import Sessions, Statements, read_sql
from app.db.models import Agent, Operation
from app.db.visibility import seen_workspace
from app.domain.errors import ErrorCode, RefusedError, agent_not_found, operation_not_found
from app.domain.events import Action, Origin
from app.domain.numbers import mask_number
from app.domain.operations import (
    KINDS,
    OPEN_STATUSES,
    PHONE_MOVES,
    STEPS,
    Direction,
    OperationKind,
    OperationStatus,
    PathChoice,
    PhoneStatus,
)
from app.numbers.agents import constraint_of, lock_agent, refuse_busy
from app.saga import machine
from app.saga.chain_plan import Plan, plan_of
from app.saga.context import adopted_now
from app.saga.rows import Rows, agent_row
from app.saga.state import BULK_MESSAGE_GRACE, MESSAGE_GRACE, AgentRow, Change, Saga
from app.webhooks.announcements import WebhookPublisher

log = structlog.get_logger(__name__)

_ACCEPT = read_sql(__file__, "accept.sql")
_FREE = [status.value for status, moves in PHONE_MOVES.items() if PhoneStatus.PENDING in moves]
_STEPS = [step.name for step in STEPS]


@dataclass(frozen=True, slots=True)
class OpenedOperation:
    """The part of a new operation that its response shows; loading the whole row would cost more than the response."""

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
    bulk_item: BulkItemRef | None = None,
) -> tuple[OpenedOperation, Plan] | None:
    """Claim the number and open the operation, for `bulk_item` if there is one.

    None when the item is no longer pending (see `BulkItemRef.check_pending`) or the agent is busy (see `refuse`).
    """
    operation_id = uuid.uuid4()
    detail = {"kind": OperationKind.PROVISION, "takeover": takeover}
    values = {
        "operation": operation_id,
        "agent": agent_id,
        "free": _FREE,
        "steps": _STEPS,
        "action": Action.PROVISION.value,
        "number": number,
        "takeover": takeover,
        "grace": BULK_MESSAGE_GRACE if bulk_item else MESSAGE_GRACE,
        "bulk": bulk_item.bulk_id if bulk_item else None,
        "position": bulk_item.position if bulk_item else None,
        "requested_by": origin.requested_by,
        "request_id": origin.request_id,
        "channel": origin.channel.value,
        "key_id": origin.key_id,
        "address": origin.address,
        "detail": json.dumps(detail | origin.in_trail()),
        "workspace": seen_workspace(),
        "trail": json.dumps({"operation_id": str(operation_id)} | detail),
        "traceparent": origin.traceparent,
    }
    if statements.one(_ACCEPT, values) is None:
        return None
    plan = Plan(operation_id, 0, OperationKind.PROVISION, Direction.DO, tuple(_STEPS), is_bulk=bulk_item is not None)
    return OpenedOperation(operation_id, agent_id, number), plan


def refuse(session: Session, agent_id: uuid.UUID) -> NoReturn:
    """Raise why an agent gets no number: 404 `agent_not_found`, 409 `agent_has_phone` or `operation_in_progress`."""
    agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
    if agent is None:
        raise agent_not_found(agent_id)
    if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
        raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
    refuse_busy(session, agent_id)
    # The cause has ended since: it was there when the client asked.
    raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Another operation has just ended for this agent: ask again.")


WAIT_POLL_S = (0.02, 0.05, 0.1, 0.2)
"""Seconds between reads of an operation that a client waits for; the last repeats. Each is one primary-key read."""

UNIQUE_NUMBER = "uq_agents_twilio_phone_number"
UNIQUE_OPERATION = "uq_operations_open_agent"


class Publisher(WebhookPublisher, Protocol):
    """Publishes the message for an operation, audit, call or endpoint; the rows do not depend on its arrival."""

    def publish(self, plan: Plan) -> bool:
        """Queue the plan's chain within seconds; return whether the broker accepted it. Never raises."""

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit that was asked for, likewise."""

    def publish_call(self, call_id: uuid.UUID) -> bool:
        """Queue a test call that was asked for, or that is due, likewise."""

    def publish_retirement(self, trunk_id: uuid.UUID) -> bool:
        """Queue that a shared trunk without numbers is deleted, likewise."""

    def publish_adoptions(self, bulk_id: uuid.UUID) -> bool:
        """Queue that the next items of a bulk of adoptions are started, likewise."""


@dataclass(frozen=True)
class ProvisioningService:
    """Opens, retries and publishes operations."""

    sessions: Sessions
    publisher: Publisher
    rows: Rows
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
        bulk_item: BulkItemRef | None = None,
    ) -> OpenedOperation:
        """Claim the number for the agent and queue its provisioning; `bulk_item` is the bulk's item that it is for.

        Refused with 404 `agent_not_found`, or 409 `operation_in_progress`, `agent_has_phone`, `number_in_use`.
        """
        try:
            accepted = accept(self._statements, agent_id, phone_number, origin, takeover=takeover, bulk_item=bulk_item)
        except IntegrityError as error:
            raise refusal_of(error) from error
        if accepted is None:
            with self.sessions() as session:
                if bulk_item is not None:
                    bulk_item.check_pending(session)
                refuse(session, agent_id)
        operation, plan = accepted
        log.info("provision_queued", operation_id=str(operation.id), phone_number=mask_number(phone_number))
        self.publisher.publish(plan)
        return operation

    def deprovision(self, agent_id: uuid.UUID, *, origin: Origin, path: PathChoice | None = None) -> Operation | None:
        """Queue a deprovisioning, cancel a running provisioning, or return the open one; None for nothing to do.

        `path` says what becomes of a path that was adopted: without it that is refused with 409 `keep_or_remove`. To
        keep any other is 422 `validation_failed`.
        """
        try:
            operation = self._open_operation_of(agent_id)
            if operation is not None:
                changed = self.rows.change(operation.id, lambda saga, now: _deprovision_open(saga, path, origin, now))
                if changed is not None:
                    change, loaded = changed
                    after = change.opened or loaded.saga
                    log.info("deprovision_queued", **_about(after))
                    return self._publish(after)
                operation = self._operation(operation.id)
                if not operation.status.is_final:
                    return operation
            with self.sessions.begin() as session:
                saga = self._open_deprovision(session, agent_id, path, origin)
        except IntegrityError as error:
            raise refusal_of(error) from error
        if saga is None:
            return None
        log.info("deprovision_queued", **_about(saga))
        return self._publish(saga)

    def deprovision_item(
        self, agent_id: uuid.UUID, phone_number: str, bulk_item: BulkItemRef, *, origin: Origin
    ) -> None:
        """Queue a deprovisioning of this number for an item of a bulk; nothing where the agent has it no more.

        Refused as `deprovision` is, and with 409 `operation_in_progress` while any operation is open. `ItemTakenError`.
        """
        try:
            with self.sessions.begin() as session:
                agent, _ = lock_agent(session, agent_id)
                bulk_item.check_pending(session)
                is_held = agent.twilio_phone_number == phone_number
                saga = self._open_deprovision(session, agent_id, None, origin, bulk_item) if is_held else None
                if saga is None:
                    bulk_item.finish(session)
        except IntegrityError as error:
            raise refusal_of(error) from error
        if saga is not None:
            log.info("deprovision_queued", **_about(saga))
            self.publisher.publish(plan_of(saga))

    def _open_operation_of(self, agent_id: uuid.UUID) -> Operation | None:
        with self.sessions() as session:
            return session.scalar(
                select(Operation).where(Operation.agent_id == agent_id, Operation.status.in_(OPEN_STATUSES))
            )

    def _open_deprovision(
        self,
        session: Session,
        agent_id: uuid.UUID,
        path: PathChoice | None,
        origin: Origin,
        bulk_item: BulkItemRef | None = None,
    ) -> Saga | None:
        agent, now = lock_agent(session, agent_id)
        refuse_busy(session, agent.id)  # opened between our two reads: the client retries
        if agent.phone_provisioning_status is PhoneStatus.FAILED:
            agent.move_to(PhoneStatus.NOT_PROVISIONED)
            record_activity(session, origin, Action.DEPROVISION, agent_id, agent.workspace_id)
        if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED or agent.twilio_phone_number is None:
            return None
        row, bulk_id = agent_row(agent), bulk_item.bulk_id if bulk_item else None
        keeps_path = _keeps_path(row, path)
        change = machine.open_operation(
            OperationKind.DEPROVISION, row, now, origin, bulk_id=bulk_id, keeps_path=keeps_path
        )
        saga = self.rows.open(change, session)
        if bulk_item is not None:
            bulk_item.start(session, saga.operation.id)
        return saga

    def _operation(self, operation_id: uuid.UUID) -> Operation:
        with self.sessions() as session:
            return session.get_one(Operation, operation_id)

    def _publish(self, saga: Saga) -> Operation:
        """Publish what is left of the operation after a change, and return its row."""
        operation = saga.operation
        if not operation.status.is_final:
            self.publisher.publish(plan_of(saga))
        return self._operation(operation.id)

    def retry(self, operation_id: uuid.UUID, *, origin: Origin) -> Operation:
        """Publish an open operation again at once; open a new one after a failed or cancelled provisioning."""
        with self.sessions() as session:
            if session.get(Operation, operation_id) is None:
                raise operation_not_found(operation_id)
        changed = self.rows.change(
            operation_id,
            lambda saga, now: None if saga.operation.status.is_final else machine.retry(saga, origin, now),
        )
        if changed is not None:
            return self._publish(changed[1].saga)
        return self._open_again(self._operation(operation_id), origin)

    def _open_again(self, operation: Operation, origin: Origin) -> Operation:
        if operation.status is OperationStatus.SUCCEEDED:
            raise RefusedError(ErrorCode.OPERATION_FINISHED, "The operation succeeded: there is nothing to retry.")
        if not KINDS[operation.kind].is_retried:
            detail = f"A {operation.kind} is not retried once it has ended: ask for another."
            raise RefusedError(ErrorCode.OPERATION_FINISHED, detail)
        bulk_item, agent_id, number = requeue_item(self.sessions, operation), operation.agent_id, operation.phone_number
        try:
            opened = self.provision(agent_id, number, takeover=operation.takeover, origin=origin, bulk_item=bulk_item)
        except ItemTakenError:
            raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Its bulk has just started it again.") from None
        return self._operation(opened.id)

    def republish(self, operation_id: uuid.UUID) -> bool:
        """Publish what is left of an operation; False when it has ended or the broker refused. Safe to repeat."""
        loaded = self.rows.read(operation_id)
        if loaded is None or loaded.saga.operation.status.is_final:
            return False
        return self.publisher.publish(plan_of(loaded.saga))

    def wait(self, operation_id: uuid.UUID, timeout: timedelta) -> Operation:
        """Return the operation once it is final or needs attention, or as it is at the timeout."""
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


def _about(saga: Saga) -> dict[str, str]:
    return {"operation_id": str(saga.operation.id), "status": saga.operation.status}


def _deprovision_open(saga: Saga, path: PathChoice | None, origin: Origin, now: datetime) -> Change | None:
    if saga.operation.status.is_final:
        return None
    # What is not there yet is taken back, whatever is asked for: an adoption leaves the path as it was found.
    keeps_path = saga.operation.rules.has_path and _keeps_path(saga.agent, path)
    return machine.deprovision(saga, origin, now, keeps_path=keeps_path)


def _keeps_path(agent: AgentRow, path: PathChoice | None) -> bool:
    """Say whether the agent's path is left as it was found; `RefusedError` where that must be said, or cannot be."""
    if not adopted_now(agent.adopted, agent.ids):
        if path is PathChoice.KEEP:
            errors = {"path": ["Trunkline has made this path: it is removed."]}
            raise RefusedError(ErrorCode.VALIDATION_FAILED, "The path was not adopted.", errors=errors)
        return False
    if path is None:
        detail = "The path was adopted: say whether to keep it as it was found, or to remove it."
        raise RefusedError(ErrorCode.KEEP_OR_REMOVE, detail)
    if path is PathChoice.KEEP and agent.trunk_id is not None:
        detail = "A repair has put the number on one of Trunkline's own trunks since: the path can only be removed."
        raise RefusedError(ErrorCode.KEEP_OR_REMOVE, detail)
    return path is PathChoice.KEEP


def refusal_of(error: IntegrityError) -> RefusedError:
    """Return the refusal for a violated unique index; any other violation is a defect and is raised again."""
    constraint = constraint_of(error)
    if constraint == UNIQUE_NUMBER:
        return RefusedError(ErrorCode.NUMBER_IN_USE, "The number belongs to another agent.")
    if constraint == UNIQUE_OPERATION:
        return RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "Another operation was opened for this agent just now.")
    raise error
