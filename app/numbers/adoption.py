"""Adopts a path that somebody built by hand: it becomes an agent's, and only marks are written.

The providers are read first; then, in one transaction, the agent gets the number and the ids of the whole chain, and an
operation is opened that marks each object and verifies that callers get what they got before. Where that fails, the
marks are taken off again, and the path is as it was found.
"""

import uuid
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.bulk.items import BulkItemRef
from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.db.visibility import seeing
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.events import Origin
from app.domain.numbers import mask_number
from app.domain.operations import COLUMNS, DISPATCH_RULE, NUMBER, PHONE_MOVES, TRUNK, OperationKind, PhoneStatus
from app.domain.options import NO_OPTIONS, options_json, options_of
from app.domain.texts import MAX_NAME, InvalidTextError, visible_line
from app.numbers.agents import lock_agent, refuse_busy
from app.numbers.service import Publisher, refusal_of
from app.path.adoption import Chain, LinkProblem, NotAdoptable, chain_of
from app.path.marks import metadata_of
from app.path.observed import CarrierNumber, NumberRouting, Observed
from app.saga import machine
from app.saga.chain_plan import plan_of
from app.saga.context import NO_LEASE, Toolbox, ToolboxSource, spec_of
from app.saga.observing import read_chain, read_project
from app.saga.rows import Rows, agent_row

log = structlog.get_logger(__name__)

Projects = MutableMapping[uuid.UUID, Observed]
"""What the voice projects have, by id: read once for many adoptions."""


class NotAdoptableError(RefusedError):
    """There is not one chain: 409 `not_adoptable`, with the link at which it breaks."""

    def __init__(self, found: NotAdoptable) -> None:
        link = {"step": found.link, "problem": found.problem, "ids": list(found.candidates)}
        super().__init__(ErrorCode.NOT_ADOPTABLE, found.detail, more={"link": link})
        self.found = found


@dataclass(frozen=True)
class Adoption:
    """What an adoption would do now."""

    agent: Agent
    """As it is."""
    chain: Chain
    name: str
    """The agent's, afterwards."""

    @property
    def wanted(self) -> dict[str, Any]:
        """The columns of the agent that change, as they will be."""
        spec, agent = self.chain.spec, self.agent
        after = {
            "name": (self.name, agent.name),
            "livekit_agent_name": (spec.agent_name, agent.livekit_agent_name),
            "metadata": (dict(self.chain.metadata), agent.agent_metadata),
            "options": (options_json(spec.options), agent.options),
        }
        return {name: new for name, (new, old) in after.items() if new != old}

    @property
    def adopted(self) -> dict[str, dict[str, Any]]:
        """What `agents.adopted` keeps."""
        return {step: asdict(one) for step, one in self.chain.spec.adopted.items()}


