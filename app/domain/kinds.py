"""The kinds of operation: everything in which provisioning, deprovisioning, repair and move differ, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.events import Action, WebhookEvent
from app.domain.statuses import Direction, OperationKind, OperationStatus, PhoneStatus
from app.domain.steps import STEPS, Step

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
            phone={_Status.QUEUED: _Phone.PROVISIONED, _Status.RUNNING: _Phone.PROVISIONED},
            # Nothing tries again by itself: the path stays as it was found.
            webhooks={_Status.FAILED: WebhookEvent.NEEDS_ATTENTION},
        ),
        Kind(
            OperationKind.MOVE,
            Action.MOVE,
            keeps_path=True,
            makes=False,
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
    )
}


def direction_of(kind: OperationKind, status: OperationStatus) -> Direction:
    """Say which way an operation goes now: deprovisioning is the step table read upwards."""
    is_going_back = status in {OperationStatus.ROLLING_BACK, OperationStatus.NEEDS_ATTENTION}
    return Direction.UNDO if is_going_back else KINDS[kind].starts
