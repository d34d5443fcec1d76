"""Test calls on an agent's page: the verdict in words, and drawn on the picture of the path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.console.path_diagram import HOP_STEPS, Hop
from app.console.presentation import Badge, Tone
from app.db.models import TestCall
from app.domain.calls import AGENT_HOP, CallVerdict
from app.domain.operations import NUMBER_ATTACHMENT, TRUNK

SHOWN = 5
"""Calls that the page lists."""

_VERDICTS: Mapping[CallVerdict, Badge] = {
    CallVerdict.ANSWERED: Badge("Answered", Tone.GOOD),
    CallVerdict.NO_AGENT: Badge("No agent answered", Tone.BAD),
    CallVerdict.NO_ROUTE: Badge("No route", Tone.BAD),
    CallVerdict.BLOCKED: Badge("Refused to us", Tone.WARN),
    CallVerdict.FAILED: Badge("Failed", Tone.BAD),
}
_UNDER_WAY = Badge("Calling", Tone.BUSY)
_PASSED = Badge("passed", Tone.GOOD)


@dataclass(frozen=True, slots=True)
class CallLine:
    """One call in the list."""

    verdict: Badge
    detail: str
    facts: str
    at: datetime
    is_monitor: bool
    by: str | None


def call_lines(calls: Sequence[TestCall]) -> list[CallLine]:
    """Return the calls in words, as they come."""
    return [
        CallLine(
            _VERDICTS[call.verdict] if call.verdict else _UNDER_WAY,
            call.detail or "",
            _facts(call),
            call.finished_at or call.created_at,
            call.is_monitor,
            call.requested_by,
        )
        for call in calls
    ]


def _facts(call: TestCall) -> str:
    room = call.room or {}
    facts = (
        f"SIP {call.sip_status}" if call.sip_status else "",
        f"rang after {call.ring_s:.1f} s" if call.ring_s is not None else "",
        f"answered after {call.answer_s:.1f} s" if call.answer_s is not None else "",
        f"room {room['name']}" if room.get("name") else "",
    )
    return ", ".join(filter(None, facts))


def draw_call(path: Sequence[Hop], calls: Sequence[TestCall]) -> list[Hop]:
    """Return the picture with how far the newest call came; as it is where that is not over."""
    newest = calls[0] if calls else None
    if newest is None or newest.verdict is None:
        return list(path)
    steps = (*HOP_STEPS, AGENT_HOP)
    ended_at = TRUNK if newest.hop == NUMBER_ATTACHMENT else newest.hop
    last = steps.index(ended_at) if ended_at in steps else len(steps)
    verdict = _VERDICTS[newest.verdict]
    return [
        replace(hop, call=_PASSED if place < last else verdict if place == last else None)
        for place, hop in enumerate(path)
    ]


def is_calling(calls: Sequence[TestCall]) -> bool:
    """Tell whether a call is under way, so that the page refreshes itself."""
    return any(call.verdict is None for call in calls)
