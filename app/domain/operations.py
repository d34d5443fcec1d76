"""What an operation is made of, once: its statuses and the legal moves between them, its steps, and its kinds.

What the steps do at the providers is `app.saga.steps`; what makes an operation move is `app.saga.machine`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.events import Action, WebhookEvent


class PhoneStatus(StrEnum):
    """`agents.phone_provisioning_status`, which clients poll."""

    NOT_PROVISIONED = "NOT_PROVISIONED"
    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    PROVISIONED = "PROVISIONED"
    ROLLING_BACK = "ROLLING_BACK"
    FAILED = "FAILED"
    DEPROVISIONING = "DEPROVISIONING"


class OperationKind(StrEnum):
    """`operations.kind`."""

    PROVISION = "provision"
    DEPROVISION = "deprovision"
    REPAIR = "repair"
    """Restores what is missing or changed on an existing path; a failure leaves the rest of the path alone."""
    MOVE = "move"
    """Hands a number to another agent by updating its path in place; undo hands it back."""
    REHOME = "rehome"
    """Takes a number from a trunk of its own to one that numbers share, by one write; undo is the same write back."""
    UPDATE = "update"
    """Changes an agent's options where its path stands, in place; undo writes what stood there before."""
    ADOPT = "adopt"
    """Makes a path that somebody built by hand an agent's: only marks are written, and undo takes them off."""


class PathChoice(StrEnum):
    """What a deprovisioning does with a path that was adopted."""

    KEEP = "keep"
    """Takes our marks off: the number rings on as before the adoption."""
    REMOVE = "remove"
    """Takes it down, as a path of our own making; what other numbers use too stays."""


class TrunkMode(StrEnum):
    """`agents.trunk_mode`: on what kind of Twilio trunk the agent's number is put when it is connected."""

    SHARED = "shared"
    """On one of the pool's, with other numbers of the same profile."""
    DEDICATED = "dedicated"
    """On a trunk of its own, which comes and goes with it."""


class TrunkState(StrEnum):
    """`trunks.state`: the life of a Twilio trunk that numbers share."""

    CREATING = "CREATING"
    """Its trunk or its origination URL is not there yet: whoever takes a place makes them, one at a time."""
    ACTIVE = "ACTIVE"
    RETIRING = "RETIRING"
    """It is being deleted and takes no newcomers."""
    GONE = "GONE"


class OperationStatus(StrEnum):
    """`operations.status`: one run of provisioning or deprovisioning."""

    QUEUED = "queued"
    RUNNING = "running"
    ROLLING_BACK = "rolling_back"
    NEEDS_ATTENTION = "needs_attention"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the operation has ended."""
        return self in FINAL_STATUSES


class StepState(StrEnum):
    """`operation_steps.state`."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"


class Direction(StrEnum):
    """Whether an operation does its steps or undoes them."""

    DO = "do"
    UNDO = "undo"


FINAL_STATUSES = frozenset({OperationStatus.SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELLED})
OPEN_STATUSES = frozenset(OperationStatus) - FINAL_STATUSES

_Status = OperationStatus


OPERATION_MOVES: Mapping[OperationStatus, frozenset[OperationStatus]] = {
    _Status.QUEUED: frozenset({_Status.RUNNING, _Status.ROLLING_BACK, _Status.CANCELLED}),
    _Status.RUNNING: frozenset(
        {
            _Status.ROLLING_BACK,
            _Status.NEEDS_ATTENTION,
            _Status.SUCCEEDED,
            # Only a repair ends like this: it has no rollback.
            _Status.FAILED,
            _Status.CANCELLED,
        }
    ),
    _Status.ROLLING_BACK: frozenset({_Status.NEEDS_ATTENTION, _Status.FAILED, _Status.CANCELLED}),
    _Status.NEEDS_ATTENTION: frozenset({_Status.RUNNING, _Status.ROLLING_BACK}),
    _Status.SUCCEEDED: frozenset(),
    _Status.FAILED: frozenset(),
    _Status.CANCELLED: frozenset(),
}

