"""Builds the diagram of a call's path from caller to agent: every resource with its id, every link with its status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.console.presentation import Badge, Tone, finding_badge, findings_of, step_label
from app.db.models import Agent
from app.domain.events import EventName
from app.domain.findings import CHECK_OF, CHECKS, Finding, failed_checks, worst_first
from app.domain.operations import (
    COLUMNS,
    DISPATCH_RULE,
    INBOUND_TRUNK,
    LAST,
    NUMBER,
    NUMBER_ATTACHMENT,
    STEP_BY_NAME,
    STEPS,
    TRUNK,
    OperationKind,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.domain.options import AgentOptions, DispatchKind, options_of
from app.numbers.adoption import Adoption
from app.views.operations import PhoneView

_RESOURCES = tuple(STEP_BY_NAME[kind] for kind in CHECK_OF)
"""What a call passes on its way to the agent, from left to right; an agent's column has the id of each."""

HOP_STEPS = tuple(step.name for step in _RESOURCES)
"""The steps of the hops, in their order; the agent comes after them."""

_CHANGED_BY = {step.changes: step.name for step in STEPS if step.changes}
_MAKERS = (
    _RESOURCES[0].name,
    # The number is attached to the trunk last, so that no call reaches a partly built path.
    *(_CHANGED_BY.get(before.name, after.name) for before, after in pairwise(_RESOURCES)),
    LAST,
)
"""The step that makes each link; the last link leads to the agent."""

_TITLES = {TRUNK: "Trunk", NUMBER: "Number", INBOUND_TRUNK: "Inbound trunk"}
"""What a resource is called under the name of its provider, if not by its label."""

_OWNERS = {"twilio": "Twilio", "livekit": "LiveKit"}

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
    note: str = ""
    """Shown below the id: who shares it, and whether it was adopted."""
    facts: Sequence[str] = ()
    """What the agent's options make of it, below that."""
    call: Badge | None = None
    """How far the newest test call came."""


def build_path_diagram(phone: PhoneView) -> list[Hop]:
    """Build the diagram from the agent's row, the open operation's steps and the findings of the last check."""
    agent, wrong = phone.agent, _findings_by_link(phone.agent)
    links = [_link(phone, maker, wrong.get(place, ())) for place, maker in enumerate(_MAKERS)]
    facts = option_facts(options_of(phone.options))
    adopted = {
        one.step: "adopted; other numbers use it too" if one.is_shared else "adopted" for one in phone.adopted or ()
    }
    hops = [
        Hop(
            link,
            _TITLES.get(step.name, step_label(step.name)),
            _OWNERS[step.provider],
            getattr(agent, COLUMNS[step.name]),
            agent.twilio_phone_number if step.name == NUMBER else None,
            adopted.get(step.name) or (_sharing(phone) if step.name == TRUNK else ""),
            facts.get(step.name, ()),
        )
        for link, step in zip(links, _RESOURCES, strict=False)
    ]
    return [*hops, Hop(links[-1], "Agent", _OWNERS["livekit"], agent.livekit_agent_name, None)]


def build_adoption_diagram(adoption: Adoption) -> list[Hop]:
    """Build the diagram of a path that may be adopted: it stands, and each object says what becomes of it."""
    spec, shared = adoption.chain.spec, adoption.chain.shared
    facts = option_facts(spec.options)
    hops = [
        Hop(
            _WHOLE,
            _TITLES.get(step.name, step_label(step.name)),
            _OWNERS[step.provider],
            spec.ids[step.name],
            spec.phone_number if step.name == NUMBER else None,
            shared.get(step.name, ""),
            facts.get(step.name, ()),
        )
        for step in _RESOURCES
    ]
    return [*hops, Hop(_WHOLE, "Agent", _OWNERS["livekit"], spec.agent_name, None)]


def option_facts(options: AgentOptions) -> Mapping[str, Sequence[str]]:
    """Return by step what options make of its resource, in a few words each; never a PIN."""
    callers, longest = options.allowed_callers, options.max_duration_s
    told = {
        TRUNK: [f"transfer: {options.transfer}" if options.transfer else ""],
        INBOUND_TRUNK: [
            f"{len(callers):,} allowed caller{'' if len(callers) == 1 else 's'}" if callers else "",
            f"ends calls after {_span(longest)}" if longest else "",
            f"rings for {options.ringing_s:g} s" if options.ringing_s else "",
        ],
        DISPATCH_RULE: [
            "asks for a PIN" if options.pin else "",
            _ROOMS.get(options.dispatch_kind, "").format(room=options.room_name) if options.dispatch_kind else "",
            f"and {len(options.agents)} other agent{'' if len(options.agents) == 1 else 's'}" if options.agents else "",
        ],
    }
    return {step: [fact for fact in facts if fact] for step, facts in told.items()}


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds % 60 else f"{seconds // 60:g} min"


_ROOMS = {
    DispatchKind.INDIVIDUAL: "a room for each call",
    DispatchKind.DIRECT: "all calls in room {room}",
    DispatchKind.CALLEE: "all callers in one room",
}


def _sharing(phone: PhoneView) -> str:
    if phone.trunk is None or phone.trunk.mode is TrunkMode.DEDICATED:
        return ""
    others = phone.trunk.members - 1
    return f"shared with {others:,} other number{'' if others == 1 else 's'}"


def _findings_by_link(agent: Agent) -> Mapping[int, Sequence[Finding]]:
    """Return the findings by the link on which calls stop, counted from the caller.

    A call stops on its way into the resource that fails its check, or on its way out of it, as the finding's kind says.
    """
    places: dict[int, list[Finding]] = {}
    for check, findings in failed_checks(findings_of(agent)).items():
        for finding in findings:
            places.setdefault(CHECKS.index(check) + finding.kind.stops_after, []).append(finding)
    return places


def _link(phone: PhoneView, step: str, wrong: Sequence[Finding]) -> Badge:
    state = _open_state(phone, step)
    if state is not None:
        return _WAITS if _is_waiting(phone, step) else _BY_STATE[state]
    status = phone.agent.phone_provisioning_status
    if status is PhoneStatus.PROVISIONED:
        return finding_badge(worst_first(wrong)[0]) if wrong else _WHOLE
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
        return states.get(step, states.get(NUMBER_ATTACHMENT))
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
