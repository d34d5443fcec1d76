"""The pool: Twilio trunks that numbers of one profile share, and who makes what is missing of them.

A place is an agent's `trunk_id`: taken before any call, given back by the write that takes the number from the
agent, once nothing of it is left. Members are counted under the lock of the trunk's row: no counter could drift. The
trunk and its origination URL are made by whoever holds the row's lease, and what an outcome left open has settled
before anybody looks again: so no second one is ever made.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Protocol

from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions, Statements, read_sql
from app.db.models import Trunk
from app.domain.operations import ORIGINATION_URL, TRUNK, TrunkState
from app.path.spec import ORIGINATION_PRIORITY, ORIGINATION_WEIGHT, Profile

CHECKED_WITHIN = timedelta(minutes=1)
"""How long what was seen of a shared trunk is trusted by those who put numbers on it: reading it again for each of a
thousand numbers would tell nothing new. Beyond it they read it with the rest of the path."""

SHORTEST_WAIT_S = 0.25
"""Seconds until whoever waits for a trunk looks again: a create takes about as long."""

LONGEST_WAIT_S = 5.0
"""The same at most."""

_TRIES = 100
"""Tries to find room, each of them outrun by others who filled a trunk: one is the rule."""

_COLUMNS = {TRUNK: Trunk.twilio_trunk_sid, ORIGINATION_URL: Trunk.twilio_origination_url_sid}

_HOLD_AGENT = "SELECT id FROM agents WHERE id = %(agent)s FOR NO KEY UPDATE"
"""Locks the agent before anything else, as those do who cancel. Whoever ends its operation has to write it too: they
wait, and take the place back, or they came first, and the step is not held any more."""

_IS_CHECKED = "SELECT checked_at > clock_timestamp() - %(within)s AS is_checked FROM trunks WHERE id = %(trunk)s"

_HELD_PLACE = read_sql(__file__, "held_place.sql")
_CHOOSE_TRUNK = read_sql(__file__, "choose_trunk.sql")
_NEXT_PLACE = read_sql(__file__, "next_place.sql")
_TAKE_PLACE = read_sql(__file__, "take_place.sql")
_FIND_ROOM = read_sql(__file__, "find_room.sql")
_ADD_SHARD = read_sql(__file__, "add_shard.sql")
_BEGIN_MAKING = read_sql(__file__, "begin_making.sql")
_GIVE_URL = read_sql(__file__, "give_url.sql")


@dataclass(frozen=True, slots=True)
class Place:
    """A place on a trunk of the pool, and what of the trunk is there."""

    trunk_id: uuid.UUID
    ids: Mapping[str, str]
    """Step name -> the sid of trunk and origination URL, as far as they are made."""
    wait_s: float = 0.0
    """Seconds after which to look again, where something is missing that somebody else makes, or that may yet land."""


@dataclass(frozen=True, slots=True)
class Making:
    """The right to make the trunk, or its URL, until the lease ends."""

    token: uuid.UUID
    may_have_happened: bool
    """Whether an earlier try may have made one: look first."""


class Pool(Protocol):
    """What the steps ask of the pool; a dry run has one that writes nothing."""

    def of(self, profile: Profile, /) -> "Pool":
        """Return the pool of another profile of the same account; itself where it is the same."""

    def take_place(
        self,
        agent_id: uuid.UUID,
        operation_id: uuid.UUID,
        step: str,
        token: uuid.UUID,
        /,
        *,
        leaving: uuid.UUID | None = None,
    ) -> Place | None:
        """Return the agent's place, after taking one if it has none; None when `token` no longer holds the step.

        The trunk that it is `leaving` is none.
        """

    def begin_making(self, trunk_id: uuid.UUID, step: str, /) -> Making | None:
        """Take the lease to make this step's object; None while another has it, or something may still land."""

    def keep_made(
        self,
        trunk_id: uuid.UUID,
        token: uuid.UUID,
        step: str,
        sid: str,
        parent_sid: str | None,
        /,
        *,
        was_there: bool,
    ) -> str | None:
        """Keep what was made, unless another was kept before, and end the lease; return the sid that counts, if any.

        `parent_sid` is the trunk that a URL was made on: it is kept for no other one. `was_there`: it was found, not
        made, so that its URL may be there too.
        """

    def end_making(
        self, trunk_id: uuid.UUID, token: uuid.UUID, /, *, is_clear: bool, settles_in: timedelta | None = None
    ) -> None:
        """End the lease of a failed try; `is_clear`: nothing was made, `settles_in`: how long it may still land."""

    def forget(self, trunk_id: uuid.UUID, step: str, sid: str, /) -> None:
        """Forget a trunk or URL that is certainly gone, so that it is made anew; with the trunk goes its URL."""

    def is_checked(self, trunk_id: uuid.UUID, /) -> bool:
        """Tell whether trunk and URL were seen to be right a moment ago (`CHECKED_WITHIN`)."""

    def keep_checked(self, trunk_id: uuid.UUID, /) -> None:
        """Remember that trunk and URL have just been read and are right."""

    def is_shared(self, sid: str, /) -> bool:
        """Tell whether a trunk or origination URL is the pool's: no step of an agent's deletes it."""

    def next_place(self) -> Place | None:
        """Return the place that the next agent would get, without taking it; None: a trunk would be added."""


