"""Answers that depend on whether an operation ends while its client waits."""

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from apiflask import Schema
from flask import Response, current_app, request

from app.api.context import wiring
from app.api.operation_views import phone_status_of, status_url
from app.api.preferences import preferred_wait
from app.api.problems import problem
from app.api.schemas import Accepted, Done, Provisioned
from app.db.models import Operation
from app.domain.errors import ErrorCode
from app.domain.statuses import OperationStatus, PhoneStatus
from app.provisioning.acceptance import Opened

POLL_AFTER_S = 1
"""Seconds until a first poll is worth it: provisioning takes about that long."""

MAX_WAITERS = 8
"""Requests of one process that may wait at once: each holds a thread, and half must stay free for others."""

T = TypeVar("T")

_waiters = threading.BoundedSemaphore(MAX_WAITERS)

_ACCEPTED, _PROVISIONED, _DONE = Accepted(), Provisioned(), Done()


def provisioning_answer(operation: Opened) -> Response:
    """Answer a request to provision: 202, or what became of it if the client waited long enough."""
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PENDING, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_answer(ended, headers)
    agent = wiring().agents.get(ended.agent_id)
    path = {"success": True, "phone_number": ended.phone_number}
    path |= {name: getattr(agent, name) for name in _PROVISIONED.fields if name not in path}
    return packed(_PROVISIONED, path, 200, headers)


def deprovisioning_answer(operation: Operation | None) -> Response:
    """Answer a request to deprovision: 200 where nothing is left, else 202."""
    if operation is None:
        return packed(_DONE, {"success": True, "message": "The agent has no number."}, 200, {})
    ended, headers = (operation, {}) if operation.status.is_final else wait_for(operation)
    if ended is None:
        return accepted(operation, phone_status_of(operation), headers)
    return packed(_DONE, {"success": True, "message": "The number was disconnected from the agent."}, 200, headers)


def retry_answer(operation: Operation) -> Response:
    """Answer a request to retry: always 202."""
    return accepted(operation, phone_status_of(operation), {})


def wait_for(operation: Operation | Opened) -> tuple[Operation | None, dict[str, str]]:
    """Return the operation once final, or None, and the headers that tell whether the wish to wait was met."""
    found, headers = wait_on(lambda patience: wiring().provisioning.wait(operation.id, patience))
    return (found if found and found.status.is_final else None), headers


def wait_on(look: Callable[[timedelta], T]) -> tuple[T | None, dict[str, str]]:
    """Call `look` with the wait that the client prefers; None without calling it when there is none to be had."""
    patience = preferred_wait(request)
    if not patience or not _waiters.acquire(blocking=False):
        return None, {}
    try:
        found = look(patience)
    finally:
        _waiters.release()
    return found, {"Preference-Applied": f"wait={_seconds(patience)}"}


def failure_answer(ended: Operation, headers: dict[str, str]) -> Response:
    """Answer with the problem that ended an operation."""
    code = ErrorCode(ended.error_code or ErrorCode.CANCELLED)
    return problem(code, ended.error_detail or "The operation was cancelled.", headers=headers)


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


def accepted(operation: Operation | Opened, status: PhoneStatus, headers: dict[str, str]) -> Response:
    """Answer 202: the work is queued."""
    url = status_url(operation.agent_id)
    body = {
        "success": True,
        "status": status,
        "phone_number": operation.phone_number,
        "operation_id": operation.id,
        "status_url": url,
    }
    return packed(_ACCEPTED, body, 202, {"Location": url, "Retry-After": str(POLL_AFTER_S), **headers})


def packed(schema: Schema, body: dict[str, object], status: int, headers: dict[str, str]) -> Response:
    """Pack `body` as its schema says."""
    text = current_app.json.dumps(schema.dump(body))
    return Response(text, status, headers, mimetype="application/json")


def report_answer(bulk_id: uuid.UUID, text: str) -> Response:
    """Send the report of a bulk as a file."""
    headers = {"Content-Disposition": f'attachment; filename="provisioning-{bulk_id}.csv"'}
    return Response(text, 200, headers, content_type="text/csv; charset=utf-8; header=present")


def agent_url(agent_id: uuid.UUID) -> str:
    """Return where an agent is found."""
    return f"/api/agents/{agent_id}"
