"""What the saga's rules are about, as plain values: an operation with its rows, and what a rule makes of them.

`rows` loads a `Saga` and saves a `Change`; the rules in between are `machine`.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from app.domain.errors import ErrorCode
from app.domain.events import Action, EventName, Origin, WebhookEvent
from app.domain.findings import Health
from app.domain.operations import (
    KINDS,
    Direction,
    Kind,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
    check_move,
    direction_of,
    steps_towards,
)
from app.domain.options import options_json, options_of
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT, AccountIds
from app.path.changes import Changes

MESSAGE_GRACE = timedelta(seconds=5)
"""How long the message for the next step may take before the sweep takes it for lost: far above a queue's delay."""

BULK_MESSAGE_GRACE = timedelta(seconds=30)
"""The same for a bulk: its messages wait behind each other. 200 operations at 20 provider calls a second, some eight
messages each, put 8 s between two steps; publishing what merely waits would double the queue."""

FINISHED = {Direction.DO: StepState.DONE, Direction.UNDO: StepState.UNDONE}
"""The state of a step that is through, each way."""


class Verdict(StrEnum):
    """What became of a message for a step: the one vocabulary of machine, runner, tasks, logs and metrics."""

    CLAIMED = "claimed"
    """The step is this worker's until its lease ends."""
    DONE = "done"
    """The step is finished: the chain goes on."""
    OTHER_BRANCH = "other_branch"
    """The step is finished, and what comes next waits for the other branch too: that one goes on, this chain ends."""
    STALE = "stale"
    """Not this message's to do, now or ever: the chain ends here, in silence."""
    RESTS = "rests"
    """The step is tried again after a rest."""
    ATTENTION = "attention"
    """The same, and from now on a person is asked for."""
    ROLLING_BACK = "rolling_back"
    """The operation goes back, or has ended without: the chain fails, and its error callback publishes that way."""
    LOST = "lost"
    """The lease was lost meanwhile: only the ledger keeps what was made."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Every span of the saga, derived from the one that is set: how long a provider call may take."""

    provider_timeout: timedelta
    budget: timedelta
    """How long an operation may spend on retries before it is rolled back."""

    @property
    def lease(self) -> timedelta:
        """How long a worker may hold a step: two calls of full length, and one more span for a last one to land."""
        return 3 * self.provider_timeout

    @property
    def quiet(self) -> timedelta:
        """How long a step rests after an unknown outcome: longer than the call, which may land until then."""
        return 1.2 * self.provider_timeout

    @property
    def settle(self) -> timedelta:
        """How long after the end of a request without an answer the last look for what it made is taken.

        With the request's own time as long as a lease: nothing that a provider carries out after that is expected.
        """
        return 2 * self.provider_timeout

    @property
    def lands(self) -> timedelta:
        """How long after the end of a dead worker's lease what it asked for may still land.

        Its first call ended within one timeout, or it made no other.
        """
        return self.settle - self.provider_timeout

    @property
    def stall(self) -> timedelta:
        """How late an answer may come before its provider counts as one that stood still, with other requests waiting.

        Half of a call: less would be met by long lists, more would miss a stand that ended just before the answer.
        """
        return 0.5 * self.provider_timeout


CHANGED = "changed"
"""Name in `operations.former_options` of what an operation that works on a standing path has changed there, by step.

Opened without it: by a release that went back by the agent's row.
"""


@dataclass(frozen=True, slots=True)
class OperationRow:
    """A row of `operations`."""

    id: uuid.UUID
    agent_id: uuid.UUID
    kind: OperationKind
    status: OperationStatus
    phone_number: str
    epoch: int = 0
    takeover: bool = False
    target_agent_id: uuid.UUID | None = None
    bulk_id: uuid.UUID | None = None
    former_ids: Mapping[str, str] = field(default_factory=dict)
    """Step -> the id that comes back to the agent if it fails, of a kind that leaves resources behind."""
    former_trunk_id: uuid.UUID | None = None
    """The shared trunk of those ids, if it was one."""
    wanted: Mapping[str, Any] | None = None
    """The fields of the agent as they are to be once an update or an adoption has succeeded, by column."""
    former_options: Mapping[str, Any] | None = None
    """What stood at the providers of the options that an update changes; under `CHANGED`, step -> what it changes."""
    keeps_path: bool = False
    """Whether it takes our marks off an adopted path, and nothing down."""
    requested_by: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    wake_at: datetime | None = None
    idle_kicks: int = 0
    error_code: str | None = None
    error_detail: str | None = None
    started_at: datetime | None = None
    cancelled_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def rules(self) -> Kind:
        """What is peculiar to its kind."""
        return KINDS[self.kind]

    @property
    def leaves(self) -> tuple[str, ...]:
        """The steps whose former resources it leaves behind; none where the number stays on its Twilio trunk."""
        return self.rules.leaves if self.former_ids or not self.rules.keeps_path else ()

    @property
    def direction(self) -> Direction:
        """Which way it goes now."""
        return direction_of(self.kind, self.status)

    def changes_by(self, step: str) -> Changes | None:
        """Return what a step has changed so far; None of a kind that goes back by the agent's row alone."""
        changed = (self.former_options or {}).get(CHANGED)
        return None if changed is None else changed.get(step, {})

    @property
    def message_grace(self) -> timedelta:
        """How long a message for it may take."""
        return MESSAGE_GRACE if self.bulk_id is None else BULK_MESSAGE_GRACE