_Phone = PhoneStatus
PHONE_MOVES: Mapping[PhoneStatus, frozenset[PhoneStatus]] = {
    _Phone.NOT_PROVISIONED: frozenset({_Phone.PENDING}),
    # The last two: a move of a number to this agent succeeds, or fails.
    _Phone.PENDING: frozenset({_Phone.PROVISIONING, _Phone.ROLLING_BACK, _Phone.PROVISIONED, _Phone.NOT_PROVISIONED}),
    _Phone.PROVISIONING: frozenset({_Phone.PROVISIONED, _Phone.ROLLING_BACK}),
    # The second: the number was moved to another agent.
    _Phone.PROVISIONED: frozenset({_Phone.DEPROVISIONING, _Phone.NOT_PROVISIONED}),
    _Phone.ROLLING_BACK: frozenset({_Phone.FAILED, _Phone.NOT_PROVISIONED}),
    _Phone.FAILED: frozenset({_Phone.PENDING, _Phone.NOT_PROVISIONED}),
    _Phone.DEPROVISIONING: frozenset({_Phone.NOT_PROVISIONED}),
}


class IllegalMoveError(Exception):
    """The code tried a status change that the tables above do not allow: a defect, never a user's mistake."""


def check_move(old: OperationStatus | PhoneStatus, new: OperationStatus | PhoneStatus) -> None:
    """Raise `IllegalMoveError` unless `old` may become `new`; keeping a status is always legal."""
    moves: Mapping[OperationStatus | PhoneStatus, frozenset[OperationStatus | PhoneStatus]] = (
        OPERATION_MOVES if isinstance(old, OperationStatus) else PHONE_MOVES  # type: ignore[assignment]  # one shape, two enums
    )
    if new != old and new not in moves[old]:
        raise IllegalMoveError(f"{type(old).__name__} {old} cannot become {new}")


MAX_ITEMS = 10_000
"""Items of one bulk: about 2 MiB of JSON, parsed, validated and stored within seconds."""


class BulkKind(StrEnum):
    """`bulks.kind`: what is done for each of its numbers."""

    PROVISION = "provision"
    REPAIR = "repair"
    REHOME = "rehome"
    ADOPT = "adopt"
    MIXED = "mixed"
    """Each item has a kind of its own: what a declaration changes."""


class ItemKind(StrEnum):
    """`bulk_items.kind`: what an item does, by the operation of this name where it needs one."""

    PROVISION = "provision"
    REPAIR = "repair"
    REHOME = "rehome"
    ADOPT = "adopt"
    DEPROVISION = "deprovision"
    MOVE = "move"
    UPDATE = "update"
    """Without an operation where the agent has no number by then."""
    DELETE = "delete"
    """Deletes the agent, which has no number any more: without an operation."""


class BulkStatus(StrEnum):
    """`bulks.status`."""

    QUEUED = "queued"
    """No item has started."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """No further item starts; those that had started run to their end."""
    SUCCEEDED = "succeeded"
    """Every item succeeded."""
    FAILED = "failed"
    """Finished, and at least one item did not succeed."""
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the bulk has ended; it may still be resumed."""
        return self not in OPEN_BULKS


OPEN_BULKS = frozenset({BulkStatus.QUEUED, BulkStatus.RUNNING, BulkStatus.CANCELLING})


class ItemStatus(StrEnum):
    """`bulk_items.status`; the last three are those of the item's operation."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


NUMBER = "twilio_number"
TRUNK = "twilio_trunk"
ORIGINATION_URL = "twilio_origination_url"
INBOUND_TRUNK = "livekit_inbound_trunk"
DISPATCH_RULE = "livekit_dispatch_rule"
NUMBER_ATTACHMENT = "twilio_number_attachment"
VERIFICATION = "verification"


@dataclass(frozen=True)
class Step:
    """One resource of the path."""

    name: str
    provider: str
    needs: tuple[str, ...] = ()
    """The steps that must be done before it, and are undone after it."""
    column: str | None = None
    """The agent's column that holds the id."""
    makes: bool = False
    """Whether it makes a resource that the ledger must know."""
    changes: str | None = None
    """The step whose resource it changes, where it makes none of its own: attaching changes a number."""
    under: str | None = None
    """The step whose resource this one lives under, where its own id does not reach it."""
    label: str = ""
    """What people call it, and its resource."""

    @property
    def is_undone(self) -> bool:
        """Whether there is something to undo."""
        return self.makes or self.changes is not None

    @property
    def resource(self) -> str:
        """The step whose id this one works on: its own, or that of what it changes."""
        return self.changes or self.name


