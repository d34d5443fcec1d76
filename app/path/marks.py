"""The mark on our resources at the providers: how it is written, and how it is read (strictly).

Two forms: a tag in a name field (Twilio's FriendlyName, LiveKit's `name`), and JSON in the metadata of a LiveKit trunk.
A dispatch rule has the tag only: LiveKit copies a rule's metadata to the caller, where every participant of the room
can read it. Rules of earlier releases have the JSON too, until they are next updated.
"""

import json
import re
import uuid
from datetime import datetime
from typing import Any, NamedTuple

from app.domain.texts import read_time

TAG_PREFIX = "trunkline"

POOL_PREFIX = "trunkline-pool"

POOL_DIGITS = 12
"""Hex digits of a shared trunk's id in its tag."""

_TAG = re.compile(rf"{TAG_PREFIX}/(?P<instance>[^/]+)/(?P<agent>[^/]+)")

_POOL_TAG = re.compile(rf"{POOL_PREFIX}/(?P<instance>[^/]+)/[0-9a-f]{{{POOL_DIGITS}}}")

_KEYS = ("managedBy", "instance", "agentId", "operationId", "createdAt")


class Mark(NamedTuple):
    """The content of a mark; a tag has no `created_at`."""

    instance: str
    agent_id: str
    created_at: datetime | None = None


def tag_of(instance: str, agent_id: uuid.UUID) -> str:
    """Return the mark for a name field (at most 64 characters at Twilio): `trunkline/<instance>/<agent uuid>`."""
    return f"{TAG_PREFIX}/{instance}/{agent_id}"


def pool_tag(instance: str, trunk_id: uuid.UUID) -> str:
    """Return the mark of a trunk that numbers share, and of its URL: `trunkline-pool/<instance>/<12 hex>`."""
    return f"{POOL_PREFIX}/{instance}/{trunk_id.hex[:POOL_DIGITS]}"


def is_pool_tag(instance: str, text: str) -> bool:
    """Tell whether a name is the mark of a trunk that numbers of this instance share."""
    tag = _POOL_TAG.fullmatch(text)
    return tag is not None and tag["instance"] == instance


def metadata_of(instance: str, agent_id: uuid.UUID, operation_id: uuid.UUID, now: datetime) -> str:
    """Return the mark as JSON, with the time: LiveKit's server never fills in `created_at`."""
    values = (TAG_PREFIX, instance, str(agent_id), str(operation_id), now.isoformat(timespec="seconds"))
    return json.dumps(dict(zip(_KEYS, values, strict=True)))


def mark_in(*texts: str) -> Mark | None:
    """Return the first mark found in these texts, which are names or metadata of any content."""
    return next(filter(None, map(_read, texts)), None)


def agent_of(instance: str, *texts: str) -> str | None:
    """Return the agent id of a mark of this instance, or None where the texts hold none."""
    mark = mark_in(*texts)
    return mark.agent_id if mark and mark.instance == instance else None


def has_mark(instance: str, agent_id: str, *texts: str) -> bool:
    """Tell whether the first mark in these texts is this agent's."""
    mark = mark_in(*texts)
    return mark is not None and (mark.instance, mark.agent_id) == (instance, agent_id)


def is_damaged(instance: str, *texts: str) -> bool:
    """Tell whether a text claims to be a mark of this instance but cannot be read as one."""
    return mark_in(*texts) is None and any(_claims(text, instance) for text in texts)


def instance_in(*texts: str) -> str | None:
    """Return the instance whose mark is in one of the texts, that of a shared trunk included; else None."""
    mark = mark_in(*texts)
    pool = next(filter(None, map(_POOL_TAG.fullmatch, texts)), None)
    return mark.instance if mark else pool["instance"] if pool else None


def without_mark(metadata: str) -> str:
    """Return metadata without our mark; other keys stay."""
    if _in_json(metadata) is None:
        return metadata
    rest = {name: value for name, value in json.loads(metadata).items() if name not in _KEYS}
    return json.dumps(rest) if rest else ""


def takes_mark(metadata: str) -> bool:
    """Tell whether a mark can stand beside all that metadata says: it is empty, or an object with none of our keys.

    Another mark that is there gives its place.
    """
    rest = without_mark(metadata)
    values = _parsed(rest)
    return not rest or (isinstance(values, dict) and values.keys().isdisjoint(_KEYS))


def restored(metadata: str, former: str) -> str:
    """Return metadata without our mark: the former text to the letter, unless the rest of it has changed since."""
    rest, values = without_mark(metadata), _parsed(former)
    is_same = rest == (json.dumps(values) if values else "")
    return former if is_same else rest


def with_mark(metadata: str, mark: str) -> str:
    """Return metadata with a mark as `metadata_of` makes it; other keys of a JSON object stay, other text does not."""
    values = _parsed(metadata)
    rest = {name: value for name, value in values.items() if name not in _KEYS} if isinstance(values, dict) else {}
    return json.dumps({**json.loads(mark), **rest})


def _read(text: str) -> Mark | None:
    tag = _TAG.fullmatch(text)
    return _mark(tag["instance"], tag["agent"], None) if tag else _in_json(text)


def _in_json(text: str) -> Mark | None:
    values = _parsed(text)
    if not isinstance(values, dict) or values.get("managedBy") != TAG_PREFIX:
        return None
    return _mark(values.get("instance"), values.get("agentId"), values.get("createdAt"))


def _mark(instance: object, agent_id: object, created_at: object) -> Mark | None:
    """Return the mark, or None where the agent id is not a UUID as we write it: anything else is not ours."""
    if not isinstance(instance, str) or not isinstance(agent_id, str) or not _is_uuid(agent_id):
        return None
    return Mark(instance, agent_id, read_time(created_at))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _parsed(text: str) -> Any:
    """Return the parsed JSON; None where it is not JSON, and a `RecursionError` where it is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        return error
    except ValueError:
        return None


def _claims(text: str, instance: str) -> bool:
    if text.startswith(f"{TAG_PREFIX}/{instance}/"):
        return True
    values = _parsed(text)
    if isinstance(values, RecursionError):
        return True
    named = values.get("instance") if isinstance(values, dict) and values.get("managedBy") == TAG_PREFIX else ""
    return named == instance or not isinstance(named, str)
