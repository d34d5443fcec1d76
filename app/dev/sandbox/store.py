"""The sandbox's objects: rows in memory behind one lock, and a journal on disk."""

import copy
import fcntl
import json
import os
import threading
import time
from base64 import b64decode, b64encode
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from google.protobuf.json_format import ParseDict
from livekit.protocol import sip

from app.dev.sandbox.livekit_wire import WILDCARD, called_numbers, normalised, rule_keys

Row = TypeVar("Row")


class Index(Generic[Row]):
    """Ids by key, for the keys that `keys_of` finds in a row."""

    def __init__(self, keys_of: Callable[[Row], Iterable[Hashable]]) -> None:
        self._keys_of = keys_of
        self._ids: dict[Hashable, dict[str, None]] = {}
        self.shared: set[Hashable] = set()
        """Keys that more than one row has."""

    def add(self, row_id: str, row: Row) -> None:
        """Add a row under each of its keys."""
        for key in set(self._keys_of(row)):
            ids = self._ids.setdefault(key, {})
            ids[row_id] = None
            if len(ids) > 1:
                self.shared.add(key)

    def discard(self, row_id: str, row: Row) -> None:
        """Remove a row from each of its keys."""
        for key in set(self._keys_of(row)):
            ids = self._ids[key]
            ids.pop(row_id, None)
            if len(ids) <= 1:
                self.shared.discard(key)
            if not ids:
                del self._ids[key]

    def ids(self, key: Hashable) -> list[str]:
        """Return the ids under a key."""
        return list(self._ids.get(key, ()))


class PrefixIndex(Index[Row]):
    """An index over one text per row that can also be read by a prefix of the text."""

    def __init__(self, key_of: Callable[[Row], str]) -> None:
        super().__init__(lambda row: (key_of(row),))
        self._key_of = key_of
        self._sorted: list[str] = []

    def add(self, row_id: str, row: Row) -> None:
        """Add a row under its text."""
        if not self.ids(self._key_of(row)):
            insort(self._sorted, self._key_of(row))
        super().add(row_id, row)

    def discard(self, row_id: str, row: Row) -> None:
        """Remove a row from its text."""
        super().discard(row_id, row)
        if not self.ids(self._key_of(row)):
            del self._sorted[bisect_left(self._sorted, self._key_of(row))]

    def starting_with(self, prefix: str) -> Iterator[str]:
        """Yield the ids of rows whose text has this prefix."""
        for position in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[position].startswith(prefix):
                return
            yield from self.ids(self._sorted[position])


class Table(Generic[Row]):
    """Rows by id. A row is never changed in place: a write puts a new one, so a row that was read needs no lock."""

    def __init__(self, *indexes: Index[Row]) -> None:
        self.rows: dict[str, Row] = {}
        self._indexes = indexes
        self._ordinals: dict[str, int] = {}
        self._order: list[int] = []
        self._order_ids: list[str] = []
        self._next = 1

    def put(self, row_id: str, row: Row) -> None:
        """Insert or replace a row; a replaced one keeps its position."""
        old = self.rows.get(row_id)
        if old is not None:
            for index in self._indexes:
                index.discard(row_id, old)
        else:
            self._ordinals[row_id] = self._next
            self._order.append(self._next)
            self._order_ids.append(row_id)
            self._next += 1
        self.rows[row_id] = row
        for index in self._indexes:
            index.add(row_id, row)

    def delete(self, row_id: str) -> None:
        """Remove an existing row."""
        row = self.rows.pop(row_id)
        for index in self._indexes:
            index.discard(row_id, row)
        position = bisect_left(self._order, self._ordinals.pop(row_id))
        del self._order[position]
        del self._order_ids[position]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[int, Row]:
        """Return the row at a position in the order of creation, with its cursor."""
        return self._order[position], self.rows[self._order_ids[position]]

    def ordered(self, ids: Iterable[str]) -> list[tuple[int, Row]]:
        """Return the rows of these ids with their cursors, in creation order."""
        found = sorted((self._ordinals[row_id], row_id) for row_id in ids)
        return [(ordinal, self.rows[row_id]) for ordinal, row_id in found]

    def get(self, row_id: str) -> Any:
        """Return a row, or None."""
        return self.rows.get(row_id)


Change = tuple[Any, ...]
"""`("put", kind, id, object)` or `("del", kind, id)`."""

LOCK_WAIT_S = 10.0
"""Seconds to wait for an earlier sandbox that is shutting down; after that two sandboxes share one file by mistake."""

