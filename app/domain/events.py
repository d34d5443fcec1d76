"""The closed list of events in an operation's trail; docs/events.md says what each one tells."""

from enum import StrEnum


class EventName(StrEnum):
    """`events.event`: one thing that happened to an operation or one of its steps."""

    OPERATION_QUEUED = "operation_queued"
    OPERATION_STARTED = "operation_started"
    OPERATION_CANCEL_REQUESTED = "operation_cancel_requested"
    OPERATION_TURNED = "operation_turned"
    OPERATION_NEEDS_ATTENTION = "operation_needs_attention"
    OPERATION_RETRIED = "operation_retried"
    OPERATION_SUCCEEDED = "operation_succeeded"
    OPERATION_FAILED = "operation_failed"
    OPERATION_CANCELLED = "operation_cancelled"
    STEP_STARTED = "step_started"
    STEP_DONE = "step_done"
    STEP_RESTS = "step_rests"
    STEP_FAILED = "step_failed"
    STEP_UNDOING = "step_undoing"
    STEP_UNDONE = "step_undone"
    RESOURCE_SEEN_LATE = "resource_seen_late"
    TWINS_REMOVED = "twins_removed"
