"""What a step works with while it runs: its claim, plain values, both providers, and a clock."""

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

from app.domain.errors import ErrorCode
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    STEP_BY_NAME,
    TRUNK,
    Direction,
    Kind,
    OperationKind,
    Step,
    StepState,
    TrunkMode,
)
from app.domain.options import NO_OPTIONS, AgentOptions, job_metadata, options_of
from app.domain.workspaces import ENVIRONMENT, AccountIds
from app.path.changes import Changes, Record, changes_of, way_back
from app.path.corrections import takes_encrypted_media
from app.path.marks import has_mark, metadata_of, pool_tag, tag_of
from app.path.observed import CarrierNumber, NumberRouting
from app.path.spec import NOTHING_FORMER, Adopted, Former, Label, PathSpec, Profile
from app.providers.base import Carrier, VoicePlatform
from app.providers.callers import CallPriority
from app.providers.errors import ProviderError, RejectedError, TransientError
from app.providers.number_pages import NumberPages
from app.saga.rows import Loaded
from app.saga.state import AgentRow, Change, Lease, OperationRow, Saga, Timing
from app.trunks.pool import Pool

READ_BACK_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each read of a change just made: neither provider promises that a read shows the write before it."""

FEWEST_READS = 3
"""Reads after which the end of the lease is no reason to try the step again: it would see the same."""

ABSENCE_CHECK_PAUSES = (0.0, 0.05, 0.1)
"""Pause before each read that confirms an absence, as a fraction of the provider timeout.

Three reads, since one 404 or empty list may be stale or wrong, and two in a row were seen. With a timeout of 10 s the
pauses are 0.5 and 1 s: late requests that a recovering provider runs are done by then, and a lease of 30 s has room for
a dozen such checks.
"""


LOOK_UP_LASTS = timedelta(seconds=2)
"""How old the look-up of a number may be when it is attached. Twilio knows no conditional write, so that there is a
moment in any case between a read and the write: a read of its own would cost as much as the attachment."""


NO_LEASE = uuid.UUID(int=0)
"""The token of a run that holds no step: a dry run's, or of one who deletes orphans."""


def _as_it_is(error: ProviderError) -> ProviderError:
    return error


@dataclass(frozen=True)
class Toolbox:
    """What the steps of one carrier account and voice project use that is not in a row: clients, settings, clocks."""

    carrier: Carrier
    platform: VoicePlatform
    instance: str
    profile: Profile
    timing: Timing
    pool: Pool
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    accounts: AccountIds = ENVIRONMENT
    """Whose credentials the clients have."""
    refused: Callable[[ProviderError], ProviderError] = _as_it_is
    """Takes what a call of these clients failed with, and returns what it means: a refused credential that is to be
    waited for is a `TransientError(credentials_refused)` then, and has been noted and announced."""

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Raise what an error of the block's calls means, once a refused credential is noted (`refused`)."""
        try:
            yield
        except ProviderError as error:
            meant = self.refused(error)
            if meant is error:
                raise
            raise meant from error

    @cached_property
    def numbers(self) -> NumberPages:
        """The carrier's numbers as this process has last listed them; for the operations of bulks."""
        return NumberPages(self.carrier, self.clock)


class ToolboxSource(Protocol):
    """Where work finds the toolbox of its agent's accounts."""

    @property
    def instance(self) -> str:
        """The name in the marks of this installation."""

    @property
    def timing(self) -> Timing:
        """The spans of the saga, which are the same for all."""

    def of(self, ids: AccountIds, /) -> Toolbox:
        """Return the toolbox of these accounts; never raises: a call does, where a credential cannot be used."""


