"""Builds the diagram of a call's path from caller to agent: every resource with its id, every link with its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.console.presentation import Badge, Tone
from app.domain.events import EventName
from app.domain.findings import FindingCode
from app.domain.operations import OperationKind, PhoneStatus, StepState
from app.views.operations import PhoneView

_Code = FindingCode

_LINKS: Sequence[tuple[str, str, frozenset[FindingCode]]] = (
    ("twilio_number", "twilio_phone_number_sid", frozenset({_Code.NUMBER_GONE})),
    (
        "twilio_number_attachment",
        "twilio_trunk_sid",
        frozenset({_Code.NUMBER_DETACHED, _Code.NUMBER_MOVED, _Code.TRUNK_GONE}),
    ),
    (
        "twilio_origination_url",
        "twilio_origination_url_sid",
        frozenset({_Code.TRUNK_SECURE, _Code.ORIGINATION_URL_MISSING, _Code.ORIGINATION_URL_DISABLED}),
    ),
    (
        "livekit_inbound_trunk",
        "livekit_inbound_trunk_id",
        frozenset(
            {
                _Code.ORIGINATION_URL_CHANGED,
                _Code.ORIGINATION_HOST_WRONG,
                _Code.LIVEKIT_TRUNK_GONE,
                _Code.LIVEKIT_TRUNK_LOST_NUMBER,
                _Code.LIVEKIT_TRUNK_CHANGED,
                _Code.LIVEKIT_TRUNK_FOREIGN,
            }
        ),
    ),
    (
        "livekit_dispatch_rule",
        "livekit_dispatch_rule_id",
        frozenset({_Code.RULE_GONE, _Code.RULE_DEAD_TRUNK, _Code.RULE_WILDCARD, _Code.RULE_FILTERED}),
    ),
    ("verification", "livekit_agent_name", frozenset({_Code.RULE_LOST_AGENT})),
)
"""From left to right: the step that creates a link, the agent's column with the next id, the findings that break it.

The number is attached to the trunk last, so that no call reaches a partly built path.
"""

_NODES: Mapping[str, tuple[str, str]] = {
    "twilio_phone_number_sid": ("Number", "Twilio"),
    "twilio_trunk_sid": ("Trunk", "Twilio"),
    "twilio_origination_url_sid": ("Origination URL", "Twilio"),
    "livekit_inbound_trunk_id": ("Inbound trunk", "LiveKit"),
    "livekit_dispatch_rule_id": ("Dispatch rule", "LiveKit"),
    "livekit_agent_name": ("Agent", "LiveKit"),
}

_BY_STATE: Mapping[StepState, Badge] = {
    StepState.PENDING: Badge("not connected", Tone.QUIET),
    StepState.RUNNING: Badge("being connected", Tone.BUSY),
    StepState.DONE: Badge("connected", Tone.GOOD),
    StepState.FAILED: Badge("failed", Tone.BAD),
    StepState.UNDOING: Badge("being removed", Tone.WARN),
    StepState.UNDONE: Badge("not connected", Tone.QUIET),
}
_NONE = _BY_STATE[StepState.PENDING]
_WHOLE = _BY_STATE[StepState.DONE]
_WAITS = Badge("waiting to retry", Tone.WARN)
_BROKEN = Badge("broken", Tone.BAD)


@dataclass(frozen=True, slots=True)
class Hop:
    """One link and the resource that it leads to; `id` is None until there is one."""

    link: Badge
    title: str
    owner: str
    id: str | None
    """The id, with a copy button."""
    shown: str | None
    """Shown above the id: the phone number."""


def build_path_diagram(phone: PhoneView) -> list[Hop]:
    """Build the diagram from the agent's row, the open operation's steps and the health findings."""
    agent = phone.agent
    hops = []
    for step, column, breaks in _LINKS:
        title, owner = _NODES[column]
        shown = agent.twilio_phone_number if column == "twilio_phone_number_sid" else None
        hops.append(Hop(_link(phone, step, breaks), title, owner, getattr(agent, column), shown))
    return hops


def _link(phone: PhoneView, step: str, breaks: frozenset[FindingCode]) -> Badge:
    state = _open_state(phone, step)
    if state is not None:
        return _WAITS if _is_waiting(phone, step) else _BY_STATE[state]
    status = phone.agent.phone_provisioning_status
    if status is PhoneStatus.PROVISIONED:
        findings = phone.agent.health_findings or []
        found = {finding["code"] for finding in findings}
        unreadable = {
            (finding["resource"] or {}).get("kind") for finding in findings if finding["code"] == _Code.UNREADABLE
        }
        return _BROKEN if found & breaks or step in unreadable else _WHOLE
    if status is PhoneStatus.FAILED and _failed_at(phone, step):
        return _BY_STATE[StepState.FAILED]
    return _NONE


def _open_state(phone: PhoneView, step: str) -> StepState | None:
    """Return the state of the link's step while an operation changes this agent's path; else None."""
    operation = phone.operation
    if operation is None or operation.status.is_final:
        return None
    if operation.kind is OperationKind.MOVE and operation.target_agent_id == phone.agent.id:
        return StepState.PENDING
    states = {one.name: one.state for one in operation.steps}
    if operation.kind is OperationKind.DEPROVISION and states.get(step) is StepState.PENDING:
        return StepState.DONE  # it exists until its step runs
    if operation.kind is OperationKind.DEPROVISION:
        return states.get(step, states.get("twilio_number_attachment"))
    return states.get(step)


def _is_waiting(phone: PhoneView, step: str) -> bool:
    """Return whether the step waits for its next attempt."""
    steps = phone.operation.steps if phone.operation else []
    return any(one.name == step and one.attempts and one.next_attempt_at is not None for one in steps)


def _failed_at(phone: PhoneView, step: str) -> bool:
    """Return whether this step caused the rollback. Only the events say so: after it every step is UNDONE."""
    events = list(phone.operation.timeline) if phone.operation else []
    rollback_start = next((at for at, event in enumerate(events) if event.event == EventName.OPERATION_TURNED), 0)
    failing_steps = [
        event.step for event in events[:rollback_start] if event.event in {EventName.STEP_FAILED, EventName.STEP_RESTS}
    ]
    return failing_steps[-1:] == [step]
