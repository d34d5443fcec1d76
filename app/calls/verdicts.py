"""What the course of a test call says of the path: a verdict, the hop where it ended, and a sentence. Pure."""

from dataclasses import dataclass

from app.domain.calls import CallRoom, CallVerdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test call."""

    verdict: CallVerdict
    hop: str
    """Where it ended: a step of the path (`app.domain.operations`) or `agent`; empty where it was answered."""
    detail: str
    """One sentence or two for a person: the cause, and what to do."""
    sip_status: int | None = None
    """The last SIP status; None where nothing answered."""
    ring_s: float | None = None
    """Seconds from the INVITE to the first ringing."""
    answer_s: float | None = None
    """Seconds from the INVITE to the answer."""
    room: CallRoom | None = None
    """None where LiveKit's API showed none, or could not be asked."""
    call_id: str = ""
    """The SIP Call-ID: LiveKit's logs and its participant's attribute `sip.callIDFull` have it."""
