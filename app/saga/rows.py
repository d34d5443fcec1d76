"""Loads what the rules need to know of an operation, and saves what they make of it: one statement each, in `sql/`.

Nothing is locked in between. A read is one statement, so that it shows one moment; a write names the version of the
operation's row that it was made of (PostgreSQL's `xmin`), and writes nothing at all where there is a newer one: then
all begins again with a read. Whatever changes a step, a lease or the ledger of an operation writes its row too, so that
one version stands for all of it. What becomes of one that has ended, when a worker comes back late, writes the row of
the next one of its agents' too.

So a process may begin with the operation as it has left it itself, without a read: if anybody else has written it
since, the write does not fit; nor does it if the two clocks have parted since the read, because this machine slept or
another server took over. Only a change that is written is believed on those terms; a refusal is read for.
"""

import json
import random
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache, cached_property
from typing import Any, TypeVar, get_args, get_type_hints

from sqlalchemy.orm import Session

from app.db.engine import Sessions, Statements, read_sql
from app.db.models import IS_OPEN, Agent
from app.domain.calls import Reachability
from app.domain.operations import COLUMNS, STEP_BY_NAME, STEPS
from app.domain.workspaces import AccountIds
from app.saga.state import AgentRow, Asked, Change, LedgerEntry, OperationRow, Saga, StepRow
from app.webhooks.announcements import announce_sql, lines_of

TRIES = 50
"""Tries after which a change is given up, each of them outrun by somebody else's write: a few is the most ever seen."""

CROWDED = 3
"""Tries after which each further one waits a moment: below that a crowd is chance."""

PAUSE_S = 0.001
"""Seconds for each try so far, at most: a change takes about as long; all tries together wait a second at most."""

REMEMBERED = 1000
"""Operations that a process remembers as it has left them, some 10 kB each: more than all its threads work on."""

_HEALTH = ("health_state", "health_checked_at", "health_findings")

_AGENT_COLUMNS = (
    "phone_provisioning_status",
    "twilio_phone_number",
    "previous_routing",
    "trunk_id",
    "name",
    "livekit_agent_name",
    "metadata",
    "options",
    "version",
    "adopted",
    "reachability",
    *_HEALTH,
    "updated_at",
)
"""What the saga writes of an agent, beside the ids of its resources."""


_COLUMNS = ", ".join((*_AGENT_COLUMNS, *COLUMNS.values()))

_READ = read_sql(__file__, "read.sql")
_HAND_OVER = read_sql(__file__, "hand_over.sql", agent_columns=_COLUMNS)
_FOLLOW = read_sql(__file__, "follow.sql")
_UNVERIFIED = read_sql(__file__, "unverified.sql", is_open=IS_OPEN)


@cache
def _write_sql(*parts: str) -> str:
    """Return the statement that writes a change which has something in these parts."""
    return read_sql(__file__, "write.sql", parts, agent_columns=_COLUMNS, announce=announce_sql("fits"))


class OutrunError(Exception):
    """Others wrote the operation faster than this process could, again and again; the sweeper comes back to it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An operation as it was at one moment."""

    saga: Saga
    version: str
    """Which version of its row this was; a change of it is refused once there is another."""
    read_at: datetime
    """The database's clock at the read: the only one that leases know."""
    clock_s: float = field(default_factory=time.monotonic)
    """This process's clock then."""

    @property
    def now(self) -> datetime:
        """The database's clock now, as far as this process can tell without asking."""
        return self.read_at + timedelta(seconds=time.monotonic() - self.clock_s)


@dataclass(frozen=True, slots=True)
class Unverified:
    """The operations of bulks whose path is built and waits to be verified."""

    ids: tuple[uuid.UUID, ...] = ()
    """The one that waits longest first."""
    waited_s: float = 0.0
    """How long that one has waited, seconds."""
    on_their_way: int = 0
    """How many more operations of bulks have not come so far yet."""


