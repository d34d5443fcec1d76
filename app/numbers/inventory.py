"""The numbers of a Twilio account, and what each is used for: searched, filtered and cut by whoever shows them.

Twilio's list is read whole, 1,000 numbers a request, and shared by the requests of a process (`AccountList`); our own
rows are read each time. So a page costs no request of its own, and what an agent has is never out of date.
"""

import math
import re
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import ARRAY, Text, any_, exists, func, literal, select
from sqlalchemy.orm import Session, aliased

from app.accounts.service import seen_account
from app.db.engine import Sessions
from app.db.models import Agent, Operation, Workspace
from app.db.visibility import home_workspace, seeing, seen_workspace
from app.domain.errors import ErrorCode
from app.domain.numbers import E164
from app.domain.numbers import NumberUse as NumberUse  # noqa: PLC0414  # who lists numbers also needs their uses
from app.domain.texts import shown
from app.domain.workspaces import ENVIRONMENT_PROJECT, AccountIds, AccountKind
from app.numbers.account_lists import FRESH_S, AccountList
from app.path.observed import CarrierNumber, Unreadable
from app.providers.callers import current_caller, time_for_call
from app.providers.errors import ProviderError, TransientError

if TYPE_CHECKING:
    from app.accounts.clients import Toolboxes

log = structlog.get_logger(__name__)


NEED_TAKEOVER = frozenset({NumberUse.TRUNK, NumberUse.APPLICATION})
"""Uses of numbers that are connected only with `takeover`."""

CONNECTABLE = frozenset({NumberUse.FREE, NumberUse.VOICE_URL}) | NEED_TAKEOVER
"""Uses of numbers that may be connected to an agent."""


@dataclass(frozen=True, slots=True)
class OwnedNumber:
    """A number that the account owns; `agent_id` and `agent_name` where `use` is AGENT, `voice_host` for VOICE_URL."""

    phone_number: str
    sid: str
    use: NumberUse
    agent_id: uuid.UUID | None = None
    agent_name: str | None = None
    trunk_sid: str | None = None
    """The Twilio trunk that it is on; an agent's number: the one that the agent's row names."""
    application_sid: str | None = None
    voice_host: str | None = None

    @property
    def can_provision(self) -> bool:
        """Whether it may be connected to an agent, with a takeover where it needs one."""
        return self.use in CONNECTABLE

    @property
    def needs_takeover(self) -> bool:
        """Whether only a takeover connects it."""
        return self.use in NEED_TAKEOVER


class NumberPosition(NamedTuple):
    """Where a number stands in the list; two records may have the same number."""

    phone_number: str
    sid: str


_START = NumberPosition("", "")
"""Before every number."""

NEWEST = datetime.max.replace(tzinfo=UTC)
"""Asks for a list that is read now."""


@dataclass(frozen=True)
class NumberFilter:
    """Which numbers are wanted; `search` is digits anywhere in a number, or beginnings of words of its agent's name."""

    use: NumberUse | None = None
    search: str = ""

    def matches(self, use: NumberUse, phone_number: str, agent_name: str | None) -> bool:
        """Say whether a number with this use, and the agent of this name, is wanted."""
        if self.use not in {None, use}:
            return False
        if not self.search or (self._digits and self._digits in phone_number):
            return True
        return agent_name is not None and self._names(agent_name.lower())

    def _names(self, name: str) -> bool:
        """Say whether each word begins one of the name's."""
        if not self._words or not all(word in name for word in self._words):
            return False
        named = _words_of(name)
        return all(any(one.startswith(word) for one in named) for word in self._words)

    @cached_property
    def _digits(self) -> str:
        """What was typed without what people write between the digits; "" where it is no part of a number.

        With its `+` it is found at the beginning of numbers alone, where theirs is.
        """
        if any(map(str.isalpha, self.search)):
            return ""
        digits = "".join(re.findall(r"[0-9+]", self.search))
        return digits if re.fullmatch(r"\+?[0-9]+", digits) else ""

    @cached_property
    def _words(self) -> Sequence[str]:
        return _words_of(self.search)


def _words_of(text: str) -> Sequence[str]:
    """Return the words as the console's search of agents takes them."""
    return re.findall(r"\w+", text.lower())


EVERY_NUMBER = NumberFilter()


@dataclass(frozen=True, slots=True)
class FoundNumbers:
    """Numbers in the order of their text, as Twilio listed them at `as_of`, by the database's time."""

    numbers: Sequence[OwnedNumber]
    as_of: datetime
    unreadable: int
    """Records in Twilio's list that are left out, since they cannot be read."""
    next_after: NumberPosition | None = None
    """The position of the last number where more match; None: these are all."""
    not_before: datetime | None = None
    """What the next request asks for that is not to see an older list than who had Twilio asked (`NEWEST`)."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """Twilio's list, sorted; each number as if no agent had it."""

    numbers: Sequence[OwnedNumber]
    at: datetime
    unreadable: int