def profile_json(profile: Profile) -> dict[str, Any]:
    """Return the settings that all numbers of a trunk have in common, as JSON."""
    return {
        "sipUris": [{"uri": str(profile.sip_uri), "priority": ORIGINATION_PRIORITY, "weight": ORIGINATION_WEIGHT}],
        "secure": profile.is_secure,
        "transferMode": profile.transfer_mode,
    }


def profile_hash(profile: Profile) -> str:
    """Return what two profiles share if and only if their numbers may share a trunk: 64 hex digits."""
    return hashlib.sha256(json.dumps(profile_json(profile), sort_keys=True).encode()).hexdigest()


class TrunkPool:
    """The pool of one carrier account and profile, in PostgreSQL; safe to use from many threads and processes."""

    def __init__(
        self,
        sessions: Sessions,
        carrier_account_id: uuid.UUID,
        profile: Profile,
        max_numbers: int,
        *,
        lease: timedelta,
        lands: timedelta,
    ) -> None:
        self._sessions = sessions
        self._profile = json.dumps(profile_json(profile))
        self._wanted = {"account": carrier_account_id, "hash": profile_hash(profile), "most": max_numbers}
        self._lease = lease
        self._lands = lands

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self._sessions)

    def of(self, profile: Profile) -> "TrunkPool":
        """Return the pool of another profile of the same account; itself where it is the same."""
        if profile_hash(profile) == self._wanted["hash"]:
            return self
        account, most = uuid.UUID(str(self._wanted["account"])), int(str(self._wanted["most"]))
        return TrunkPool(self._sessions, account, profile, most, lease=self._lease, lands=self._lands)

    def take_place(
        self,
        agent_id: uuid.UUID,
        operation_id: uuid.UUID,
        step: str,
        token: uuid.UUID,
        *,
        leaving: uuid.UUID | None = None,
    ) -> Place | None:
        """Return the agent's place, after taking one if it has none; None when `token` no longer holds the step.

        The trunk that it is `leaving` is none.
        """
        holds = {"agent": agent_id, "operation": operation_id, "step": step, "token": token}
        for _ in range(_TRIES):
            # A transaction for each try: whoever waits for a trunk holds no other, so that no two wait for each other.
            with self._sessions.begin() as session:
                run = session.connection().exec_driver_sql
                run(_HOLD_AGENT, holds)
                held = run(_HELD_PLACE, holds).one_or_none()
                if held is None:
                    return None
                if held.id not in {None, leaving} and held.state in _STANDING:
                    return self._place(held)
                chosen = run(_CHOOSE_TRUNK, self._wanted).one_or_none()
                if chosen is None:
                    self._find_or_add(session)
                elif run(_TAKE_PLACE, {**self._wanted, "trunk": chosen.id, "agent": agent_id}).one_or_none():
                    return self._place(chosen)
        raise LookupError(f"no place for agent {agent_id} after {_TRIES} tries")

    def next_place(self) -> Place | None:
        """Return the place that the next agent would get, without taking it; None: a trunk would be added."""
        chosen = self._statements.one(_NEXT_PLACE, self._wanted)
        return None if chosen is None else self._place(chosen)

    def _find_or_add(self, session: Session) -> None:
        """Find a trunk that has room after all; add one when there is none."""
        run = session.connection().exec_driver_sql
        if full := run(_FIND_ROOM, self._wanted).one_or_none():
            run(_ADD_SHARD, {**self._wanted, "id": uuid.uuid4(), "profile": self._profile, "shard": full.newest + 1})

    def begin_making(self, trunk_id: uuid.UUID, step: str) -> Making | None:
        """Take the lease to make this step's object; None while another has it, or something may still land."""
        token = uuid.uuid4()
        values = {"trunk": trunk_id, "token": token, "step": step, "lease": self._lease, "lands": self._lands}
        with self._sessions.begin() as session:
            row = session.connection().exec_driver_sql(_BEGIN_MAKING, values).one_or_none()
        return None if row is None else Making(token, row.may_have_happened)

    def keep_made(
        self, trunk_id: uuid.UUID, token: uuid.UUID, step: str, sid: str, parent_sid: str | None, *, was_there: bool
    ) -> str | None:
        """Keep what was made, unless another was kept before, and end the lease; return the sid that counts, if any.

        It is kept without the lease too: whoever was late has made one all the same, and only one has a row. A URL that
        was made anew is that of all numbers on the trunk at once.
        """
        with self._sessions.begin() as session:
            row = session.get(Trunk, trunk_id, with_for_update=True)
            if row is None or row.state not in _STANDING:
                return None
            column = _COLUMNS[step].key
            if getattr(row, column) is None and parent_sid in {None, row.twilio_trunk_sid}:
                setattr(row, column, sid)
            if row.lease_token == token:
                row.lease_token = row.lease_until = row.unsettled_until = None
                row.intent = ORIGINATION_URL if was_there and step == TRUNK else None
            if row.state is TrunkState.CREATING and row.twilio_trunk_sid and row.twilio_origination_url_sid:
                row.state, row.checked_at = TrunkState.ACTIVE, session.scalar(select(func.clock_timestamp()))
            kept: str | None = getattr(row, column)
        if kept == sid and step == ORIGINATION_URL:
            # Apart, since whoever takes a place locks its agent first, and then the trunk.
            with self._sessions.begin() as session:
                session.connection().exec_driver_sql(_GIVE_URL, {"trunk": trunk_id})
        return kept

    def end_making(
        self, trunk_id: uuid.UUID, token: uuid.UUID, *, is_clear: bool, settles_in: timedelta | None = None
    ) -> None:
        """End the lease of a failed try; `is_clear`: nothing was made, `settles_in`: how long it may still land."""
        values: dict[str, Any] = {"lease_token": None, "lease_until": None}
        if is_clear:
            values["intent"] = None
        if settles_in is not None:
            values["unsettled_until"] = func.clock_timestamp() + settles_in
        with self._sessions.begin() as session:
            session.execute(update(Trunk).where(Trunk.id == trunk_id, Trunk.lease_token == token).values(values))

    def forget(self, trunk_id: uuid.UUID, step: str, sid: str) -> None:
        """Forget a trunk or URL that is certainly gone, so that it is made anew; with the trunk goes its URL."""
        # The intent has the next one look for it before it makes another: what was seen to be gone may be there.
        gone = {"state": TrunkState.CREATING, "checked_at": None, "twilio_origination_url_sid": None, "intent": step}
        if step == TRUNK:
            gone["twilio_trunk_sid"] = None
        is_standing = Trunk.state.in_(_STANDING)
        with self._sessions.begin() as session:
            session.execute(update(Trunk).where(Trunk.id == trunk_id, _COLUMNS[step] == sid, is_standing).values(gone))

    def is_checked(self, trunk_id: uuid.UUID) -> bool:
        """Tell whether trunk and URL were seen to be right a moment ago (`CHECKED_WITHIN`)."""
        found = self._statements.one(_IS_CHECKED, {"trunk": trunk_id, "within": CHECKED_WITHIN})
        return bool(found and found.is_checked)

    def keep_checked(self, trunk_id: uuid.UUID) -> None:
        """Remember that trunk and URL have just been read and are right."""
        with self._sessions.begin() as session:
            session.execute(update(Trunk).where(Trunk.id == trunk_id).values(checked_at=func.clock_timestamp()))

    def is_shared(self, sid: str) -> bool:
        """Tell whether a trunk or origination URL is the pool's: no step of an agent's deletes it."""
        with self._sessions.begin() as session:
            return bool(session.scalar(select(exists().where(or_(*(column == sid for column in _COLUMNS.values()))))))

    def _place(self, row: Any) -> Place:
        sids = {TRUNK: row.twilio_trunk_sid, ORIGINATION_URL: row.twilio_origination_url_sid}
        held_for = row.now - (row.lease_until - self._lease) if row.lease_until else timedelta()
        # A create takes a moment; whoever has been at it for long may take long, or is dead.
        wait_s = min(max(held_for.total_seconds() / 2, SHORTEST_WAIT_S), LONGEST_WAIT_S)
        if row.unsettled_until and row.unsettled_until > row.now:
            wait_s = max((row.unsettled_until - row.now).total_seconds(), SHORTEST_WAIT_S)
        return Place(row.id, {step: sid for step, sid in sids.items() if sid}, wait_s)


_STANDING = (TrunkState.CREATING, TrunkState.ACTIVE)
