"""Updates of agents whose path stands: what the matrix asks for, and what must be there when it has ended."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.db.models import Agent
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus, StepState, TrunkMode
from tests.e2e.assignments import new_assignment
from tests.e2e.found_paths import UNCOUNTED, objects_of
from tests.e2e.invariants import Assignment, State, check_call, check_path, known_ids
from tests.e2e.rows import AgentRows, rows_of, wait_until_finished
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import ProviderConsole
from tests.support.stack import Stack

OPTIONS: Mapping[str, Any] = {
    "transfer": "sip-only",
    "call": {"ringingS": 20, "maxDurationS": 600},
    "dispatch": {"roomPrefix": "vip"},
    "participant": {"hidePhoneNumber": False},
    "agents": [{"name": "recorder", "metadata": {"format": "wav"}}],
}
"""Of both providers; the transfer takes a number from its shared trunk to another one."""

METADATA = {"shift": "night"}

HIDDEN = {"hide_phone_number": True, "attributes": {"team": "support"}, "krisp_enabled": True}
"""What an operator has set on the rule by hand: the first is changed by the update, the others are nobody's."""


@dataclass(frozen=True)
class Standing:
    """A path as it stands before an update: its rows, and its objects by kind."""

    rows: AgentRows
    objects: Mapping[str, Mapping[str, Any]]


def new_name(assignment: Assignment) -> str:
    """Return the name of the LiveKit agent that the update asks for; an operator's own agent has it already."""
    return f"heir-{assignment.name}"


def patch_of(assignment: Assignment) -> dict[str, Any]:
    """Return the update's body."""
    return {"livekitAgentName": new_name(assignment), "metadata": METADATA, "options": OPTIONS}


def make_trunk_of_the_options(stack: Stack, sandbox: Sandbox) -> None:
    """Have the shared trunk made that numbers with these options go to, by another agent's number."""
    first = new_assignment(stack, sandbox, TrunkMode.SHARED)
    status, body = stack.api.call("PATCH", f"/api/agents/{first.agent_id}", {"options": OPTIONS})
    assert status == 200, body
    wait_until_finished(stack, [stack.api.provision(first.agent_id, first.number)])


def found_standing(stack: Stack, sandbox: Sandbox, assignment: Assignment) -> Standing:
    """Set something by hand on the rule of a provisioned path, and return all of it as it stands then."""
    rows = rows_of(stack.sessions, assignment.agent_id)
    rule = _objects(sandbox.state(), rows)["livekitRules"]
    room = rule["room_config"]
    theirs = {"agent_name": new_name(assignment), "metadata": "all of it"}
    changed = {**rule, **HIDDEN, "room_config": {**room, "agents": [*room["agents"], theirs], "empty_timeout": 77}}
    ProviderConsole(sandbox).livekit(
        "UpdateSIPDispatchRule", sip_dispatch_rule_id=rule["sip_dispatch_rule_id"], replace=changed
    )
    return Standing(rows, _objects(sandbox.state(), rows))


def check_update(
    rows: AgentRows, state: State, sandbox: Sandbox, assignment: Assignment, before: Standing, *, is_done: bool
) -> None:
    """Raise unless an update has made everything as it was asked for, or left everything as it was, field by field."""
    _check_operation(rows, is_done=is_done)
    check_path(rows, state, assignment)
    check_call(sandbox, replace(assignment, name=new_name(assignment)) if is_done else assignment)
    now = _objects(state, rows)
    if not is_done:
        assert _agent_fields(rows.agent) == _agent_fields(before.rows.agent)
        assert known_ids(rows) == known_ids(before.rows)
        expected = {kind: dict(found) for kind, found in before.objects.items()}
    else:
        agent = rows.agent
        assert (agent.livekit_agent_name, agent.agent_metadata) == (new_name(assignment), METADATA)
        assert (agent.options, agent.version) == (OPTIONS, before.rows.agent.version + 1)
        expected = _as_asked_for(before, now, assignment)
    for kind, found in expected.items():
        names = (found.keys() | now[kind].keys()) - UNCOUNTED
        differing = {name: (found.get(name), now[kind].get(name)) for name in names}
        differing = {name: pair for name, pair in differing.items() if pair[0] != pair[1]}
        assert not differing, f"{kind}: expected and found: {differing}"


def _check_operation(rows: AgentRows, *, is_done: bool) -> None:
    operation = rows.operation
    end = OperationStatus.SUCCEEDED if is_done else OperationStatus.FAILED
    told = f"{operation.error_code}: {operation.error_detail}; { {row.name: row.state.value for row in rows.steps} }"
    assert (operation.kind, operation.status) == (OperationKind.UPDATE, end), told
    assert rows.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert all(each.status.is_final for each in rows.operations)
    assert (operation.wake_at, operation.former_options) == (None, None)
    assert all(row.lease_token is None for row in rows.steps), "a lease is still held"
    assert {row.state for row in rows.steps} == {StepState.DONE if is_done else StepState.UNDONE}, told


def _as_asked_for(
    before: Standing, now: Mapping[str, dict[str, Any]], assignment: Assignment
) -> dict[str, dict[str, Any]]:
    """Return the path's objects with what the update changes in them, and nothing else."""
    found = {kind: dict(one) for kind, one in before.objects.items()}
    if before.rows.agent.trunk_id is None:
        found["trunks"]["transfer_mode"] = OPTIONS["transfer"]
    else:
        # Another trunk, which numbers share: all of it but the number's own is other numbers' too.
        assert now["trunks"]["transfer_mode"] == OPTIONS["transfer"]
        assert now["trunks"]["sid"] != found["trunks"]["sid"]
        found["trunks"], found["originationUrls"] = now["trunks"], now["originationUrls"]
        found["numbers"]["trunk_sid"] = now["trunks"]["sid"]
    found["livekitTrunks"] |= {"ringing_timeout": "20s", "max_call_duration": "600s"}
    rule = found["livekitRules"]
    usual = rule["room_config"]["agents"][0]
    agents = [
        {**usual, "agent_name": new_name(assignment), "metadata": '{"shift": "night"}'},
        {**usual, "agent_name": "recorder", "metadata": '{"format": "wav"}'},
    ]
    rule["hide_phone_number"] = False
    rule["rule"] = {"dispatch_rule_individual": {**rule["rule"]["dispatch_rule_individual"], "room_prefix": "vip"}}
    rule["room_config"] = {**rule["room_config"], "agents": agents}
    return found


def _objects(state: State, rows: AgentRows) -> dict[str, dict[str, Any]]:
    known = {kind: str(one) for kind, one in known_ids(rows).items()}
    number = next(item for item in state["numbers"] if item["sid"] == rows.agent.twilio_phone_number_sid)
    return {**objects_of(state, known), "numbers": dict(number)}


def _agent_fields(agent: Agent) -> dict[str, Any]:
    names = ("name", "livekit_agent_name", "agent_metadata", "options", "version", "trunk_id", "previous_routing")
    return {name: getattr(agent, name) for name in names}
