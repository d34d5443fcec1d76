"""Test calls: what one says, where it ends, and what a number's calls have come to."""

from dataclasses import dataclass
from enum import StrEnum


class CallStatus(StrEnum):
    """`test_calls.status`."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"


class CallVerdict(StrEnum):
    """`test_calls.verdict`: what became of the call."""

    ANSWERED = "ANSWERED"
    """An agent took it."""
    NO_AGENT = "NO_AGENT"
    """Trunk and rule took it, and nobody answered in the room."""
    NO_ROUTE = "NO_ROUTE"
    """LiveKit has no trunk or no rule for it, or they contradict each other."""
    BLOCKED = "BLOCKED"
    """It was refused for who calls, or from where: a caller of Twilio's may get through."""
    FAILED = "FAILED"
    """It came to nothing otherwise: no connection, no common codec, a server's error."""


class Reachability(StrEnum):
    """`agents.reachability`: what the last test calls of a number say."""

    UNKNOWN = "UNKNOWN"
    REACHABLE = "REACHABLE"
    UNREACHABLE = "UNREACHABLE"


AGENT_HOP = "agent"
"""The hop after the dispatch rule; all others are named as the steps of the path (`app.domain.operations`)."""


@dataclass(frozen=True, slots=True)
class CallRoom:
    """The room that a call came into, as LiveKit's API shows it."""

    name: str
    identity: str
    """The caller's participant."""
    trunk_id: str
    """Empty where the call came through no trunk: a rule for every trunk has taken it."""
    rule_id: str
    agents: tuple[str, ...] = ()
    """The names of the agents that LiveKit was asked for in this room; "" for any worker without a name."""
    joined: tuple[str, ...] = ()
    """The identities of the agents that are in the room."""
