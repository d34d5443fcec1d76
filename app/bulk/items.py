"""Reads and validates the items of a bulk; an invalid item fails alone, the others go on."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.bulk.files import COLUMNS, FLAT_AGENT_FIELDS, nearest_of
from app.db.models import BulkItem
from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.operations import BulkKind, ItemKind, ItemStatus, TrunkMode
from app.domain.options import NO_OPTIONS, AgentOptions
from app.domain.texts import MAX_NAME, InvalidTextError, check_metadata, excerpt, external_id, read_uuid, visible_line


class ItemTakenError(Exception):
    """The item is no longer pending: another sweeper opened its operation, or it was cancelled."""


@dataclass(frozen=True, slots=True)
class BulkItemRef:
    """Identifies one item of a bulk."""

    bulk_id: uuid.UUID
    position: int

    def check_pending(self, session: Session) -> None:
        """Raise `ItemTakenError` unless the item is still pending."""
        item = (BulkItem.bulk_id == self.bulk_id, BulkItem.position == self.position)
        if session.scalar(select(BulkItem.status).where(*item)) is not ItemStatus.PENDING:
            raise ItemTakenError

    def start(self, session: Session, operation_id: uuid.UUID) -> None:
        """Link the operation that was just opened for the item; `ItemTakenError` unless it is still pending."""
        self._leave_pending(session, status=ItemStatus.RUNNING, operation_id=operation_id)

    def finish(self, session: Session) -> None:
        """End an item that was done without an operation; `ItemTakenError` unless it is still pending."""
        self._leave_pending(session, status=ItemStatus.SUCCEEDED)

    def _leave_pending(self, session: Session, **values: object) -> None:
        pending = (
            BulkItem.bulk_id == self.bulk_id,
            BulkItem.position == self.position,
            BulkItem.status == ItemStatus.PENDING,
        )
        left = update(BulkItem).where(*pending).values(values).returning(BulkItem.position)
        if session.scalar(left.execution_options(synchronize_session=False)) is None:
            raise ItemTakenError


@dataclass(frozen=True, slots=True)
class MixedItem:
    """One item of a bulk whose items are of several kinds."""

    kind: ItemKind
    agent_id: uuid.UUID
    phone_number: str
    """The number that it is about; of an update or a deletion, the one that the agent has or had."""
    takeover: bool = False
    target_agent_id: uuid.UUID | None = None
    wanted: Mapping[str, Any] | None = None
    """What an update makes of the agent, by field of the agent's row."""
    waits_for: tuple[int, ...] = ()
    """Positions, from 1, of the items that must have succeeded before."""


FIELDS = frozenset(COLUMNS)
AGENT_FIELDS = frozenset({"name", "metadata", "options", *FLAT_AGENT_FIELDS})

ReadOptions = Callable[[object], AgentOptions]
"""Reads the options of an agent to create; `ValueError` that begins with the path of the option at fault."""


class _InvalidItemError(Exception):
    """The item is invalid; the message names the field."""


