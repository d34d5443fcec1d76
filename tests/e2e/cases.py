"""One case of the failure matrix: a path, a step on it, and the trouble that it meets there."""

from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.statuses import PhoneStatus
from tests.e2e.invariants import Subject
from tests.e2e.rows import AgentRows


class Path(StrEnum):
    """Where the trouble is met: on the way down, on the way back after a failure, or when the number is taken off."""

    PROVISION = "provision"
    ROLLBACK = "rollback"
    DEPROVISION = "deprovision"
    CANCEL = "cancel"
    """On the way down, of a provisioning that a client cancels meanwhile."""


class Trouble(StrEnum):
    """What happens at the point."""

    REFUSED = "refused"
    PASSING = "transient then fine"
    LASTING = "transient for ever"
    LOST = "answer lost after the write"
    KILLED_BEFORE = "worker killed before the call"
    KILLED_AFTER = "worker killed after the call"
    KILLED_STORED = "worker killed after the store"
    STOOD_STILL = "the provider stood still, then all landed"


@dataclass(frozen=True)
class Point:
    """A provider call of a step, and what in the request tells whose it is."""

    step: str
    operation: str
    mark: str
    """"agent" (its id is in our tag), "number", "number_sid", or the agent's column with the resource's id."""
    name: str = ""
    """Where one step has two points."""


DOWN = (
    Point("twilio_number", "twilio.list_numbers", "number"),
    Point("twilio_trunk", "twilio.create_trunk", "agent"),
    Point("twilio_origination_url", "twilio.create_origination_url", "agent"),
    Point("livekit_inbound_trunk", "livekit.create_inbound_trunk", "agent"),
    Point("livekit_dispatch_rule", "livekit.create_dispatch_rule", "agent"),
    Point("twilio_number_attachment", "twilio.attach_number", "number_sid"),
    Point("verification", "livekit.list_inbound_trunks", "number"),
)

UP = (
    Point("twilio_number_attachment", "twilio.detach_number", "number_sid"),
    Point("twilio_number_attachment", "twilio.update_number", "number_sid", "restore"),
    Point("livekit_dispatch_rule", "livekit.delete_dispatch_rule", "livekit_dispatch_rule_id"),
    Point("livekit_inbound_trunk", "livekit.delete_trunk", "livekit_inbound_trunk_id"),
    Point("twilio_origination_url", "twilio.delete_origination_url", "twilio_origination_url_sid"),
    Point("twilio_trunk", "twilio.delete_trunk", "twilio_trunk_sid"),
)


@dataclass
class Case:
    """One case with its own agent, number and faults, so that all cases of a test run at the same time."""

    path: Path
    point: Point
    trouble: Trouble
    subject: Subject
    operation_id: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """How the case is called in a report."""
        return f"{self.path}, {self.point.step} {self.point.name}, {self.trouble}".replace(" ,", ",")

    @property
    def ends(self) -> PhoneStatus:
        """How it must end."""
        if self.path in {Path.DEPROVISION, Path.CANCEL}:
            return PhoneStatus.NOT_PROVISIONED
        fails = self.path is Path.ROLLBACK or self.trouble in {Trouble.REFUSED, Trouble.LASTING}
        return PhoneStatus.FAILED if fails else PhoneStatus.PROVISIONED

    @property
    def expected_error(self) -> str | None:
        """The code that the operation must carry at the end."""
        provider = self.point.operation.partition(".")[0]
        if self.path is Path.CANCEL:
            return "cancelled"
        if self.path is Path.DEPROVISION or self.ends is PhoneStatus.PROVISIONED:
            return None
        if self.path is Path.ROLLBACK:
            return "livekit_rejected"  # the failure that sent it back
        return "provider_unavailable" if self.trouble is Trouble.LASTING else f"{provider}_rejected"

    @property
    def stored(self) -> str:
        """The state of the step's row once its outcome is stored."""
        return "DONE" if self.path is Path.PROVISION else "UNDONE"

    def mark(self, rows: AgentRows) -> str:
        """Return the text by which the sandbox knows the point's request."""
        own = {
            "agent": self.subject.agent_id,
            "number": self.subject.number,
            "number_sid": str(self.subject.before["sid"]),
        }
        return own.get(self.point.mark) or str(getattr(rows.agent, self.point.mark))


ALL_POINTS = tuple((path, point) for path in Path for point in (DOWN if path in {Path.PROVISION, Path.CANCEL} else UP))