def spec_of(
    tools: Toolbox,
    agent_id: uuid.UUID,
    agent_name: str,
    job_metadata: str,
    phone_number: str,
    ids: Mapping[str, str],
    trunk_id: uuid.UUID | None,
    metadata: str = "{}",
    *,
    options: AgentOptions,
    adopted: Mapping[str, Adopted],
) -> PathSpec:
    """Build the path as it should be, from the agent's row; `metadata` is the mark of a LiveKit trunk yet to be made.

    `trunk_id` is the shared trunk that the agent has a place on, if any.
    """
    now = {step: one for step, one in adopted.items() if one.id == ids.get(step)}
    profile = tools.profile.with_options(options)
    return PathSpec(
        profile=profile.as_found() if TRUNK in now else profile,
        instance=tools.instance,
        agent_id=str(agent_id),
        agent_name=agent_name,
        job_metadata=job_metadata,
        phone_number=phone_number,
        label=Label(tag_of(tools.instance, agent_id), metadata),
        ids=ids,
        trunk_tag=pool_tag(tools.instance, trunk_id) if trunk_id else "",
        options=options,
        adopted=now,
    )


def read_adopted(stored: Mapping[str, Any] | None) -> dict[str, Adopted]:
    """Read `agents.adopted`."""
    return {step: Adopted(**values) for step, values in (stored or {}).items()}


def adopted_now(stored: Mapping[str, Any] | None, ids: Mapping[str, str | None]) -> dict[str, Adopted]:
    """Return what was adopted and is still on the path, by `agents.adopted` and the ids of its steps."""
    return {step: one for step, one in read_adopted(stored).items() if one.id == ids.get(step)}


