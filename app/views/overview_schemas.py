"""The response body of the overview."""

from typing import Any

from marshmallow import fields

from app.domain.errors import OPERATION_ERROR_CODES
from app.domain.findings import Severity
from app.domain.operations import OPEN_STATUSES, OperationStatus, PhoneStatus
from app.views.agent_schemas import OPERATION_ID, moment, text
from app.views.bulk_schemas import BulkSummary, RoomOut
from app.views.fields import Schema
from app.views.overview import PathState


def _count(description: str, example: int, **more: Any) -> fields.Integer:
    return fields.Integer(metadata={"description": description, "example": example}, **more)


def _counts(names: Any, name: str) -> type[Schema]:
    """Return a schema with a count for each member."""
    found: dict[str, fields.Field[Any]] = {one.value: fields.Integer(metadata={"example": 0}) for one in names}
    return Schema.from_dict(found, name=name)  # type: ignore[return-value]  # a class of ours, by marshmallow's types another


StatusCounts = _counts(PhoneStatus, "StatusCounts")
PathCounts = _counts(PathState, "PathCounts")
OpenCounts = _counts([one for one in OperationStatus if one in OPEN_STATUSES], "OpenCounts")
SeverityCounts = _counts(Severity, "SeverityCounts")


class AgentFiguresOut(Schema):
    """Agents that exist."""

    by_status = fields.Nested(StatusCounts, data_key="byStatus")
    by_path = fields.Nested(
        PathCounts,
        data_key="byPath",
        metadata={"description": "Those whose status is PROVISIONED, by what the last check of their path has found."},
    )
    unreachable = _count("Those of them whose last test calls did not get through.", 1)


class QueueOut(Schema):
    """Operations that no worker has started."""

    depth = _count("How many.", 12)
    oldest_at = moment("When the oldest was asked for.", data_key="oldestAt", allow_none=True)
    oldest_s = _count("Seconds that it has waited.", 4, data_key="oldestS")


class HourOut(Schema):
    """Operations that ended in one hour."""

    at = moment("When the hour began.")
    succeeded = fields.Integer(metadata={"example": 310})
    failed = fields.Integer(metadata={"example": 4})
    cancelled = fields.Integer(metadata={"example": 0})


class FailureFigureOut(Schema):
    """Operations that failed for one reason."""

    code = fields.String(
        metadata={"enum": [code.value for code in OPERATION_ERROR_CODES], "example": "number_not_in_account"}
    )
    count = fields.Integer(metadata={"example": 4})


class OperationFiguresOut(Schema):
    """Operations: those that are open, and those of the last 24 hours."""

    open = fields.Nested(OpenCounts)
    queue = fields.Nested(QueueOut)
    hours = fields.List(
        fields.Nested(HourOut),
        metadata={
            "description": "24 hours in order of time, the present one last; those that took a day are left out."
        },
    )
    failures = fields.List(
        fields.Nested(FailureFigureOut), metadata={"description": "Those of these hours that failed, most first."}
    )


class BulkFiguresOut(Schema):
    """Bulks that are open."""

    count = _count("How many.", 1)
    waiting = _count("Their items that have not started.", 6200)
    oldest = fields.List(fields.Nested(BulkSummary), metadata={"description": "Up to ten of them, the oldest first."})


class OverviewRoomOut(RoomOut):
    """Room at the Twilio account that the workspace's agents use."""

    numbers_fit = _count("Numbers that fit there and on trunks that may still be made.", 31786, data_key="numbersFit")


class AuditFiguresOut(Schema):
    """What the last audit has found and not repaired."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    finished_at = moment("When it ended.", data_key="finishedAt")
    agents_checked = _count("Agents that it compared.", 280, data_key="agentsChecked")
    by_severity = fields.Nested(SeverityCounts, data_key="bySeverity")


class RateOut(Schema):
    """What a provider takes now."""

    provider = text("twilio or livekit: of the account in the settings.", "twilio")
    allowed_per_s = fields.Float(
        data_key="allowedPerS",
        allow_none=True,
        metadata={"description": "Requests per second at most; null: no limit is in force.", "example": 80.0},
    )
    sent_per_s = fields.Float(
        data_key="sentPerS", metadata={"description": "Requests of the last second.", "example": 12.0}
    )
    in_flight = _count("Requests under way, counted only where their number is limited.", 0, data_key="inFlight")


class OverviewOut(Schema):
    """Figures of what the key sees, at one moment."""

    at = moment("When they were counted.")
    agents = fields.Nested(AgentFiguresOut)
    operations = fields.Nested(OperationFiguresOut)
    bulks = fields.Nested(BulkFiguresOut)
    headroom = fields.Nested(
        OverviewRoomOut, allow_none=True, metadata={"description": "Null if Twilio did not respond in time."}
    )
    audit = fields.Nested(
        AuditFiguresOut, allow_none=True, metadata={"description": "Null before the first audit has ended."}
    )
    rates = fields.List(
        fields.Nested(RateOut), metadata={"description": "For operators; empty for others, and while Redis is away."}
    )
