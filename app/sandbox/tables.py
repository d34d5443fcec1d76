"""Rows in memory: creation order with a cursor, and indexes that follow every write."""

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")


class Index(Generic[Row]):
    """Ids by key, for the keys that `keys_of` finds in a row."""

    def __init__(self, keys_of: Callable[[Row], Iterable[Hashable]]) -> None:
        self._keys_of = keys_of
        self._ids: dict[Hashable, dict[str, None]] = {}
        self.shared: set[Hashable] = set()
        """Keys that more than one row has."""

    def add(self, row_id: str, row: Row) -> None:
        """Enter a row under each of its keys."""
        for key in set(self._keys_of(row)):
            ids = self._ids.setdefault(key, {})
            ids[row_id] = None
            if len(ids) > 1:
                self.shared.add(key)

    def discard(self, row_id: str, row: Row) -> None:
        """Take a row out from under each of its keys."""
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
    """An index over one text per row that also answers by the beginning of the text."""

    def __init__(self, key_of: Callable[[Row], str]) -> None:
        super().__init__(lambda row: (key_of(row),))
        self._key_of = key_of
        self._sorted: list[str] = []

    def add(self, row_id: str, row: Row) -> None:
        """Enter a row under its text."""
        if not self.ids(self._key_of(row)):
            insort(self._sorted, self._key_of(row))
        super().add(row_id, row)

    def discard(self, row_id: str, row: Row) -> None:
        """Take a row out from under its text."""
        super().discard(row_id, row)
        if not self.ids(self._key_of(row)):
            del self._sorted[bisect_left(self._sorted, self._key_of(row))]

    def starting_with(self, prefix: str) -> Iterator[str]:
        """Yield the ids of rows whose text starts so."""
        for position in range(bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[position].startswith(prefix):
                return
            yield from self.ids(self._sorted[position])


class Table(Generic[Row]):
    """Rows by id. A row is never changed in place: a write puts a new one, so readers need no lock to hold one."""

    def __init__(self, *indexes: Index[Row]) -> None:
        self.rows: dict[str, Row] = {}
        self._indexes = indexes
        self._ordinals: dict[str, int] = {}
        self._order: list[int] = []
        self._order_ids: list[str] = []
        self._next = 1

    def put(self, row_id: str, row: Row) -> None:
        """Insert or replace a row; a replaced one keeps its place."""
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
        """Remove a row that is there."""
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
        """Return the row at a place in the order of creation, with its cursor."""
        return self._order[position], self.rows[self._order_ids[position]]

    def ordered(self, ids: Iterable[str]) -> list[tuple[int, Row]]:
        """Return the rows of these ids with their cursors, in creation order."""
        found = sorted((self._ordinals[row_id], row_id) for row_id in ids)
        return [(ordinal, self.rows[row_id]) for ordinal, row_id in found]

    def get(self, row_id: str) -> Any:
        """Return a row, or None."""
        return self.rows.get(row_id)