class Rows:
    """Reads and changes operations; safe to use from many threads."""

    def __init__(self, sessions: Sessions, lands: timedelta = timedelta()) -> None:
        self._sessions = sessions
        self._lands = lands
        self._remembered: OrderedDict[uuid.UUID, Loaded] = OrderedDict()
        self._remembering = threading.Lock()

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self._sessions)

    def read(self, operation_id: uuid.UUID, session: Session | None = None) -> Loaded | None:
        """Load an operation; None where there is none."""
        row = self._run([(_READ, {"operation": operation_id, "lands": self._lands})], session)
        return None if row is None else Loaded(_saga(row), row.version, row.now)

    def look(self, operation_id: uuid.UUID) -> Saga | None:
        """Return the operation as this process has left it, else as it is: for what never changes of it."""
        loaded = self._recall(operation_id, "") or self.read(operation_id)
        return loaded.saga if loaded else None

    def read_unverified(self, accounts: AccountIds) -> Unverified:
        """Return which operations of bulks can be verified together now, of agents with these accounts."""
        row = self._run(
            [(_UNVERIFIED, {"account": accounts.carrier_account_id, "project": accounts.voice_project_id})], None
        )
        return Unverified(tuple(row.ids), row.waited_s, row.on_their_way) if row else Unverified()

    def write(
        self, change: Change, version: str | None, session: Session | None = None, *, from_memory: bool = False
    ) -> str | None:
        """Save a change of the operation as it was at `version`; return its new version, None if it has another.

        `version` is None for a change that only opens an operation: the session then holds its agents' locks. A change
        that was made `from_memory` is not saved either where the time that it was made at is not the database's.
        """
        statements = [_written(change, version, change.now if from_memory else None)]
        if change.hands_over and change.target:
            values = {"holder": change.agent.id, "heir": change.target.id, "target": _json(_target(change))}
            statements.append((_HAND_OVER, values))
        if change.opened or change.activity:
            statements.append((_FOLLOW, _following(change)))
        row = self._run(statements, session)
        return None if row is None else row.version or ""

    def open(self, change: Change, session: Session) -> Saga:
        """Save a change that opens an operation, in a session that holds its agents' locks; return what it opened."""
        if change.opened is None:
            raise ValueError("the change opens nothing")
        self.write(change, None, session)
        return change.opened

    def change(
        self, operation_id: uuid.UUID, decide: Callable[[Saga, datetime], Change | None]
    ) -> tuple[Change, Loaded] | None:
        """Save what `decide` makes of the operation, as often anew as others are faster; return it as it is then.

        None where there is no such operation, or `decide` leaves it alone.
        """
        tried = ""
        for tries in range(TRIES):
            if tries >= CROWDED:
                # Two writers without a pause would outrun a third for ever.
                time.sleep(random.uniform(0, tries * PAUSE_S))  # noqa: S311  # no secret
            remembered = self._recall(operation_id, tried)
            loaded = remembered or self.read(operation_id)
            change = decide(loaded.saga, loaded.now) if loaded else None
            tried = loaded.version if loaded else ""
            if remembered and (change is None or change.is_empty):
                self._forget(operation_id)
                continue
            if loaded is None or change is None:
                return None
            is_remembered = remembered is not None
            version = (
                loaded.version if change.is_empty else self.write(change, loaded.version, from_memory=is_remembered)
            )
            if version is not None:
                return change, self._remember(replace(loaded, saga=change.after, version=version))
        raise OutrunError(f"operation {operation_id} was written by others {TRIES} times in a row")

    def _recall(self, operation_id: uuid.UUID, tried: str) -> Loaded | None:
        """Return the operation as this process has left it, unless that was just tried and is out of date."""
        with self._remembering:
            found = self._remembered.get(operation_id)
            return found if found and found.version != tried else None

    def _remember(self, loaded: Loaded) -> Loaded:
        operation = loaded.saga.operation
        with self._remembering:
            self._remembered.pop(operation.id, None)
            if not operation.status.is_final:
                self._remembered[operation.id] = loaded
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return loaded

    def _forget(self, operation_id: uuid.UUID) -> None:
        with self._remembering:
            self._remembered.pop(operation_id, None)

    def _run(self, statements: list[tuple[str, dict[str, object]]], session: Session | None) -> Any | None:
        """Run them as one transaction, or in the session's; return the row of the first."""
        if session is None:
            return self._statements.run(statements)
        connection, (first, *others) = session.connection(), statements
        row = connection.exec_driver_sql(*first).one_or_none()
        for sql, values in others if row is not None else ():
            connection.exec_driver_sql(sql, values)
        return row


