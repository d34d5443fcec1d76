"""The pure machine between random workers, people and providers: a model of all that happens around one number.

`Life` keeps what PostgreSQL would (operations, steps, agents, ledger), what the providers have, which requests may
still land, and which workers hold a step. Each method is something that may happen; `check`, `apply` and what they call
hold the invariants.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Origin
from app.domain.operations import (
    ALL_NEEDS,
    COLUMNS,
    KINDS,
    LAST,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    PHONE_MOVES,
    STEP_BY_NAME,
    STEPS,
    TRUNK,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.numbers.maintenance import MOVED_STEPS
from app.saga import machine
from app.saga.state import (
    MESSAGE_GRACE,
    AgentRow,
    Change,
    Failure,
    Lease,
    LedgerEntry,
    OperationRow,
    Result,
    Saga,
    StepRow,
    Timing,
    Verdict,
)
from app.sweeper import REPUBLISH_PAUSE, REPUBLISH_PAUSE_CAP

TIMING = Timing(provider_timeout=timedelta(seconds=10), budget=timedelta(seconds=900))
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
E164, NUMBER_SID = "+15145551234", "PN1"
ORIGIN = Origin(requested_by="tests")
ROUTING = {"trunk_sid": None, "voice_application_sid": None, "voice_url": "https://example.com"}
MAKERS = tuple(step.name for step in STEPS if step.makes)
SHARED = (TRUNK, ORIGINATION_URL)
"""What an agent with a place on a shared trunk does not have of its own."""

SOMEBODY = uuid.UUID(int=2**64)
"""Whose mark it is, so to speak, that a path carries which was made by hand."""

CHANGED_STEPS = frozenset(step.name for step in STEPS if step.provider == "livekit")
"""The steps of an update."""

SPANS = tuple(
    timedelta(seconds=one)
    for one in (0.001, 0.5, 1, 2, 5, 5.1, 10, 10.5, 12, 12.1, 20, 20.1, 30, 31, 40.1, 60, 300, 901)
)
"""From a moment to beyond rest, quiet period, settle time, lease, lease and landing, and budget."""

HEALING_ROUNDS = 80
"""Publications after which an operation that has not ended, although every request succeeds, is stuck."""


@dataclass
class Resource:
    """Something at a provider."""

    step: str
    tag: uuid.UUID
    """The agent whose mark it carries."""
    made_for: str = ""
    """What it was last made or changed for: the name of the LiveKit agent."""
    is_late: bool = False
    """Made by a worker that had lost its lease: later than the timing allows."""


@dataclass
class Request:
    """A request that got no answer; it takes effect at a moment within what the timing allows, or never."""

    step: str
    tag: uuid.UUID
    sent_at: datetime
    until: datetime
    share: float | None
    """Which part of that time it takes; None: never."""

    @property
    def lands_at(self) -> datetime | None:
        return None if self.share is None else self.sent_at + self.share * (self.until - self.sent_at)


@dataclass
class Holder:
    """A worker with a claim."""

    operation_id: uuid.UUID
    lease: Lease
    saga: Saga
    """The operation as the claim left it."""
    may_have_happened: bool
    claimed_at: datetime
    lease_until: datetime
    has_acted: bool = False
    is_clear: bool = False
    result: Result | None = None
    request: Request | None = None
    refusal: ErrorCode | None = None
    waits: bool = False
    """Whether it has found the shared trunk unmade, or its lease lost."""
    removed: tuple[str, ...] = ()

    @property
    def identity(self) -> AgentRow:
        if self.lease.direction is Direction.UNDO:
            return self.saga.agent
        return self.saga.target or self.saga.agent.as_wanted(self.saga.operation.wanted)

    @property
    def only_marks(self) -> bool:
        operation = self.saga.operation
        return operation.rules.marks_only or operation.keeps_path

    @property
    def row(self) -> StepRow:
        return self.saga.steps[self.lease.step]

    @property
    def known(self) -> set[str]:
        """The ids of the step's resources in its row and in the ledger."""
        listed = {entry.external_id for entry in self.saga.ledger if entry.kind == self.lease.step}
        return listed | ({self.row.resource_id} if self.row.resource_id else set())

    @property
    def last_call_at(self) -> datetime:
        return self.lease_until - TIMING.provider_timeout


@dataclass
class Known:
    """A row of the ledger."""

    entry: LedgerEntry
    agent_id: uuid.UUID
    seen_at: datetime
    is_live: bool = True
    was_lost: bool = False
    """Learned from a worker that had lost its lease."""


@dataclass
class Kept:
    """The rows of one operation, without its agents'."""

    operation: OperationRow
    steps: Mapping[str, StepRow]
    is_whole: bool = True
    """Whether it works on every step."""
    waited: timedelta = timedelta()
    undone_by: dict[str, datetime] = field(default_factory=dict)
    """Step -> when the undo that succeeded was claimed."""


class Dice:
    """Takes choices out of one drawn integer: small ones out of small integers, for short counterexamples."""

    def __init__(self, drawn: int) -> None:
        self.left = drawn

    def below(self, count: int) -> int:
        self.left, chosen = divmod(self.left, count)
        return chosen

    def pick(self, options: Any) -> Any:
        return options[self.below(len(options))]


