"""Every object that the sandbox keeps, behind one lock, and its journal."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from livekit.protocol import sip

from app.sandbox.journal import Change, Journal
from app.sandbox.livekit_keys import WILDCARD, called_numbers, rule_keys
from app.sandbox.tables import Index, PrefixIndex, Table

Record = dict[str, Any]


class Store:
    """Tables by kind. Reads and writes happen inside `transaction()`."""

    def __init__(self, path: Path | None = None) -> None:
        """Load what the journal at `path` holds; without a path, keep memory only."""
        self.lock = threading.RLock()
        self._pending: list[Change] = []
        self._make_tables()
        self._journal = Journal(path) if path else None
        if self._journal:
            self._replay(self._journal)

    def _make_tables(self) -> None:
        self.written_at: dict[str, float] = {}
        """When each object was last written, on the monotonic clock; what the journal held is not here."""
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
        self._tables: dict[str, Table[Any]] = {
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

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock; what was put or deleted inside reaches the journal as one line."""
        with self.lock:
            try:
                yield
            finally:
                if self._journal and self._pending:
                    self._journal.append(self._pending)
                self._pending = []

    def put(self, kind: str, row_id: str, row: Any) -> None:
        """Insert or replace a row; rows are values, never changed afterwards."""
        self._tables[kind].put(row_id, row)
        self.written_at[row_id] = time.monotonic()
        if self._journal:
            self._pending.append(("put", kind, row_id, _dump(kind, row)))

    def delete(self, kind: str, row_id: str) -> None:
        """Remove a row that is there."""
        self._tables[kind].delete(row_id)
        self.written_at.pop(row_id, None)
        if self._journal:
            self._pending.append(("del", kind, row_id))

    def wipe(self) -> None:
        """Forget everything, on file too."""
        self._make_tables()
        self._pending = []
        if self._journal:
            self._journal.rewrite([])

    def close(self) -> None:
        """Let the journal go."""
        if self._journal:
            self._journal.close()

    def _replay(self, journal: Journal) -> None:
        for verb, kind, row_id, *content in journal.replay():
            if verb == "put":
                self._tables[kind].put(row_id, _load(kind, content[0]))
            else:
                self._tables[kind].delete(row_id)
        journal.rewrite(
            ("put", kind, row_id, _dump(kind, row))
            for kind, table in self._tables.items()
            for row_id, row in table.rows.items()
        )


_MESSAGES: dict[str, Callable[[], Any]] = {
    "livekit_trunks": sip.SIPInboundTrunkInfo,
    "livekit_outbound_trunks": sip.SIPOutboundTrunkInfo,
    "livekit_rules": sip.SIPDispatchRuleInfo,
}


def _dump(kind: str, row: Any) -> Any:
    return MessageToDict(row, preserving_proto_field_name=True) if kind in _MESSAGES else row


def _load(kind: str, content: Any) -> Any:
    if kind not in _MESSAGES:
        return content
    return ParseDict(content, _MESSAGES[kind](), ignore_unknown_fields=True)
