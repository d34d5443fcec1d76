"""Operations, phone status, verification and dry run as API, console and command line show them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.db.models import Agent, BulkItem, Event, Operation, OperationStep, Resource
from app.domain.errors import ErrorCode
from app.domain.findings import Health, failed_checks, finding_json
from app.domain.operations import (
    COLUMNS,
    KINDS,
    TRUNK,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.path.observed import NumberRouting
from app.saga.context import adopted_now

if TYPE_CHECKING:
    from app.numbers.dry_run import Preview
    from app.numbers.maintenance import RepairResult, VerifyResult

_MADE = frozenset({StepState.RUNNING, StepState.DONE, StepState.FAILED})
"""The states of a step that may have made something: a rollback has to undo it."""

_MOVING = frozenset({StepState.RUNNING, StepState.UNDOING})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: `code` from the closed list, and a sentence."""

    code: str
    detail: str


def failure_of(row: Operation | OperationStep | BulkItem) -> Failure | None:
    """Return the row's error, if it has one."""
    return Failure(row.error_code, row.error_detail or "") if row.error_code else None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know that stops nothing: `code` from the closed list, and a sentence."""

    code: str
    detail: str


def _callers_taken_from(voice_host: str) -> Notice:
    detail = f"Callers reached {voice_host} before: deprovisioning restores that."
    return Notice(ErrorCode.NUMBER_ALREADY_ROUTED, detail)


def agent_warnings(agent: Agent) -> list[Notice]:
    """Return what whoever connected the agent's number should know of its former use; an adopted path has none."""
    if adopted_of(agent):
        return []
    host = NumberRouting(**agent.previous_routing).voice_host if agent.previous_routing else ""
    return [_callers_taken_from(host)] if host else []


@dataclass(frozen=True, slots=True)
class AdoptedView:
    """An object of a path that somebody else made before it was adopted."""

    step: str
    id: str
    former_name: str
    """Its name before the adoption."""
    is_shared: bool
    """Whether other numbers use it too, so that Trunkline never changes or deletes it."""


def adopted_of(agent: Agent) -> list[AdoptedView] | None:
    """Return what was adopted and is still on the agent's path, in the order of a call; None for a path of our own."""
    found = adopted_now(agent.adopted, {step: getattr(agent, column) for step, column in COLUMNS.items()})
    return [
        AdoptedView(step, found[step].id, found[step].name, found[step].is_shared) for step in COLUMNS if step in found
    ] or None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of an operation."""

    name: str
    state: StepState
    attempts: int
    """Attempts in the current direction."""
    resource_id: str | None
    is_leased: bool
    """Whether a worker holds its lease now."""
    started_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None
    """When it may be tried again; None unless it waits between two attempts."""
    error: Failure | None
    """Why its last attempt failed."""

    @classmethod
    def of(cls, row: OperationStep) -> "StepView":
        """Return the view of a row."""
        waits = row.lease_token is None and row.state in _MOVING | {StepState.PENDING}
        return cls(
            name=row.name,
            state=row.state,
            attempts=row.attempts,
            resource_id=row.resource_id,
            is_leased=row.lease_token is not None,
            started_at=row.started_at,
            finished_at=row.finished_at,
            next_attempt_at=row.lease_until if waits else None,
            error=failure_of(row),
        )


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation; `timeline` and `leftovers` are filled only where a single operation is shown."""

    id: uuid.UUID
    agent_id: uuid.UUID
    target_agent_id: uuid.UUID | None
    kind: OperationKind
    status: OperationStatus
    direction: Direction
    phone_number: str
    takeover: bool
    requested_by: str | None
    request_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Failure | None
    """What ended it, or what it is stuck on."""
    steps: Sequence[StepView]
    """In the order of the step table."""
    timeline: Sequence[Event]
    leftovers: Sequence[Resource]
    """What the ledger still lists at the providers while the path is being taken down."""

    @classmethod
    def of(cls, row: Operation, timeline: Sequence[Event] = (), resources: Sequence[Resource] = ()) -> "OperationView":
        """Return the view of a row whose steps are loaded, with its events and the agent's entries in the ledger."""
        direction = row.direction
        is_taken_down = direction is Direction.UNDO and not row.status.is_final
        return cls(
            id=row.id,
            agent_id=row.agent_id,
            target_agent_id=row.target_agent_id,
            kind=row.kind,
            status=row.status,
            direction=direction,
            phone_number=row.phone_number,
            takeover=row.takeover,
            requested_by=row.requested_by,
            request_id=row.request_id,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            error=failure_of(row),
            steps=[StepView.of(step) for step in row.steps],
            timeline=timeline,
            leftovers=resources if is_taken_down else (),
        )

    @property
    def warnings(self) -> list[Notice]:
        """What its steps found that stops nothing, by its events."""
        hosts = (event.detail.get("voice_host") for event in self.timeline)
        return [_callers_taken_from(host) for host in dict.fromkeys(hosts) if host]

    @property
    def attempts(self) -> int:
        """Attempts in the current direction, all steps together."""
        return sum(step.attempts for step in self.steps)

    @property
    def current_step(self) -> str | None:
        """The step in progress, else the next one; None once final."""
        if self.status.is_final:
            return None
        if moving := [step.name for step in self.steps if step.state in _MOVING]:
            return moving[0]
        if self.direction is Direction.DO:
            return next((step.name for step in self.steps if step.state is StepState.PENDING), None)
        untouched = {StepState.PENDING} if self.kind is OperationKind.DEPROVISION else set()
        return next((step.name for step in reversed(self.steps) if step.state in _MADE | untouched), None)