@dataclass(frozen=True, slots=True)
class StepRow:
    """A row of `operation_steps`; docs of the columns are with the model."""

    name: str
    state: StepState = StepState.PENDING
    attempts: int = 0
    lease_token: uuid.UUID | None = None
    lease_until: datetime | None = None
    intent: Mapping[str, Any] | None = None
    unsettled_until: datetime | None = None
    resource_id: str | None = None
    error_code: str | None = None
    error_detail: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def may_have_happened(self) -> bool:
        """Whether an earlier try, of this operation or of one before it, ended without a known outcome."""
        return self.intent is not None or self.unsettled_until is not None


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What the saga reads and writes of a row of `agents`; `ids` are its columns of resource ids, by step."""

    id: uuid.UUID
    name: str
    livekit_agent_name: str
    metadata: Mapping[str, Any]
    phone_provisioning_status: PhoneStatus
    twilio_phone_number: str | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    previous_routing: Mapping[str, Any] | None = None
    trunk_mode: TrunkMode = TrunkMode.SHARED
    trunk_id: uuid.UUID | None = None
    """The shared trunk that it has a place on."""
    carrier_account_id: uuid.UUID = ENVIRONMENT_ACCOUNT
    voice_project_id: uuid.UUID = ENVIRONMENT_PROJECT
    health_state: Health = Health.UNKNOWN
    health_checked_at: datetime | None = None
    health_findings: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    adopted: Mapping[str, Any] | None = None

    def as_wanted(self, wanted: Mapping[str, Any] | None) -> "AgentRow":
        """Return the agent as an operation wants it."""
        return replace(self, **wanted) if wanted else self

    def with_options_over(self, options: Mapping[str, Any] | None) -> "AgentRow":
        """Return the agent with these options over its own."""
        if not options:
            return self
        return replace(self, options=options_json(options_of(options).over(options_of(self.options))))

    @property
    def accounts(self) -> AccountIds:
        """Where its path is built."""
        return AccountIds(self.carrier_account_id, self.voice_project_id)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A resource of the agent's that nobody has deleted."""

    kind: str
    external_id: str
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """Everything that the rules need to know of one operation."""

    operation: OperationRow
    agent: AgentRow
    steps: Mapping[str, StepRow]
    """By name, in the order of the table."""
    target: AgentRow | None = None
    """The agent that a move hands the number to."""
    ledger: tuple[LedgerEntry, ...] = ()
    """The agent's resources, oldest first."""
    older_unsettled: Mapping[str, datetime] = field(default_factory=dict)
    """Step -> until when what another operation of the agent's has asked for there may land."""
    waited: timedelta = timedelta()
    """How long its steps have waited for a provider that took no more requests, or none: not its operation's time."""

    @property
    def is_uncertain(self) -> bool:
        """Whether any step was tried more than once, so that duplicates are possible."""
        return any(row.attempts > 1 or row.unsettled_until for row in self.steps.values())

    @property
    def left(self) -> tuple[str, ...]:
        """The steps that are not finished in the present direction, in its order: what is to be published."""
        direction = self.operation.direction
        return tuple(
            step.name
            for step in steps_towards(direction)
            if step.name in self.steps and self.steps[step.name].state is not FINISHED[direction]
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim as its holder shows it when it comes back."""

    step: str
    direction: Direction
    token: uuid.UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a step made or found: its id, and for the number what it did before us."""

    resource_id: str | None
    previous_routing: Mapping[str, Any] | None = None
    """Where the number was routed before us; from the attachment only where it was taken from somebody just then."""
    removed: tuple[str, ...] = ()
    """Ids of what was deleted on the way."""
    voice_host: str = ""
    """The host that callers of the number reached before us, where its voice URL decided: for the trail."""
    findings: tuple[Mapping[str, Any], ...] = ()
    """What the last step has found to differ, although calls get through; the agent's health."""
    trunk_id: uuid.UUID | None = None
    """The shared trunk that the resource is, or is on: it is the pool's, and no ledger of an agent's knows it."""
    finished: Mapping[str, str] = field(default_factory=dict)
    """Other steps that need nothing more to be done, and the ids of their resources."""
    given: tuple[str, ...] = ()
    """Ids of what stands on and is the agent's no more: the pool has it, or who had made it before."""
    is_others: bool = False
    """Whether other numbers use the resource, in an adopted path: no ledger knows it."""


class FoundNumber(NamedTuple):
    """A number as a look-up finds it."""

    sid: str
    routing: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """How a try failed."""

    code: ErrorCode
    detail: str
    is_for_good: bool = False
    """Whether another try would meet the same."""
    is_clear: bool = False
    """Whether nothing of this step can exist."""
    settles_in: timedelta | None = None
    """How long something of it may still land, where a request got no answer."""
    was_tried: bool = True
    """False where nothing was sent, so that the next try is the same one again."""
    was_begun: bool = False
    """Whether requests were sent although no try is counted: then the first one is, and the step is not untouched."""
    waited_s: float | None = None
    """How long it stood in line, where the provider took no more requests, or none of ours."""
    removed: tuple[str, ...] = ()
    """Ids of what it deleted before it failed."""
    found_routing: Mapping[str, Any] | None = None
    """Where somebody has routed the number since our last look."""
    found_number: FoundNumber | None = None
    """What the number is since it was looked up, where it left the account and came back."""

    def lands_until(self, now: datetime) -> datetime | None:
        """Return until when something of it may still land, if anything may."""
        return None if self.settles_in is None else now + self.settles_in


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of `events`."""

    event: EventName
    step: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What webhooks are to be told; `data` is the payload's."""

    event: WebhookEvent
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A row of `activity`: who asked for what."""

    origin: Origin
    action: Action
    subject_id: uuid.UUID
    detail: Mapping[str, Any]


class Change:
    """What one transition makes of an operation's rows; used up by `rows`, which writes all of it or nothing."""

    def __init__(self, before: Saga, now: datetime) -> None:
        self.before = before
        self.now = now
        self.verdict = Verdict.STALE
        self.operation, self.agent, self.target = before.operation, before.agent, before.target
        self.steps = dict(before.steps)
        self.waited = before.waited
        self.events: list[EventRow] = []
        self.ledger: list[LedgerEntry] = []
        """Resources that were made or found; one that is known already is not entered twice."""
        self.deleted: set[str] = set()
        """Ids of resources that are gone."""
        self.hands_over = False
        """Whether the ledger of the agent becomes the target's."""
        self.gives_place_back = False
        """Whether the agent has no place on a shared trunk any more: one may have been taken outside of any change, by
        a worker that died since."""
        self.announcements: list[Announcement] = []
        self.activity: list[Asked] = []
        self.opened: Saga | None = None
        """An operation that begins where this one ends."""
        self.opened_events: list[EventRow] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        before = self.before
        is_same = self.operation is before.operation and self.agent is before.agent and self.target is before.target
        is_same = is_same and all(row is before.steps[name] for name, row in self.steps.items())
        return is_same and not (self.events or self.ledger or self.deleted or self.opened or self.activity)

    @property
    def after(self) -> Saga:
        """The rows as they will be."""
        known = dict.fromkeys((*self.before.ledger, *self.ledger))
        return replace(
            self.before,
            operation=self.operation,
            agent=self.agent,
            target=self.target,
            steps=self.steps,
            waited=self.waited,
            ledger=tuple(one for one in known if one.external_id not in self.deleted),
        )

    def end(self, verdict: Verdict) -> "Change":
        """Say what became of the message; the change is whole then."""
        self.verdict = verdict
        return self

    def set_operation(self, **values: Any) -> None:
        """Change columns of the operation."""
        self.operation = replace(self.operation, **values)

    def set_step(self, name: str, **values: Any) -> None:
        """Change columns of a step."""
        self.steps[name] = replace(self.steps[name], **values)

    def set_agent(self, **values: Any) -> None:
        """Change columns of the agent."""
        self.agent = replace(self.agent, **values)

    def move_to(self, status: OperationStatus) -> None:
        """Change the operation's status, and the phone status of its agents with it."""
        check_move(self.operation.status, status)
        self.set_operation(status=status)
        rules = self.operation.rules
        self.agent = in_status(self.agent, rules.phone.get(status))
        self.target = in_status(self.target, rules.target_phone.get(status)) if self.target else None

    def tell(self, event: EventName, step: str | None = None, /, **detail: Any) -> None:
        """Append to the trail."""
        self.events.append(EventRow(event, step, detail))

    def wait_for_message(self) -> None:
        """Give the message for what comes next the time that it may be under way."""
        self.set_operation(wake_at=self.now + self.operation.message_grace)

    def wake(self) -> None:
        """Have the next sweep publish what is left."""
        self.set_operation(wake_at=self.now)


def in_status(agent: AgentRow, status: PhoneStatus | None) -> AgentRow:
    """Return the agent with this phone status, if there is one; no other than a legal move is made."""
    if status is None or status is agent.phone_provisioning_status:
        return agent
    check_move(agent.phone_provisioning_status, status)
    return replace(agent, phone_provisioning_status=status)
