"""Responses that depend on a `Prefer` or an `Idempotency-Key` header."""

import hashlib
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import TypeVar

from apiflask import Schema
from flask import Request, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.http import parse_list_header

from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, validation_failed
from app.domain.operations import OperationStatus, PhoneStatus
from app.idempotency import IdempotencyClaim, StoredResponse
from app.numbers.adoption import Adoption
from app.numbers.changing import Changed
from app.numbers.dry_run import Preview
from app.numbers.maintenance import RepairResult, VerifyResult
from app.numbers.service import OpenedOperation
from app.views.adoptions import AdoptionPlanOut, adoption_body
from app.views.agent_schemas import Accepted, AgentOut, Done, Provisioned
from app.views.fields import WHOLE_NUMBER
from app.views.operation_schemas import AuditAccepted, AuditOut, MovedOut, PlanOut, RepairedOut, VerifiedOut, is_dry_run
from app.views.operations import (
    agent_warnings,
    phone_status_of,
    plan_body,
    repair_message,
    status_url,
    verification_body,
)
from app.web.bodies import read_body
from app.web.context import caller, web_services, wiring
from app.web.documented import note_idempotent
from app.web.problems import FIRST_SERVER_ERROR, hinted, problem

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait: how long proxies commonly wait for a response."""


def preferred_wait(request: Request) -> timedelta:
    """Return how long the client prefers to wait, at most `LONGEST_WAIT`; zero without a valid `wait`.

    The first `wait` counts, as RFC 7240 says; what cannot be parsed is ignored.
    """
    # A single value: WSGI servers join a header that was sent several times.
    given = request.headers.get("Prefer")
    for part in parse_list_header(given) if given else ():
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().removeprefix('"').removesuffix('"')
            seconds = int(text) if WHOLE_NUMBER.fullmatch(text) else 0
            return min(timedelta(seconds=max(seconds, 0)), LONGEST_WAIT)
    return timedelta(0)


POLL_AFTER_S = 1
"""Seconds until the first poll, sent as Retry-After: provisioning takes about that long."""

MAX_WAITERS = 8
"""Requests of one process that may wait at the same time: each holds a thread, and half of them must stay free."""

T = TypeVar("T")

_waiters = threading.BoundedSemaphore(MAX_WAITERS)

_ACCEPTED, _PROVISIONED, _DONE = Accepted(), Provisioned(), Done()


def provisioning_response(operation: Operation | OpenedOperation) -> Response:
    """Respond to a request to provision, or to adopt: 202, or the result if the client waited long enough."""
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PENDING, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_response(ended, headers)
    agent = wiring().agents.get(ended.agent_id)
    path = {"success": True, "phone_number": ended.phone_number}
    path |= {name: getattr(agent, name) for name in _PROVISIONED.fields if name not in {*path, "warnings"}}
    warnings = agent_warnings(agent)
    # Left out where there are none: the response is then as it has always been.
    path |= {"warnings": warnings} if warnings else {}
    return packed(_PROVISIONED, path, 200, headers)


def deprovisioning_response(operation: Operation | None) -> Response:
    """Respond to a request to deprovision: 200 when nothing is left, else 202."""
    if operation is None:
        return packed(_DONE, {"success": True, "message": "The agent has no number."}, 200, {})
    ended, headers = (operation, {}) if operation.status.is_final else wait_for(operation)
    if ended is None:
        return accepted(operation, phone_status_of(operation), headers)
    return packed(_DONE, {"success": True, "message": "The number was disconnected from the agent."}, 200, headers)


def retry_response(operation: Operation) -> Response:
    """Respond to a request to retry: always 202."""
    return accepted(operation, phone_status_of(operation), {})


def wait_for(operation: Operation | OpenedOperation) -> tuple[Operation | None, dict[str, str]]:
    """Return the operation if it became final in time, else None; and the headers that say whether we waited."""
    found, headers = call_with_wait(lambda timeout: wiring().provisioning.wait(operation.id, timeout))
    return (found if found and found.status.is_final else None), headers


def call_with_wait(wait: Callable[[timedelta], T]) -> tuple[T | None, dict[str, str]]:
    """Call `wait` with the timeout that the client prefers; do not call it, and return None, if there is none.

    Nor when `MAX_WAITERS` requests are waiting already.
    """
    timeout = preferred_wait(request)
    if not timeout or not _waiters.acquire(blocking=False):
        return None, {}
    try:
        found = wait(timeout)
    finally:
        _waiters.release()
    return found, {"Preference-Applied": f"wait={int(timeout.total_seconds())}"}


def failure_response(ended: Operation, headers: dict[str, str]) -> Response:
    """Respond with the problem that ended an operation."""
    code = ErrorCode(ended.error_code or ErrorCode.CANCELLED)
    return problem(code, ended.error_detail or "The operation was cancelled.", headers=headers)


def accepted(operation: Operation | OpenedOperation, status: PhoneStatus, headers: dict[str, str]) -> Response:
    """Respond 202: the work is queued."""
    url = status_url(operation.agent_id)
    body = {
        "success": True,
        "status": status,
        "phone_number": operation.phone_number,
        "operation_id": operation.id,
        "status_url": url,
    }
    return packed(_ACCEPTED, body, 202, {"Location": url, "Retry-After": str(POLL_AFTER_S), **headers})


def packed(schema: Schema, body: object, status: int, headers: dict[str, str]) -> Response:
    """Serialize `body` with its schema."""
    text = current_app.json.dumps(schema.dump(body))
    return Response(text, status, headers, mimetype="application/json")


def agent_url(agent_id: uuid.UUID) -> str:
    """Return the path of an agent."""
    return f"/api/agents/{agent_id}"


_AGENT, _VERIFIED, _REPAIRED, _MOVED, _PLAN = AgentOut(), VerifiedOut(), RepairedOut(), MovedOut(), PlanOut()
_AUDIT_ACCEPTED, _AUDIT, _ADOPTION_PLAN = AuditAccepted(), AuditOut(), AdoptionPlanOut()


def verification_response(result: VerifyResult) -> Response:
    """Respond to a request to verify."""
    return packed(_VERIFIED, verification_body(result), 200, {})


def repair_response(result: RepairResult) -> Response:
    """Respond to a request to repair: 200 when nothing is to repair, else 202, or the result if the client waited."""
    operation = result.operation
    if operation is None:
        message = repair_message(result, "All is well: nothing to repair.")
        return packed(_REPAIRED, {"success": True, "message": message}, 200, {})
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PROVISIONED, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_response(ended, headers)
    message = repair_message(result, "The path was repaired.")
    return packed(_REPAIRED, {"success": True, "message": message}, 200, headers)


def move_response(operation: Operation) -> Response:
    """Respond to a request to move a number: 202, or the result if the client waited."""
    ended, headers = wait_for(operation)
    if ended is None:
        return accepted(operation, PhoneStatus.PROVISIONED, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_response(ended, headers)
    moved = {name: getattr(ended, name) for name in _MOVED.fields if name != "success"}
    return packed(_MOVED, {"success": True, **moved}, 200, headers)


def version_matcher(request: Request) -> Callable[[int], bool] | None:
    """Return what says of an agent's version whether `If-Match` names it; None without that header.

    A weak tag matches nothing, as RFC 9110 has it.
    """
    if "If-Match" not in request.headers:
        return None
    tags = request.if_match
    return lambda version: tags.contains(str(version))


def agent_response(agent: Agent, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Respond with an agent; its version is the entity tag."""
    response = packed(_AGENT, agent, status, headers or {})
    response.set_etag(str(agent.version))
    return response


