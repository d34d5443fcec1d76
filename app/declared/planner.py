"""The plan of a declaration: what stands and what is declared in, the changes that lead from one to the other out.

Pure. What stands is what will stand once everything that is under way has succeeded: so a declaration that was just
applied leaves nothing to do, while its operations still run.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.domain.errors import ErrorCode
from app.domain.operations import TrunkMode
from app.domain.options import options_of
from app.domain.workspaces import AccountIds
from app.path.options import problems_of

FIELDS = {
    "name": "name",
    "livekit_agent_name": "livekitAgentName",
    "metadata": "metadata",
    "options": "options",
    "trunk_mode": "trunkMode",
}
"""What a declaration may say of an agent's row and a later one may change: the row's name of it -> its name in JSON."""


class ChangeKind(StrEnum):
    """What a change does to an agent; all but the first are kinds of bulk items too."""

    CREATE = "create"
    UPDATE = "update"
    PROVISION = "provision"
    MOVE = "move"
    """Hands a number of one agent to another, which rings on meanwhile."""
    DEPROVISION = "deprovision"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Declared:
    """What a declaration says of one agent; what it does not name stays as it is."""

    place: int
    """From 0, in the list of agents."""
    external_id: str
    given: Mapping[str, Any] = field(default_factory=dict)
    """What is named of `FIELDS`, as JSON, each as a whole."""
    number: str | None = None
    says_number: bool = False
    """Whether a number is named at all; one that is null is taken from the agent."""
    takeover: bool = False
    carrier_account_id: uuid.UUID | None = None
    voice_project_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """An agent with an external id, as it will be once what is under way has succeeded."""

    agent_id: uuid.UUID
    external_id: str
    values: Mapping[str, Any]
    """`FIELDS`, as JSON."""
    accounts: AccountIds
    number: str | None = None
    claims: str | None = None
    """The number that its row has now: nobody else gets that before it is given up."""
    is_busy: bool = False
    """Whether an operation is open for it, or an item of a bulk waits."""
    is_adopted: bool = False
    """Whether its path was made by hand, so that somebody must say what becomes of that."""
    is_leaving: bool = False
    """Whether it is being deleted."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change; `waits_for` are indexes of the changes that have to succeed before."""

    kind: ChangeKind
    external_id: str
    """The agent; of a move, the one that gets the number."""
    place: int | None = None
    """Where the declaration names the agent; None where it does not, so that it goes."""
    agent_id: uuid.UUID | None = None
    """None for an agent that is created by the same plan."""
    number: str | None = None
    from_external_id: str | None = None
    """Of a move: the agent that has the number; so the next."""
    from_agent_id: uuid.UUID | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    """Of a creation and an update: the row's fields as they are to be."""
    accounts: AccountIds | None = None
    """Of a creation."""
    takeover: bool = False
    is_queued: bool = False
    """Whether it is an item of the bulk; else it is made in the transaction that accepts the declaration."""
    waits_for: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a declaration cannot be applied as things stand."""

    code: ErrorCode
    detail: str
    external_id: str
    place: int | None = None
    """None: the declaration does not name the agent."""
    field: str | None = None
    """The field at fault, as in JSON."""

    @property
    def pointer(self) -> str:
        """Where it stands in the declaration (JSON pointer, RFC 6901)."""
        return pointer_to(self.place, self.field)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to change, in an order in which it can be done."""

    changes: tuple[Change, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @property
    def queued(self) -> Mapping[int, int]:
        """Index of a change -> the position, from 1, of its item in the bulk."""
        indexes = (index for index, change in enumerate(self.changes) if change.is_queued)
        return {index: position for position, index in enumerate(indexes, start=1)}

    def with_ids(self, created: Mapping[str, uuid.UUID]) -> "Plan":
        """Return it with the ids of the agents that it has created."""
        known = (replace(one, agent_id=one.agent_id or created[one.external_id]) for one in self.changes)
        return replace(self, changes=tuple(known))


def pointer_to(place: int | None, *names: str | None) -> str:
    """Return the JSON pointer (RFC 6901) to the agent at this place of a declaration, or to something of it."""
    parts = ["agents", *([] if place is None else [str(place)]), *(name for name in names if name)]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def plan_changes(
    declared: Sequence[Declared],
    standing: Sequence[Standing],
    *,
    default: AccountIds,
    taken: Mapping[str, uuid.UUID | None] | None = None,
    prune: bool = False,
) -> Plan:
    """Return what leads from what stands to what is declared; external ids and numbers are declared once each.

    `default` are the accounts of a new agent that names none. `taken`: numbers of agents that are not in `standing`,
    each with its agent, None where that is another workspace's. With `prune`, agents that are not declared go.
    """
    return _Planner(declared, standing, default, taken or {}, prune=prune).plan()


def same(left: object, right: object) -> bool:
    """Tell whether two values are the same JSON: 1 is 1.0, and not true."""
    return _text(left) == _text(right)


def _text(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(slots=True)
class _Agent:
    """An agent that the declaration decides about."""

    external_id: str
    accounts: AccountIds
    after: Mapping[str, Any]
    new: str | None
    stands: Standing | None = None
    declared: Declared | None = None
    left_by: int | None = None
    """The change after which it has its former number no more."""
    updated_by: int | None = None
    is_settled: bool = False

    @property
    def place(self) -> int | None:
        return self.declared.place if self.declared else None

    @property
    def agent_id(self) -> uuid.UUID | None:
        return self.stands.agent_id if self.stands else None

    @property
    def old(self) -> str | None:
        return self.stands.number if self.stands else None

    @property
    def gives_up(self) -> bool:
        return self.old is not None and self.old != self.new

    @property
    def changed(self) -> Mapping[str, Any]:
        """What an update of its row writes."""
        if self.stands is None or self.declared is None:
            return {}
        values = self.stands.values
        return {name: value for name, value in self.after.items() if not same(value, values[name])}

    def conflict(self, code: ErrorCode, detail: str, at: str | None = None) -> Conflict:
        return Conflict(code, detail, self.external_id, self.place, at)


class _Planner:
    def __init__(
        self,
        declared: Sequence[Declared],
        standing: Sequence[Standing],
        default: AccountIds,
        taken: Mapping[str, uuid.UUID | None],
        *,
        prune: bool,
    ) -> None:
        self._taken = taken
        self._changes: list[Change] = []
        self._conflicts: list[Conflict] = []
        known = {one.external_id: one for one in standing}
        named = {one.external_id for one in declared}
        self._agents = [_declared(one, known.get(one.external_id), default) for one in declared]
        left = [one for one in standing if one.external_id not in named]
        if prune:
            self._agents += [
                _Agent(one.external_id, one.accounts, one.values, None, one) for one in left if not one.is_leaving
            ]
        self._holders = {one.old: one for one in self._agents if one.old}
        self._kept = {one.number: one for one in left if one.number and not (prune and not one.is_leaving)}
        self._given_up = {one.claims: one for one in standing if one.claims and one.claims != one.number}
        self._wants = {one.new: one for one in self._agents if one.new and one.new != one.old}
        self._heirs: dict[str, _Agent] = {}

    def plan(self) -> Plan:
        """Check, then plan in an order in which it can be done."""
        for one in self._agents:
            self._check(one)
        self._choose_moves()
        for one in self._agents:
            if one.stands is None:
                self._add(one, ChangeKind.CREATE, after=one.after, accounts=one.accounts)
        self._plan_present()
        for one in self._agents:
            if one.declared is None:
                self._add(one, ChangeKind.DELETE, number=one.old, is_queued=one.old is not None, waits=(one.left_by,))
        self._refuse_busy()
        return Plan(tuple(self._changes), tuple(self._conflicts))

    def _plan_present(self) -> None:
        """Plan rows and numbers of agents that exist by then: first what is written at once."""
        for one in self._agents:
            if one.old is None:
                self._settle(one)
        for one in self._agents:
            self._empty(one)
            self._settle(one)
        moved = {heir.external_id for heir in self._heirs.values()}
        for one in self._agents:
            if one.external_id not in moved and one.new != one.old:
                self._provision(one)

    def _check(self, one: _Agent) -> None:
        """Note what stands in the way of what is declared of an agent."""
        self._check_accounts(one)
        self._check_number(one)
        if one.stands is None or one.declared is None:
            return
        if "trunk_mode" in one.changed and one.old is not None and one.old == one.new:
            detail = "The trunk mode is that of the next number: deprovision this one first."
            self._conflicts.append(one.conflict(ErrorCode.AGENT_HAS_PHONE, detail, "trunkMode"))
        if "options" in one.changed:
            known = problems_of(options_of(one.stands.values["options"]), one.new)
            for path, problems in problems_of(options_of(one.after["options"]), one.new).items():
                if problems != known.get(path):
                    detail = f"options.{path} {' '.join(problems)}"
                    self._conflicts.append(one.conflict(ErrorCode.VALIDATION_FAILED, detail, "options"))

    def _check_accounts(self, one: _Agent) -> None:
        if one.stands is None or one.declared is None:
            return
        for name, at, wanted in (
            ("carrier_account_id", "carrierAccountId", one.declared.carrier_account_id),
            ("voice_project_id", "voiceProjectId", one.declared.voice_project_id),
        ):
            if wanted is not None and wanted != getattr(one.stands.accounts, name):
                detail = "An agent stays in its carrier account and its voice project: declare another agent."
                self._conflicts.append(one.conflict(ErrorCode.ACCOUNTS_DIFFER, detail, at))

    def _check_number(self, one: _Agent) -> None:
        number = one.new
        if number is None or number == one.old:
            return
        at, holder = "phoneNumber", self._holders.get(number)
        if holder is not None and holder.new == number:
            detail = f"Agent {holder.external_id} has {number}, and nothing is declared of its number: take it from it."
            self._conflicts.append(one.conflict(ErrorCode.NUMBER_IN_USE, detail, at))
        elif holder is not None and holder.accounts.carrier_account_id != one.accounts.carrier_account_id:
            detail = f"{number} is in the carrier account of agent {holder.external_id}, and this agent uses another."
            self._conflicts.append(one.conflict(ErrorCode.ACCOUNTS_DIFFER, detail, at))
        elif number in self._kept:
            detail = f"Agent {self._kept[number].external_id} has {number}, and is not declared."
            self._conflicts.append(one.conflict(ErrorCode.NUMBER_IN_USE, detail, at))
        elif holder is None and number in self._given_up:
            detail = f"Agent {self._given_up[number].external_id} is giving {number} up: apply again once it has."
            self._conflicts.append(one.conflict(ErrorCode.OPERATION_IN_PROGRESS, detail, at))
        elif number in self._taken:
            agent_id = self._taken[number]
            whose = f"Agent {agent_id}, which has no externalId," if agent_id else "An agent of another workspace"
            self._conflicts.append(one.conflict(ErrorCode.NUMBER_IN_USE, f"{whose} has {number}.", at))

    def _choose_moves(self) -> None:
        """Say whose number is moved to whom; where they would all wait for each other, the first is deprovisioned."""
        for one in self._agents:
            heir = self._wants.get(one.old) if one.gives_up and one.old else None
            if heir is not None and heir.accounts == one.accounts:
                self._heirs[one.external_id] = heir
        checked: set[str] = set()
        for one in self._agents:
            on_the_way: set[str] = set()
            at = one.external_id
            while at in self._heirs and at not in checked and at not in on_the_way:
                on_the_way.add(at)
                at = self._heirs[at].external_id
            if at in on_the_way:
                del self._heirs[min(on_the_way & self._circle(at))]
            checked |= on_the_way

    def _circle(self, start: str) -> set[str]:
        found, at = {start}, self._heirs[start].external_id
        while at != start:
            found.add(at)
            at = self._heirs[at].external_id
        return found

    def _empty(self, one: _Agent) -> None:
        """Take its former number from an agent; before that, theirs from all that the numbers go on to."""
        chain: list[_Agent] = []
        at: _Agent | None = one
        while at is not None and at.gives_up and at.left_by is None:
            chain.append(at)
            at = self._heirs.get(at.external_id)
        for giver in reversed(chain):
            heir = self._heirs.get(giver.external_id)
            if heir is None:
                if giver.stands and giver.stands.is_adopted:
                    detail = "Its path was adopted: deprovision it with path=keep or path=remove, then apply again."
                    self._conflicts.append(giver.conflict(ErrorCode.KEEP_OR_REMOVE, detail, "phoneNumber"))
                giver.left_by = self._add(giver, ChangeKind.DEPROVISION, number=giver.old, is_queued=True)
                continue
            self._settle(heir)
            giver.left_by = self._add(
                heir,
                ChangeKind.MOVE,
                number=giver.old,
                is_queued=True,
                from_external_id=giver.external_id,
                from_agent_id=giver.agent_id,
                waits=(heir.left_by, heir.updated_by),
            )

    def _settle(self, one: _Agent) -> None:
        """Write what is declared of an agent's row: at once where it has no number, else once that has left it."""
        changed = one.changed
        if one.is_settled or one.stands is None or not changed:
            return
        one.is_settled = True
        is_queued = one.old is not None
        index = self._add(
            one,
            ChangeKind.UPDATE,
            number=one.old,
            before={name: one.stands.values[name] for name in changed},
            after=changed,
            is_queued=is_queued,
            waits=(one.left_by,),
        )
        one.updated_by = index if is_queued else None

    def _provision(self, one: _Agent) -> None:
        if one.new is None:
            return
        holder = self._holders.get(one.new)
        takeover = one.declared is not None and one.declared.takeover
        waits = (one.left_by, one.updated_by, holder.left_by if holder else None)
        self._add(one, ChangeKind.PROVISION, number=one.new, takeover=takeover, is_queued=True, waits=waits)

    def _add(self, one: _Agent, kind: ChangeKind, *, waits: Iterable[int | None] = (), **more: Any) -> int:
        waits_for = tuple(sorted({index for index in waits if index is not None}))
        self._changes.append(Change(kind, one.external_id, one.place, one.agent_id, waits_for=waits_for, **more))
        return len(self._changes) - 1

    def _refuse_busy(self) -> None:
        """Note who is to change while something is under way that leads elsewhere."""
        changing = {change.external_id for change in self._changes}
        changing |= {change.from_external_id for change in self._changes if change.from_external_id}
        for one in self._agents:
            stands = one.stands
            if stands is not None and stands.is_leaving:
                detail = "The agent is being deleted: apply again once that has ended."
                self._conflicts.append(one.conflict(ErrorCode.OPERATION_IN_PROGRESS, detail))
            elif stands is not None and stands.is_busy and one.external_id in changing:
                detail = "An operation is open for this agent, or waits: apply again once it has ended."
                self._conflicts.append(one.conflict(ErrorCode.OPERATION_IN_PROGRESS, detail))


def _declared(one: Declared, stands: Standing | None, default: AccountIds) -> _Agent:
    if stands is not None:
        new = one.number if one.says_number else stands.number
        return _Agent(one.external_id, stands.accounts, {**stands.values, **one.given}, new, stands, one)
    name = one.given.get("name", one.external_id)
    values = {
        "name": name,
        "livekit_agent_name": name,
        "metadata": {},
        "options": {},
        "trunk_mode": TrunkMode.SHARED.value,
    }
    named = {"carrier_account_id": one.carrier_account_id, "voice_project_id": one.voice_project_id}
    accounts = default._replace(**{key: value for key, value in named.items() if value is not None})
    return _Agent(one.external_id, accounts, {**values, **one.given}, one.number, None, one)


def declared_of(standing: Sequence[Standing], default: AccountIds) -> list[Declared]:
    """Return a declaration of what stands: its plan is empty. Accounts are named where they are not the default."""
    named = sorted((one for one in standing if not one.is_leaving), key=lambda one: one.external_id)
    found = []
    for place, one in enumerate(named):
        declared = Declared(place, one.external_id, dict(one.values), one.number, says_number=True)
        ids = {name: value for name, value in one.accounts._asdict().items() if value != getattr(default, name)}
        found.append(replace(declared, **ids))
    return found