@dataclass(frozen=True, slots=True)
class NewAgent:
    """An agent to create for an item."""

    name: str
    livekit_agent_name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    options: AgentOptions = NO_OPTIONS
    trunk_mode: TrunkMode = TrunkMode.SHARED
    carrier_account_id: uuid.UUID | None = None
    """None: the default of the workspace; so the next."""
    voice_project_id: uuid.UUID | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One item as read; with a `problem` it never starts, and the other fields hold what could be read."""

    position: int
    phone_number: str | None = None
    agent_id: uuid.UUID | None = None
    new_agent: NewAgent | None = None
    takeover: bool = False
    problem: str | None = None

    @property
    def external_id(self) -> str | None:
        """The id that its client gives to the agent to create, if any."""
        return self.new_agent.external_id if self.new_agent else None


def read_items(raw: Sequence[object], read_options: ReadOptions, kind: BulkKind = BulkKind.PROVISION) -> list[Item]:
    """Read every item; positions count from 1. Of two with the same number, agent or external id the later is invalid.

    An adoption takes over nothing, and makes an agent that is named after the number where none is given.
    """
    numbers: dict[str, int] = {}
    agents: dict[uuid.UUID, int] = {}
    external_ids: dict[str, int] = {}
    items = []
    for position, given in enumerate(raw, start=1):
        item = _read(position, given, read_options, kind)
        if item.problem is None:
            item = _check_unique(item, "phoneNumber", numbers, item.phone_number)
        if item.problem is None and item.agent_id is not None:
            item = _check_unique(item, "agentId", agents, item.agent_id)
        if item.problem is None and item.external_id is not None:
            item = _check_unique(item, "agent.externalId", external_ids, item.external_id)
        items.append(item)
    return items


def _check_unique(item: Item, name: str, seen: dict[Any, int], value: object) -> Item:
    first = seen.setdefault(value, item.position)
    return item if first == item.position else replace(item, problem=f"{name}: is in item {first} already.")


def _read(position: int, given: object, read_options: ReadOptions, kind: BulkKind) -> Item:
    if not isinstance(given, Mapping):
        return Item(position, problem="The item must be an object.")
    item = Item(position, phone_number=_excerpt(given.get("phoneNumber")))
    try:
        _refuse_unknown(given, FIELDS)
        item = replace(item, agent_id=_id(given.get("agentId"), "agentId", "an agent"))
        number, takeover = _number(given.get("phoneNumber")), _flag(given.get("takeover", False))
        wanted = _agent_of(given)
        new_agent = None if wanted is None else _new_agent(wanted, read_options)
    except _InvalidItemError as error:
        return replace(item, problem=str(error))
    if kind is BulkKind.ADOPT and takeover:
        return replace(item, problem="takeover: an adoption takes nothing over.")
    if kind is BulkKind.ADOPT and item.agent_id is None and new_agent is None:
        new_agent = NewAgent(number, number)
    if (item.agent_id is None) == (new_agent is None):
        return replace(item, problem="agentId, agent: exactly one of them is required.")
    return replace(item, phone_number=number, new_agent=new_agent, takeover=takeover)


def _number(value: object) -> str:
    if value is None:
        raise _InvalidItemError("phoneNumber: is missing.")
    try:
        return parse_e164(value if isinstance(value, str) else "")
    except InvalidNumberError as error:
        raise _InvalidItemError(f"phoneNumber: {error}.") from error


def _id(value: object, where: str, what: str) -> uuid.UUID | None:
    if value is None:
        return None
    found = read_uuid(value)
    if found is None:
        raise _InvalidItemError(f"{where}: is not the id of {what}.")
    return found


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _InvalidItemError("takeover: must be true or false.")
    return value


def _agent_of(given: Mapping[Any, object]) -> object:
    """Return the agent to create in its nested form, its fields from beside the number included; None for none."""
    agent = given.get("agent")
    flat = {name: given[name] for name in FLAT_AGENT_FIELDS if given.get(name) is not None}
    if not flat:
        return agent
    first = next(iter(flat))
    if agent is None and given.get("agentId") is not None:
        raise _InvalidItemError(f"{first}: is of an agent to create, and agentId names one that exists.")
    if agent is None:
        raise _InvalidItemError(f"agent: is missing, the name of the agent to create that {first} is of.")
    if isinstance(agent, str):
        return {"name": agent, **flat}
    if isinstance(agent, Mapping):
        twice = [name for name in flat if name in agent]
        if twice:
            raise _InvalidItemError(f"{twice[0]}: is given twice, in agent and beside it.")
        return {**agent, **flat}
    return agent


def _new_agent(value: object, read_options: ReadOptions) -> NewAgent:
    """Read an agent: its name alone, or an object as for `POST /api/agents`."""
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise _InvalidItemError("agent: must be a name or an object.")
    _refuse_unknown(given, AGENT_FIELDS, "agent.")
    name = _name(given.get("name"), "agent.name")
    livekit_name = given.get("livekitAgentName")
    metadata = given.get("metadata", {})
    if not isinstance(metadata, dict):
        raise _InvalidItemError("agent.metadata: must be an object.")
    try:
        check_metadata(metadata)
    except InvalidTextError as error:
        raise _InvalidItemError(f"agent.metadata: {error}.") from error
    livekit_name = name if livekit_name is None else _name(livekit_name, "agent.livekitAgentName")
    return NewAgent(
        name,
        livekit_name,
        metadata,
        _options(given.get("options", {}), read_options),
        _trunk_mode(given.get("trunkMode", TrunkMode.SHARED)),
        _id(given.get("carrierAccountId"), "agent.carrierAccountId", "a carrier account"),
        _id(given.get("voiceProjectId"), "agent.voiceProjectId", "a voice project"),
        _external_id(given.get("externalId")),
    )


def _external_id(value: object) -> str | None:
    try:
        return None if value is None else external_id(value)
    except InvalidTextError as error:
        raise _InvalidItemError(f"agent.externalId: {error}.") from error


def _options(value: object, read_options: ReadOptions) -> AgentOptions:
    try:
        return read_options(value)
    except ValueError as error:
        raise _InvalidItemError(f"agent.options{error}") from error


def _trunk_mode(value: object) -> TrunkMode:
    try:
        return TrunkMode(value)  # type: ignore[arg-type]  # anything else is refused
    except ValueError as error:
        raise _InvalidItemError(f"agent.trunkMode: must be {' or '.join(TrunkMode)}.") from error


def _name(value: object, where: str) -> str:
    if value is None:
        raise _InvalidItemError(f"{where}: is missing.")
    if not isinstance(value, str):
        raise _InvalidItemError(f"{where}: must be text.")
    if not 1 <= len(value.strip()) <= MAX_NAME:
        raise _InvalidItemError(f"{where}: must have 1 to {MAX_NAME} characters.")
    try:
        return visible_line(value)
    except InvalidTextError as error:
        raise _InvalidItemError(f"{where}: {error}.") from error


def _refuse_unknown(given: Mapping[Any, object], known: frozenset[str], where: str = "") -> None:
    for name in given:
        if name not in known:
            nearest = nearest_of(str(name), known)
            hint = f" Did you mean {where}{nearest}?" if nearest else ""
            raise _InvalidItemError(f"{where}{_excerpt(name)}: is not known.{hint}")


def _excerpt(value: object) -> str | None:
    """Return what can be stored and shown of a text that may be malformed; None for anything else."""
    return excerpt(value) if isinstance(value, str) else None
