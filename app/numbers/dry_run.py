"""The dry run: which calls a provisioning would make, and what is in its way; nothing is written anywhere."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.db.queries import count_members
from app.db.visibility import seeing, seen_workspace
from app.domain.errors import ErrorCode, agent_not_found
from app.domain.findings import FINDING_KINDS, FindingCode
from app.domain.operations import (
    COLUMNS,
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    ORIGINATION_URL,
    STEPS,
    TRUNK,
    VERIFICATION,
    PhoneStatus,
    TrunkMode,
)
from app.domain.options import job_metadata, options_of
from app.domain.texts import shown
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.numbers.agents import is_open_for
from app.path.marks import POOL_PREFIX, agent_of, pool_tag
from app.path.observed import (
    CarrierNumber,
    DispatchRule,
    InboundTrunk,
    NumberRouting,
    Observed,
    Unreadable,
    normalised,
)
from app.path.reach import Reason, reach
from app.path.spec import PathSpec, Profile, as_built
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import RejectedError
from app.providers.request_recorder import RecordedRequest, RequestRecorder
from app.saga.context import NO_LEASE, StepContext, Toolbox
from app.saga.contradictions import is_foreign_catch_all, refusals_of_rule, refusals_of_trunk
from app.saga.steps import ACTIONS
from app.trunks.pool import Making, Place

if TYPE_CHECKING:
    from app.accounts.clients import Toolboxes

NO_OPERATION = uuid.UUID(int=0)
"""Stands for the operation, which does not exist yet."""

TO_BE_MADE = {
    NUMBER: "the number",
    TRUNK: "the new Twilio trunk",
    ORIGINATION_URL: "the new origination URL",
    INBOUND_TRUNK: "the new LiveKit trunk",
    DISPATCH_RULE: "the new dispatch rule",
}
"""Step name -> what stands for the id that it will have made: it is never sent."""

RecordingAdapters = Callable[[RequestRecorder], tuple[Carrier, VoicePlatform]]
"""Builds the adapters of both providers over a recorder, with the settings of the real ones."""


@dataclass(frozen=True)
class Call:
    """One request. In a path or body `{step}` stands for the id that this step will have made."""

    step: str
    provider: str
    method: str
    path: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Obstacle:
    """Something in the way; `blocks` says whether the provisioning would fail on it."""

    code: ErrorCode
    detail: str
    blocks: bool = True


@dataclass(frozen=True)
class PlannedTrunk:
    """The Twilio trunk that the number would be put on."""

    mode: TrunkMode
    sid: str | None
    """None: it would be made."""
    members: int
    """Numbers that are on it before."""
    capacity: int


@dataclass(frozen=True)
class Preview:
    """What a provisioning would do now."""

    calls: list[Call]
    obstacles: list[Obstacle]
    trunks_used: int
    trunks_limit: int
    trunk: PlannedTrunk

    @property
    def would_succeed(self) -> bool:
        """Whether nothing that is seen now would stop it."""
        return not any(obstacle.blocks for obstacle in self.obstacles)


@dataclass(frozen=True)
class _Holder:
    """The agent of ours that has the number now; all that it has at the providers is one obstacle with it."""

    instance: str
    agent_id: str
    ids: frozenset[str]

    def has(self, resource_id: str, *texts: str) -> bool:
        """Tell whether a resource is its own, by its id or by the mark in one of the texts."""
        return resource_id in self.ids or agent_of(self.instance, *texts) == self.agent_id


@dataclass
class _PlannedPool:
    """A pool as the steps of a dry run see it: the place that the agent would get; nothing is written."""

    place: Place
    checked: bool

    def of(self, _: Profile) -> "_PlannedPool":
        """Return itself: the place is already the one that the agent would get."""
        return self

    def take_place(self, *_: object, **__: object) -> Place:
        return self.place

    def next_place(self) -> Place:
        return self.place

    def begin_making(self, *_: object) -> Making:
        return Making(NO_LEASE, may_have_happened=False)

    def keep_made(self, _trunk: object, _token: object, step: str, sid: str, *_: object, **__: object) -> str:
        # What has just been made is not read by the verification.
        self.place, self.checked = replace(self.place, ids={**self.place.ids, step: sid}), True
        return sid

    def end_making(self, *_: object, **__: object) -> None:
        """Nothing fails."""

    def forget(self, *_: object) -> None:
        """Nothing is gone."""

    def is_checked(self, *_: object) -> bool:
        return self.checked

    def keep_checked(self, *_: object) -> None:
        """Nothing was read."""

    def is_shared(self, *_: object) -> bool:
        return True


@dataclass(frozen=True)
class PlanningService:
    """Plans a provisioning and writes nothing: reads rows and providers, and records what the steps would send."""

    sessions: Sessions
    toolboxes: "Toolboxes"
    trunk_max_numbers: int

    def preview(self, agent_id: uuid.UUID, phone_number: str, *, takeover: bool) -> Preview:
        """Say what provisioning would do; 404 `agent_not_found`, or a provider's error where one cannot be read."""
        agent, holder, obstacles = self._rows(agent_id, phone_number)
        tools = self.toolboxes.of(agent.accounts)
        with tools.noting():
            return self._preview(tools, agent, holder, obstacles, phone_number, takeover=takeover)

    def _preview(
        self,
        tools: Toolbox,
        agent: Agent,
        holder: "_Holder | None",
        obstacles: list[Obstacle],
        phone_number: str,
        *,
        takeover: bool,
    ) -> Preview:
        account = self.toolboxes.account(agent.carrier_account_id)
        number: CarrierNumber | None = None
        try:
            number = tools.carrier.find_number(phone_number)
        except RejectedError as error:
            if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
                raise
            obstacles.append(Obstacle(error.code, error.detail))
        unreadable: list[Unreadable] = []
        trunks = {trunk.sid: trunk for trunk in tools.carrier.list_trunks(unreadable)}
        used = len(trunks) + len(unreadable)
        if number is not None:
            on = trunks.get(number.routing.trunk_sid or "")
            is_held = holder is not None and holder.has(number.routing.trunk_sid or "", on.tag if on else "")
            obstacles += _number_obstacles(number, takeover=takeover, is_held=is_held)
        context = _context(tools, agent, phone_number)
        place = context.pool.next_place() if context.is_pooled else None
        trunk = self._trunk(context, place)
        if trunk.sid is None and used >= account.trunk_limit:
            obstacles.append(_no_trunk_left(trunk.mode, used, account.trunk_limit, agent.carrier_account_id))
        obstacles += self._path_obstacles(context, number, holder)
        adapters = partial(self.toolboxes.recording, agent.accounts)
        sid = account.credential.account_sid
        calls = planned_calls(context, place, number.sid if number else None, sid, adapters)
        return Preview(calls, obstacles, used, account.trunk_limit, trunk)

    def _trunk(self, ctx: StepContext, place: Place | None) -> PlannedTrunk:
        if not ctx.is_pooled:
            return PlannedTrunk(TrunkMode.DEDICATED, None, 0, 1)
        if place is None:
            return PlannedTrunk(TrunkMode.SHARED, None, 0, self.trunk_max_numbers)
        with self.sessions() as session:
            members = count_members(session, place.trunk_id)
        return PlannedTrunk(TrunkMode.SHARED, place.ids.get(TRUNK), members, self.trunk_max_numbers)

    def _rows(self, agent_id: uuid.UUID, phone_number: str) -> tuple[Agent, _Holder | None, list[Obstacle]]:
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
            if agent is None:
                raise agent_not_found(agent_id)
            with seeing(None):
                holder = session.scalar(select(Agent).where(Agent.twilio_phone_number == phone_number))
            obstacles = list(_row_obstacles(session, agent, holder, phone_number))
        if holder is None:
            return agent, None, obstacles
        ids = frozenset(filter(None, (getattr(holder, column) for column in COLUMNS.values())))
        return agent, _Holder(self.toolboxes.instance, str(holder.id), ids), obstacles

    def _path_obstacles(
        self, ctx: StepContext, number: CarrierNumber | None, holder: _Holder | None
    ) -> Iterator[Obstacle]:
        """Yield why LiveKit would refuse our trunk and rule, and why a call would not get through once all is built.

        One for each cause: what an earlier one is about is not told again.
        """
        platform = ctx.tools.platform
        inbound = {trunk.id: trunk for trunk in platform.list_inbound_trunks(ctx.phone_number, unreadable=[])}
        rules = {rule.id: rule for rule in platform.list_dispatch_rules(unreadable=[])}
        spec, observed = _beside(ctx, number, holder, Observed(inbound_trunks=inbound, rules=rules))
        built = as_built(spec, observed)
        told: set[str] = {number.sid} if number and not number.is_voice else set()
        refusals_by_code = {
            ErrorCode.LIVEKIT_NUMBER_CONFLICT: refusals_of_trunk(
                built.inbound_trunks[spec.inbound_trunk_id], observed.inbound_trunks.values()
            ),
            # Those of the holder too: LiveKit holds all rules of the project against each other.
            ErrorCode.LIVEKIT_RULE_CONFLICT: refusals_of_rule(
                built.rules[spec.rule_id],
                [
                    rule
                    for rule in rules.values()
                    if not (spec.inbound_trunk_id in rule.trunk_ids and ctx.has_own_mark(rule.name, rule.metadata))
                ],
            ),
        }
        for code, refusals in refusals_by_code.items():
            for one in refusals:
                told |= one.ids
                yield Obstacle(code, one.sentence)
        for reason, _ in reach(built, spec).reasons:
            resource_id = reason.resource[1] if reason.resource else ""
            if reason.code is not FindingCode.UNREADABLE and resource_id not in told:
                told.add(resource_id)
                yield Obstacle(ErrorCode.PATH_NOT_VERIFIED, _in_words(reason, resource_id))
        for rule in rules.values():
            if is_foreign_catch_all(rule) and rule.id not in told:
                detail = f"Dispatch rule {rule.id} takes every call that no other rule takes."
                yield Obstacle(ErrorCode.LIVEKIT_RULE_CONFLICT, detail, blocks=False)


