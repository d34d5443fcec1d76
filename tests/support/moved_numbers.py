"""Numbers that go from one Twilio trunk to another: what a caller meets, and what is there before and after."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from app.db.models import Agent, Resource, Trunk
from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK, TrunkState
from app.path.marks import is_pool_tag
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError
from tests.support.providers import Plan, WorkerDiedError, World
from tests.support.saga import ROUNDS, Saga

CODE = ErrorCode.PROVIDER_UNAVAILABLE


@dataclass
class Watch:
    """Looks before each provider call whether callers of the numbers get through, and breaks one call."""

    world: World
    numbers: tuple[str, ...]
    breaks_at: int = -1
    before: Any = None
    after: Any = None
    calls: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._enter = self.world.log.enter
        self.world.log.enter = self.enter  # type: ignore[method-assign]  # of this one log

    def enter(self, operation: str) -> Plan | None:
        at = len(self.calls)
        self.calls.append(operation)
        self.look(f"before call {at}, {operation}")
        plan = self._enter(operation)
        if at == self.breaks_at:
            if isinstance(self.before, BaseException):
                raise self.before
            return Plan(operation, after=self.after)
        return plan

    def look(self, when: str) -> None:
        self.cut_off += [f"{number} {when}" for number in self.numbers if not rings(self.world, number)]


def rings(world: World, number_sid: str) -> bool:
    """Tell whether Twilio leads the number to our SIP URI, and LiveKit to an agent."""
    carrier, platform = world.carrier, world.platform
    number = carrier.numbers[number_sid]
    trunk_sid = number.routing.trunk_sid
    has_url = any(url.trunk_sid == trunk_sid and url.is_enabled for url in carrier.urls.values())
    trunks = {trunk.id for trunk in platform.trunks.values() if number.phone_number in trunk.numbers}
    has_rule = any(set(rule.trunk_ids) & trunks for rule in platform.rules.values())
    return trunk_sid in carrier.trunks and has_url and has_rule


def snapshot(world: World) -> Mapping[str, object]:
    """Everything at the providers but the pool's: what a failure leaves as it was."""
    carrier = world.carrier
    pool = {trunk.sid for trunk in carrier.trunks.values() if is_pool_tag("test", trunk.tag)}
    return {
        "numbers": dict(carrier.numbers),
        "trunks": {sid: trunk for sid, trunk in carrier.trunks.items() if sid not in pool},
        "urls": {sid: url for sid, url in carrier.urls.items() if url.trunk_sid not in pool},
        "livekit": (dict(world.platform.trunks), dict(world.platform.rules)),
    }


def ids_of(saga: Saga, agent_id: uuid.UUID) -> dict[str, object]:
    with saga.sessions() as session:
        agent = session.get_one(Agent, agent_id)
        return {
            "phone": (agent.phone_provisioning_status, agent.twilio_phone_number, agent.previous_routing),
            NUMBER: agent.twilio_phone_number_sid,
            TRUNK: agent.twilio_trunk_sid,
            ORIGINATION_URL: agent.twilio_origination_url_sid,
            INBOUND_TRUNK: agent.livekit_inbound_trunk_id,
            DISPATCH_RULE: agent.livekit_dispatch_rule_id,
            "trunk_id": agent.trunk_id,
        }


def ledger(saga: Saga, agent_id: uuid.UUID) -> set[str]:
    with saga.sessions() as session:
        left = select(Resource.external_id).where(Resource.agent_id == agent_id, Resource.deleted_at.is_(None))
        return set(session.scalars(left))


def pool_trunks(saga: Saga) -> list[Trunk]:
    with saga.sessions() as session:
        return list(session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE)))


def drive(saga: Saga, operation_id: uuid.UUID) -> None:
    """Run it to its end, with the leases of dead workers ended in between, those of shared trunks too."""
    for _ in range(ROUNDS):
        if saga.status(operation_id).is_final:
            return
        saga.expire_leases(operation_id)
        saga.expire_trunks()
        saga.advance(operation_id)
    raise AssertionError(f"stuck: {saga.status(operation_id)}")


FAILURES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "refused": lambda: {"before": RejectedError(ErrorCode.TWILIO_REJECTED, "No.")},
    "fails once": lambda: {"before": TransientError(CODE, "Not now.")},
    "dies before": lambda: {"before": WorkerDiedError()},
    "dies after": lambda: {"after": WorkerDiedError()},
    "lost answer": lambda: {"after": UnknownOutcomeError(CODE, "The answer was lost.")},
}