def agent_row(agent: Agent) -> AgentRow:
    """Return what the rules need to know of an agent whose row the caller's session holds."""
    values = {name: getattr(agent, "agent_metadata" if name == "metadata" else name) for name in _AGENT_FIELDS}
    ids = {name: found for name, column in COLUMNS.items() if (found := getattr(agent, column))}
    return AgentRow(**values | {"ids": ids, "health_findings": tuple(agent.health_findings)})


_AGENT_FIELDS = tuple(one.name for one in fields(AgentRow) if one.name not in {"ids", "health_findings"})


def _saga(row: Any) -> Saga:
    steps = [_built(StepRow, values) for values in row.steps]
    return Saga(
        operation=replace(_built(OperationRow, row.operation), wanted=row.wanted, former_options=row.former_options),
        agent=_agent(row.agent),
        steps={step.name: step for step in steps},
        target=_agent(row.target) if row.target else None,
        ledger=tuple(_built(LedgerEntry, values) for values in row.ledger or ()),
        older_unsettled={name: datetime.fromisoformat(until) for name, until in (row.older_unsettled or {}).items()},
        waited=timedelta(seconds=row.waited_s),
    )


def _agent(values: Mapping[str, Any]) -> AgentRow:
    ids = {name: values[column] for name, column in COLUMNS.items() if values[column]}
    return _built(AgentRow, {**values, "ids": ids, "health_findings": tuple(values["health_findings"])})


_Row = TypeVar("_Row", OperationRow, StepRow, AgentRow, LedgerEntry)


def _reader_of(hint: Any) -> Callable[[Any], Any] | None:
    """Return what makes a field of JSON's text; None where JSON's value is the field."""
    kinds = get_args(hint) or (hint,)
    for kind in kinds:
        if kind is datetime:
            return datetime.fromisoformat
        if isinstance(kind, type) and issubclass(kind, uuid.UUID | StrEnum):
            return kind
    return None


_READERS = {
    row: {name: _reader_of(hint) for name, hint in get_type_hints(row).items()}
    for row in (OperationRow, StepRow, AgentRow, LedgerEntry)
}
"""Row -> its fields, which are columns by name, and how each is read."""


def _built(row: type[_Row], values: Mapping[str, Any]) -> _Row:
    readers, found = _READERS[row], {}
    for name, value in values.items():
        if name in readers:
            read = readers[name]
            found[name] = value if read is None or value is None else read(value)
    return row(**found)


def _written(change: Change, version: str | None, now: datetime | None) -> tuple[str, dict[str, object]]:
    before, operation = change.before, change.operation
    document: dict[str, Any] = {
        "operation": _changed(before.operation, operation),
        "events": [{"step": one.step, "event": one.event, "detail": one.detail} for one in change.events],
        "steps": [
            _changed(before.steps[name], row) | {"name": name}
            for name, row in change.steps.items()
            if row is not before.steps[name]
        ],
        "agents": [
            _changed_agent(old, new, change.now) | more
            for old, new, more in (
                (before.agent, change.agent, _given_back(change)),
                (before.target, change.target, {}),
            )
            if old and new and new is not old and not (change.hands_over and new is change.target)
        ],
        "ledger": [_as_resource(entry, before.agent.id) for entry in change.ledger],
        "deleted": list(change.deleted),
        "announcements": change.announcements and lines_of([(one.event, one.data) for one in change.announcements]),
        "ended": _agents_of(operation) if before.operation.status.is_final else [],
        "holder": before.agent.id,
    }
    document["left"] = [changed["id"] for changed in document["agents"] if changed.get("trunk_id", "") is None]
    optional = ("steps", "left", "agents", "ledger", "deleted", "ended", "announcements")
    parts = [part for part in optional if document[part]]
    # Whole rules may stand in it: other writes leave it where it is.
    parts += ["former"] if "former_options" in document["operation"] else []
    return _write_sql(*parts), {"id": operation.id, "version": version, "now": now, "change": _json(document)}