@dataclass(frozen=True, slots=True)
class HealthView:
    """What the last verification found; UNKNOWN without a path to verify."""

    state: Health
    checked_at: datetime | None
    findings: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, agent: Agent) -> "HealthView":
        """Return the health of an agent's path."""
        if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED:
            return cls(Health.UNKNOWN, None, [])
        return cls(agent.health_state or Health.UNKNOWN, agent.health_checked_at, agent.health_findings or [])


@dataclass(frozen=True, slots=True)
class PhoneTrunk:
    """The Twilio trunk that a number is on."""

    mode: TrunkMode
    members: int
    """Numbers that are on it, or on their way to it; 1 for a trunk of its own."""
    capacity: int

    @classmethod
    def of(cls, agent: Agent, members: int, max_numbers: int) -> "PhoneTrunk | None":
        """Return the trunk of an agent; `members` have a place on it if it is shared."""
        if agent.twilio_trunk_sid is None:
            return None
        adopted = next((one for one in adopted_of(agent) or () if one.step == TRUNK), None)
        if adopted is not None and adopted.is_shared:
            return None
        return cls(TrunkMode.SHARED, members, max_numbers) if agent.trunk_id else cls(TrunkMode.DEDICATED, 1, 1)


@dataclass(frozen=True, slots=True)
class PhoneView:
    """An agent's number, the id of every resource on its path, and the latest operation on it."""

    agent: Agent
    phone_provisioning_status: PhoneStatus
    twilio_phone_number: str | None
    twilio_phone_number_sid: str | None
    twilio_trunk_sid: str | None
    twilio_origination_url_sid: str | None
    livekit_inbound_trunk_id: str | None
    livekit_dispatch_rule_id: str | None
    health: HealthView
    operation: OperationView | None
    trunk: PhoneTrunk | None
    options: Mapping[str, Any]
    """With which the path is built; an update changes them once it has succeeded."""
    adopted: list[AdoptedView] | None
    """None for a path of our own making."""

    @classmethod
    def of(cls, agent: Agent, operation: OperationView | None, trunk: PhoneTrunk | None = None) -> "PhoneView":
        """Return the view of an agent and its latest operation."""
        return cls(
            agent=agent,
            phone_provisioning_status=agent.phone_provisioning_status,
            twilio_phone_number=agent.twilio_phone_number,
            twilio_phone_number_sid=agent.twilio_phone_number_sid,
            twilio_trunk_sid=agent.twilio_trunk_sid,
            twilio_origination_url_sid=agent.twilio_origination_url_sid,
            livekit_inbound_trunk_id=agent.livekit_inbound_trunk_id,
            livekit_dispatch_rule_id=agent.livekit_dispatch_rule_id,
            health=HealthView.of(agent),
            operation=operation,
            trunk=trunk,
            options=agent.options if agent.twilio_phone_number else {},
            adopted=adopted_of(agent),
        )

    @property
    def warnings(self) -> list[Notice]:
        """What to know of the number's former use, until it is deprovisioned."""
        return agent_warnings(self.agent)

    @property
    def has_phone(self) -> bool:
        """Whether a caller reaches the agent: the whole path exists and was verified."""
        return self.phone_provisioning_status is PhoneStatus.PROVISIONED


def phone_status_of(operation: Operation) -> PhoneStatus:
    """Return the phone status that an agent has while this operation is open."""
    return KINDS[operation.kind].phone[operation.status]


def status_url(agent_id: uuid.UUID) -> str:
    """Return the path to poll; without a host, so that it is right behind any proxy."""
    return f"/api/agents/{agent_id}/phone-status"


def verification_body(result: "VerifyResult") -> dict[str, Any]:
    """Return the body of `VerifiedOut`: every named check, and the health that was stored."""
    failed = failed_checks(result.findings)
    checks = [
        {"name": name, "ok": ok, "detail": " ".join(one.text for one in failed.get(name, ())) or None}
        for name, ok in result.checks.items()
    ]
    health = {
        "state": result.health,
        "checked_at": result.checked_at,
        "findings": [finding_json(finding) for finding in result.findings],
    }
    success = all(result.checks.values())
    return {"success": success, "checks": checks, "health": health}


def repair_message(result: "RepairResult", text: str) -> str:
    """Return what to say after a repair: `text`, and what is left to a person."""
    if not result.left:
        return text
    words = text if result.operation else "Nothing that a repair can change."
    return " ".join([words, *(finding.instruction for finding in result.left)])


def plan_body(preview: "Preview") -> dict[str, Any]:
    """Return the body of `PlanOut`."""
    used, limit = preview.trunks_used, preview.trunks_limit
    return {
        "success": True,
        "is_dry_run": True,
        "would_succeed": preview.would_succeed,
        "calls": [asdict(call) for call in preview.calls],
        "obstacles": [asdict(obstacle) for obstacle in preview.obstacles],
        "trunks": {"used": used, "limit": limit, "free": max(limit - used, 0)},
        "trunk": preview.trunk,
    }
