"""One case of the failure matrix: a path, whose trunk is on it, a provider call, and the failure that happens there."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.domain.operations import LAST, NUMBER_ATTACHMENT, ORIGINATION_URL, STEP_BY_NAME, TRUNK, PhoneStatus
from app.path.marks import POOL_DIGITS
from tests.e2e.invariants import Assignment
from tests.e2e.rows import AgentRows
from tests.e2e.updates import Standing


class Path(StrEnum):
    """Where the failure happens: while provisioning, during the rollback after a failure, while deprovisioning, ..."""

    PROVISION = "provision"
    ROLLBACK = "rollback"
    DEPROVISION = "deprovision"
    CANCEL = "cancel"
    """While provisioning; a client cancels the operation meanwhile."""
    UPDATE = "update"
    """While several options of an agent change, whose number rings."""
    UPDATE_ROLLBACK = "rollback of an update"


UPDATES = frozenset({Path.UPDATE, Path.UPDATE_ROLLBACK})


class Trunks(StrEnum):
    """Whose Twilio trunk is on the path."""

    OWN = "own trunk"
    STANDING = "shared trunk"
    MISSING = "shared trunk yet to be made"
    """By the case's own agent; another one has a place on it too, and comes when the failure has happened."""
    FOUND = "path made by hand"
    """It is adopted instead of provisioned, and kept when it is deprovisioned."""


class Failure(StrEnum):
    """What happens at the call."""

    REFUSED = "refused"
    TRANSIENT = "transient, then fine"
    PERMANENT = "transient for ever"
    RESPONSE_LOST = "response lost after the write"
    KILLED_BEFORE = "worker killed before the call"
    KILLED_AFTER = "worker killed after the call"
    KILLED_STORED = "worker killed after the store"
    PROVIDER_HUNG = "the provider hung, then applied everything"


@dataclass(frozen=True)
class CallPoint:
    """A provider call of a step, and what in the request identifies the case."""

    step: str
    operation: str
    mark: str
    """"agent" or "place" (an id in our tag), "number", "number_sid", the agent's column with its id, or a kind of
    object on a path that was made by hand."""
    name: str = ""
    """Tells two calls of one step apart."""


DO_POINTS = (
    CallPoint("twilio_number", "twilio.list_numbers", "number"),
    CallPoint("twilio_trunk", "twilio.create_trunk", "agent"),
    CallPoint("twilio_origination_url", "twilio.create_origination_url", "agent"),
    CallPoint("livekit_inbound_trunk", "livekit.create_inbound_trunk", "agent"),
    CallPoint("livekit_dispatch_rule", "livekit.create_dispatch_rule", "agent"),
    CallPoint("twilio_number_attachment", "twilio.attach_number", "number_sid"),
    CallPoint("verification", "livekit.list_inbound_trunks", "number"),
)

_ATTACH_POINT = next(point for point in DO_POINTS if point.step == NUMBER_ATTACHMENT)

UNDO_POINTS = (
    CallPoint("twilio_number_attachment", "twilio.detach_number", "number_sid"),
    CallPoint("twilio_number_attachment", "twilio.update_number", "number_sid", "restore"),
    CallPoint("livekit_dispatch_rule", "livekit.delete_dispatch_rule", "livekit_dispatch_rule_id"),
    CallPoint("livekit_inbound_trunk", "livekit.delete_trunk", "livekit_inbound_trunk_id"),
    CallPoint("twilio_origination_url", "twilio.delete_origination_url", "twilio_origination_url_sid"),
    CallPoint("twilio_trunk", "twilio.delete_trunk", "twilio_trunk_sid"),
)

UPDATE_POINTS = (
    CallPoint("twilio_trunk", "twilio.update_trunk", "twilio_trunk_sid"),
    CallPoint("livekit_inbound_trunk", "livekit.update_inbound_trunk", "livekit_inbound_trunk_id"),
    CallPoint("livekit_dispatch_rule", "livekit.update_dispatch_rule", "livekit_dispatch_rule_id"),
)
"""What changes a path in place, there and back."""

MOVE_POINT = CallPoint("twilio_number_attachment", "twilio.update_number", "number_sid")
"""What takes a number to another shared trunk, and back."""

MARK_POINTS = (
    CallPoint("twilio_trunk", "twilio.update_trunk", "trunks"),
    CallPoint("twilio_origination_url", "twilio.update_origination_url", "originationUrls"),
    CallPoint("livekit_inbound_trunk", "livekit.update_inbound_trunk", "livekitTrunks"),
    CallPoint("livekit_dispatch_rule", "livekit.update_dispatch_rule", "livekitRules"),
)
"""What adopts a path and what gives it back, by the kinds of the objects that are found."""

LOOK_POINT = CallPoint(LAST, "twilio.fetch_number", "number_sid")
"""The last step's first call; the request for an adoption makes the other ones too."""

READ_POINT = DO_POINTS[-1]
"""A call of the last step that nothing else makes."""


