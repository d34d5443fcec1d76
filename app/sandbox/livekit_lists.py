"""What LiveKit's lists and partial updates have in common: pages, ids and ListUpdate."""

import secrets
from collections.abc import Callable, Iterable
from typing import TypeVar

from livekit.protocol.models import ListUpdate, Pagination

from app.sandbox.livekit_answers import invalid

Item = TypeVar("Item")

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""shortuuid's: no 0, 1, I, O, l (livekit/protocol utils/guid/id.go)."""

ID_LENGTH = 12
"""Characters after the prefix."""


def new_id(prefix: str) -> str:
    """Return a fresh id, such as `ST_` + 12 characters."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def paged(
    items: list[Item], page: Pagination | None, id_of: Callable[[Item], str], keep: Callable[[Item], bool]
) -> list[Item]:
    """Filter items that are sorted by id.

    `limit` is only a batch size: everything after `after_id` is returned, except that a batch with no match ends the
    list early (livekit/protocol livekit/types.go:416-442).
    """
    if page is None:
        return [item for item in items if keep(item)]
    rest = [item for item in items if id_of(item) > page.after_id]
    size = page.limit or len(rest) or 1
    found: list[Item] = []
    for start in range(0, len(rest), size):
        batch = [item for item in rest[start : start + size] if keep(item)]
        if not batch:
            break
        found += batch
    return found


def check_list_update(change: ListUpdate, *, is_given: bool) -> None:
    """Raise LiveKit's 400 when a ListUpdate says nothing or contradicts itself (livekit/types.go:448-478)."""
    if not is_given:
        return
    wanted, edits = list(change.set), [*change.add, *change.remove]
    if not (change.clear or wanted or edits):
        raise invalid("unsupported list update operation")
    if change.clear and (wanted or edits):
        raise invalid("cannot clear and change the list at the same time")
    if wanted and edits:
        raise invalid("cannot set and change the list at the same time")
    if "" in wanted + edits:
        raise invalid("empty element in the list")


def updated(current: Iterable[str], change: ListUpdate) -> list[str]:
    """Apply a ListUpdate that makes sense: of a text that is there twice, the first goes (livekit/types.go:500-530)."""
    if change.clear or change.set:
        return list(change.set)
    kept = list(current)
    for element in change.remove:
        if element in kept:
            kept.remove(element)
    for element in change.add:
        if element not in kept:
            kept.append(element)
    return kept
