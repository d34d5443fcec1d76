"""Every status of a row, the legal transitions between them, and the size limit of a bulk."""

from collections.abc import Mapping
from enum import StrEnum


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
