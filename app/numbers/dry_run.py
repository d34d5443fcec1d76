"""The dry run: which calls a provisioning would make, and what is in its way; nothing is written anywhere."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, agent_not_found
from app.domain.marks import mark_in
from app.domain.statuses import PhoneStatus
from app.domain.steps import INBOUND_TRUNK, STEPS, TRUNK
from app.domain.texts import shown
from app.numbers.agents import is_open_for
from app.providers.base import CarrierNumber, Unreadable
from app.providers.errors import RejectedError
from app.saga.context import StepContext, Toolbox


@dataclass(frozen=True)
class Call:
    """One request; `{step}` in a path or body stands for the id that that step will have made."""

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
    """Looks at rows and providers, read only."""

    sessions: Sessions
    tools: Toolbox
    trunk_limit: int

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
        context = _context(self.tools, agent, phone_number, number)
        obstacles += self._livekit_obstacles(context)
        return Preview(
            [call for step in STEPS for call in _CALLS[step.name](context)], obstacles, trunks, self.trunk_limit
        )

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


def _context(tools: Toolbox, agent: Agent, phone_number: str, number: CarrierNumber | None) -> StepContext:
    ids = {step.name: f"{{{step.name}}}" for step in STEPS}
    if number:
        ids["twilio_number"] = number.sid
    return StepContext(
        tools=tools,
        agent_id=agent.id,
        operation_id=uuid.UUID(int=0),
        phone_number=phone_number,
        takeover=False,
        agent_name=agent.livekit_agent_name,
        job_metadata=json.dumps(agent.agent_metadata),
        ids=ids,
        parents={},
        ledger={},
        previous_routing=None,
        is_uncertain=False,
    )


def _twilio(step: str, method: str, path: str, **body: str) -> Call:
    return Call(step, "twilio", method, path, body)


def _livekit(step: str, method: str, **body: Any) -> Call:
    return Call(step, "livekit", "POST", f"/twirp/livekit.SIP/{method}", body)


_ACCOUNT = "/2010-04-01/Accounts/{account}/IncomingPhoneNumbers"

_CALLS = {
    "twilio_number": lambda ctx: [_twilio("twilio_number", "GET", f"{_ACCOUNT}.json", PhoneNumber=ctx.phone_number)],
    "twilio_trunk": lambda ctx: [_twilio("twilio_trunk", "POST", "/v1/Trunks", FriendlyName=ctx.label.tag)],
    "twilio_origination_url": lambda ctx: [
        _twilio(
            "twilio_origination_url",
            "POST",
            f"/v1/Trunks/{ctx.ids[TRUNK]}/OriginationUrls",
            SipUrl=ctx.tools.sip_uri,
            FriendlyName=ctx.label.tag,
            Enabled="true",
        )
    ],
    "livekit_inbound_trunk": lambda ctx: [
        _livekit(
            "livekit_inbound_trunk",
            "CreateSIPInboundTrunk",
            trunk={
                "name": ctx.label.tag,
                "numbers": [ctx.phone_number],
                "allowed_addresses": list(ctx.tools.allowed_addresses),
            },
        )
    ],
    "livekit_dispatch_rule": lambda ctx: [
        _livekit(
            "livekit_dispatch_rule",
            "CreateSIPDispatchRule",
            dispatch_rule={
                "name": ctx.label.tag,
                "trunk_ids": [ctx.ids[INBOUND_TRUNK]],
                "room_config": {"agents": [{"agent_name": ctx.agent_name, "metadata": ctx.job_metadata}]},
            },
        )
    ],
    "twilio_number_attachment": lambda ctx: [
        _twilio("twilio_number_attachment", "GET", f"{_ACCOUNT}/{ctx.ids['twilio_number']}.json"),
        _twilio(
            "twilio_number_attachment",
            "POST",
            f"/v1/Trunks/{ctx.ids[TRUNK]}/PhoneNumbers",
            PhoneNumberSid=ctx.ids["twilio_number"],
        ),
    ],
    "verification": lambda ctx: [
        _twilio("verification", "GET", f"{_ACCOUNT}/{ctx.ids['twilio_number']}.json"),
        _twilio("verification", "GET", f"/v1/Trunks/{ctx.ids[TRUNK]}/OriginationUrls"),
        _livekit("verification", "ListSIPInboundTrunk", numbers=[ctx.phone_number]),
        _livekit("verification", "ListSIPDispatchRule", trunk_ids=[ctx.ids[INBOUND_TRUNK]]),
    ],
}
