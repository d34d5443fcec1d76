"""How many more numbers a Twilio account has room for."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.accounts.clients import Toolboxes
from app.bulk import queries
from app.bulk.items import Item
from app.db.engine import Sessions
from app.db.models import Agent, Operation, Resource, Trunk, Workspace
from app.db.visibility import home_workspace, seeing
from app.domain.errors import ErrorCode
from app.domain.operations import STEP_BY_NAME, TRUNK, OperationKind, OperationStatus, TrunkMode
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT, AccountIds
from app.numbers.account_lists import AccountList
from app.providers.errors import ProviderError, TransientError
from app.trunks.listing import places_of
from app.trunks.pool import profile_hash

log = structlog.get_logger(__name__)

LIST_TIMEOUT_S = 1.0
"""Seconds that a request waits for the list, so that a slow provider holds up no request. The next one may get it."""

OVERLAP = timedelta(minutes=5)
"""How far before the list the ledger is read: a trunk is created and listed before its row is committed."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """How many more numbers the account has room for, and how many of those `wanted` fit."""

    trunk_limit: int
    trunks_in_use: int
    trunks_promised: int
    """Trunks still to be made for numbers already accepted."""
    places_free: int
    """Places on shared trunks that no number already accepted takes; those on promised trunks are among them."""
    trunk_max_numbers: int
    wanted: int = 0
    dedicated: int = 0
    """How many of the wanted numbers take a trunk of their own."""
    parts: tuple["Headroom", ...] = ()
    """The accounts that these are the sums of, where the wanted numbers are of several."""

    def for_numbers(self, wanted: int, dedicated: int = 0) -> "Headroom":
        """Return a copy for this many numbers."""
        return replace(self, wanted=wanted, dedicated=dedicated)

    @property
    def trunks_free(self) -> int:
        """Trunks that may still be made, for nobody yet."""
        return max(self.trunk_limit - self.trunks_in_use - self.trunks_promised, 0)

    @property
    def numbers_fit(self) -> int:
        """How many more numbers fit if they share trunks."""
        return self.places_free + self.trunks_free * self.trunk_max_numbers

    @property
    def fits(self) -> int:
        """How many of the wanted numbers fit: those that share trunks first, since they need fewer."""
        if self.parts:
            return sum(part.fits for part in self.parts)
        shared = self.wanted - self.dedicated
        trunks = min(_trunks_for(shared - self.places_free, self.trunk_max_numbers), self.trunks_free)
        placed = min(shared, self.places_free + trunks * self.trunk_max_numbers)
        return placed + min(self.dedicated, self.trunks_free - trunks)

    @property
    def reason(self) -> str:
        """One sentence for people about the wanted numbers, with the figures behind it; one for each account."""
        if self.parts:
            return " ".join(part.reason for part in self.parts)
        own = f" {self.dedicated:,} of them would have a trunk of their own." if self.dedicated else ""
        return f"{self.fits:,} of {self.wanted:,} numbers fit: {self._figures}{own}"

    @property
    def summary(self) -> str:
        """One sentence for people about numbers in general."""
        return f"{self.numbers_fit:,} more numbers fit: {self._figures}"

    @property
    def _figures(self) -> str:
        reserved = f", {self.trunks_promised:,} reserved for numbers in progress" if self.trunks_promised else ""
        places = "1 place is" if self.places_free == 1 else f"{self.places_free:,} places are"
        return (
            f"{places} free on shared trunks, which take {self.trunk_max_numbers:,} each, and of the "
            f"{self.trunk_limit:,} trunks that the Twilio account may have {self.trunks_in_use:,} are in use{reserved}."
        )


def _trunks_for(numbers: int, trunk_max_numbers: int) -> int:
    return -(-max(numbers, 0) // trunk_max_numbers)


@dataclass(frozen=True, slots=True)
class _TrunkList:
    """The account's trunks at one moment."""

    sids: frozenset[str]
    at: datetime
    """The database's time, as in the ledger."""


