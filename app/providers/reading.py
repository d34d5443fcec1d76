"""Reads a list of records so that one odd record is one odd record, whoever wrote it."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from app.providers.base import Unreadable
from app.providers.failures import MALFORMED, CallFailedError, Outcome

Raw = TypeVar("Raw")
Record = TypeVar("Record")


def read_records(
    rows: Iterable[Raw],
    read: Callable[[Raw], Record],
    describe: Callable[[Raw], Unreadable],
    unreadable: list[Unreadable] | None,
) -> list[Record]:
    """Return what can be read; the rest goes to `unreadable`.

    Without that list a record that may be ours raises `CallFailedError`, and one that is somebody else's is left out.
    """
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except MALFORMED:
            odd = describe(row)
            if unreadable is not None:
                unreadable.append(odd)
            elif odd.may_be_ours:
                raise CallFailedError(Outcome.UNREADABLE) from None
    return found