class Life:
    """All that happens around one number and two agents."""

    LIVES_TO_SHARED = 3
    """Lives to one in which both agents share trunks with others."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.agents: dict[uuid.UUID, AgentRow] = {}
        self.operations: dict[uuid.UUID, Kept] = {}
        self.open_id: uuid.UUID | None = None
        self.ledger: dict[str, Known] = {}
        self.world: dict[str, Resource] = {}
        self.requests: list[Request] = []
        self.holders: list[Holder] = []
        self.stopped: list[Holder] = []
        """Workers whose process stands still."""
        self.leases: dict[tuple[uuid.UUID, str], tuple[uuid.UUID, datetime]] = {}
        self.ids = iter(range(1, 1_000_000))
        self.story: list[str] = []
        self.pool: dict[uuid.UUID, dict[str, str]] = {self.new_uuid(): {} for _ in range(2)}
        """Shared trunks: the ids of what is made of each."""
        self.remembered: dict[uuid.UUID, AgentRow] = {}
        """Operation -> its agent as the last write left it: what a process goes on with that made it."""
        self.is_read = True
        """Whether the next who loads an operation reads it, and does not go on from memory."""
        self.ended: set[tuple[OperationKind, OperationStatus]] = set()
        for name in ("one", "two"):
            agent = AgentRow(
                self.new_uuid(), name, name, {}, PhoneStatus.NOT_PROVISIONED, trunk_mode=TrunkMode.DEDICATED
            )
            self.agents[agent.id] = agent

    # Plumbing.

    def new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=next(self.ids))

    def tell(self, *words: object) -> None:
        self.story.append(f"{(self.now - BEGINNING).total_seconds():9.3f} s  " + " ".join(str(word) for word in words))

    @property
    def open(self) -> Kept | None:
        return None if self.open_id is None else self.operations[self.open_id]

    def saga(self, operation_id: uuid.UUID) -> Saga:
        """Load an operation, as read.sql does."""
        kept = self.operations[operation_id]
        operation = kept.operation
        is_fresh = operation.kind is OperationKind.PROVISION and operation.status in {
            OperationStatus.QUEUED,
            OperationStatus.RUNNING,
        }
        known = (one for one in self.ledger.values() if one.is_live and one.agent_id == operation.agent_id)
        agent = self.agents[operation.agent_id]
        if not self.is_read and operation_id in self.remembered and not operation.status.is_final:
            # Places are taken outside of the operation's writes.
            agent = replace(agent, trunk_id=self.remembered[operation_id].trunk_id)
        return Saga(
            operation,
            agent,
            kept.steps,
            self.agents[operation.target_agent_id] if operation.target_agent_id else None,
            tuple(one.entry for one in known),
            {} if is_fresh else self.older_unsettled(operation),
            kept.waited,
        )

    def older_unsettled(self, operation: OperationRow) -> dict[str, datetime]:
        found: dict[str, datetime] = {}
        for kept in self.operations.values():
            other = kept.operation
            if other.id == operation.id or operation.agent_id not in {other.agent_id, other.target_agent_id}:
                continue
            for row in kept.steps.values():
                held = row.lease_until + TIMING.lands if row.lease_token and row.lease_until else None
                for until in (row.unsettled_until, held):
                    if until:
                        found[row.name] = max(until, found.get(row.name, until))
        return found

    def apply(self, operation_id: uuid.UUID, change: Change) -> None:
        """Save a change, as write.sql does, and hold the invariants of the step that it takes."""
        kept, before, after = self.operations[operation_id], change.before, change.after
        _check_order(before, after, change.operation.direction)
        kept.operation, kept.steps, kept.waited = after.operation, after.steps, after.waited
        self.write_agent(before.agent, after.agent)
        if before.target and after.target:
            self.write_agent(before.target, after.target)
        self.remembered[operation_id] = after.agent
        for entry in change.ledger:
            known = Known(entry, before.agent.id, self.now, was_lost=change.verdict is Verdict.LOST)
            self.ledger.setdefault(entry.external_id, known)
        for known in self.ledger.values():
            if known.is_live and known.agent_id == before.agent.id:
                known.is_live = known.entry.external_id not in change.deleted
                if change.hands_over and after.target:
                    known.agent_id = after.target.id
        if after.operation.status.is_final and not before.operation.status.is_final:
            self.open_id = None
            self.tell("operation ends", after.operation.status, after.operation.error_code or "")
            self.ended.add((after.operation.kind, after.operation.status))
            self.check_end(kept, opens_next=change.opened is not None)
        if change.opened:
            self.keep_opened(change.opened)
        self.check()

    def write_agent(self, before: AgentRow, after: AgentRow) -> None:
        """Write the columns that differ, as rows.py does; the place goes with the number."""
        changed = {name: value for name, value in vars_of(after).items() if value != getattr(before, name)}
        if "twilio_phone_number" in changed and after.twilio_phone_number is None:
            changed["trunk_id"] = None
        self.agents[after.id] = replace(self.agents[after.id], **changed)

    def keep_opened(self, opened: Saga) -> None:
        is_whole = all(row.state is StepState.PENDING for row in opened.steps.values())
        self.operations[opened.operation.id] = Kept(opened.operation, opened.steps, is_whole)
        self.open_id = opened.operation.id
        self.tell("opens", opened.operation.kind, "of", self.agents[opened.operation.agent_id].name)

    # Invariants.

    def check(self) -> None:
        """Hold what is true at every moment."""
        numbered = [agent for agent in self.agents.values() if agent.twilio_phone_number]
        assert len(numbered) <= 1, "two agents have the number"
        for agent in self.agents.values():
            assert agent.trunk_id is None or agent.twilio_phone_number, "an agent without a number has a place"
        shared = {one for made in self.pool.values() for one in made.values()}
        assert not shared & self.ledger.keys(), "a shared trunk is in a ledger"
        for kept in self.operations.values():
            operation = kept.operation
            assert (operation.wake_at is None) == operation.status.is_final, "nobody would look at it again"
        if self.open is None:
            assert all(agent.phone_provisioning_status in RESTING for agent in self.agents.values())
            return
        operation = self.open.operation
        agent, rules = self.agents[operation.agent_id], operation.rules
        assert numbered == [agent], "the number is not its operation's"
        assert agent.phone_provisioning_status is rules.phone[operation.status], "phone status and operation differ"
        for name in COLUMNS if rules.makes else ():
            row = self.open.steps.get(name)
            if row and row.state is StepState.DONE:
                assert agent.ids.get(name) == row.resource_id, f"agent and step differ on {name}"

    def check_end(self, kept: Kept, *, opens_next: bool) -> None:
        """Hold what is true when an operation ends."""
        operation, agent = kept.operation, self.agents[kept.operation.agent_id]
        target = self.agents.get(operation.target_agent_id) if operation.target_agent_id else None
        status, rules = operation.status, operation.rules
        if not opens_next:
            assert agent.phone_provisioning_status is rules.phone.get(status, PhoneStatus.PROVISIONED)
        if target:
            assert target.phone_provisioning_status is rules.target_phone[status]
        is_undone = status is not (OperationStatus.SUCCEEDED if rules.starts is Direction.DO else None)
        if (rules.marks_only or operation.keeps_path) and is_undone:
            self.check_given_back(kept, agent)
        elif rules.makes and rules.rolls_back and is_undone:
            self.check_nothing_left(kept, agent)
        elif status is OperationStatus.SUCCEEDED:
            owner = target or agent
            if target:
                assert (agent.ids, agent.twilio_phone_number) == ({}, None)
                assert not [one for one in self.ledger.values() if one.is_live and one.agent_id == agent.id]
            self.check_path(owner, is_alone=kept.is_whole)

        if operation.kind is OperationKind.UPDATE:
            self.check_changed(operation, agent)

    def check_changed(self, operation: OperationRow, agent: AgentRow) -> None:
        """Hold that row and providers say the same, be it what was wanted or what was there before."""
        wanted = (operation.wanted or {}).get("livekit_agent_name")
        assert (agent.livekit_agent_name == wanted) == (operation.status is OperationStatus.SUCCEEDED)
        if operation.status is OperationStatus.CANCELLED:
            return
        for name in CHANGED_STEPS & COLUMNS.keys():
            there = self.world.get(agent.ids.get(name, ""))
            assert there is None or there.made_for == agent.livekit_agent_name, f"{name} is as it was not to be"

    def check_given_back(self, kept: Kept, agent: AgentRow) -> None:
        """Hold that what somebody made by hand is as it was found; then let them take it away."""
        assert (agent.ids, agent.twilio_phone_number, agent.adopted) == ({}, None, None)
        marked = [one for one, there in self.world.items() if there.tag == agent.id and not there.is_late]
        assert not [one for one in marked if one != NUMBER_SID], f"still marked: {marked}"
        assert not [
            one for one in self.ledger.values() if one.is_live and one.agent_id == agent.id and not one.was_lost
        ]
        for one in [row.resource_id for row in kept.steps.values()] + self.of_step(
            NUMBER_ATTACHMENT, {SOMEBODY, agent.id}
        ):
            self.world.pop(one or "", None)
        for one in [one for one, there in self.world.items() if there.tag == SOMEBODY]:
            del self.world[one]

    def check_nothing_left(self, kept: Kept, agent: AgentRow) -> None:
        assert (agent.ids, agent.twilio_phone_number) == ({}, None)
        left = {
            one: there for one, there in self.world.items() if there.tag == agent.id or there.step == NUMBER_ATTACHMENT
        }
        timely = [one for one, there in left.items() if not there.is_late]
        assert not timely, f"left over: {timely}"
        for known in self.ledger.values():
            if known.is_live and known.agent_id == agent.id:
                entry = known.entry
                undone_at = kept.undone_by.get(entry.kind)
                assert known.was_lost, f"ledger still has {entry}"
                assert undone_at is None or known.seen_at >= undone_at, f"undo forgot {entry}"

    def check_path(self, agent: AgentRow, *, is_alone: bool) -> None:
        assert agent.twilio_phone_number == E164
        assert agent.ids.keys() == COLUMNS.keys(), f"not all ids: {agent.ids}"
        assert NUMBER_SID in self.world, "the number is not attached"
        assert (agent.trunk_id is None) == (agent.trunk_mode is TrunkMode.DEDICATED), "its place is not of its kind"
        if agent.trunk_id is not None:
            assert {name: agent.ids[name] for name in SHARED} == self.pool[agent.trunk_id], "its place is elsewhere"
        for name in own_makers(agent):
            assert agent.ids[name] in self.world, f"{name} is not there"
            assert self.ledger[agent.ids[name]].is_live, f"the ledger does not know the {name}"
        for name in MAKERS:
            others = [one for one in self.of_step(name, {agent.id}) if one != agent.ids[name]]
            assert not is_alone or all(self.world[one].is_late for one in others), f"duplicates: {others}"

    # The providers.

    def of_step(self, name: str, tags: set[uuid.UUID]) -> list[str]:
        return [one for one, there in self.world.items() if there.step == name and there.tag in tags]

    def make(self, name: str, tag: uuid.UUID, *, is_late: bool = False) -> str:
        made = NUMBER_SID if name == NUMBER_ATTACHMENT else f"{name}-{next(self.ids)}"
        made_for = self.agents[tag].livekit_agent_name if tag in self.agents else ""
        self.world.setdefault(made, Resource(name, tag, made_for, is_late))
        return made

    def pass_time(self, dice: Dice) -> None:
        """Let time pass: mostly little; else long, or until the next moment at which something is allowed again."""
        way = dice.below(4)
        if way < 2:
            self.let_pass(dice.pick(SPANS[:6]))
        elif way == 2:
            self.let_pass(dice.pick(SPANS))
        elif self.open:
            rows = self.open.steps.values()
            moments = (moment for row in rows for moment in (row.lease_until, row.unsettled_until) if moment)
            ahead = [moment for moment in moments if moment > self.now]
            self.let_pass(min(ahead, default=self.now) - self.now + dice.pick(SPANS[:2]))

    def let_pass(self, span: timedelta) -> None:
        self.now += span
        for request in list(self.requests):
            if request.lands_at is not None and request.lands_at <= self.now:
                self.requests.remove(request)
                self.tell("lands:", request.step, self.make(request.step, request.tag))
                is_gone = self.agents[request.tag].twilio_phone_number is None and self.open is None
                assert not is_gone, f"{request.step} lands when its operation has ended"
        if self.open and self.open.operation.wake_at and self.open.operation.wake_at <= self.now:
            self.push_back(self.open)

    def push_back(self, kept: Kept) -> None:
        """Do what the sweeper does to the row of an operation that it publishes."""
        kicks = kept.operation.idle_kicks
        pause = min(REPUBLISH_PAUSE_CAP, REPUBLISH_PAUSE * 2 ** min(kicks, 8))
        kept.operation = replace(kept.operation, wake_at=self.now + pause, idle_kicks=kicks + 1)

    def delete_behind_our_back(self, dice: Dice) -> None:
        """Let somebody delete a resource of a path that stands, except just after it was read."""
        if any(one.lease.step == LAST and one.has_acted for one in self.holders):
            return
        mine = [one for one, there in self.world.items() if there.step in MAKERS]
        if mine:
            chosen = dice.pick(mine)
            del self.world[chosen]
            self.tell("somebody deletes", chosen)

    # Workers.

    def claim(self, dice: Dice) -> None:
        """Deliver a message: mostly for a step that is next, sometimes for any, stale or of the other direction."""
        chosen = self.open_id if self.open_id and dice.below(8) else None
        chosen = chosen or (dice.pick(list(self.operations)) if self.operations else None)
        if chosen is None:
            return
        saga = self.saga(chosen)
        operation = saga.operation
        left = saga.left
        name = dice.pick(left) if left and dice.below(4) else dice.pick(STEPS).name
        if left and dice.below(2):
            name = left[0]
        epoch = operation.epoch if dice.below(8) else operation.epoch - 1 - dice.below(2)
        direction = operation.direction if dice.below(8) else dice.pick(tuple(Direction))
        self.deliver(chosen, name, direction, epoch)

    def deliver(self, operation_id: uuid.UUID, name: str, direction: Direction, epoch: int) -> Verdict:
        saga, token = self.saga(operation_id), self.new_uuid()
        change = machine.claim(saga, name, direction, self.epoch_of(epoch, saga), TIMING, self.now, token)
        self.tell(f"claim {name} {direction} epoch {epoch}: {change.verdict}")
        operation = saga.operation
        if operation.status.is_final or epoch != operation.epoch or direction is not operation.direction:
            assert change.verdict is Verdict.STALE, "a stale message was not refused"
            assert change.is_empty, "a stale message was not refused"
        if change.verdict is Verdict.CLAIMED:
            row = change.steps[name]
            assert row.lease_token == token
            assert row.lease_until == self.now + TIMING.lease
            assert direction is Direction.UNDO or row.intent is not None, "no intent before the call"
            held = self.leases.get((operation_id, name))
            assert held is None or held[1] <= self.now, "two live leases on one step"
            self.leases[operation_id, name] = (token, row.lease_until)
            may = saga.steps[name].intent is not None or row.unsettled_until is not None
            lease = Lease(name, direction, token, row.attempts)
            self.apply(operation_id, change)
            after = replace(change.after, ledger=saga.ledger)
            self.holders.append(Holder(operation_id, lease, after, may, self.now, row.lease_until))
        elif not change.is_empty:
            self.apply(operation_id, change)
        return change.verdict

    def epoch_of(self, message: int, saga: Saga) -> int:
        """Return the epoch that a worker shows: that of its message."""
        return message

    def act(self, dice: Dice) -> None:
        """Let a holder do at the provider what its step does."""
        waiting = [one for one in self.holders if not one.has_acted]
        if waiting:
            self.act_as(dice.pick(waiting), dice)

    def act_as(self, holder: Holder, dice: Dice) -> None:
        lease, step = holder.lease, STEP_BY_NAME[holder.lease.step]
        holder.has_acted = True
        if self.now > holder.last_call_at:
            # Too late for a call; but a process that was stopped just before one goes on with it.
            is_stopped = self.now > holder.lease_until and step.makes and lease.direction is Direction.DO
            holder.has_acted = bool(is_stopped and holder.saga.operation.rules.makes and dice.below(2))
            if holder.has_acted and step.name in own_makers(holder.saga.agent):
                holder.result = Result(self.make(step.name, holder.identity.id, is_late=True))
            elif holder.has_acted:
                self.share(holder, dice)
        elif lease.direction is Direction.DO:
            self.do(holder, dice)
        else:
            self.undo(holder, dice)
        if holder.has_acted:
            self.tell(f"{lease.step} {lease.direction} acts:", holder.result or holder.request or holder.refusal)

    def do(self, holder: Holder, dice: Dice) -> None:
        name, rules, tag = holder.lease.step, holder.saga.operation.rules, holder.identity.id
        ids, own = holder.saga.agent.ids, holder.row.resource_id
        if holder.only_marks and STEP_BY_NAME[name].is_undone:
            self.mark(holder, tag)
        elif name == NUMBER:
            holder.result = Result(NUMBER_SID, previous_routing=ROUTING)
        elif name == LAST:
            self.verify(holder)
        elif name == NUMBER_ATTACHMENT:
            self.send(holder, dice, ids.get(NUMBER))
        elif name not in own_makers(holder.saga.agent):
            self.share(holder, dice)
        elif not rules.makes:
            if own in self.world:
                self.world[own].tag, self.world[own].made_for = tag, holder.identity.livekit_agent_name
                holder.result = Result(own)
            else:
                holder.refusal = ErrorCode.PATH_NOT_VERIFIED
        else:
            found = self.look(holder)
            gone = (own,) if rules.keeps_path and own and own not in found else ()
            if not found:
                self.send(holder, dice, None, gone)
                return
            for duplicate in found[1:]:
                del self.world[duplicate]
            holder.result = Result(found[0], removed=(*found[1:], *gone))

    def mark(self, holder: Holder, tag: uuid.UUID) -> None:
        """Write a mark on what is there, or take it off."""
        own, is_undo = holder.row.resource_id, holder.lease.direction is Direction.UNDO
        if holder.lease.step != NUMBER_ATTACHMENT and own in self.world:
            self.world[own].tag = tag
        elif holder.lease.step != NUMBER_ATTACHMENT and not is_undo:
            holder.refusal = ErrorCode.PATH_NOT_VERIFIED
            return
        is_made = STEP_BY_NAME[holder.lease.step].makes
        holder.result = Result(None, given=(own,) if own and is_made else ()) if is_undo else Result(own)

    def share(self, holder: Holder, dice: Dice) -> None:
        """Take a place on a shared trunk, and find what is made of it; another maker is faster than this worker."""
        name, agent = holder.lease.step, self.agents[holder.saga.agent.id]
        if not self.holds_step(holder):
            holder.has_acted, holder.waits = False, True
            return
        if agent.trunk_id is None:
            agent = replace(agent, trunk_id=dice.pick(list(self.pool)))
            self.agents[agent.id] = agent
            self.tell(agent.name, "takes a place")
            self.check()
        assert agent.trunk_id is not None
        made = self.pool[agent.trunk_id]
        if name not in made and not dice.below(2):
            holder.has_acted, holder.waits = False, True
            return
        made.setdefault(name, f"shared-{name}-{next(self.ids)}")
        if name == TRUNK and dice.below(2):
            made.setdefault(ORIGINATION_URL, f"shared-url-{next(self.ids)}")
        is_known = holder.saga.operation.rules.keeps_path
        finished = {} if is_known or name != TRUNK else {one: made[one] for one in made if one != TRUNK}
        holder.result = Result(made[name], trunk_id=agent.trunk_id, finished=finished)

    def holds_step(self, holder: Holder) -> bool:
        """Tell whether the step's row still has the holder's token, as the statement that takes a place does."""
        return self.operations[holder.operation_id].steps[holder.lease.step].lease_token == holder.lease.token

    def look(self, holder: Holder) -> list[str]:
        rules, own, tag = holder.saga.operation.rules, holder.row.resource_id, holder.identity.id
        if rules.keeps_path and own in self.world:
            self.world[own].tag = tag
            return [own]
        if not (holder.may_have_happened or rules.keeps_path):
            return []
        return self.of_step(holder.lease.step, {tag})

    def send(self, holder: Holder, dice: Dice, made: str | None, removed: tuple[str, ...] = ()) -> None:
        """Send a request: its answer comes, or it takes effect at some time or never, and nobody is told."""
        name, tag = holder.lease.step, holder.identity.id
        if dice.below(3):
            holder.result = Result(self.make(name, tag), removed=removed)
            return
        until = holder.lease_until + TIMING.lands
        share = dice.pick((1.0, 0.9, 0.6, 0.3, 0.0, None))
        holder.request = Request(name, tag, self.now, until, share)
        self.requests.append(holder.request)

    def verify(self, holder: Holder) -> None:
        saga = holder.saga
        path = [saga.agent.ids.get(name) for name in own_makers(saga.agent)]
        if NUMBER_SID not in self.world or any(one not in self.world for one in path):
            holder.refusal = ErrorCode.PATH_NOT_VERIFIED
            return
        removed = []
        if saga.is_uncertain:
            tags = {saga.agent.id, holder.identity.id}
            listed = [entry.external_id for entry in saga.ledger if entry.kind in MAKERS]
            marked = [one for name in MAKERS for one in self.of_step(name, tags)]
            removed = [one for one in dict.fromkeys((*marked, *listed)) if one not in path]
            for one in removed:
                self.world.pop(one, None)
        holder.result = Result(None, removed=tuple(removed))

    def undo(self, holder: Holder, dice: Dice) -> None:
        name, rules, own = holder.lease.step, holder.saga.operation.rules, holder.row.resource_id
        if holder.only_marks:
            self.mark(holder, SOMEBODY)
        elif name == NUMBER_ATTACHMENT:
            if NUMBER in holder.saga.agent.ids:
                self.world.pop(NUMBER_SID, None)
            holder.result = Result(None, removed=(NUMBER_SID,))
        elif name not in own_makers(holder.saga.agent):
            holder.result = Result(None, removed=tuple(sorted(holder.known))) if rules.makes else Result(own)
            if not rules.makes:
                holder.result = replace(holder.result, trunk_id=holder.saga.agent.trunk_id)
        elif not rules.makes:
            if own in self.world:
                agent = holder.saga.agent
                self.world[own].tag, self.world[own].made_for = agent.id, agent.livekit_agent_name
            holder.result = Result(own if own in self.world else None)
        else:
            found = self.of_step(name, {holder.saga.agent.id}) if holder.may_have_happened else []
            targets = sorted({*holder.known, *found})
            if len(targets) > 1 and not dice.below(3):
                self.world.pop(targets[0], None)
                holder.removed = (targets[0],)
                return
            for target in targets:
                self.world.pop(target, None)
            holder.result = Result(None, removed=tuple(targets))

    def come_back(self, dice: Dice) -> None:
        """Let a holder keep what became of its step."""
        if self.holders:
            self.come_back_as(dice.pick(self.holders), dice)

    def come_back_as(self, holder: Holder, dice: Dice) -> None:
        self.holders.remove(holder)
        if holder.result is not None and dice.below(8):
            self.keep_result(holder)
        elif holder.refusal is not None:
            self.fail(holder, Failure(holder.refusal, "No.", is_for_good=True, is_clear=not holder.may_have_happened))
        elif holder.has_acted:
            self.lose_answer(holder, dice)
        else:
            self.fail_before_acting(holder, dice)

    def keep_result(self, holder: Holder) -> None:
        lease, result = holder.lease, holder.result
        assert result is not None
        change = machine.keep(self.saga(holder.operation_id), lease, result, self.now)
        self.tell(f"keep {lease.step} {lease.direction}: {change.verdict}")
        if lease.direction is Direction.UNDO and change.verdict is Verdict.DONE:
            self.operations[holder.operation_id].undone_by[lease.step] = holder.claimed_at
        self.give_back(holder)
        self.apply(holder.operation_id, change)
        if STEP_BY_NAME[lease.step].makes and result.resource_id and result.trunk_id is None:
            assert result.resource_id in self.ledger, "the ledger does not know what a worker has told it"

    def give_back(self, holder: Holder) -> None:
        at = holder.operation_id, holder.lease.step
        if self.leases.get(at, (None,))[0] == holder.lease.token:
            del self.leases[at]

    def lose_answer(self, holder: Holder, dice: Dice) -> None:
        """Come back without an answer, or broken by a defect of ours after the call."""
        is_defect = not dice.below(6)
        failure = Failure(
            ErrorCode.INTERNAL_STEP_ERROR if is_defect else ErrorCode.PROVIDER_UNAVAILABLE,
            "No answer.",
            is_for_good=is_defect,
            settles_in=TIMING.settle if STEP_BY_NAME[holder.lease.step].is_undone else None,
            removed=holder.removed,
        )
        if is_defect and holder.lease.direction is Direction.DO:
            verdict = self.fail(holder, failure)
        else:
            verdict = self.rest(holder, failure, TIMING.quiet)
        if verdict is not Verdict.LOST and holder.request:
            holder.request.until = self.now + TIMING.settle

    def fail_before_acting(self, holder: Holder, dice: Dice) -> None:
        """Come back without having sent what changes anything."""
        is_undone = STEP_BY_NAME[holder.lease.step].is_undone
        has_looked = self.now <= holder.last_call_at and holder.may_have_happened and not dice.below(2)
        is_empty = has_looked and holder.lease.direction is Direction.DO and not self.look(holder)
        is_clear = is_empty or not holder.may_have_happened
        way = dice.below(5)
        if holder.waits:
            failure = Failure(ErrorCode.TRUNK_BEING_MADE, "Wait.", is_clear=is_clear, was_tried=False)
            self.rest(holder, failure, timedelta(seconds=1))
        elif way == 0:
            pause = timedelta(seconds=dice.pick((0.5, 1, 8, 30)))
            self.rest(holder, Failure(ErrorCode.PROVIDER_UNAVAILABLE, "Busy.", is_clear=is_clear), pause)
        elif way == 1:
            was_tried = not dice.below(3)
            failure = Failure(
                ErrorCode.PROVIDER_BUSY, "Wait.", is_clear=is_clear and not was_tried, was_tried=was_tried, waited_s=2.0
            )
            self.rest(holder, failure, timedelta(seconds=5))
        elif way == 2 and is_undone and holder.may_have_happened:
            # The provider stands still: what was asked before may still land.
            failure = Failure(ErrorCode.PROVIDER_UNAVAILABLE, "Late.", settles_in=TIMING.settle)
            self.rest(holder, failure, TIMING.quiet)
        elif way == 3 and holder.lease.direction is Direction.DO:
            self.fail(holder, Failure(ErrorCode.TWILIO_REJECTED, "No.", is_for_good=True, is_clear=is_clear))
        else:
            failure = Failure(ErrorCode.TWILIO_REJECTED, "No.", is_for_good=way == 3, is_clear=is_clear)
            self.rest(holder, failure, timedelta(seconds=1))

    def fail(self, holder: Holder, failure: Failure) -> Verdict:
        change = machine.fail(self.saga(holder.operation_id), holder.lease, failure, self.now)
        return self.keep_failure(holder, failure, change)

    def rest(self, holder: Holder, failure: Failure, pause: timedelta) -> Verdict:
        change = machine.rest(self.saga(holder.operation_id), holder.lease, failure, pause, TIMING, self.now)
        return self.keep_failure(holder, failure, change)

    def keep_failure(self, holder: Holder, failure: Failure, change: Change) -> Verdict:
        lease = holder.lease
        details = "clear" if failure.is_clear else "", "settles" if failure.settles_in else "", failure.removed or ""
        self.tell(f"{lease.step} {lease.direction} fails {failure.code}", *details, f": {change.verdict}")
        self.give_back(holder)
        if not change.is_empty:
            self.apply(holder.operation_id, change)
        return change.verdict

    def die(self, dice: Dice) -> None:
        """Let a worker die, or stop for so long that it goes on when all is over."""
        if self.holders:
            holder = dice.pick(self.holders)
            self.holders.remove(holder)
            is_stopped = dice.below(2) == 0
            self.stopped += [holder] if is_stopped else []
            what = "stops" if is_stopped else "dies"
            self.tell(f"the worker of {holder.lease.step} {holder.lease.direction} {what}")

    # People.

    def ask(self, dice: Dice) -> None:
        """Ask for something: of the open operation, or for one where there is none."""
        if self.open_id is None:
            self.open_one(dice)
            return
        saga, way = self.saga(self.open_id), dice.below(4)
        if way == 0 and not saga.operation.cancelled_at and saga.operation.rules.starts is Direction.DO:
            if saga.operation.kind is OperationKind.PROVISION:
                self.tell("cancel")
                self.apply(self.open_id, machine.cancel(saga, ORIGIN, self.now, "Cancelled."))
        elif way == 1:
            self.tell("retry")
            self.apply(self.open_id, machine.retry(saga, ORIGIN, self.now))
        else:
            try:
                change = machine.deprovision(saga, ORIGIN, self.now)
            except RefusedError:
                assert saga.operation.kind is OperationKind.MOVE
                return
            if change is not None:
                self.tell("deprovision")
                self.apply(self.open_id, change)

    def open_one(self, dice: Dice) -> None:
        agents = list(self.agents.values())
        standing = [agent for agent in agents if agent.phone_provisioning_status is PhoneStatus.PROVISIONED]
        if not standing:
            agent = dice.pick(agents)
            is_adopted = agent.trunk_mode is TrunkMode.DEDICATED and not self.world and not dice.below(4)
            self.open_adoption(agent) if is_adopted else self.open_provision(agent)
            return
        (agent,) = standing
        way, only, target, more = dice.below(5), None, None, dict[str, Any]()
        kind = _ASKED[way]
        if kind is OperationKind.DEPROVISION and agent.adopted:
            more["keeps_path"] = dice.below(2) == 0
        if kind is OperationKind.UPDATE:
            more["wanted"], only = {"livekit_agent_name": f"name-{next(self.ids)}"}, CHANGED_STEPS
        if kind is OperationKind.MOVE:
            (target,), only = [one for one in agents if one is not agent], MOVED_STEPS
        elif way == 2:
            only = frozenset({LAST, *(name for name in MAKERS if dice.below(2))})
        self.keep_opening(machine.open_operation(kind, agent, self.now, ORIGIN, target=target, only=only, **more))

    def keep_opening(self, change: Change) -> None:
        assert change.opened
        self.agents[change.agent.id] = change.agent
        if change.target:
            self.agents[change.target.id] = change.target
        self.keep_opened(change.opened)
        self.check()

    def open_adoption(self, agent: AgentRow) -> None:
        """Let somebody build a path by hand, and ask for its adoption."""
        ids = {NUMBER: NUMBER_SID} | {name: self.make(name, SOMEBODY) for name in MAKERS}
        self.make(NUMBER_ATTACHMENT, SOMEBODY)
        adopted = {name: {"id": ids[name]} for name in MAKERS}
        held = replace(agent, twilio_phone_number=E164, ids=ids, adopted=adopted)
        wanted = {"livekit_agent_name": "by hand"}
        self.keep_opening(machine.open_operation(OperationKind.ADOPT, held, self.now, ORIGIN, wanted=wanted))

    def open_provision(self, agent: AgentRow) -> None:
        """Do what accept.sql does."""
        assert PhoneStatus.PENDING in PHONE_MOVES[agent.phone_provisioning_status]
        self.agents[agent.id] = replace(agent, phone_provisioning_status=PhoneStatus.PENDING, twilio_phone_number=E164)
        operation = OperationRow(
            self.new_uuid(),
            agent.id,
            OperationKind.PROVISION,
            OperationStatus.QUEUED,
            E164,
            wake_at=self.now + MESSAGE_GRACE,
        )
        steps = {step.name: StepRow(step.name) for step in KINDS[operation.kind].steps}
        self.keep_opened(Saga(operation, self.agents[agent.id], steps))
        self.check()

    # The whole.

    def begin(self, dice: Dice) -> None:
        """Begin with a path that stands, or with none."""
        agents = list(self.agents.values())
        for agent in agents if dice.below(self.LIVES_TO_SHARED) == 0 else ():
            self.agents[agent.id] = replace(agent, trunk_mode=TrunkMode.SHARED)
        if dice.below(3) == 0:
            return
        agent = self.agents[agents[0].id]
        if agent.trunk_mode is TrunkMode.SHARED:
            trunk_id = next(iter(self.pool))
            self.pool[trunk_id] = {name: f"shared-{name}" for name in SHARED}
            agent = replace(agent, trunk_id=trunk_id, ids=self.pool[trunk_id])
        own = own_makers(agent)
        ids = {NUMBER: NUMBER_SID} | dict(agent.ids) | {name: self.make(name, agent.id) for name in own}
        self.make(NUMBER_ATTACHMENT, agent.id)
        self.agents[agent.id] = replace(
            agent, phone_provisioning_status=PhoneStatus.PROVISIONED, twilio_phone_number=E164, ids=ids
        )
        if agent.trunk_mode is TrunkMode.DEDICATED and dice.below(4) == 0:
            adopted = {name: {"id": ids[name]} for name in own}
            self.agents[agent.id] = replace(self.agents[agent.id], adopted=adopted)
        for name in own:
            parent = STEP_BY_NAME[name].under
            entry = LedgerEntry(name, ids[name], ids[parent] if parent else None)
            self.ledger[entry.external_id] = Known(entry, agent.id, self.now)
        self.open_one(dice)

    EVENTS = (
        *("pass_time",) * 12,
        *("claim",) * 20,
        *("act",) * 14,
        *("come_back",) * 14,
        *("die",) * 4,
        *("ask",) * 3,
        *("delete_behind_our_back",) * 1,
    )
    """What may happen, as often as it stands here."""

    def happens(self, dice: Dice) -> None:
        self.is_read = dice.below(2) == 0
        event = dice.pick(self.EVENTS)
        getattr(self, event)(dice)

    def heal(self) -> Iterator[None]:
        """Answer every request at once, until the open operation has ended; then let late workers go on."""
        always = Dice(-1)  # its remainders are the highest: no failure, no delay
        late = self.holders[1::2] + self.stopped
        self.holders = []
        for _ in range(HEALING_ROUNDS):
            if self.open is None:
                break
            wake_at = self.open.operation.wake_at
            assert wake_at is not None
            self.let_pass(max(wake_at - self.now, timedelta()))
            operation_id = self.open_id
            saga = self.saga(operation_id)
            for name in saga.left:
                yield
                self.deliver(operation_id, name, saga.operation.direction, saga.operation.epoch)
                for holder in list(self.holders):
                    self.act_as(holder, Dice(-1))
                    self.come_back_as(holder, always)
                if (
                    self.open_id != operation_id
                    or self.operations[operation_id].operation.epoch != saga.operation.epoch
                ):
                    break
        assert self.open is None, f"stuck: {self.open.operation}"
        for holder in late:
            yield
            if not holder.has_acted:
                self.act_as(holder, Dice(-1))
            self.come_back_as(self.returned(holder), always)

    def returned(self, holder: Holder) -> Holder:
        self.holders.append(holder)
        return holder


def own_makers(agent: AgentRow) -> list[str]:
    """Return the steps whose resource is the agent's own, as `StepContext.is_pooled` tells them."""
    is_pooled = agent.trunk_id is not None or (agent.trunk_mode is TrunkMode.SHARED and TRUNK not in agent.ids)
    return [name for name in MAKERS if name not in SHARED or not is_pooled]