def _no_trunk_left(mode: TrunkMode, used: int, limit: int, carrier_account_id: uuid.UUID) -> Obstacle:
    setting = "TWILIO_TRUNK_LIMIT" if carrier_account_id == ENVIRONMENT_ACCOUNT else "its trunk limit"
    why = "no shared trunk has room" if mode is TrunkMode.SHARED else "the agent is to have one of its own"
    detail = f"A trunk would have to be made ({why}), and the account has {used} of {limit} ({setting})."
    return Obstacle(ErrorCode.TWILIO_TRUNK_LIMIT, detail)


def _row_obstacles(session: Session, agent: Agent, holder: Agent | None, phone_number: str) -> Iterator[Obstacle]:
    operation = session.scalar(select(Operation).where(is_open_for(agent.id)))
    if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
        yield Obstacle(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
    elif operation is not None:
        detail = f"Operation {operation.id} is still open for this agent."
        yield Obstacle(ErrorCode.OPERATION_IN_PROGRESS, detail)
    is_on_its_way = operation is not None and operation.phone_number == phone_number
    if holder is not None and holder.id != agent.id and not is_on_its_way:
        is_seen = seen_workspace() in {None, holder.workspace_id}
        which = f": {shown(holder.name)} ({holder.id})" if is_seen else ""
        yield Obstacle(ErrorCode.NUMBER_IN_USE, f"The number belongs to another agent{which}.")


def _number_obstacles(number: CarrierNumber, *, takeover: bool, is_held: bool) -> Iterator[Obstacle]:
    if not number.is_voice:
        yield Obstacle(ErrorCode.NUMBER_NOT_VOICE, "The number cannot take voice calls.")
    routing = number.routing
    if is_held:
        return
    if routing.is_taken:
        rest = "it would be moved" if takeover else "only with takeover is it moved here"
        detail = f"The number is on {routing.taken_by}: {rest}, and deprovisioning restores its routing."
        yield Obstacle(ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=not takeover)
    elif routing.voice_host:
        detail = (
            f"Callers reach {routing.voice_host} now: they would reach the agent instead (restored by deprovisioning)."
        )
        yield Obstacle(ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=False)


def _beside(
    ctx: StepContext, number: CarrierNumber | None, holder: _Holder | None, found: Observed
) -> tuple[PathSpec, Observed]:
    """Return the path to be built, and what of LiveKit's it would stand beside.

    Not beside it are what belongs to the agent that has the number now, and what the agent itself has left behind,
    which is adopted.
    """

    def is_held(one: InboundTrunk | DispatchRule) -> bool:
        return holder is not None and holder.has(one.id, one.name, one.metadata)

    inbound = {one.id: one for one in found.inbound_trunks.values() if not is_held(one)}
    rules = {one.id: one for one in found.rules.values() if not is_held(one)}
    number_key = normalised(ctx.phone_number)
    own = [
        one.id
        for one in inbound.values()
        if ctx.has_own_mark(one.metadata) and number_key in map(normalised, one.numbers)
    ]
    for trunk_id in own:
        del inbound[trunk_id]
    rules = {
        one.id: one
        for one in rules.values()
        if not (ctx.has_own_mark(one.name, one.metadata) and set(one.trunk_ids) & set(own))
    }
    known = {NUMBER: number.sid} if number else {}
    ids = TO_BE_MADE | known | ({INBOUND_TRUNK: own[0]} if own else {})
    numbers = {number.sid: number} if number else {}
    return replace(ctx, ids=ids).spec, Observed(numbers=numbers, inbound_trunks=inbound, rules=rules)


def _in_words(reason: Reason, resource_id: str) -> str:
    """Say why calls would fail, naming the object."""
    name = f" ({resource_id})" if resource_id and resource_id not in reason.detail else ""
    return f"{FINDING_KINDS[reason.code].sentence} {reason.detail}".strip() + name


def _context(tools: Toolbox, agent: Agent, phone_number: str) -> StepContext:
    return StepContext(
        tools=tools,
        agent_id=agent.id,
        operation_id=NO_OPERATION,
        phone_number=phone_number,
        takeover=False,
        agent_name=agent.livekit_agent_name,
        job_metadata=job_metadata(agent.agent_metadata),
        options=options_of(agent.options),
        trunk_mode=agent.trunk_mode,
        ids={},
        parents={},
        ledger={},
        previous_routing=None,
        is_uncertain=False,
    )


def planned_calls(
    context: StepContext,
    place: Place | None,
    number_sid: str | None,
    account_sid: str,
    adapters: RecordingAdapters,
) -> list[Call]:
    """Run every step of a provisioning on adapters that record their requests; return these, step by step.

    `place` is the one that the agent would get on a shared trunk; None: the trunk would be made. `number_sid` is None
    where the number is not known.
    """
    place = place or Place(NO_OPERATION, {})
    shown_as = {
        str(NO_OPERATION): "{operation}",
        pool_tag(context.tools.instance, NO_OPERATION): f"{POOL_PREFIX}/{context.tools.instance}/{{pool}}",
    }
    recorder = RequestRecorder(context.phone_number, number_sid, account_sid, shown_as)
    spec = replace(context, trunk_id=place.trunk_id).spec
    if TRUNK in place.ids:
        recorder.have_trunk(place.ids[TRUNK], spec.trunk)
    if ORIGINATION_URL in place.ids:
        recorder.have_url(place.ids[ORIGINATION_URL], place.ids[TRUNK], spec.origination_url)
    carrier, platform = adapters(recorder)
    pool = _PlannedPool(place, context.tools.pool.is_checked(place.trunk_id))
    tools = replace(context.tools, carrier=carrier, platform=platform, pool=pool, clock=lambda: context.started)
    context = replace(context, tools=tools)
    ids: dict[str, str] = {}
    calls: list[Call] = []
    for step in STEPS:
        if step.name in ids:
            continue
        done = len(recorder.requests)
        result = ACTIONS[step.name].do(replace(context, step=step.name, ids=dict(ids)))
        if result.resource_id:
            ids[step.name] = result.resource_id
        ids |= result.finished
        context = replace(context, trunk_id=result.trunk_id or context.trunk_id)
        if result.previous_routing is not None:
            context = replace(context, previous_routing=NumberRouting(**result.previous_routing), is_number_fresh=True)
        # Those of verification go out side by side, in any order.
        own = sorted(recorder.requests[done:], key=_by_path) if step.name == VERIFICATION else recorder.requests[done:]
        calls += [Call(step.name, one.provider, one.method, one.path, one.parameters) for one in own]
    return calls


def _by_path(request: RecordedRequest) -> tuple[bool, str]:
    return request.provider != "twilio", request.path