@dataclass
class Case:
    """One case with its own agent, number and faults, so that all cases of a test run at the same time."""

    path: Path
    trunks: Trunks
    point: CallPoint
    failure: Failure
    assignment: Assignment
    ids: Mapping[str, str] = field(default_factory=dict)
    """The objects of a path that was made by hand, by kind."""
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Those as they were then."""
    standing: Standing | None = None
    """The path before an update."""
    trunk_id: uuid.UUID | None = None
    """The shared trunk that is yet to be made."""
    other: Assignment | None = None
    """Who has a place on it too."""
    other_id: str = ""
    """The operation of the other."""
    operation_id: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name of the case in a report."""
        return f"{self.path}, {self.trunks}, {self.point.step} {self.point.name}, {self.failure}".replace(" ,", ",")

    @property
    def is_update(self) -> bool:
        """Whether an agent is changed whose number rings, and rings on."""
        return self.path in UPDATES

    @property
    def fails(self) -> bool:
        """Whether the operation must fail, and go back."""
        if self.path in {Path.DEPROVISION, Path.CANCEL}:
            return False
        return self.path in {Path.ROLLBACK, Path.UPDATE_ROLLBACK} or self.failure in {
            Failure.REFUSED,
            Failure.PERMANENT,
        }

    @property
    def expected_status(self) -> PhoneStatus:
        """The agent's status that the case must end in."""
        if self.path in {Path.DEPROVISION, Path.CANCEL}:
            return PhoneStatus.NOT_PROVISIONED
        return PhoneStatus.FAILED if self.fails and not self.is_update else PhoneStatus.PROVISIONED

    @property
    def expected_error(self) -> str | None:
        """The code that the operation must carry at the end."""
        provider = self.point.operation.partition(".")[0]
        if self.path is Path.CANCEL:
            return "cancelled"
        if not self.fails:
            return None
        if self.path in {Path.ROLLBACK, Path.UPDATE_ROLLBACK}:
            return "livekit_rejected"  # the failure that started the rollback
        return "provider_unavailable" if self.failure is Failure.PERMANENT else f"{provider}_rejected"

    @property
    def stored(self) -> str:
        """The state of the step's row once its outcome is stored."""
        return "DONE" if self.path in {Path.PROVISION, Path.UPDATE} else "UNDONE"

    @property
    def gate(self) -> CallPoint:
        """The call at which a rollback case waits, so that the ids of what is to be undone are known."""
        if self.path is Path.UPDATE_ROLLBACK:
            return READ_POINT
        return LOOK_POINT if self.trunks is Trunks.FOUND else _ATTACH_POINT

    def mark(self, rows: AgentRows) -> str:
        """Return the text by which the sandbox recognises the request."""
        own = {
            "agent": self.assignment.agent_id,
            "number": self.assignment.number,
            "number_sid": str(self.assignment.before["sid"]),
        }
        if self.point.mark == "place" and self.trunk_id:
            return self.trunk_id.hex[:POOL_DIGITS]
        return own.get(self.point.mark) or self.ids.get(self.point.mark) or str(getattr(rows.agent, self.point.mark))


_POINTS_ON = {
    Path.PROVISION: DO_POINTS,
    Path.ROLLBACK: UNDO_POINTS,
    Path.DEPROVISION: UNDO_POINTS,
    Path.CANCEL: DO_POINTS,
}


ALL_POINTS = bool(os.environ.get("MATRIX_APART"))
"""Whether shared trunks get cases for LiveKit's calls too, which know nothing of whose trunk it is."""


def points_on(path: Path, trunks: Trunks) -> list[CallPoint]:
    """Return the calls on a path: nobody makes a trunk that stands, and no agent deletes one that is shared."""
    if path in UPDATES:
        return _points_of_update(path, trunks)
    if trunks is Trunks.FOUND:
        return [*MARK_POINTS, *([LOOK_POINT] if _POINTS_ON[path] is DO_POINTS else [])]
    if trunks is Trunks.OWN:
        return list(_POINTS_ON[path])
    makes = [point for point in _POINTS_ON[path] if point.step in {TRUNK, ORIGINATION_URL}]
    if trunks is Trunks.MISSING:
        return [replace(point, mark="place") for point in makes if point.mark == "agent"]
    others = [point for point in _POINTS_ON[path] if point not in makes]
    return [point for point in others if ALL_POINTS or STEP_BY_NAME[point.step].provider != "livekit"]


def _points_of_update(path: Path, trunks: Trunks) -> list[CallPoint]:
    """Return the calls of an update: on a trunk of the agent's own in place, from a shared one to another."""
    if trunks not in {Trunks.OWN, Trunks.STANDING}:
        return []
    trunk, *others = UPDATE_POINTS
    moves = [trunk, *others] if trunks is Trunks.OWN else [MOVE_POINT, *(others if ALL_POINTS else [])]
    return [*moves, *([READ_POINT] if path is Path.UPDATE else [])]