CHUNK = 1000
"""Numbers whose agents are read in one statement: about 5 ms."""

MAX_HELD = 50_000
"""Numbers of other accounts that a process keeps beside the list that it uses, at some 350 bytes."""

FREED_SEEN_S = 5.0
"""Seconds for which a number that an operation has freed may be shown as before: so often, at most, a list is read anew
for that, and not at all where the reading takes longer."""

OPENED_WITHIN = timedelta(hours=1)
"""How far before a list the operations are looked for that have freed a number since: by index, and an operation that
takes longer is rare. Its number is shown as before until the list is read anew."""


@dataclass(frozen=True)
class InventoryService:
    """Combines accounts' numbers with our rows; safe to use from many threads."""

    sessions: Sessions
    toolboxes: "Toolboxes"
    clock: Callable[[], float] = time.monotonic
    _lists: dict[uuid.UUID, AccountList[_Listed]] = field(default_factory=dict, repr=False)

    def of_account(
        self,
        carrier_account_id: uuid.UUID | None = None,
        wanted: NumberFilter = EVERY_NUMBER,
        *,
        after: NumberPosition = _START,
        limit: int | None = None,
        not_before: datetime | None = None,
    ) -> FoundNumbers:
        """Return an account's numbers but those of other workspaces' agents; the workspace's own account by default.

        404 `account_not_found` where it is not seen. May raise the provider's errors. `not_before` is the earliest
        time, by the database, at which Twilio may have been asked: `NEWEST` has it asked now.
        """
        with self.sessions() as session:
            if carrier_account_id is None:
                account_id = session.get_one(Workspace, home_workspace()).carrier_account_id
            else:
                account_id = seen_account(session, AccountKind.CARRIER, carrier_account_id).id
        return self._found(account_id, wanted, after, limit, not_before)

    def of_agent(
        self, agent: Agent, wanted: NumberFilter = EVERY_NUMBER, *, not_before: datetime | None = None
    ) -> FoundNumbers:
        """Return the numbers of the account that the agent's number is of, in the same way."""
        return self._found(agent.carrier_account_id, wanted, _START, None, not_before)

    def as_unheld(self, account_id: uuid.UUID, wanted: Collection[str]) -> Mapping[str, OwnedNumber]:
        """Return an account's numbers as if no agent had them; may raise the provider's errors.

        Where a wanted one is not among them Twilio is asked again: it may have been bought within the last minute.
        """
        found = self._by_number(account_id, None)
        if all(number in found for number in wanted):
            return found
        with suppress(ProviderError):
            return self._by_number(account_id, NEWEST)
        return found

    def _by_number(self, account_id: uuid.UUID, not_before: datetime | None) -> Mapping[str, OwnedNumber]:
        return {one.phone_number: one for one in self._listed(account_id, not_before).numbers}

    def _found(
        self,
        account_id: uuid.UUID,
        wanted: NumberFilter,
        after: NumberPosition,
        limit: int | None,
        not_before: datetime | None,
    ) -> FoundNumbers:
        listed = self._listed(account_id, not_before)
        seen = seen_workspace()
        rest = listed.numbers[bisect_right(listed.numbers, after, key=_position_of) :]
        with seeing(None), self.sessions() as session:
            found = list(islice(_matching(session, rest, wanted, seen), None if limit is None else limit + 1))
        numbers = found[:limit]
        next_after = _position_of(numbers[-1]) if len(found) > len(numbers) else None
        earliest = listed.at if not_before == NEWEST else not_before
        return FoundNumbers(numbers, listed.at, listed.unreadable, next_after, earliest)

    def _listed(self, account_id: uuid.UUID, not_before: datetime | None) -> _Listed:
        read = partial(self._read, account_id)
        numbers = self._lists.setdefault(account_id, AccountList("numbers", read, clock=self.clock))
        try:
            listed = numbers.get(_take_wait_s, is_new=not_before == NEWEST)
            if not_before not in {None, NEWEST} and listed.at < not_before:
                listed = numbers.get(_take_wait_s, is_new=True)
        except TimeoutError:
            detail = "Twilio has not listed the account's numbers in time; what it lists is kept for the next request."
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail) from None
        if self._is_outdated(account_id, numbers):
            with suppress(ProviderError, TimeoutError):
                listed = numbers.get(_take_wait_s, is_new=True)
        self._make_room(account_id)
        return listed

    def _read(self, account_id: uuid.UUID) -> _Listed:
        """Read Twilio's list."""
        with self.sessions() as session:
            at = session.scalars(select(func.now())).one()
        tools, unreadable = self.toolboxes.of(AccountIds(account_id, ENVIRONMENT_PROJECT)), list[Unreadable]()
        with tools.noting():
            found = tools.carrier.list_numbers(unreadable)
        numbers = [_unheld(one) for one in found if E164.fullmatch(one.phone_number)]
        odd = len(unreadable) + len(found) - len(numbers)
        if odd:
            log.warning("numbers_unreadable", count=odd)
        return _Listed(sorted(numbers, key=_position_of), at, odd)

    def _is_outdated(self, account_id: uuid.UUID, numbers: AccountList[_Listed]) -> bool:
        """Say whether an operation has freed a number since it was listed, and gave it back its former routing."""
        held = numbers.held
        if held is None or held.took_s > FREED_SEEN_S or self.clock() < held.read_at + FREED_SEEN_S:
            return False
        holder, at = aliased(Agent), held.value.at
        freed = exists().where(
            Operation.created_at > at - OPENED_WITHIN,
            Operation.finished_at > at,
            Agent.id == Operation.agent_id,
            Agent.carrier_account_id == account_id,
            ~exists().where(holder.twilio_phone_number == Operation.phone_number),
        )
        with seeing(None), self.sessions() as session:
            return bool(session.scalar(select(freed)))

    def _make_room(self, used: uuid.UUID) -> None:
        """Drop the lists of other accounts that are old, and the oldest where there are too many numbers."""
        others = [(numbers.held, numbers) for account_id, numbers in list(self._lists.items()) if account_id != used]
        newest_first = sorted(
            ((held, numbers) for held, numbers in others if held is not None),
            key=lambda pair: pair[0].read_at,
            reverse=True,
        )
        count = 0
        for held, numbers in newest_first:
            count += len(held.value.numbers)
            if count > MAX_HELD or self.clock() >= held.read_at + FRESH_S:
                numbers.forget()


