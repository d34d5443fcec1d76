"""The numbers of the Twilio account, what each is used for, and how many more numbers its trunk limit allows."""

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
from app.domain.operations import TRUNK, OperationKind, OperationStatus
from app.path.observed import CarrierNumber, Unreadable
from app.providers.base import Carrier
from app.providers.errors import ProviderError

log = structlog.get_logger(__name__)


class NumberUse(StrEnum):
    """What a number of the account is used for at present."""

    FREE = "free"
    AGENT = "agent"
    """It belongs to an agent of this installation, or is being provisioned for one."""
    TRUNK = "trunk"
    """It is on a trunk that is not ours: `takeover` moves it."""
    APPLICATION = "application"
    """It is routed to a voice application: `takeover` moves it."""
    VOICE_URL = "voice_url"
    """Its calls are handled at a voice URL, until it is connected: deprovisioning restores that."""
    NO_VOICE = "no_voice"
    """It has no voice capability, or is set to receive fax."""


@dataclass(frozen=True, slots=True)
class OwnedNumber:
    """A number that the account owns; `agent_id` and `agent_name` where `use` is AGENT, `voice_host` for VOICE_URL."""

    phone_number: str
    sid: str
    use: NumberUse
    agent_id: uuid.UUID | None = None
    agent_name: str | None = None
    voice_host: str | None = None


@dataclass(frozen=True)
class InventoryService:
    """Combines the account's numbers with our rows."""

    sessions: Sessions
    carrier: Carrier

    def numbers(self) -> list[OwnedNumber]:
        """Return every readable number, sorted; may raise the provider's errors."""
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
            else _unheld(one)
            for one in found
        )
        return sorted(owned, key=lambda one: one.phone_number)


def _unheld(number: CarrierNumber) -> OwnedNumber:
    use, host = _use_of(number), None
    if use is NumberUse.VOICE_URL:
        host = number.routing.voice_host
    return OwnedNumber(number.phone_number, number.sid, use, voice_host=host)


def _use_of(number: CarrierNumber) -> NumberUse:
    routing = number.routing
    if not number.is_voice:
        return NumberUse.NO_VOICE
    if routing.trunk_sid:
        return NumberUse.TRUNK
    if routing.voice_application_sid:
        return NumberUse.APPLICATION
    return NumberUse.VOICE_URL if routing.voice_host else NumberUse.FREE


FRESH_S = 60.0
"""Seconds for which a list of the account's trunks is reused; the ledger adds what we created or deleted since."""

LIST_TIMEOUT_S = 1.0
"""Seconds that a request waits for the list, so that a slow provider holds up no request. The next one may get it."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds after a failed list before it is requested again."""

OVERLAP = timedelta(minutes=5)
"""How far before the list the ledger is read: a trunk is created and listed before its row is committed."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many trunks the account has, and how many of `wanted` numbers still fit."""

    trunk_limit: int
    trunks_in_use: int
    trunks_promised: int
    """Trunks still to be created for numbers already accepted."""
    wanted: int = 0

    def for_numbers(self, wanted: int) -> "Headroom":
        """Return a copy for this many numbers."""
        return replace(self, wanted=wanted)

    @property
    def fits(self) -> int:
        """How many of the wanted numbers would get a trunk now."""
        return min(self.wanted, max(self.trunk_limit - self.trunks_in_use - self.trunks_promised, 0))

    @property
    def reason(self) -> str:
        """One sentence for people, with the figures behind it."""
        reserved = f", {self.trunks_promised:,} reserved for numbers in progress" if self.trunks_promised else ""
        return (
            f"{self.fits:,} of {self.wanted:,} numbers fit: each takes a trunk, and of the {self.trunk_limit:,} trunks "
            f"that the Twilio account may have {self.trunks_in_use:,} are in use{reserved}."
        )


def headroom_sentence(room: Headroom | None, wanted: int) -> str:
    """Describe how many of this many numbers fit, also when that is unknown."""
    return (
        room.for_numbers(wanted).reason
        if room
        else "It is not known how many of them fit: Twilio did not respond in time."
    )


@dataclass(frozen=True, slots=True)
class _TrunkList:
    """The account's trunks at one moment."""

    sids: frozenset[str]
    at: datetime
    """The database's time, as in the ledger."""
    fresh_until: float
    """Monotonic time."""


class HeadroomService:
    """Counts the account's trunks in a background thread; safe to use from many threads."""

    def __init__(
        self,
        sessions: Sessions,
        carrier: Carrier,
        trunk_limit: int,
        *,
        list_timeout_s: float = LIST_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._carrier = carrier
        self._trunk_limit = trunk_limit
        self._list_timeout_s = list_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._list: _TrunkList | None = None
        self._listing: threading.Event | None = None
        self._wait_until = 0.0
        self._retry_at = 0.0

    def now(self) -> Headroom | None:
        """Return the current figures; None when Twilio does not respond in time."""
        found = self._trunks()
        if found is None:
            return None
        with self._sessions() as session:
            in_use = len(found.sids) + _growth_since(session, found)
            return Headroom(self._trunk_limit, in_use, _count_reserved(session))

    def _trunks(self) -> _TrunkList | None:
        """Return a fresh list; one thread at a time requests it, and finishes even when nobody waits any more."""
        with self._lock:
            now = self._clock()
            if self._list is not None and now < self._list.fresh_until:
                return self._list
            if self._listing is None:
                if now < self._retry_at:
                    return None
                self._listing, self._wait_until = threading.Event(), now + self._list_timeout_s
                threading.Thread(target=self._list_trunks, name="trunks", daemon=True).start()
            listing, left_s = self._listing, self._wait_until - now
        listing.wait(max(left_s, 0.0))
        with self._lock:
            is_fresh = self._list is not None and self._clock() < self._list.fresh_until
            return self._list if is_fresh else None

    def _list_trunks(self) -> None:
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
            self._retry_at = 0.0 if found else self._clock() + PAUSE_AFTER_FAILURE_S
            listing, self._listing = self._listing, None
        if listing is not None:
            listing.set()


def _growth_since(session: Session, found: _TrunkList) -> int:
    """Return by how many trunks our own operations have changed the account since the list."""
    since = found.at - OVERLAP
    query = select(Resource.external_id, Resource.deleted_at).where(
        Resource.kind == TRUNK, or_(Resource.seen_at > since, Resource.deleted_at > since)
    )
    exists = {sid: deleted_at is None for sid, deleted_at in session.execute(query)}
    return sum(is_there - (sid in found.sids) for sid, is_there in exists.items())


def _count_reserved(session: Session) -> int:
    """Count the trunks still to be created for numbers already accepted."""
    in_progress = (
        select(func.count())
        .select_from(Operation)
        .join(Agent, Agent.id == Operation.agent_id)
        .where(
            Operation.kind == OperationKind.PROVISION,
            Operation.status.in_([OperationStatus.QUEUED, OperationStatus.RUNNING]),
            Agent.twilio_trunk_sid.is_(None),
        )
    )
    return session.scalars(in_progress).one() + queries.count_pending(session)
