"""New agents and numbers."""

import itertools
from typing import Any

from tests.e2e.invariants import Assignment
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, Timings

SHARED_TIMINGS = Timings(provider_timeout=3)
"""Long enough that no provider call times out on a busy machine, which would add one to what a test counts."""

_numbers = itertools.count(1000)


def next_number() -> str:
    """Return a number that no test of this process has used."""
    return f"+1514555{next(_numbers):04d}"


def new_assignment(stack: Stack, sandbox: Sandbox, **routing: Any) -> Assignment:
    """Create an agent, and a number for it in the account."""
    number = next_number()
    name = f"agent-{number[-4:]}"
    routing = routing or {"voiceUrl": f"https://example.com/{number[-4:]}"}
    return Assignment(stack.api.agent(name), number, name, sandbox.number(number, **routing))