@dataclass(frozen=True)
class StepContext:
    """One run of one step."""

    tools: Toolbox
    agent_id: uuid.UUID
    operation_id: uuid.UUID
    phone_number: str
    takeover: bool
    agent_name: str
    job_metadata: str
    ids: Mapping[str, str]
    """Step name -> resource id, for every step that has one."""
    parents: Mapping[str, str]
    """Resource id -> the resource that it lives under."""
    ledger: Mapping[str, tuple[str, ...]]
    """Step name -> every id of this agent in the ledger that is not marked deleted."""
    previous_routing: NumberRouting | None
    is_uncertain: bool
    """Whether any step on this path was tried more than once, so that duplicates may exist."""
    step: str = ""
    lease_token: uuid.UUID = NO_LEASE
    """What holds the step for this run."""
    trunk_mode: TrunkMode = TrunkMode.SHARED
    trunk_id: uuid.UUID | None = None
    """The shared trunk that the agent has a place on."""
    is_number_fresh: bool = False
    """Whether this operation has looked the number up a moment ago (`LOOK_UP_LASTS`): `previous_routing` is its own."""
    shares_lists: bool = False
    """Whether a list of the account's numbers may answer for this one: in the first try of a bulk's provisioning."""
    tried_for: timedelta = timedelta()
    """How long this step has been tried before this run."""
    started: float = field(default=0.0)
    """The monotonic clock at the claim, seconds."""
    unlisted_ids: set[str] = field(default_factory=set)
    """Ids that this run's lists did not show: a 404 on one of them confirms it, and no further list is needed."""
    removed: list[str] = field(default_factory=list)
    """Ids that this run has deleted; stored even when it fails later, so that the next try does not start over."""
    source_agent_id: uuid.UUID | None = None
    """The agent that gives its number away, in a move; `agent_id` is then the one that gets it."""
    options: AgentOptions = NO_OPTIONS
    former: Former = NOTHING_FORMER
    """What the path was made for before: in a move and an update, and the other way round on their way back."""
    adopted: Mapping[str, Adopted] = field(default_factory=dict)
    """Step -> the object that was there before it became this agent's."""
    former_trunk_id: uuid.UUID | None = None
    """The shared trunk that the number is on until it goes to another one."""
    keeps_path: bool = False
    """Whether the operation works on a path that exists: its objects may have been changed by others."""
    former_ids: Mapping[str, str] = field(default_factory=dict)
    """Step -> the id of what a rehome leaves behind; `ids` has it no more, once something else is in its place."""
    changes: Changes | None = None
    """What this operation has changed in the step's object so far; None where its way back does not go by that."""
    remember: Callable[[Changes], None] | None = None
    """Stores what is about to be changed; None on the way back."""

    @cached_property
    def spec(self) -> PathSpec:
        """The path as it should be, with the mark on everything that this agent owns at the providers."""
        metadata = metadata_of(self.tools.instance, self.agent_id, self.operation_id, datetime.now(UTC))
        return spec_of(
            self.tools,
            self.agent_id,
            self.agent_name,
            self.job_metadata,
            self.phone_number,
            self.ids,
            self.trunk_id,
            metadata,
            options=self.options,
            adopted=self.adopted,
        )

    @property
    def pool(self) -> Pool:
        """The shared trunks of the path's profile."""
        return self.tools.pool.of(self.spec.profile)

    @property
    def is_pooled(self) -> bool:
        """Whether the path's Twilio trunk is one that numbers share, or is to be."""
        return self.trunk_id is not None or (self.trunk_mode is TrunkMode.SHARED and TRUNK not in self.ids)

    def has_own_mark(self, *texts: str) -> bool:
        """Tell whether one of the texts (a trunk's metadata, or a rule's name and metadata) is this agent's mark."""
        return has_mark(self.tools.instance, str(self.agent_id), *texts)

    def to_write(self, now: Record, wanted: Record) -> Record:
        """Return what the step writes over its object: what is wanted, remembered before; on the way back what stood.

        What is written without an answer was remembered too, so that nothing can have changed that is not.
        """
        if self.changes is None:
            return wanted
        if self.remember is None:
            return way_back(now, wanted, self.changes)
        changes = changes_of(now, wanted)
        if changes.keys() - self.changes.keys():
            self.remember({**changes, **self.changes})
            self.check_time()
        return wanted

    def twilio_encrypts(self) -> bool:
        """Read whether our Twilio trunk takes encrypted calls only; False while there is none."""
        self.check_time()
        trunk = self.tools.carrier.get_trunk(self.ids[TRUNK]) if TRUNK in self.ids else None
        return trunk is not None and trunk.is_secure

    def livekit_encrypts(self) -> bool:
        """Read whether our LiveKit trunk or rule takes encrypted media; False while there is none."""
        platform, ids = self.tools.platform, self.ids
        self.check_time()
        trunk = platform.get_inbound_trunk(ids[INBOUND_TRUNK]) if INBOUND_TRUNK in ids else None
        self.check_time()
        rule = platform.get_dispatch_rule(ids[DISPATCH_RULE]) if DISPATCH_RULE in ids else None
        return takes_encrypted_media(trunk, rule)

    @property
    def last_call_at(self) -> float:
        """The monotonic time after which no call may start: it could outlast the lease."""
        return self.started + (self.tools.timing.lease - self.tools.timing.provider_timeout).total_seconds()

    def check_time(self) -> None:
        """Raise `TransientError` before a call that could outlast the lease: what is not sent cannot land late."""
        if self.tools.clock() > self.last_call_at:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The providers answer too slowly to finish in time.")

    def find_with_retries(self, list_ids: Callable[[], list[str]], known: Collection[str] = ()) -> list[str]:
        """List up to three times, until an id appears that is not in `known`; return all ids seen.

        Used before anything is created, forgotten or called done, since a list may be stale and an empty one wrong. A
        list that has every known id is trusted at once.
        """
        seen: dict[str, None] = {}
        for fraction in ABSENCE_CHECK_PAUSES:
            if fraction:
                self.tools.sleep(fraction * self.tools.timing.provider_timeout.total_seconds())
            self.check_time()
            seen |= dict.fromkeys(list_ids())
            if seen.keys() - set(known) or (known and seen.keys() >= set(known)):
                break
        return list(seen)

    def confirm_gone(self, list_ids: Callable[[], list[str]], resource_id: str) -> None:
        """Confirm by list that a resource answered with 404 is gone; `TransientError` while the list still has it."""
        if resource_id not in self.unlisted_ids and resource_id in self.find_with_retries(
            lambda: [one for one in list_ids() if one == resource_id]
        ):
            detail = f"The provider says that {resource_id} does not exist, and still lists it."
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail)

    def wait_until(self, is_true: Callable[[], bool]) -> bool:
        """Poll with growing pauses until `is_true()`; return whether it became true in time.

        With short timeouts a lease ends before the last pause: then some reads are the answer, too.
        """
        for tries, pause in enumerate(READ_BACK_PAUSES_S):
            if tries >= FEWEST_READS and self.tools.clock() + pause > self.last_call_at:
                return False
            if pause:
                self.tools.sleep(pause)
                self.check_time()
            if is_true():
                return True
        return False


