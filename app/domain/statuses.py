"""Every status that a row may hold, the moves between them that are legal, and how large a bulk may be."""

from collections.abc import Mapping
from enum import StrEnum


class PhoneStatus(StrEnum):
    """`agents.phone_provisioning_status`: what a client polls."""

    NOT_PROVISIONED = "NOT_PROVISIONED"
    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    PROVISIONED = "PROVISIONED"
    ROLLING_BACK = "ROLLING_BACK"
    FAILED = "FAILED"
    DEPROVISIONING = "DEPROVISIONING"


class OperationKind(StrEnum):
    """What an operation is for."""

    PROVISION = "provision"
    DEPROVISION = "deprovision"
    REPAIR = "repair"
    """Makes right what is missing or changed on a path that stands; a failure leaves the rest of the path alone."""
    MOVE = "move"
    """Hands a number to another agent in place; undo hands it back."""


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
        """Say whether nothing happens any more to an operation in this status."""
        return self in FINAL_STATUSES


class StepState(StrEnum):
    """`operation_steps.state`: one resource of one operation."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"


class Direction(StrEnum):
    """Which way an operation is going: down the step table, or up."""

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
            # Only a repair ends like this: it has nothing to take back.
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
    # The last two: a number that is being moved here arrives, or does not.
    _Phone.PENDING: frozenset({_Phone.PROVISIONING, _Phone.ROLLING_BACK, _Phone.PROVISIONED, _Phone.NOT_PROVISIONED}),
    _Phone.PROVISIONING: frozenset({_Phone.PROVISIONED, _Phone.ROLLING_BACK}),
    # The second: its number was moved to another agent.
    _Phone.PROVISIONED: frozenset({_Phone.DEPROVISIONING, _Phone.NOT_PROVISIONED}),
    _Phone.ROLLING_BACK: frozenset({_Phone.FAILED, _Phone.NOT_PROVISIONED}),
    _Phone.FAILED: frozenset({_Phone.PENDING, _Phone.NOT_PROVISIONED}),
    _Phone.DEPROVISIONING: frozenset({_Phone.NOT_PROVISIONED}),
}


class IllegalMoveError(Exception):
    """Code asked for a change of status that the tables above do not allow: a defect, never a user's mistake."""


def check_move(old: OperationStatus | PhoneStatus, new: OperationStatus | PhoneStatus) -> None:
    """Raise `IllegalMoveError` unless the table allows `old` to become `new`; staying is always legal."""
    moves: Mapping[OperationStatus | PhoneStatus, frozenset[OperationStatus | PhoneStatus]] = (
        OPERATION_MOVES if isinstance(old, OperationStatus) else PHONE_MOVES  # type: ignore[assignment]  # one shape, two enums
    )
    if new != old and new not in moves[old]:
        raise IllegalMoveError(f"{type(old).__name__} {old} cannot become {new}")


MAX_ITEMS = 10_000
"""Items of one bulk: some 2 MiB of JSON, read, checked and stored within seconds."""


class BulkStatus(StrEnum):
    """`bulks.status`: where the whole stands."""

    QUEUED = "queued"
    """No item has begun."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """Nothing more begins; what had begun runs to its end."""
    SUCCEEDED = "succeeded"
    """Every item succeeded."""
    FAILED = "failed"
    """Over, and at least one item did not succeed."""
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Say whether nothing happens any more, unless the bulk is resumed."""
        return self not in OPEN_BULKS


OPEN_BULKS = frozenset({BulkStatus.QUEUED, BulkStatus.RUNNING, BulkStatus.CANCELLING})


class ItemStatus(StrEnum):
    """`bulk_items.status`: where one number stands; the last three are those of its operation."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
