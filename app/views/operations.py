"""An operation as the API shows it: what the rows say, put into a client's words."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.models import Agent, Event, Operation, OperationStep, Resource
from app.domain.findings import Health
from app.domain.kinds import KINDS
from app.domain.statuses import Direction, OperationKind, PhoneStatus, StepState

_STANDS = frozenset({StepState.RUNNING, StepState.DONE, StepState.FAILED})
_MOVING = frozenset({StepState.RUNNING, StepState.UNDOING})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: `code` from the closed list, and a sentence."""

    code: str
    detail: str


def failure_of(row: Operation | OperationStep) -> Failure | None:
    """Return the row's error, if it has one."""
    return Failure(row.error_code, row.error_detail or "") if row.error_code else None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of an operation."""

    row: OperationStep

    def __getattr__(self, name: str) -> object:
        return getattr(self.row, name)

    @property
    def error(self) -> Failure | None:
        """Why its last try failed."""
        return failure_of(self.row)

    @property
    def next_attempt_at(self) -> datetime | None:
        """When a step that rests between two tries may be tried again."""
        rests = self.row.lease_token is None and self.row.state in _MOVING | {StepState.PENDING}
        return self.row.lease_until if rests else None


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation; `timeline` and `leftovers` are read only where one operation is shown."""

    row: Operation
    timeline: Sequence[Event] = ()
    resources: Sequence[Resource] = ()

    def __getattr__(self, name: str) -> object:
        return getattr(self.row, name)

    @property
    def steps(self) -> list[StepView]:
        """The steps in the order of the table."""
        return [StepView(step) for step in self.row.steps]

    @property
    def attempts(self) -> int:
        """Tries so far in the present direction, all steps together."""
        return sum(step.attempts for step in self.row.steps)

    @property
    def error(self) -> Failure | None:
        """What ended it, or what it is stuck on."""
        return failure_of(self.row)

    @property
    def current_step(self) -> str | None:
        """The step at work, else the next one to go; None once final."""
        if self.row.status.is_final:
            return None
        if moving := [step.name for step in self.row.steps if step.state in _MOVING]:
            return moving[0]
        if self.row.direction is Direction.DO:
            return next((step.name for step in self.row.steps if step.state is StepState.PENDING), None)
        untouched = {StepState.PENDING} if self.row.kind is OperationKind.DEPROVISION else set()
        return next((step.name for step in reversed(self.row.steps) if step.state in _STANDS | untouched), None)

    @property
    def leftovers(self) -> Sequence[Resource]:
        """What the ledger still knows at the providers while the path is being taken down."""
        going_down = self.row.direction is Direction.UNDO and not self.row.status.is_final
        return self.resources if going_down else ()


@dataclass(frozen=True, slots=True)
class PhoneView:
    """An agent's number, its path, and the latest operation on it."""

    agent: Agent
    operation: OperationView | None

    def __getattr__(self, name: str) -> object:
        return getattr(self.agent, name)

    @property
    def has_phone(self) -> bool:
        """Whether a caller reaches the agent: the whole path stands and was verified."""
        return self.agent.phone_provisioning_status is PhoneStatus.PROVISIONED

    @property
    def health(self) -> dict[str, object]:
        """What the last look at the providers found; UNKNOWN without a path to look at."""
        agent = self.agent
        if not self.has_phone:
            return {"state": Health.UNKNOWN, "checked_at": None, "findings": []}
        return {
            "state": agent.health_state or Health.UNKNOWN,
            "checked_at": agent.health_checked_at,
            "findings": agent.health_findings or [],
        }


def phone_status_of(operation: Operation) -> PhoneStatus:
    """Return the phone status that an agent has while this operation is open."""
    return KINDS[operation.kind].phone[operation.status]


def status_url(agent_id: uuid.UUID) -> str:
    """Return where to poll: a path, so that it holds behind any proxy."""
    return f"/api/agents/{agent_id}/phone-status"