def context_without_rows(tools: Toolbox, **values: Any) -> StepContext:
    """Return the context for work on a resource that no operation is about; `values` replace fields."""
    nothing: dict[str, Any] = {
        "agent_id": NO_LEASE,
        "operation_id": NO_LEASE,
        "phone_number": "",
        "takeover": False,
        "agent_name": "",
        "job_metadata": "{}",
        "ids": {},
        "parents": {},
        "ledger": {},
        "previous_routing": None,
        "is_uncertain": True,
        "started": tools.clock(),
    }
    return StepContext(tools, **(nothing | values))


class RoutedElsewhereError(RejectedError):
    """The number is routed elsewhere since we last read it; `routing` says where."""

    def __init__(self, code: ErrorCode, detail: str, routing: NumberRouting) -> None:
        super().__init__(code, detail)
        self.routing = routing


class NumberReplacedError(TransientError):
    """The account has the number under another SID since it was looked up: `number` is what it is now."""

    def __init__(self, number: CarrierNumber) -> None:
        detail = f"The number has left the Twilio account and come back: it is {number.sid} now."
        super().__init__(ErrorCode.PROVIDER_UNAVAILABLE, detail)
        self.number = number


@dataclass(frozen=True)
class Claim:
    """The right to act on one step until its lease ends, and all that the step needs for it."""

    step: Step
    lease: Lease
    loaded: Loaded
    """The operation as the claim left it."""
    may_have_happened: bool
    """Whether an earlier try, of this operation or a previous one, ended with an unknown outcome."""
    context: StepContext

    @property
    def direction(self) -> Direction:
        """Whether the step is done or undone."""
        return self.lease.direction

    @property
    def operation(self) -> OperationRow:
        """The operation's row."""
        return self.loaded.saga.operation

    @property
    def rules(self) -> Kind:
        """The rules of its kind of operation."""
        return self.operation.rules

    @property
    def leaves(self) -> bool:
        """Whether this step takes the number to another Twilio trunk: the one of before is left as it is."""
        return self.step.name in (*self.operation.leaves, NUMBER_ATTACHMENT) and bool(self.operation.leaves)

    @property
    def takes_back(self) -> bool:
        """Whether this is its way back, which deletes nothing: nothing that it has made is the agent's."""
        return self.leaves and self.direction is Direction.UNDO

    @property
    def only_marks(self) -> bool:
        """Whether nothing but our marks changes: on what an adoption has found, and a deprovisioning is to keep."""
        return self.rules.marks_only or self.operation.keeps_path

    @property
    def call_priority(self) -> CallPriority:
        """The priority of its provider calls."""
        return CallPriority.BULK if self.operation.bulk_id else CallPriority.SINGLE

    @property
    def resource_id(self) -> str | None:
        """The id in the step's row."""
        return self.loaded.saga.steps[self.step.name].resource_id

    @property
    def known(self) -> set[str]:
        """The ids of the step's resources in its row and in the ledger."""
        return {*self.context.ledger.get(self.step.name, ()), *([self.resource_id] if self.resource_id else [])}


