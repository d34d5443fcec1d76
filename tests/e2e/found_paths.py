"""Paths that somebody built by hand: what the matrix adopts, and gives back."""

import json
from collections.abc import Mapping
from typing import Any

from app.domain.operations import PhoneStatus
from app.numbers.agents import AgentService
from tests.e2e.assignments import next_number
from tests.e2e.invariants import ID_OF, Assignment, State
from tests.support.handmade import build_by_hand
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack

MARKED: Mapping[str, frozenset[str]] = {
    "trunks": frozenset({"friendly_name", "date_updated"}),
    "originationUrls": frozenset({"friendly_name", "date_updated"}),
    "livekitTrunks": frozenset({"name", "metadata"}),
    "livekitRules": frozenset({"name"}),
}
"""Kind of object -> the fields that our mark changes."""

UNCOUNTED = frozenset({"date_updated"})
"""Fields that every write changes."""


def add_found_path(stack: Stack, sandbox: Sandbox) -> tuple[Assignment, dict[str, str]]:
    """Build a path by hand, and an agent that may adopt it; return both, the path as ids by kind."""
    number = next_number()
    name = f"agent-{number[-4:]}"
    agent = AgentService(stack.sessions).create(name, None, {})
    ids = build_by_hand(sandbox, number, name)
    record = next(item for item in sandbox.state()["numbers"] if item["phone_number"] == number)
    return Assignment(str(agent.id), number, name, record), ids


def objects_of(state: State, ids: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the path's objects as they are at the providers, by kind."""
    return {
        kind: next((item for item in state[kind] if item[ID_OF[kind]] == one), {"is": "gone"})
        for kind, one in ids.items()
    }


def check_found_path(
    state: State, before: Mapping[str, Mapping[str, Any]], ids: Mapping[str, str], status: PhoneStatus
) -> None:
    """Raise unless each object is as it was found; where it is an agent's, but for our mark."""
    now = objects_of(state, ids)
    for kind, found in before.items():
        names = {name for name in found.keys() | now[kind].keys() if found.get(name) != now[kind].get(name)}
        may_differ = MARKED[kind] if status is PhoneStatus.PROVISIONED else UNCOUNTED
        assert names <= may_differ, f"{kind}: {json.dumps({name: now[kind].get(name) for name in names})}"
        assert status is not PhoneStatus.PROVISIONED or names, f"{kind} has no mark"