@dataclass(frozen=True)
class AdoptionService:
    """Previews and opens adoptions."""

    sessions: Sessions
    publisher: Publisher
    rows: Rows
    toolboxes: ToolboxSource

    def preview(self, agent_id: uuid.UUID, phone_number: str, projects: Projects | None = None) -> Adoption:
        """Say what an adoption would do; read-only.

        Refused with 404 `agent_not_found`, 409 `agent_has_phone`, `operation_in_progress` or `number_in_use`, 422
        `number_not_in_account`, and 409 `not_adoptable`, which names the link; or a provider's error.
        """
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
            if agent is None:
                raise agent_not_found(agent_id)
            _refuse_taken(session, agent)
            with seeing(None):
                if session.scalar(select(Agent.id).where(Agent.twilio_phone_number == phone_number)):
                    raise RefusedError(ErrorCode.NUMBER_IN_USE, "The number belongs to another agent.")
        tools = self.toolboxes.of(agent.accounts)
        with tools.noting():
            number = tools.carrier.find_number(phone_number)
            project = None if projects is None else projects.get(agent.voice_project_id)
            if project is None and projects is not None:
                project = projects[agent.voice_project_id] = read_project(tools.platform)
            observed = read_chain(tools.carrier, tools.platform, number, project)
        chain = _chain(tools, agent, number, observed)
        return Adoption(agent, chain, _name_of(agent, phone_number, chain))

    def adopt(
        self,
        agent_id: uuid.UUID,
        phone_number: str,
        *,
        origin: Origin,
        bulk_item: BulkItemRef | None = None,
        projects: Projects | None = None,
    ) -> Operation:
        """Make the number's path the agent's, and queue what marks it; refused as `preview` is.

        `bulk_item` is the bulk's item that it is for: `ItemTakenError` where it is no longer pending.
        """
        found = self.preview(agent_id, phone_number, projects)
        try:
            with self.sessions.begin() as session:
                agent, now = lock_agent(session, agent_id)
                if bulk_item is not None:
                    bulk_item.check_pending(session)
                _refuse_taken(session, agent)
                if agent.version != found.agent.version:
                    detail = "The agent was changed while its path was looked at: ask again."
                    raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, detail)
                _give_path(agent, found)
                session.flush()
                change = machine.open_operation(
                    OperationKind.ADOPT,
                    agent_row(agent),
                    now,
                    origin,
                    bulk_id=bulk_item.bulk_id if bulk_item else None,
                    # What was adopted stays in the operation's row, by which an audit knows it for ever.
                    wanted=found.wanted | {"adopted": found.adopted},
                )
                saga = self.rows.open(change, session)
                if bulk_item is not None:
                    bulk_item.start(session, saga.operation.id)
        except IntegrityError as error:
            raise refusal_of(error) from error
        log.info("adoption_queued", operation_id=str(saga.operation.id), phone_number=mask_number(phone_number))
        self.publisher.publish(plan_of(saga))
        with self.sessions() as session:
            return session.get_one(Operation, saga.operation.id)


def _refuse_taken(session: Session, agent: Agent) -> None:
    """Raise 409 `agent_has_phone` or `operation_in_progress` unless the agent can get a number."""
    if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
        raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
    refuse_busy(session, agent.id)
    if PhoneStatus.PENDING not in PHONE_MOVES[agent.phone_provisioning_status]:
        raise RefusedError(
            ErrorCode.OPERATION_IN_PROGRESS, "Another operation has just ended for this agent: ask again."
        )


def _chain(tools: Toolbox, agent: Agent, number: CarrierNumber, observed: Observed) -> Chain:
    trunk_sid = number.routing.trunk_sid
    if trunk_sid and tools.pool.is_shared(trunk_sid):
        detail = f"The number is on trunk {trunk_sid}, which Trunkline has made: provision it, with takeover."
        raise NotAdoptableError(NotAdoptable(TRUNK, LinkProblem.MANAGED, detail, (trunk_sid,)))
    spec = spec_of(
        tools,
        agent.id,
        agent.livekit_agent_name,
        "{}",
        number.phone_number,
        {NUMBER: number.sid},
        None,
        metadata_of(tools.instance, agent.id, NO_LEASE, datetime.now(UTC)),
        options=NO_OPTIONS,
        adopted={},
    )
    found = chain_of(observed, replace(spec, options=options_of(agent.options)))
    if isinstance(found, NotAdoptable):
        raise NotAdoptableError(found)
    return found


def _name_of(agent: Agent, phone_number: str, chain: Chain) -> str:
    """Return the agent's name; that of the rule, where the agent was only named after its number."""
    if agent.name != phone_number:
        return agent.name
    try:
        return visible_line(chain.spec.adopted[DISPATCH_RULE].name)[:MAX_NAME]
    except InvalidTextError:
        return agent.name


def _give_path(agent: Agent, found: Adoption) -> None:
    spec = found.chain.spec
    agent.twilio_phone_number = spec.phone_number
    for step, column in COLUMNS.items():
        setattr(agent, column, spec.ids[step])
    agent.previous_routing = asdict(NumberRouting(None, None, found.chain.number.routing.voice_url))
    agent.adopted = found.adopted
