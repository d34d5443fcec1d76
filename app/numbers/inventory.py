"""The numbers of the carrier account, what each is used for, and how many more it has room for."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.bulk import queries
from app.db.engine import Sessions
from app.db.models import Agent, Operation, Resource
from app.domain.statuses import OperationKind, OperationStatus
from app.domain.steps import TRUNK
from app.providers.base import Carrier, CarrierNumber, Unreadable
from app.providers.errors import ProviderError

log = structlog.get_logger(__name__)


class NumberUse(StrEnum):
    """What a number of the account is used for now."""

    FREE = "free"
    AGENT = "agent"
    """An agent of this installation has it, or is getting it."""
    TRUNK = "trunk"
    """It is on somebody else's trunk: `takeover` moves it."""
    APPLICATION = "application"
    """It calls a voice application: `takeover` moves it."""
    NO_VOICE = "no_voice"
    """It cannot take calls, or is set to receive fax."""


@dataclass(frozen=True, slots=True)
class OwnedNumber:
    """A number that the account owns; `agent_id` and `agent_name` where `use` is AGENT."""

    phone_number: str
    sid: str
    use: NumberUse
    agent_id: uuid.UUID | None = None
    agent_name: str | None = None


@dataclass(frozen=True)
class InventoryService:
    """Reads the account's numbers beside our rows."""

    sessions: Sessions
    carrier: Carrier

    def numbers(self) -> list[OwnedNumber]:
        """Return every number that can be read, sorted by its text; may raise the provider's errors."""
        unreadable: list[Unreadable] = []
        found = self.carrier.list_numbers(unreadable)
        if unreadable:
            log.warning("numbers_unreadable", count=len(unreadable))
        with self.sessions.begin() as session:
            columns = select(Agent.twilio_phone_number, Agent.id, Agent.name)
            holders = {
                number: (agent_id, name)
                for number, agent_id, name in session.execute(columns.where(Agent.twilio_phone_number.is_not(None)))
            }
        owned = (
            OwnedNumber(one.phone_number, one.sid, NumberUse.AGENT, *holders[one.phone_number])
            if one.phone_number in holders
            else OwnedNumber(one.phone_number, one.sid, _use_of(one))
            for one in found
        )
        return sorted(owned, key=lambda one: one.phone_number)


def _use_of(number: CarrierNumber) -> NumberUse:
    if not number.is_voice:
        return NumberUse.NO_VOICE
    if number.routing.trunk_sid:
        return NumberUse.TRUNK
    return NumberUse.APPLICATION if number.routing.voice_application_sid else NumberUse.FREE


FRESH_S = 60.0
"""Seconds that one list of the account's trunks serves; what we made or deleted since, the ledger adds."""

PATIENCE_S = 1.0
"""Seconds that somebody waits for the list: a provider that hangs must hold up no request. It comes to the next one."""

PAUSE_S = 5.0
"""Seconds after a list that failed in which nobody asks again."""

OVERLAP = timedelta(minutes=5)
"""How far before a list the ledger is read: a trunk is made and listed before its row is committed."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """The account's trunks, and how many of `wanted` numbers there is room for."""

    trunk_limit: int
    trunks_in_use: int
    trunks_promised: int
    """What numbers that were accepted before will take."""
    wanted: int = 0

    def for_numbers(self, wanted: int) -> "Headroom":
        """Say the same for so many numbers."""
        return replace(self, wanted=wanted)

    @property
    def fits(self) -> int:
        """How many of the wanted numbers find a trunk, as things stand."""
        return min(self.wanted, max(self.trunk_limit - self.trunks_in_use - self.trunks_promised, 0))

    @property
    def reason(self) -> str:
        """One sentence for a person, with every figure that it follows from."""
        promised = f", {self.trunks_promised:,} promised to numbers that wait" if self.trunks_promised else ""
        return (
            f"{self.fits:,} of {self.wanted:,} numbers fit: each takes a trunk, and of the {self.trunk_limit:,} trunks "
            f"that the Twilio account may have {self.trunks_in_use:,} are in use{promised}."
        )


def headroom_sentence(room: Headroom | None, wanted: int) -> str:
    """Say how many of so many numbers there is room for, also where that is not known."""
    return room.for_numbers(wanted).reason if room else "Twilio did not say in time how many of them fit."


@dataclass(frozen=True, slots=True)
class _TrunkList:
    """Every trunk of the account at one moment."""

    sids: frozenset[str]
    at: datetime
    """By the database's clock, as the ledger's times are."""
    fresh_until: float
    """The monotonic clock."""


class HeadroomService:
    """Looks at the account without making anybody wait for it; safe to use from many threads."""

    def __init__(
        self,
        sessions: Sessions,
        carrier: Carrier,
        trunk_limit: int,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._carrier = carrier
        self._trunk_limit = trunk_limit
        self._patience_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._list: _TrunkList | None = None
        self._under_way: threading.Event | None = None
        self._waits_until = 0.0
        self._quiet_until = 0.0

    def now(self) -> Headroom | None:
        """Return how the account stands; None where Twilio does not say so in time."""
        found = self._trunks()
        if found is None:
            return None
        with self._sessions() as session:
            in_use = len(found.sids) + _change_since(session, found)
            return Headroom(self._trunk_limit, in_use, _promised(session))

    def _trunks(self) -> _TrunkList | None:
        """Return a list that is fresh; one thread at a time asks for it, and goes on when nobody waits any more."""
        with self._lock:
            now = self._clock()
            if self._list is not None and now < self._list.fresh_until:
                return self._list
            if self._under_way is None:
                if now < self._quiet_until:
                    return None
                self._under_way, self._waits_until = threading.Event(), now + self._patience_s
                threading.Thread(target=self._ask, name="trunks", daemon=True).start()
            under_way, left_s = self._under_way, self._waits_until - now
        under_way.wait(max(left_s, 0.0))
        with self._lock:
            is_fresh = self._list is not None and self._clock() < self._list.fresh_until
            return self._list if is_fresh else None

    def _ask(self) -> None:
        found = None
        try:
            with self._sessions() as session:
                at = session.scalars(select(func.now())).one()
            sids = frozenset(trunk.sid for trunk in self._carrier.list_trunks())
            found = _TrunkList(sids, at, self._clock() + FRESH_S)
        except ProviderError as error:
            log.info("trunks_not_counted", code=error.code)
        except Exception:
            log.exception("trunk_count_broke")
        with self._lock:
            self._list = found
            self._quiet_until = 0.0 if found else self._clock() + PAUSE_S
            under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.set()


def _change_since(session: Session, found: _TrunkList) -> int:
    """Return by how many trunks the account has grown since the list, as far as it was our doing."""
    since = found.at - OVERLAP
    query = select(Resource.external_id, Resource.deleted_at).where(
        Resource.kind == TRUNK, or_(Resource.seen_at > since, Resource.deleted_at > since)
    )
    stands = {sid: deleted_at is None for sid, deleted_at in session.execute(query)}
    return sum(is_there - (sid in found.sids) for sid, is_there in stands.items())


def _promised(session: Session) -> int:
    """Return how many trunks are still to be made for numbers that were accepted."""
    on_its_way = (
        select(func.count())
        .select_from(Operation)
        .join(Agent, Agent.id == Operation.agent_id)
        .where(
            Operation.kind == OperationKind.PROVISION,
            Operation.status.in_([OperationStatus.QUEUED, OperationStatus.RUNNING]),
            Agent.twilio_trunk_sid.is_(None),
        )
    )
    return session.scalars(on_its_way).one() + queries.count_pending(session)