def _take_wait_s() -> float:
    """Take one of this process's places for requests that wait for a provider; return the seconds of this request."""
    if not current_caller().may_call():
        detail = "Twilio takes no more requests for now: too many wait for a provider already, and nothing was sent."
        raise TransientError(ErrorCode.PROVIDER_BUSY, detail)
    return time_for_call(math.inf)


def _position_of(number: OwnedNumber) -> NumberPosition:
    return NumberPosition(number.phone_number, number.sid)


def _matching(
    session: Session, numbers: Sequence[OwnedNumber], wanted: NumberFilter, seen: uuid.UUID | None
) -> Iterator[OwnedNumber]:
    """Yield the wanted numbers with the agents that have them, but for agents of workspaces that are not seen."""
    columns = select(Agent.twilio_phone_number, Agent.workspace_id, Agent.id, Agent.name, Agent.twilio_trunk_sid)
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        texts = literal([one.phone_number for one in chunk], ARRAY(Text))
        rows = session.execute(columns.where(Agent.twilio_phone_number == any_(texts)))
        holders = {row[0]: row for row in rows}
        for one in chunk:
            if one.phone_number not in holders:
                if wanted.matches(one.use, one.phone_number, None):
                    yield one
                continue
            _, workspace_id, agent_id, name, trunk_sid = holders[one.phone_number]
            if seen in {None, workspace_id} and wanted.matches(NumberUse.AGENT, one.phone_number, name):
                trunk_sid = trunk_sid or one.trunk_sid
                yield OwnedNumber(one.phone_number, one.sid, NumberUse.AGENT, agent_id, name, trunk_sid)


def _unheld(number: CarrierNumber) -> OwnedNumber:
    routing, use = number.routing, _use_of(number)
    return OwnedNumber(
        number.phone_number,
        number.sid,
        use,
        trunk_sid=shown(routing.trunk_sid) if routing.trunk_sid else None,
        application_sid=shown(routing.voice_application_sid) if routing.voice_application_sid else None,
        voice_host=routing.voice_host if use is NumberUse.VOICE_URL else None,
    )


def _use_of(number: CarrierNumber) -> NumberUse:
    routing = number.routing
    if not number.is_voice:
        return NumberUse.NO_VOICE
    if routing.trunk_sid:
        return NumberUse.TRUNK
    if routing.voice_application_sid:
        return NumberUse.APPLICATION
    return NumberUse.VOICE_URL if routing.voice_host else NumberUse.FREE