STEPS = (
    Step(NUMBER, "twilio", column="twilio_phone_number_sid", label="Twilio number"),
    Step(TRUNK, "twilio", (NUMBER,), "twilio_trunk_sid", makes=True, label="Twilio trunk"),
    Step(
        ORIGINATION_URL,
        "twilio",
        (TRUNK,),
        "twilio_origination_url_sid",
        makes=True,
        under=TRUNK,
        label="Origination URL",
    ),
    Step(INBOUND_TRUNK, "livekit", (NUMBER,), "livekit_inbound_trunk_id", makes=True, label="LiveKit trunk"),
    Step(DISPATCH_RULE, "livekit", (INBOUND_TRUNK,), "livekit_dispatch_rule_id", makes=True, label="Dispatch rule"),
    Step(NUMBER_ATTACHMENT, "twilio", (ORIGINATION_URL, DISPATCH_RULE), changes=NUMBER, label="Number attachment"),
    Step(VERIFICATION, "livekit", (NUMBER_ATTACHMENT,), label="Verification"),
)
"""In an order in which they can run; those that do not need each other run side by side (`branches`).

The number is attached last, so that a caller never meets a half-built path; verification reads the whole of it.
"""

STEP_BY_NAME = {step.name: step for step in STEPS}


def _all_needs(name: str) -> frozenset[str]:
    needs = STEP_BY_NAME[name].needs
    return frozenset(needs).union(*map(_all_needs, needs))


ALL_NEEDS = {step.name: _all_needs(step.name) for step in STEPS}
"""Step -> every step that it needs, directly or through others.

A repair and a move work on some steps only: what lies between two of those counts as done from the start.
"""

COLUMNS = {step.name: step.column for step in STEPS if step.column}
"""Step -> the agent's column that holds the id of its resource."""

LAST = STEPS[-1].name
"""The step that looks at all others' work: it waits until nothing unexpected can land any more."""

JOINS = {need: step.needs for step in STEPS for need in step.needs if len(step.needs) > 1}
"""Last step of a branch -> the last steps of all branches that are waited for together."""


def steps_towards(direction: Direction) -> tuple[Step, ...]:
    """Return the table as it is read in this direction; what cannot be undone has no place on the way back."""
    return STEPS if direction is Direction.DO else tuple(step for step in reversed(STEPS) if step.is_undone)


