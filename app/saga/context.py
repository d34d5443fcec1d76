"""What a step knows while it runs: plain values read in one transaction, the two providers, and a clock."""

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.errors import ErrorCode
from app.domain.marks import mark_in, metadata_of, tag_of
from app.providers.base import Carrier, Label, NumberRouting, VoicePlatform
from app.providers.errors import RejectedError, TransientError

READ_BACK_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each look at a change just made: neither provider promises that a read shows the write before it."""

LOOKS_FOR_ABSENCE = (0.0, 0.05, 0.1)
"""Before each look after which something counts as not there, the pause as a part of a provider call's longest time.

Three, since one 404 or empty list may be late or untrue, and two in a row were seen. Of a call of 10 s they are 0.5 and
1 s: a burst that lands when a provider goes on is over by then, and a lease of 30 s has room for a dozen such looks.
"""

NUMBER = "twilio_number"
TRUNK = "twilio_trunk"
ORIGINATION_URL = "twilio_origination_url"
INBOUND_TRUNK = "livekit_inbound_trunk"
DISPATCH_RULE = "livekit_dispatch_rule"
NUMBER_ATTACHMENT = "twilio_number_attachment"
VERIFICATION = "verification"


@dataclass(frozen=True)
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
    def stall(self) -> timedelta:
        """How late an answer may come before its provider counts as one that stood still, with other requests waiting.

        Half of a call: less would be met by long lists, more would miss a stand that ended just before the answer.
        """
        return 0.5 * self.provider_timeout


@dataclass(frozen=True)
class Toolbox:
    """What every step uses and no row holds."""

    carrier: Carrier
    platform: VoicePlatform
    instance: str
    sip_uri: str
    timing: Timing
    allowed_addresses: tuple[str, ...] = ()
    """What our LiveKit trunks admit; empty is everybody."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class StepContext:
    """One run of one step."""

    tools: Toolbox
    agent_id: uuid.UUID
    operation_id: uuid.UUID
    phone_number: str
    takeover: bool
    agent_name: str
    job_metadata: str
    ids: Mapping[str, str]
    """Step name -> resource id, for every step that has one."""
    parents: Mapping[str, str]
    """Resource id -> the resource that it lives under."""
    ledger: Mapping[str, tuple[str, ...]]
    """Step name -> every id of this agent's that the ledger knows and nobody has deleted."""
    previous_routing: NumberRouting | None
    is_uncertain: bool
    """Whether any step on this path was tried more than once, so that twins are possible."""
    started: float = field(default=0.0)
    """The monotonic clock at the claim, seconds."""
    absent: set[str] = field(default_factory=set)
    """Ids that this run's looks have not shown: a 404 on one of them is the second word, and needs no third."""
    removed: list[str] = field(default_factory=list)
    """Ids that this run has undone; kept even where it goes no further, so that the next try does not begin anew."""
    holder_id: uuid.UUID | None = None
    """The agent whose path it is, where that is another than `agent_id`: a move works under the new one's mark."""

    @property
    def label(self) -> Label:
        """How everything that this agent owns is marked at the providers."""
        return Label(tag=tag_of(self.tools.instance, self.agent_id), metadata=self.metadata)

    @property
    def metadata(self) -> str:
        """The JSON that LiveKit keeps beside the name of a trunk."""
        return metadata_of(self.tools.instance, self.agent_id, self.operation_id, datetime.now(UTC))

    def owns(self, *texts: str) -> bool:
        """Say whether a LiveKit resource is this agent's by a trunk's metadata, or a rule's name and metadata."""
        mark = mark_in(*texts)
        return mark is not None and (mark.instance, mark.agent_id) == (self.tools.instance, str(self.agent_id))

    @property
    def last_call_at(self) -> float:
        """The monotonic clock after which no call may start: it could outlive the lease."""
        return self.started + (self.tools.timing.lease - self.tools.timing.provider_timeout).total_seconds()

    def check_time(self) -> None:
        """Stop before another call that could outlive the lease: what is not sent cannot land late."""
        if self.tools.clock() > self.last_call_at:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The providers answer too slowly to finish in time.")

    def find_any(self, look: Callable[[], list[str]], known: Collection[str] = ()) -> list[str]:
        """Look until something else than `known` is there, three times at most; return all that was seen.

        Before anything is made, forgotten or called done: a list may be late, and an empty one untrue. One that has all
        that is known is neither.
        """
        seen: dict[str, None] = {}
        for part in LOOKS_FOR_ABSENCE:
            if part:
                self.tools.sleep(part * self.tools.timing.provider_timeout.total_seconds())
            self.check_time()
            seen |= dict.fromkeys(look())
            if seen.keys() - set(known) or (known and seen.keys() >= set(known)):
                break
        return list(seen)

    def confirm_gone(self, look: Callable[[], list[str]], resource_id: str) -> None:
        """Return when `look` does not show what the provider has just called unknown; `TransientError` if it does."""
        if resource_id not in self.absent and resource_id in self.find_any(
            lambda: [one for one in look() if one == resource_id]
        ):
            detail = f"The provider called {resource_id} unknown, and lists it."
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail)

    def until(self, is_true: Callable[[], bool]) -> bool:
        """Look again, with growing pauses, until `is_true()`; say whether it became so."""
        for pause in READ_BACK_PAUSES_S:
            if pause:
                self.tools.sleep(pause)
                self.check_time()
            if is_true():
                return True
        return False


@dataclass(frozen=True)
class Result:
    """What a step made or found: its id, and for the number what it did before us."""

    resource_id: str | None
    previous_routing: NumberRouting | None = None
    """Where the number was routed before us; from the attachment only where it was taken from somebody just then."""
    removed: tuple[str, ...] = ()
    """Ids of twins that were deleted on the way."""


class TakenMeanwhileError(RejectedError):
    """Somebody has routed the number elsewhere since our last look: `routing` is where."""

    def __init__(self, code: ErrorCode, detail: str, routing: NumberRouting) -> None:
        super().__init__(code, detail)
        self.routing = routing


def routing_of(values: Mapping[str, Any] | None) -> NumberRouting | None:
    """Read the snapshot that `agents.previous_routing` keeps."""
    return None if values is None else NumberRouting(**values)
