"""New agents and numbers."""

import itertools
from typing import Any

from tests.e2e.invariants import Subject
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, Timings

SHARED = Timings(provider_timeout=3)
"""Long enough that a busy machine does not make a provider call late, and a test count one more."""

_numbers = itertools.count(1000)


def next_number() -> str:
    """Return a number that no test of this process has had."""
    return f"+1514555{next(_numbers):04d}"


def new_subject(stack: Stack, sandbox: Sandbox, **routing: Any) -> Subject:
    """Make an agent and a number."""
    number = next_number()
    name = f"agent-{number[-4:]}"
    routing = routing or {"voiceUrl": f"https://example.com/{number[-4:]}"}
    return Subject(stack.api.agent(name), number, name, sandbox.number(number, **routing))