def claim_of(change: Change, loaded: Loaded, name: str, tools: Toolbox) -> Claim:
    """Build the claim that a change of the operation gave to this worker."""
    row, direction = change.steps[name], change.operation.direction
    if row.lease_token is None:
        raise ValueError("the change has claimed nothing")
    before = replace(change.before.steps[name], unsettled_until=row.unsettled_until)  # the claim has looked for that
    lease = Lease(name, direction, row.lease_token, row.attempts)
    tried_for = change.now - row.started_at if row.started_at else timedelta()
    looked_up_at = change.steps[NUMBER].finished_at if NUMBER in change.steps else None
    is_first_provisioning = change.operation.kind is OperationKind.PROVISION and row.attempts == 1
    is_of_bulk = change.operation.bulk_id is not None
    context = _context(loaded.saga, direction, tools)
    # What numbers share is only ever made right.
    is_shared = name in {TRUNK, ORIGINATION_URL} and context.is_pooled
    changes = None if is_shared else change.operation.changes_by(name)
    context = replace(
        context,
        changes=changes,
        tried_for=tried_for,
        step=name,
        lease_token=row.lease_token,
        shares_lists=is_first_provisioning and is_of_bulk,
        # A bulk's look-up may be from a list that was read a while before.
        is_number_fresh=is_first_provisioning
        and not is_of_bulk
        and looked_up_at is not None
        and change.now - looked_up_at <= LOOK_UP_LASTS,
    )
    return Claim(STEP_BY_NAME[name], lease, loaded, before.may_have_happened, context)


def _context(saga: Saga, direction: Direction, tools: Toolbox) -> StepContext:
    operation, agent = saga.operation, saga.agent
    identity, former = _identities(saga, direction)
    # A step without a column on the agent is known by its row.
    made = {name: row.resource_id for name, row in saga.steps.items() if row.resource_id and STEP_BY_NAME[name].makes}
    ids = {**made, **agent.ids}
    if direction is Direction.DO:
        # What is left behind is the agent's until its step has put something in its place, and is not the step's.
        ids = {
            name: found
            for name, found in ids.items()
            if name not in operation.former_ids or saga.steps[name].state is StepState.DONE
        }
    ledger: dict[str, tuple[str, ...]] = {}
    for entry in saga.ledger:
        ledger[entry.kind] = (*ledger.get(entry.kind, ()), entry.external_id)
    is_on_former = direction is Direction.DO and agent.trunk_id == operation.former_trunk_id
    return StepContext(
        tools=tools,
        agent_id=identity.id,
        operation_id=operation.id,
        phone_number=operation.phone_number,
        takeover=operation.takeover,
        agent_name=identity.livekit_agent_name,
        job_metadata=job_metadata(identity.metadata),
        ids=ids,
        parents={entry.external_id: entry.parent_id for entry in saga.ledger if entry.parent_id},
        ledger=ledger,
        previous_routing=NumberRouting(**agent.previous_routing) if agent.previous_routing else None,
        is_uncertain=saga.is_uncertain,
        started=tools.clock(),
        source_agent_id=agent.id if identity.id != agent.id else None,
        former=Former(former.livekit_agent_name, options_of(former.options)) if former else NOTHING_FORMER,
        options=options_of(identity.options),
        adopted=read_adopted(agent.adopted),
        keeps_path=operation.rules.keeps_path,
        former_ids=operation.former_ids,
        former_trunk_id=operation.former_trunk_id,
        trunk_mode=agent.trunk_mode,
        trunk_id=None if is_on_former else agent.trunk_id,
    )


def _identities(saga: Saga, direction: Direction) -> tuple[AgentRow, AgentRow | None]:
    """Return for whom the path is made in this direction, and for whom it was made before, where that differs.

    A move works under the identity of the agent that gets the number, an update under that of the agent as it is
    wanted; their undo under what stood there before again.
    """
    agent = saga.agent
    wanted = saga.target or agent.as_wanted(saga.operation.wanted)
    if wanted is agent:
        return agent, None
    before = agent.with_options_over(saga.operation.former_options)
    return (wanted, before) if direction is Direction.DO else (before, wanted)