@dataclass(frozen=True)
class HeadroomService:
    """Says how many more numbers each account has room for; safe to use from many threads."""

    sessions: Sessions
    toolboxes: Toolboxes
    trunk_max_numbers: int
    list_timeout_s: float = LIST_TIMEOUT_S
    clock: Callable[[], float] = time.monotonic
    _lists: dict[uuid.UUID, AccountList[_TrunkList]] = field(default_factory=dict, repr=False)

    def of(self, carrier_account_id: uuid.UUID = ENVIRONMENT_ACCOUNT) -> Headroom | None:
        """Return the current figures of an account, of all workspaces; None when Twilio does not respond in time.

        Where the agents of the account have several profiles, free places are the sum of all of them.
        """
        with seeing(None):
            return self._of(carrier_account_id)

    def all(self) -> Mapping[str, Headroom]:
        """Return the figures of all accounts that agents use, as far as they are known: by id, or `environment`."""
        ids = dict.fromkeys(pair.carrier_account_id for pair in self.toolboxes.in_use())
        rooms = {"environment" if one == ENVIRONMENT_ACCOUNT else str(one): self.of(one) for one in ids}
        return {label: room for label, room in rooms.items() if room is not None}

    def _of(self, account_id: uuid.UUID) -> Headroom | None:
        found = self._trunks(account_id)
        if found is None:
            return None
        most, limit = self.trunk_max_numbers, self.toolboxes.account(account_id).trunk_limit
        pairs = [pair for pair in self.toolboxes.in_use() if pair.carrier_account_id == account_id]
        profiles = {self.toolboxes.project(pair.voice_project_id).profile for pair in pairs}
        by_hash = {profile_hash(profile): profile for profile in profiles}
        with self.sessions() as session:
            in_use = len(found.sids) + _growth_since(session, account_id, found)
            pools = [places_of(session, account_id, profile, most) for profile in by_hash.values()]
            promised = _count_promised(session, account_id)
        unmade, free = sum(pool.unmade for pool in pools), sum(pool.free for pool in pools)
        allowed = max(limit - in_use, 0)
        places = free + (sum(pool.free_on_unmade for pool in pools) if unmade <= allowed else 0)
        new = _trunks_for(promised.shared - places, most)
        makeable = min(new, max(allowed - unmade - promised.dedicated, 0))
        return Headroom(
            trunk_limit=limit,
            trunks_in_use=in_use,
            trunks_promised=promised.dedicated + unmade + new,
            places_free=max(places + makeable * most - promised.shared, 0),
            trunk_max_numbers=most,
        )

    def for_items(self, items: Sequence[Item]) -> Headroom | None:
        """Return the figures for the valid items of a bulk that is not stored yet, of all accounts together.

        None when one of them does not respond in time.
        """
        valid = [item for item in items if item.problem is None]
        with self.sessions() as session:
            home = session.get_one(Workspace, home_workspace()).carrier_account_id
            existing = queries.existing_agents(session, {item.agent_id for item in valid if item.agent_id})
        wanted: dict[uuid.UUID, list[TrunkMode]] = {}
        for item in valid:
            if item.new_agent is not None:
                account_id, mode = item.new_agent.carrier_account_id or home, item.new_agent.trunk_mode
            elif item.agent_id is not None and item.agent_id in existing:
                account_id, mode = existing[item.agent_id]
            else:
                continue
            wanted.setdefault(account_id, []).append(mode)
        parts = []
        for account_id, modes in (wanted or {home: []}).items():
            room = self.of(account_id)
            if room is None:
                return None
            parts.append(room.for_numbers(len(modes), modes.count(TrunkMode.DEDICATED)))
        return parts[0] if len(parts) == 1 else _sum_of(parts)

    def _trunks(self, account_id: uuid.UUID) -> _TrunkList | None:
        if account_id not in self._lists:
            read = partial(self._list_trunks, account_id)
            self._lists.setdefault(
                account_id, AccountList("trunks", read, waits_s=self.list_timeout_s, clock=self.clock)
            )
        try:
            return self._lists[account_id].get(lambda: self.list_timeout_s)
        except (ProviderError, TimeoutError):
            return None

    def _list_trunks(self, account_id: uuid.UUID) -> _TrunkList:
        try:
            with self.sessions() as session:
                at = session.scalars(select(func.now())).one()
            tools = self.toolboxes.of(AccountIds(account_id, ENVIRONMENT_PROJECT))
            with tools.noting():
                return _TrunkList(frozenset(trunk.sid for trunk in tools.carrier.list_trunks()), at)
        except ProviderError as error:
            log.info("trunks_not_counted", code=error.code)
            raise
        except Exception as error:
            log.exception("trunk_count_broke")
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The trunks were not counted.") from error


def _sum_of(parts: Sequence[Headroom]) -> Headroom:
    def total(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    return Headroom(
        trunk_limit=total("trunk_limit"),
        trunks_in_use=total("trunks_in_use"),
        trunks_promised=total("trunks_promised"),
        places_free=total("places_free"),
        trunk_max_numbers=parts[0].trunk_max_numbers,
        wanted=total("wanted"),
        dedicated=total("dedicated"),
        parts=tuple(parts),
    )


def _growth_since(session: Session, account_id: uuid.UUID, found: _TrunkList) -> int:
    """Return by how many trunks our own operations have changed the account since the list."""
    since = found.at - OVERLAP
    of_account = select(Resource.external_id, Resource.deleted_at.is_(None)).join(Agent, Agent.id == Resource.agent_id)
    own = of_account.where(
        Agent.carrier_account_id == account_id,
        # With the provider, the key finds the kind: most rows of the ledger are LiveKit's.
        Resource.provider == STEP_BY_NAME[TRUNK].provider,
        Resource.kind == TRUNK,
        or_(Resource.seen_at > since, Resource.deleted_at > since),
    )
    is_recent = or_(Trunk.checked_at.is_(None), Trunk.checked_at > since, Trunk.gone_at > since)
    shared = select(Trunk.twilio_trunk_sid, Trunk.gone_at.is_(None)).where(
        Trunk.carrier_account_id == account_id,
        Trunk.twilio_trunk_sid.is_not(None),
        is_recent,
        or_(Trunk.gone_at.is_(None), Trunk.gone_at > since),
    )
    exists = {sid: is_there for query in (own, shared) for sid, is_there in session.execute(query)}
    return sum(is_there - (sid in found.sids) for sid, is_there in exists.items())


@dataclass(frozen=True, slots=True)
class _Promised:
    """Numbers already accepted that have no place and no trunk yet."""

    shared: int
    dedicated: int


def _count_promised(session: Session, account_id: uuid.UUID) -> _Promised:
    is_dedicated = Agent.trunk_mode == TrunkMode.DEDICATED
    in_progress = (
        select(func.count().filter(~is_dedicated), func.count().filter(is_dedicated))
        .select_from(Operation)
        .join(Agent, Agent.id == Operation.agent_id)
        .where(
            Agent.carrier_account_id == account_id,
            Operation.kind == OperationKind.PROVISION,
            Operation.status.in_([OperationStatus.QUEUED, OperationStatus.RUNNING]),
            Agent.twilio_trunk_sid.is_(None),
            Agent.trunk_id.is_(None),
        )
    )
    pending = queries.count_pending(session, account_id)
    shared, dedicated = session.execute(in_progress).one()
    return _Promised(
        shared + pending.get(TrunkMode.SHARED, 0),
        dedicated + pending.get(TrunkMode.DEDICATED, 0),
    )