def vars_of(row: AgentRow) -> dict[str, Any]:
    return {one.name: getattr(row, one.name) for one in fields(row)}


_ASKED = (
    OperationKind.DEPROVISION,
    OperationKind.MOVE,
    OperationKind.REPAIR,
    OperationKind.REPAIR,
    OperationKind.UPDATE,
)
"""What people ask for where a path stands; the second repair is one of some steps only."""

RESTING = {PhoneStatus.NOT_PROVISIONED, PhoneStatus.FAILED, PhoneStatus.PROVISIONED}
"""What an agent without an open operation may be."""


def _check_order(before: Saga, after: Saga, direction: Direction) -> None:
    """Hold that nothing is done before what it needs, nor undone before what needs it."""
    for name, row in after.steps.items():
        if row.state is before.steps[name].state:
            continue
        step = STEP_BY_NAME[name]
        if row.state is StepState.DONE and direction is Direction.DO:
            late = [need for need in ALL_NEEDS[name] if after.steps[need].state is not StepState.DONE]
            assert not late, f"{name} is done before {late}"
        is_untouched = not before.steps[name].attempts and not before.steps[name].intent
        if row.state is StepState.UNDONE and step.is_undone and not is_untouched:
            above = [other.name for other in STEPS if name in ALL_NEEDS[other.name] and other.is_undone]
            early = [one for one in above if one in after.steps and after.steps[one].state is not StepState.UNDONE]
            assert not early, f"{name} is undone before {early}"
