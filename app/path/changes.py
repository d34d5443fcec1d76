"""What a step changes in an object at a provider, field by field, and the way back to what stood there before.

An operation that fails puts back what it has changed and leaves the rest alone: also what the agent's row says nothing
of, and what the row would have otherwise. Kept as JSON, since the way back may be another worker's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

from app.domain.options import RuleAgent
from app.path.observed import CarrierTrunk, DispatchRule, Encryption, InboundTrunk, Media, OriginationUrl, RuleKind

Record = TypeVar("Record", CarrierTrunk, OriginationUrl, InboundTrunk, DispatchRule)

Changes = Mapping[str, tuple[Any, Any]]
"""Field -> its value before and after, as JSON has them."""

_GONE_FOR_GOOD = frozenset({"has_username", "has_password"})
"""LiveKit shows no password, so that one that was taken off cannot be put back."""


def changes_of(now: Record, wanted: Record) -> Changes:
    """Return what writing `wanted` over `now` changes."""
    names = (one.name for one in fields(now) if one.compare and one.name not in _GONE_FOR_GOOD)
    return {
        name: (_plain(before), _plain(after))
        for name in names
        if (before := getattr(now, name)) != (after := getattr(wanted, name))
    }


def way_back(now: Record, corrected: Record, changes: Changes) -> Record:
    """Return the object with its former values where these changes have been made, and as it is elsewhere.

    What somebody else has put into a list since stays in it. Another value that somebody has changed since is the one
    of `corrected`: what the agent's row says.
    """
    found: dict[str, Any] = {}
    for name, pair in changes.items():
        before, after = (_READERS.get(name, _with_tuples)(one) for one in pair)
        present = getattr(now, name)
        if present in (before, after):
            found[name] = before
        elif isinstance(before, tuple):
            found[name] = _merged(present, before, after)
        else:
            found[name] = getattr(corrected, name)
    return replace(now, **found)


def _merged(now: tuple[Any, ...], before: tuple[Any, ...], after: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the list of before, without what somebody else has taken out since, and with what they have put in."""
    kept = [one for one in before if one in now or one not in after]
    names = {_name(one) for one in kept}
    added = (one for one in now if one not in before and one not in after)
    return (*kept, *(one for one in added if _name(one) not in names))


def _name(item: Any) -> Any:
    """Return what must be in a list once: an agent by its name, a pair by its key."""
    if isinstance(item, RuleAgent):
        return item.name
    return item[0] if isinstance(item, tuple) else item


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back."""
    return json.loads(json.dumps(value, default=_fields))


def _fields(value: Any) -> dict[str, Any]:
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"no JSON for {type(value)}")
    return asdict(value)


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _agents(value: list[Mapping[str, str]]) -> tuple[RuleAgent, ...]:
    return tuple(RuleAgent(**one) for one in value)


def _media(value: Mapping[str, Any]) -> Media:
    return Media(Encryption(value["encryption"]), tuple(value["codecs"]), value["only_listed_codecs"])


_READERS: Mapping[str, Callable[[Any], Any]] = {"agents": _agents, "media": _media, "kind": RuleKind}
"""Field -> what makes its value of JSON's, where that is neither a text, a figure nor a list of such."""