def change_response(changed: Changed) -> Response:
    """Respond to a request to change an agent: 200 with it, or 202 while its path is being changed."""
    if changed.operation is None:
        return agent_response(changed.agent)
    ended, headers = wait_for(changed.operation)
    if ended is None:
        return accepted(changed.operation, PhoneStatus.PROVISIONED, headers)
    if ended.status is not OperationStatus.SUCCEEDED:
        return failure_response(ended, headers)
    return agent_response(wiring().agents.get(ended.agent_id), 200, headers)


def adoption_response(adoption: Adoption) -> Response:
    """Respond to the dry run of an adoption."""
    return packed(_ADOPTION_PLAN, adoption_body(adoption), 200, {})


def plan_response(preview: Preview) -> Response:
    """Respond to a dry run."""
    obstacles = [replace(one, detail=hinted(one.code, one.detail)) if one.blocks else one for one in preview.obstacles]
    return packed(_PLAN, plan_body(replace(preview, obstacles=obstacles)), 200, {})


def audit_response(audit_id: uuid.UUID) -> Response:
    """Respond to a request to audit: 202, or the report if the client waited long enough."""
    found, headers = call_with_wait(lambda timeout: web_services().reader.wait_for_audit(audit_id, timeout))
    if found is not None and found.finished_at is not None:
        return packed(_AUDIT, found, 200, headers)
    url = f"/api/audit/{audit_id}"
    headers |= {"Location": url, "Retry-After": str(POLL_AFTER_S)}
    return packed(_AUDIT_ACCEPTED, {"success": True, "audit_id": audit_id, "status_url": url}, 202, headers)


HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
STORED_HEADERS = ("Content-Type", "ETag", "Location", "Retry-After", "Preference-Applied")
TOO_MANY_REQUESTS = 429

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

View = Callable[..., ResponseReturnValue]


def idempotent(view: View) -> View:
    """Make a view take an `Idempotency-Key`; outermost below the route, so that refusals are stored too."""

    @wraps(view)
    def wrapper(**arguments: object) -> ResponseReturnValue:
        key = request.headers.get(HEADER)
        if key is not None and not _KEY.fullmatch(key):
            raise validation_failed({HEADER: ["must be 1 to 255 visible ASCII characters"]})
        # A dry run writes nothing, and must not use up the key of the real request.
        # Without an API key nobody else can have sent it: the command line of the installation has none.
        whose = caller().key_id
        if key is None or whose is None or is_dry_run(request.args):
            return view(**arguments)
        return _respond_once(whose, key, view, arguments)

    note_idempotent(wrapper)
    return wrapper


def _respond_once(whose: uuid.UUID, key: str, view: View, arguments: dict[str, object]) -> Response:
    claim = web_services().idempotency.claim(whose, key, _request_hash(), extra=preferred_wait(request))
    if isinstance(claim, StoredResponse):
        return Response(claim.text, claim.status, {**claim.headers, REPLAYED: "true"})
    return _first_response(claim, view, arguments)


def _first_response(claim: IdempotencyClaim, view: View, arguments: dict[str, object]) -> Response:
    """Run the view and store its response, unless that is a 429 or 5xx: then the request may be sent again."""
    response: Response | None = None
    try:
        response = _run_view(view, arguments)
    finally:
        if response is None or not _is_stored(response):
            web_services().idempotency.release(claim)
    if _is_stored(response):
        headers = {name: response.headers[name] for name in STORED_HEADERS if name in response.headers}
        stored = StoredResponse(response.status_code, headers, response.get_data(as_text=True))
        web_services().idempotency.save(claim, stored)
    return response


def _is_stored(response: Response) -> bool:
    return response.status_code < FIRST_SERVER_ERROR and response.status_code != TOO_MANY_REQUESTS


def _run_view(view: View, arguments: dict[str, object]) -> Response:
    try:
        return current_app.make_response(view(**arguments))
    except Exception as error:  # noqa: BLE001 - Flask's own dispatch does the same; its handlers log what is unexpected
        return current_app.make_response(current_app.handle_user_exception(error))


def _request_hash() -> str:
    parts = [request.method.encode(), request.path.rstrip("/").encode(), read_body(request)]
    if request.query_string:
        parts.append(request.query_string)
    if "If-Match" in request.headers:
        parts.append(request.headers["If-Match"].encode())
    if caller().workspace:
        # An operator's key may name another workspace each time.
        parts.append(str(caller().workspace).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