def _given_back(change: Change) -> dict[str, str | None]:
    """Return what an agent without a place must not keep: both may have been written outside of any change."""
    if not change.gives_place_back:
        return {}
    former = {COLUMNS[step]: change.agent.ids.get(step) for step in change.operation.former_ids}
    trunk_id = change.agent.trunk_id
    unknown = {"reachability": Reachability.UNKNOWN.value}
    return {"trunk_id": str(trunk_id) if trunk_id else None, **unknown, **former}


def _agents_of(operation: OperationRow) -> list[uuid.UUID]:
    return [one for one in (operation.agent_id, operation.target_agent_id) if one]


def _target(change: Change) -> dict[str, Any]:
    if change.before.target is None or change.target is None:
        raise ValueError("only a move has a target")
    return _changed_agent(change.before.target, change.target, change.now)


def _json(document: object) -> str:
    return json.dumps(document, default=str)


def _following(change: Change) -> dict[str, object]:
    opened = change.opened
    document = {
        "opened": _as_columns(opened.operation) if opened else {},
        "opened_steps": _opened_steps(opened) if opened else [],
        "opened_events": [
            {"operation_id": opened.operation.id, "event": one.event, "detail": one.detail}
            for one in change.opened_events
            if opened
        ],
        "activity": [_as_activity(one) for one in change.activity],
    }
    return {"change": _json(document)}


def _as_columns(row: OperationRow | StepRow | LedgerEntry) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _READERS[type(row)]}


def _changed(before: _Row, after: _Row) -> dict[str, Any]:
    """Return the columns in which one row differs from the other, as they are to be."""
    if before is after:
        return {}
    return {
        name: value
        for name in _READERS[type(after)]
        if (value := getattr(after, name)) is not (old := getattr(before, name)) and value != old
    }


def _changed_agent(before: AgentRow, after: AgentRow, now: datetime) -> dict[str, Any]:
    changed = _changed(before, after)
    if "ids" in changed:
        ids = changed.pop("ids")
        changed |= {column: ids.get(step) for step, column in COLUMNS.items() if ids.get(step) != before.ids.get(step)}
    if changed.keys() & {"phone_provisioning_status", "health_checked_at"}:
        # Audits write it too: where this change says anything of an agent's health, it says all of it.
        changed |= {name: getattr(after, name) for name in _HEALTH}
    return changed | {"id": after.id, "updated_at": now}


def _as_resource(entry: LedgerEntry, agent_id: uuid.UUID) -> dict[str, Any]:
    return _as_columns(entry) | {"provider": STEP_BY_NAME[entry.kind].provider, "agent_id": agent_id}


def _opened_steps(opened: Saga) -> list[dict[str, Any]]:
    places = {step.name: place for place, step in enumerate(STEPS)}
    return [
        {"operation_id": opened.operation.id, "position": places[row.name]} | _as_columns(row)
        for row in opened.steps.values()
    ]


def _as_activity(asked: Asked) -> dict[str, Any]:
    origin = asked.origin
    return {
        "action": asked.action,
        "subject_id": asked.subject_id,
        "channel": origin.channel,
        "actor": origin.requested_by,
        "key_id": origin.key_id,
        "address": origin.address,
        "request_id": origin.request_id,
        "detail": asked.detail,
    }
