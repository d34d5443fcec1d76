"""The messages of a plan: written by Celery once for each kind of plan, and filled in for each operation.

Building and serialising a chain with its group and error callbacks costs Celery some 3 ms of CPU, ten times what all
else of a request costs, and gives the same text each time but for the ids in it.
"""

import base64
import json
import re
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kombu.connection import Connection
from kombu.transport import virtual
from kombu.transport.redis import Channel as RedisChannel

from app.saga.chain_plan import Plan
from tasks.provisioning import chain_of

KINDS_KEPT = 256
"""Forms kept in memory, some 10 KB each: one for every set of steps left and every epoch that occurs."""

_OPERATION = uuid.UUID("0f0e0d0c-0b0a-4090-8807-060504030201")
"""Stands for the operation's id in a form."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Desk(virtual.Channel):
    """Keeps what is published on it, with the key of the list that kombu's Redis transport would push it on."""

    do_restore = False

    def _put(self, queue: str, message: dict[str, Any], **_: object) -> None:
        priority = message["properties"]["priority"]
        self.connection.written.append((f"{queue}{RedisChannel.sep}{priority}" if priority else queue, message))

    def _size(self, _queue: str) -> int:
        return 0

    def _purge(self, _queue: str) -> int:
        return 0


class _Office(virtual.Transport):
    """A broker that is not there."""

    Channel = _Desk
    driver_type = driver_name = "desk"

    def __init__(self, client: Connection, **options: Any) -> None:
        super().__init__(client, **options)
        self.written: list[tuple[str, dict[str, Any]]] = []

    def driver_version(self) -> str:
        return "0"


@dataclass(frozen=True, slots=True)
class _Form:
    """One message with gaps; in a gap stands the number of the id that goes there, and the operation's is 0."""

    queue: str
    body: tuple[str | int, ...]
    envelope: tuple[str | int, ...]

    def filled(self, ids: list[str]) -> bytes:
        """Return the message as kombu's Redis transport writes it."""
        body = base64.b64encode(_join(self.body, ids).encode()).decode()
        return _join(self.envelope, [*ids, body]).encode()


def letters(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield (queue, message) for everything that publishing the plan's chain sends."""
    forms, count = _forms(replace(plan, operation_id=_OPERATION))
    ids = [str(plan.operation_id), *_task_ids(count)]
    for form in forms:
        yield form.queue, form.filled(ids)


def _task_ids(count: int) -> Iterator[str]:
    """Yield random version 4 UUIDs as text: from one read of the system's randomness, in a quarter of the time."""
    digits = secrets.token_hex(16 * count)
    for start in range(0, len(digits), 32):
        one = digits[start : start + 32]
        yield f"{one[:8]}-{one[8:12]}-4{one[13:16]}-8{one[17:20]}-{one[20:]}"


@lru_cache(KINDS_KEPT)
def _forms(plan: Plan) -> tuple[tuple[_Form, ...], int]:
    """Have Celery publish the plan; return its messages as forms, and how many ids of tasks they have."""
    with Connection(transport=_Office) as office:
        # Both: a chain hands on the connection only, a group asks the pool for a producer unless it has one.
        chain_of(plan).apply_async(connection=office, producer=office.Producer(), retry=False)
        written = office.transport.written
    known = {str(_OPERATION): 0}
    parted = []
    for queue, message in written:
        body = base64.b64decode(message["body"]).decode()
        parted.append((queue, _parts(body, known), _parts(json.dumps({**message, "body": _BODY}), known)))
    last = len(known)
    forms = tuple(
        _Form(queue, body, tuple(last if part == _BODY_SLOT else part for part in envelope))
        for queue, body, envelope in parted
    )
    return forms, last - 1


_BODY = "00000000-0000-4000-8000-000000000000"
_BODY_SLOT = -1
"""Where the body goes in the envelope: behind the ids, whose number is known only when all messages were read."""


def _parts(text: str, known: dict[str, int]) -> tuple[str | int, ...]:
    """Cut a text at its ids; ids that are new get the next numbers."""
    parts: list[str | int] = []
    end = 0
    for match in _UUID.finditer(text):
        slot = _BODY_SLOT if match[0] == _BODY else known.setdefault(match[0], len(known))
        parts += [text[end : match.start()], slot]
        end = match.end()
    return (*parts, text[end:])


def _join(parts: tuple[str | int, ...], ids: list[str]) -> str:
    return "".join([part if isinstance(part, str) else ids[part] for part in parts])