def branches(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Split steps on the way down into lines that may run side by side, each with all that comes after it.

    The first line of the result, which may be empty, comes before the others: `((a,), (b, c, f), (d, e, f))`.
    """
    left = [STEP_BY_NAME[name] for name in _ordered(names)]
    join = next((place for place, step in enumerate(STEPS) if len(step.needs) > 1), len(STEPS))
    before, after = STEPS[:join], tuple(step.name for step in STEPS[join:] if step in left)
    siblings = {step.name for step in before if sum(other.needs == step.needs for other in before) > 1}
    branch_of: dict[str, str | None] = {}
    for step in before:
        branch_of[step.name] = (
            step.name if step.name in siblings else branch_of.get(step.needs[0]) if step.needs else None
        )
    first = tuple(step.name for step in left if step.name in branch_of and branch_of[step.name] is None)
    lines: dict[str, tuple[str, ...]] = {}
    for step in left:
        head = branch_of.get(step.name)
        if head:
            lines[head] = (*lines.get(head, ()), step.name)
    return first, *((*line, *after) for line in lines.values() or ((),))


def _ordered(names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [step.name for step in STEPS if step.name in wanted]


_Phone, _Status = PhoneStatus, OperationStatus


@dataclass(frozen=True)
class Kind:
    """What is peculiar to one kind of operation."""

    name: OperationKind
    action: Action
    """What whoever asked for it has asked."""
    starts: Direction = Direction.DO
    """Which way it goes until it fails."""
    rolls_back: bool = True
    """Whether a failure takes back what was done; otherwise that stays, and the operation ends at once."""
    keeps_path: bool = False
    """Whether it works on a path that stands: a step makes right what is there before it makes anything."""
    makes: bool = True
    """Whether its steps may make and delete resources."""
    leaves: tuple[str, ...] = ()
    """The steps whose former resources its success leaves behind, where it takes a number to another Twilio trunk.

    A trunk of the agent's own is deleted at the end; one that numbers share stays.

    Their ids stand in its row (`former_ids`) and come back to the agent if it fails; what the steps have put in their
    place is nothing of the agent's, so that going back deletes nothing.
    """
    marks_only: bool = False
    """Whether its steps change nothing but our marks on what is there: to do is to mark, to undo to take off."""
    is_retried: bool = False
    """Whether another one may be opened in its place once it has failed."""
    phone: Mapping[OperationStatus, PhoneStatus] = field(default_factory=dict)
    """The operation's status -> the agent's phone status; a status that is not named changes nothing."""
    target_phone: Mapping[OperationStatus, PhoneStatus] = field(default_factory=dict)
    """The same for the agent that a number is moved to."""
    webhooks: Mapping[OperationStatus, WebhookEvent] = field(default_factory=dict)
    """How it ends -> what webhooks are told about the agent; an end that changes nothing for it is none."""
    target_webhooks: Mapping[OperationStatus, WebhookEvent] = field(default_factory=dict)

    @property
    def has_path(self) -> bool:
        """Whether the agent's number rings when it begins, and rings on when it goes back: nothing is taken down."""
        return self.phone.get(OperationStatus.QUEUED) is PhoneStatus.PROVISIONED

    @property
    def puts_back(self) -> bool:
        """Whether going back is to put back what its steps have changed on a path that stands."""
        return self.keeps_path and self.rolls_back

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that such an operation has."""
        return STEPS if self.starts is Direction.DO else tuple(step for step in STEPS if step.is_undone)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            OperationKind.PROVISION,
            Action.PROVISION,
            is_retried=True,
            phone={
                _Status.QUEUED: _Phone.PENDING,
                _Status.RUNNING: _Phone.PROVISIONING,
                _Status.ROLLING_BACK: _Phone.ROLLING_BACK,
                _Status.NEEDS_ATTENTION: _Phone.ROLLING_BACK,
                _Status.SUCCEEDED: _Phone.PROVISIONED,
                _Status.FAILED: _Phone.FAILED,
                _Status.CANCELLED: _Phone.NOT_PROVISIONED,
            },
            webhooks={
                _Status.SUCCEEDED: WebhookEvent.PROVISIONED,
                _Status.FAILED: WebhookEvent.FAILED,
                # It was asked to deprovision, and has.
                _Status.CANCELLED: WebhookEvent.DEPROVISIONED,
            },
        ),
        Kind(
            OperationKind.DEPROVISION,
            Action.DEPROVISION,
            starts=Direction.UNDO,
            phone={
                _Status.QUEUED: _Phone.DEPROVISIONING,
                _Status.RUNNING: _Phone.DEPROVISIONING,
                _Status.NEEDS_ATTENTION: _Phone.DEPROVISIONING,
                _Status.SUCCEEDED: _Phone.NOT_PROVISIONED,
            },
            webhooks={_Status.SUCCEEDED: WebhookEvent.DEPROVISIONED},
        ),
        Kind(
            OperationKind.REPAIR,
            Action.REPAIR,
            rolls_back=False,
            keeps_path=True,
            phone={
                _Status.QUEUED: _Phone.PROVISIONED,
                _Status.RUNNING: _Phone.PROVISIONED,
                _Status.SUCCEEDED: _Phone.PROVISIONED,
                _Status.FAILED: _Phone.PROVISIONED,
                _Status.CANCELLED: _Phone.PROVISIONED,
            },
            # Nothing tries again by itself: the path stays as it was found.
            webhooks={_Status.FAILED: WebhookEvent.NEEDS_ATTENTION},
        ),
        Kind(
            OperationKind.MOVE,
            Action.MOVE,
            keeps_path=True,
            makes=False,
            leaves=(TRUNK, ORIGINATION_URL),
            phone={
                _Status.QUEUED: _Phone.PROVISIONED,
                _Status.RUNNING: _Phone.PROVISIONED,
                _Status.ROLLING_BACK: _Phone.PROVISIONED,
                _Status.NEEDS_ATTENTION: _Phone.PROVISIONED,
                _Status.SUCCEEDED: _Phone.NOT_PROVISIONED,
                _Status.FAILED: _Phone.PROVISIONED,
            },
            target_phone={
                _Status.QUEUED: _Phone.PENDING,
                _Status.SUCCEEDED: _Phone.PROVISIONED,
                _Status.FAILED: _Phone.NOT_PROVISIONED,
            },
            webhooks={_Status.SUCCEEDED: WebhookEvent.DEPROVISIONED},
            target_webhooks={_Status.SUCCEEDED: WebhookEvent.PROVISIONED, _Status.FAILED: WebhookEvent.FAILED},
        ),
        Kind(
            OperationKind.REHOME,
            Action.REHOME,
            leaves=(TRUNK, ORIGINATION_URL),
            # Whatever becomes of it, the number rings: nobody is told of anything.
            phone=dict.fromkeys(OperationStatus, _Phone.PROVISIONED),
        ),
        Kind(
            OperationKind.UPDATE,
            Action.AGENT_CHANGE,
            keeps_path=True,
            makes=False,
            leaves=(TRUNK, ORIGINATION_URL),
            phone=dict.fromkeys(OperationStatus, _Phone.PROVISIONED),
        ),
        Kind(
            OperationKind.ADOPT,
            Action.ADOPT,
            makes=False,
            marks_only=True,
            phone={
                _Status.QUEUED: _Phone.PENDING,
                _Status.RUNNING: _Phone.PROVISIONING,
                _Status.ROLLING_BACK: _Phone.ROLLING_BACK,
                _Status.NEEDS_ATTENTION: _Phone.ROLLING_BACK,
                _Status.SUCCEEDED: _Phone.PROVISIONED,
                _Status.FAILED: _Phone.FAILED,
                _Status.CANCELLED: _Phone.NOT_PROVISIONED,
            },
            webhooks={
                _Status.SUCCEEDED: WebhookEvent.PROVISIONED,
                _Status.FAILED: WebhookEvent.FAILED,
                _Status.CANCELLED: WebhookEvent.DEPROVISIONED,
            },
        ),
    )
}


def direction_of(kind: OperationKind, status: OperationStatus) -> Direction:
    """Say which way an operation goes now: deprovisioning is the step table read upwards."""
    is_going_back = status in {OperationStatus.ROLLING_BACK, OperationStatus.NEEDS_ATTENTION}
    return Direction.UNDO if is_going_back else KINDS[kind].starts


def trunk_in_words(mode: TrunkMode, sid: str | None, members: int, capacity: int) -> str:
    """Return which Twilio trunk a number would be put on; `sid` is None for one that is still to be made."""
    if mode is TrunkMode.DEDICATED:
        return "It gets a new Twilio trunk of its own"
    if sid is None and not members:
        return f"It gets a new Twilio trunk, which up to {capacity:,} numbers share"
    which = sid or "that is being made"
    return f"It joins the shared Twilio trunk {which}, with {members:,} of {capacity:,} numbers on it"


UNKNOWN_ROOM = "It is not known how many numbers fit: Twilio did not respond in time."
"""Said where the application could not count the trunks of an account."""