LOCK_POLL_S = 0.02
"""Seconds between two tries for the lock: short compared with the start of a Python process."""


class JournalInUseError(RuntimeError):
    """Another running sandbox writes to the same file."""


class Journal:
    """One JSON line per transaction, written in one call and passed to the kernel before the response is sent.

    An incomplete line is ignored, so a SIGKILL never leaves half a transaction. It does not fsync: it survives the
    process, not the machine.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = self._take_lock()
        self._file: BinaryIO | None = None

    def _take_lock(self) -> BinaryIO:
        lock = self._path.with_name(self._path.name + ".lock").open("ab")
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise JournalInUseError(f"{self._path} is in use by another sandbox") from None
                time.sleep(LOCK_POLL_S)
            else:
                return lock

    def replay(self) -> Iterator[Change]:
        """Yield every change in the file, oldest first; an incomplete last line is ignored."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    changes = json.loads(line)
                except ValueError:
                    return
                for change in changes:
                    yield tuple(change)

    def rewrite(self, changes: Iterable[Change]) -> None:
        """Replace the file by these changes and open it for appending."""
        compact = self._path.with_name(self._path.name + ".new")
        with compact.open("wb") as file:
            for change in changes:
                file.write(_line([change]))
        compact.replace(self._path)
        if self._file is not None:
            self._file.close()
        self._file = self._path.open("ab", buffering=0)

    def append(self, changes: list[Change]) -> None:
        """Write one transaction."""
        if self._file is None:
            raise RuntimeError("rewrite() opens the journal, and was not called")
        os.write(self._file.fileno(), _line(changes))

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._file is not None:
            self._file.close()
        self._lock.close()


def _line(changes: list[Change]) -> bytes:
    return json.dumps(changes, separators=(",", ":")).encode() + b"\n"


Record = dict[str, Any]


