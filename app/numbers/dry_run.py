"""The dry run: which calls a provisioning would make, and what is in its way; nothing is written anywhere."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, agent_not_found
from app.domain.operations import STEPS, VERIFICATION, PhoneStatus
from app.domain.texts import shown
from app.numbers.agents import is_open_for
from app.path.marks import mark_in
from app.path.observed import CarrierNumber, Unreadable
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import RejectedError
from app.providers.request_recorder import RecordedRequest, RequestRecorder
from app.saga.context import StepContext, Toolbox
from app.saga.steps import ACTIONS

NO_OPERATION = uuid.UUID(int=0)
"""Stands for the operation, which does not exist yet."""

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
class Preview:
    """What a provisioning would do now."""

    calls: list[Call]
    obstacles: list[Obstacle]
    trunks_used: int
    trunks_limit: int

    @property
    def would_succeed(self) -> bool:
        """Whether nothing that is seen now would stop it."""
        return not any(obstacle.blocks for obstacle in self.obstacles)


@dataclass(frozen=True)
class PlanningService:
    """Plans a provisioning and writes nothing: reads rows and providers, and records what the steps would send."""

    sessions: Sessions
    tools: Toolbox
    trunk_limit: int
    account_sid: str
    recording_adapters: RecordingAdapters

    def preview(self, agent_id: uuid.UUID, phone_number: str, *, takeover: bool) -> Preview:
        """Say what provisioning would do; 404 `agent_not_found`, or a provider's error where one cannot be read."""
        agent, obstacles = self._rows(agent_id, phone_number)
        number: CarrierNumber | None = None
        try:
            number = self.tools.carrier.find_number(phone_number)
        except RejectedError as error:
            if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
                raise
            obstacles.append(Obstacle(error.code, error.detail))
        else:
            obstacles += _number_obstacles(number, takeover=takeover)
        unreadable: list[Unreadable] = []
        trunks = len(self.tools.carrier.list_trunks(unreadable)) + len(unreadable)
        if trunks >= self.trunk_limit:
            obstacles.append(Obstacle(ErrorCode.TWILIO_TRUNK_LIMIT, f"The account has {trunks} trunks already."))
        context = _context(self.tools, agent, phone_number)
        obstacles += self._livekit_obstacles(context)
        recorder = RequestRecorder(
            phone_number, number.sid if number else None, self.account_sid, {str(NO_OPERATION): "{operation}"}
        )
        calls = planned_calls(context, recorder, self.recording_adapters)
        return Preview(calls, obstacles, trunks, self.trunk_limit)

    def _rows(self, agent_id: uuid.UUID, phone_number: str) -> tuple[Agent, list[Obstacle]]:
        obstacles = []
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
            if agent is None:
                raise agent_not_found(agent_id)
            if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
                obstacles.append(Obstacle(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first."))
            elif session.scalar(select(Operation.id).where(is_open_for(agent_id))):
                obstacles.append(Obstacle(ErrorCode.OPERATION_IN_PROGRESS, "An operation is open for this agent."))
            taken = (Agent.twilio_phone_number == phone_number, Agent.id != agent_id)
            if session.scalar(select(Agent.id).where(*taken)):
                obstacles.append(Obstacle(ErrorCode.NUMBER_IN_USE, "The number belongs to another agent."))
        return agent, obstacles

    def _livekit_obstacles(self, ctx: StepContext) -> list[Obstacle]:
        found = [
            Obstacle(ErrorCode.LIVEKIT_NUMBER_CONFLICT, f"LiveKit trunk {trunk.id} has the number already.")
            for trunk in self.tools.platform.list_inbound_trunks(ctx.phone_number, unreadable=[])
            if not ctx.has_own_mark(trunk.metadata)  # one that this agent left behind is adopted
        ]
        catch_all = [
            Obstacle(ErrorCode.LIVEKIT_RULE_CONFLICT, f"Dispatch rule {rule.id} takes every call.", blocks=False)
            for rule in self.tools.platform.list_dispatch_rules(unreadable=[])
            if not rule.trunk_ids and mark_in(rule.name, rule.metadata) is None
        ]
        return found + catch_all


def _number_obstacles(number: CarrierNumber, *, takeover: bool) -> list[Obstacle]:
    found = []
    if not number.is_voice:
        found.append(Obstacle(ErrorCode.NUMBER_NOT_VOICE, "The number cannot take voice calls."))
    other = number.routing.trunk_sid or number.routing.voice_application_sid
    if other:
        detail = f"The number is on {shown(other)}." + (
            " It would be moved." if takeover else " Send takeover=true to move it."
        )
        found.append(Obstacle(ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=not takeover))
    return found


def _context(tools: Toolbox, agent: Agent, phone_number: str) -> StepContext:
    return StepContext(
        tools=tools,
        agent_id=agent.id,
        operation_id=NO_OPERATION,
        phone_number=phone_number,
        takeover=False,
        agent_name=agent.livekit_agent_name,
        job_metadata=json.dumps(agent.agent_metadata),
        ids={},
        parents={},
        ledger={},
        previous_routing=None,
        is_uncertain=False,
    )


def planned_calls(context: StepContext, recorder: RequestRecorder, adapters: RecordingAdapters) -> list[Call]:
    """Run every step of a provisioning on adapters that record their requests; return these, step by step."""
    carrier, platform = adapters(recorder)
    tools = replace(context.tools, carrier=carrier, platform=platform, clock=lambda: context.started)
    ids: dict[str, str] = {}
    calls: list[Call] = []
    for step in STEPS:
        done = len(recorder.requests)
        result = ACTIONS[step.name].do(replace(context, tools=tools, ids=dict(ids)))
        if result.resource_id:
            ids[step.name] = result.resource_id
        # Those of verification go out side by side, in any order.
        own = sorted(recorder.requests[done:], key=_by_path) if step.name == VERIFICATION else recorder.requests[done:]
        calls += [Call(step.name, one.provider, one.method, one.path, one.parameters) for one in own]
    return calls


def _by_path(request: RecordedRequest) -> tuple[bool, str]:
    return request.provider != "twilio", request.path
