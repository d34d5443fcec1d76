"""The preview of a bulk: what of it would start, what is in the way of the rest, and how many find a place."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import ARRAY, Text, Uuid, any_, literal, or_, select
from sqlalchemy.orm import Session

from app.bulk.items import Item
from app.bulk.service import Prepared, prepare
from app.db.engine import Sessions
from app.db.models import Agent, Operation
from app.db.visibility import seeing
from app.domain.errors import ErrorCode
from app.domain.operations import OPEN_STATUSES, BulkKind, PhoneStatus
from app.numbers.headroom import Headroom, HeadroomService
from app.numbers.inventory import InventoryService, NumberUse, OwnedNumber
from app.providers.errors import ProviderError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ItemObstacle:
    """What is in an item's way, or, where it does not block, what to know before."""

    position: int
    phone_number: str | None
    code: ErrorCode
    detail: str
    blocks: bool = True


@dataclass(frozen=True, slots=True)
class BulkPreview:
    """What would become of a bulk as things stand."""

    kind: BulkKind
    total: int
    obstacles: Sequence[ItemObstacle]
    """At most one for each item, in their order."""
    headroom: Headroom | None
    """For the items that would start; None for adoptions, which need none, and where it is not known."""
    are_numbers_known: bool
    """Whether Twilio listed its numbers; otherwise nothing is said of them."""

    @property
    def would_start(self) -> int:
        """How many items have nothing in their way."""
        return self.total - sum(one.blocks for one in self.obstacles)


@dataclass(frozen=True, slots=True)
class _Present:
    """What our rows have at present of the agents and numbers of a bulk."""

    with_number: frozenset[uuid.UUID]
    busy: Mapping[uuid.UUID, uuid.UUID]
    """Agent -> an operation that is open for it."""
    holders: Mapping[str, uuid.UUID]
    """Number -> the agent that has it, of whatever workspace."""


@dataclass(frozen=True)
class BulkPreviewService:
    """Looks at what a bulk would meet: our rows, the accounts' numbers and their head-room."""

    sessions: Sessions
    inventory: InventoryService
    headroom: HeadroomService

    def preview(self, items: Sequence[Item], kind: BulkKind) -> BulkPreview:
        """Say of each item whether it would start; a provider that does not respond leaves its part unknown."""
        with self.sessions() as session:
            prepared = prepare(session, items)
            valid = [item for item in prepared.items if prepared.refusal_of(item) is None]
            present = _present(session, valid)
        numbers = self._numbers(prepared, valid) if kind is BulkKind.PROVISION else {}
        obstacles = []
        for item in prepared.items:
            found = _row_obstacle(item, prepared, present)
            if found is None and numbers is not None and kind is BulkKind.PROVISION:
                found = _number_obstacle(item, numbers[prepared.account_of(item)])
            if found is not None:
                obstacles.append(found)
        blocked = {one.position for one in obstacles if one.blocks}
        startable = [item for item in prepared.items if item.position not in blocked]
        room = self.headroom.for_items(startable) if kind is BulkKind.PROVISION else None
        return BulkPreview(kind, len(items), obstacles, room, numbers is not None)

    def _numbers(
        self, prepared: Prepared, valid: Sequence[Item]
    ) -> Mapping[uuid.UUID, Mapping[str, OwnedNumber]] | None:
        """Return the numbers of each account that the items are of; None where one of them cannot be listed."""
        wanted: dict[uuid.UUID, list[str]] = {}
        for item in valid:
            wanted.setdefault(prepared.account_of(item), []).append(item.phone_number or "")
        try:
            return {account: self.inventory.as_unheld(account, numbers) for account, numbers in wanted.items()}
        except ProviderError as error:
            log.info("numbers_not_listed", code=error.code)
            return None


def _present(session: Session, items: Sequence[Item]) -> _Present:
    agent_ids = literal([item.agent_id for item in items if item.agent_id], ARRAY(Uuid))
    texts = literal([item.phone_number for item in items], ARRAY(Text))
    with_number = select(Agent.id).where(
        Agent.id == any_(agent_ids), Agent.phone_provisioning_status == PhoneStatus.PROVISIONED
    )
    takes_part = or_(Operation.agent_id == any_(agent_ids), Operation.target_agent_id == any_(agent_ids))
    ids = select(Operation.id, Operation.agent_id, Operation.target_agent_id)
    operations = ids.where(takes_part, Operation.status.in_(OPEN_STATUSES))
    holders = select(Agent.twilio_phone_number, Agent.id).where(Agent.twilio_phone_number == any_(texts))
    found = session.scalars(with_number).all()
    busy = {
        agent_id: operation_id
        for operation_id, *both in session.execute(operations)
        for agent_id in both
        if agent_id is not None
    }
    with seeing(None):  # of the account's numbers each has one agent, whoever sees it
        return _Present(
            frozenset(found), busy, {number: holder for number, holder in session.execute(holders) if number}
        )


def _row_obstacle(item: Item, prepared: Prepared, present: _Present) -> ItemObstacle | None:
    """Return what our rows have in the item's way, as the item itself would fail."""
    refusal = prepared.refusal_of(item)
    if refusal is None and item.agent_id in present.with_number:
        refusal = ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first."
    elif refusal is None and item.agent_id is not None and item.agent_id in present.busy:
        operation_id = present.busy[item.agent_id]
        refusal = ErrorCode.OPERATION_IN_PROGRESS, f"Operation {operation_id} is still open for this agent."
    elif refusal is None and present.holders.get(item.phone_number or "", item.agent_id) != item.agent_id:
        refusal = ErrorCode.NUMBER_IN_USE, "The number belongs to another agent."
    return None if refusal is None else ItemObstacle(item.position, item.phone_number, *refusal)


def _number_obstacle(item: Item, numbers: Mapping[str, OwnedNumber]) -> ItemObstacle | None:
    """Return what of the number itself is in the item's way, or is to be known before."""
    number = numbers.get(item.phone_number or "")
    about = item.position, item.phone_number
    if number is None:
        return ItemObstacle(*about, ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The Twilio account does not own this number.")
    if number.use is NumberUse.NO_VOICE:
        return ItemObstacle(*about, ErrorCode.NUMBER_NOT_VOICE, "The number cannot take voice calls.")
    if number.needs_takeover:
        on = f"trunk {number.trunk_sid}" if number.trunk_sid else f"voice application {number.application_sid}"
        rest = "it would be moved" if item.takeover else "only with takeover is it moved here"
        detail = f"The number is on {on}: {rest}."
        return ItemObstacle(*about, ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=not item.takeover)
    if number.use is NumberUse.VOICE_URL:
        detail = f"Callers reach {number.voice_host} now: they would reach the agent instead."
        return ItemObstacle(*about, ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=False)
    return None