class Store:
    """Tables by kind, of the first account and project; `part` has those of another one.

    Reads and writes happen inside `transaction()`, whichever part they are of.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Load what the journal at `path` holds; without a path, keep memory only."""
        self.lock = threading.RLock()
        self.accounts_by_username: Index[Record] = Index(lambda row: [row["sid"], *row["api_keys"]])
        self.accounts: Table[Record] = Table(self.accounts_by_username)
        """Twilio's accounts by sid: app/dev/sandbox/owners.py."""
        self.projects: Table[Record] = Table()
        """LiveKit's projects by name."""
        self.written_at: dict[str, float] = {}
        """When each object was last written, on the monotonic clock; objects loaded from the journal are not here."""
        self._pending: list[Change] = []
        self.owner = ""
        self._parts = {"": self}
        self._journal = Journal(path) if path else None
        self.make_tables()
        if self._journal:
            self._replay(self._journal)

    @property
    def parts(self) -> list["Store"]:
        """The objects of every account and project, this store's own first."""
        return list(self._parts.values())

    def part(self, owner: str) -> "Store":
        """Return the objects of another account (its sid) or project (its name)."""
        if owner not in self._parts:
            part = copy.copy(self)
            part.owner = owner
            part.make_tables()
            self._parts[owner] = part
        return self._parts[owner]

    def names_of(self, phone_number: str) -> list[str]:
        """Return what requests about a number name: its text, its sid, its LiveKit trunks and their rules.

        Needs no lock: each index is read in one step.
        """
        names = [phone_number]
        for part in self.parts:
            names += part.number_by_phone.ids(phone_number)
            for trunk_id in part.inbound_by_number.ids(normalised(phone_number)):
                names += [trunk_id, *part.rules_by_trunk.ids(trunk_id)]
        return names

    def make_tables(self) -> None:
        """Start with no objects."""
        self.number_by_phone: PrefixIndex[Record] = PrefixIndex(lambda row: str(row["phone_number"]))
        self.numbers_by_trunk: Index[Record] = Index(lambda row: [row["trunk_sid"]] if row["trunk_sid"] else [])
        self.trunks_by_domain: Index[Record] = Index(lambda row: [row["domain_name"]] if row["domain_name"] else [])
        self.urls_by_trunk: Index[Record] = Index(lambda row: [row["trunk_sid"]])
        self.inbound_by_number: Index[sip.SIPInboundTrunkInfo] = Index(called_numbers)
        self.rules_by_trunk: Index[sip.SIPDispatchRuleInfo] = Index(lambda row: list(row.trunk_ids) or [WILDCARD])
        self.rules_by_key: Index[sip.SIPDispatchRuleInfo] = Index(rule_keys)
        self.numbers: Table[Record] = Table(self.number_by_phone, self.numbers_by_trunk)
        self.trunks: Table[Record] = Table(self.trunks_by_domain)
        self.origination_urls: Table[Record] = Table(self.urls_by_trunk)
        self.trunk_auth_lists_by_trunk: Index[Record] = Index(lambda row: [row["trunk_sid"]])
        self.auth_lists: Table[Record] = Table()
        self.trunk_auth_lists: Table[Record] = Table(self.trunk_auth_lists_by_trunk)
        self.reserved_domains: Table[Record] = Table()
        self.livekit_trunks: Table[sip.SIPInboundTrunkInfo] = Table(self.inbound_by_number)
        self.livekit_outbound_trunks: Table[sip.SIPOutboundTrunkInfo] = Table()
        self.livekit_rules: Table[sip.SIPDispatchRuleInfo] = Table(self.rules_by_trunk, self.rules_by_key)
        self.tables: dict[str, Table[Any]] = {
            "numbers": self.numbers,
            "trunks": self.trunks,
            "origination_urls": self.origination_urls,
            "auth_lists": self.auth_lists,
            "trunk_auth_lists": self.trunk_auth_lists,
            "reserved_domains": self.reserved_domains,
            "livekit_trunks": self.livekit_trunks,
            "livekit_outbound_trunks": self.livekit_outbound_trunks,
            "livekit_rules": self.livekit_rules,
        }
        if not self.owner:
            self.tables |= {"accounts": self.accounts, "projects": self.projects}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock; changes inside are written to the journal as one line."""
        with self.lock:
            try:
                yield
            finally:
                if self._journal and self._pending:
                    self._journal.append(self._pending)
                self._pending.clear()

    def put(self, kind: str, row_id: str, row: Any) -> None:
        """Insert or replace a row; rows are values, never changed afterwards."""
        self.tables[kind].put(row_id, row)
        self.written_at[row_id] = time.monotonic()
        if self._journal:
            self._pending.append(("put", self.journal_name(kind), row_id, _dump(kind, row)))

    def delete(self, kind: str, row_id: str) -> None:
        """Remove an existing row."""
        self.tables[kind].delete(row_id)
        self.written_at.pop(row_id, None)
        if self._journal:
            self._pending.append(("del", self.journal_name(kind), row_id))

    def journal_name(self, kind: str) -> str:
        """Return a kind as the journal names it: with its owner's name, but for the first one's."""
        return f"{self.owner}/{kind}" if self.owner else kind

    def wipe(self) -> None:
        """Delete everything, in the journal too."""
        for table in (self.accounts, self.projects):
            for row_id in list(table.rows):
                table.delete(row_id)
        self._parts.clear()
        self._parts[""] = self
        self.written_at.clear()
        self.make_tables()
        self._pending.clear()
        if self._journal:
            self._journal.rewrite([])

    def close(self) -> None:
        """Close the journal."""
        if self._journal:
            self._journal.close()

    def _replay(self, journal: Journal) -> None:
        for verb, name, row_id, *content in journal.replay():
            owner, _, kind = name.rpartition("/")
            table = self.part(owner).tables[kind]
            if verb == "put":
                table.put(row_id, _load(kind, content[0]))
            else:
                table.delete(row_id)
        journal.rewrite(
            ("put", part.journal_name(kind), row_id, _dump(kind, row))
            for part in self.parts
            for kind, table in part.tables.items()
            for row_id, row in table.rows.items()
        )


_MESSAGES: dict[str, Callable[[], Any]] = {
    "livekit_trunks": sip.SIPInboundTrunkInfo,
    "livekit_outbound_trunks": sip.SIPOutboundTrunkInfo,
    "livekit_rules": sip.SIPDispatchRuleInfo,
}


def _dump(kind: str, row: Any) -> Any:
    """Return a row as JSON; a message as its bytes in base64, so that fields of later versions are kept."""
    return b64encode(row.SerializeToString()).decode() if kind in _MESSAGES else row


def _load(kind: str, content: Any) -> Any:
    """Read what `_dump` wrote; journals of earlier versions have messages as JSON objects."""
    if kind not in _MESSAGES:
        return content
    message = _MESSAGES[kind]()
    if isinstance(content, dict):
        return ParseDict(content, message, ignore_unknown_fields=True)
    message.ParseFromString(b64decode(content))
    return message
