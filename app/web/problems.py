"""Turns exceptions into responses: HTTP statuses by error code, and `application/problem+json` (RFC 9457)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from apiflask import HTTPError
from flask import Blueprint, Flask, Response, current_app
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException

from app.domain.errors import TAKEOVER_HINT, ErrorCode, RefusedError, validation_failed
from app.domain.numbers import mask_numbers
from app.providers.errors import ProviderError
from app.views.fields import flat_errors

log = structlog.stdlib.get_logger()

MIME_TYPE = "application/problem+json"

FIRST_CLIENT_ERROR, FIRST_SERVER_ERROR = 400, 500
"""HTTP's ranges: from the first on the client is at fault, from the second on we are."""

RETRY_LATER_S = 5
"""Retry-After in seconds when the database or a provider is unavailable: a restart takes a few."""

LOST_DATABASE = (OperationalError, InterfaceError, PoolTimeoutError)
"""What SQLAlchemy raises when the database does not answer."""

_C = ErrorCode


@dataclass(frozen=True, slots=True)
class Kind:
    """What every problem of one code has in common; `retry_after_s` is sent as Retry-After, in seconds."""

    status: int
    title: str
    retry_after_s: int | None = None


KINDS: Mapping[ErrorCode, Kind] = {
    _C.MALFORMED_REQUEST: Kind(400, "Malformed request"),
    _C.UNAUTHENTICATED: Kind(401, "No valid API key"),
    _C.FORBIDDEN: Kind(403, "The key may not do this"),
    _C.NOT_FOUND: Kind(404, "No such page"),
    _C.WORKSPACE_NOT_FOUND: Kind(404, "No such workspace"),
    _C.AGENT_NOT_FOUND: Kind(404, "No such agent"),
    _C.OPERATION_NOT_FOUND: Kind(404, "No such operation"),
    _C.AUDIT_NOT_FOUND: Kind(404, "No such audit"),
    _C.BULK_NOT_FOUND: Kind(404, "No such bulk"),
    _C.WEBHOOK_NOT_FOUND: Kind(404, "No such webhook"),
    _C.WEBHOOK_DELIVERY_NOT_FOUND: Kind(404, "No such delivery"),
    _C.KEY_NOT_FOUND: Kind(404, "No such key"),
    _C.ACCOUNT_NOT_FOUND: Kind(404, "No such account"),
    _C.METHOD_NOT_ALLOWED: Kind(405, "Method not allowed"),
    _C.AGENT_HAS_PHONE: Kind(409, "The agent has a phone number"),
    _C.AGENT_HAS_NO_PHONE: Kind(409, "The agent has no phone number"),
    _C.NUMBER_IN_USE: Kind(409, "The number belongs to another agent"),
    _C.EXTERNAL_ID_IN_USE: Kind(409, "Another agent has this external id"),
    _C.DECLARATION_CONFLICT: Kind(409, "What is declared cannot be, as things stand"),
    _C.ACCOUNTS_DIFFER: Kind(409, "The agents use different accounts"),
    _C.OPERATION_IN_PROGRESS: Kind(409, "An operation is in progress"),
    _C.OPERATION_FINISHED: Kind(409, "The operation has finished"),
    _C.VERSION_MISMATCH: Kind(412, "The agent has changed meanwhile"),
    _C.NOT_ADOPTABLE: Kind(409, "The path cannot be adopted"),
    _C.KEEP_OR_REMOVE: Kind(409, "The path was adopted"),
    _C.SHARED_WITH_OTHERS: Kind(409, "Other numbers use it too"),
    _C.TEST_CALL_NOT_FOUND: Kind(404, "No such test call"),
    _C.TEST_CALL_LIMIT: Kind(429, "Too many test calls", RETRY_LATER_S),
    _C.NOT_OURS_TO_REPAIR: Kind(409, "What stops the calls is not ours"),
    _C.WEBHOOK_DISABLED: Kind(409, "The webhook is disabled"),
    _C.WEBHOOK_LIMIT: Kind(409, "No room for a webhook"),
    _C.WORKSPACE_EXISTS: Kind(409, "The workspace exists already"),
    _C.WORKSPACE_NOT_EMPTY: Kind(409, "The workspace is not empty"),
    _C.ACCOUNT_IN_USE: Kind(409, "The account is in use"),
    _C.CREDENTIAL_KEYS_MISSING: Kind(409, "Secrets cannot be stored"),
    _C.IDEMPOTENCY_KEY_IN_PROGRESS: Kind(409, "The first request is still running", retry_after_s=1),
    _C.REQUEST_TOO_LARGE: Kind(413, "Request too large"),
    _C.UNSUPPORTED_MEDIA_TYPE: Kind(415, "Unsupported media type"),
    _C.VALIDATION_FAILED: Kind(422, "Validation failed"),
    _C.IDEMPOTENCY_KEY_REUSED: Kind(422, "Idempotency key reused"),
    _C.RATE_LIMITED: Kind(429, "Too many requests", retry_after_s=1),
    _C.INTERNAL_ERROR: Kind(500, "Internal error"),
    _C.SERVICE_UNAVAILABLE: Kind(503, "Service unavailable", RETRY_LATER_S),
    # Operations that a client waited for: 4xx where the client or its account can fix it, 5xx where it cannot.
    _C.CANCELLED: Kind(409, "The operation was cancelled"),
    _C.NUMBER_NOT_IN_ACCOUNT: Kind(422, "The number is not in the Twilio account"),
    _C.NUMBER_NOT_VOICE: Kind(422, "The number takes no voice calls"),
    _C.NUMBER_ALREADY_ROUTED: Kind(409, "The number is routed elsewhere"),
    _C.NUMBER_MOVED: Kind(409, "Somebody else moved the number"),
    _C.TWILIO_BAD_CREDENTIALS: Kind(502, "Twilio refuses the credentials"),
    _C.TWILIO_FORBIDDEN: Kind(502, "Twilio forbids the call"),
    _C.TWILIO_TRUNK_LIMIT: Kind(409, "The Twilio account has no room for a trunk"),
    _C.TWILIO_ORIGINATION_LIMIT: Kind(409, "The Twilio trunk has no room for a URL"),
    _C.TWILIO_EMERGENCY_NUMBER: Kind(422, "The number is set up for emergency calls"),
    _C.TWILIO_TRUNK_IN_USE: Kind(409, "The Twilio trunk is in use"),
    _C.TWILIO_TRUNK_GONE: Kind(409, "The Twilio trunk was deleted meanwhile"),
    _C.TWILIO_UNSUPPORTED: Kind(502, "Twilio does not offer this on the trunk"),
    _C.TWILIO_REJECTED: Kind(502, "Twilio refused a call"),
    _C.LIVEKIT_NUMBER_CONFLICT: Kind(409, "Another LiveKit trunk has the number"),
    _C.LIVEKIT_RULE_CONFLICT: Kind(409, "Another LiveKit rule is in the way"),
    _C.LIVEKIT_BAD_CREDENTIALS: Kind(502, "LiveKit refuses the credentials"),
    _C.LIVEKIT_MISCONFIGURED: Kind(502, "LiveKit is not set up for SIP"),
    _C.LIVEKIT_REJECTED: Kind(502, "LiveKit refused a call"),
    _C.PATH_NOT_VERIFIED: Kind(502, "The finished path did not verify"),
    _C.PROVIDER_UNAVAILABLE: Kind(503, "A provider is unavailable", RETRY_LATER_S),
    _C.PROVIDER_BUSY: Kind(503, "A provider takes no more requests for now", RETRY_LATER_S),
    _C.TRUNK_BEING_MADE: Kind(503, "The Twilio trunk is being made", RETRY_LATER_S),
    _C.CREDENTIALS_REFUSED: Kind(409, "The account's credentials are refused"),
    _C.INTERNAL_STEP_ERROR: Kind(500, "A step failed"),
}
"""Every code with its HTTP status and title: the closed list of the API reference, and the only source of statuses."""

_CODES_BY_STATUS = {
    400: _C.MALFORMED_REQUEST,
    401: _C.UNAUTHENTICATED,
    403: _C.FORBIDDEN,
    404: _C.NOT_FOUND,
    405: _C.METHOD_NOT_ALLOWED,
    413: _C.REQUEST_TOO_LARGE,
    415: _C.UNSUPPORTED_MEDIA_TYPE,
    422: _C.VALIDATION_FAILED,
    429: _C.RATE_LIMITED,
    503: _C.SERVICE_UNAVAILABLE,
}


def status_of(refusal: RefusedError | None) -> int:
    """Return the HTTP status of a page that shows this refusal; 200 without one."""
    return KINDS[refusal.code].status if refusal else 200


class HttpRefusedError(RefusedError):
    """A refusal whose response has headers of its own."""

    def __init__(self, code: ErrorCode, detail: str, headers: Mapping[str, str]) -> None:
        super().__init__(code, detail)
        self.headers = headers


def headers_of(refusal: RefusedError) -> dict[str, str]:
    """Return the headers of a response with this refusal: Retry-After, and its own."""
    own = refusal.headers if isinstance(refusal, HttpRefusedError) else {}
    return retry_after(refusal.retry_after_s or KINDS[refusal.code].retry_after_s) | dict(own)


def hinted(code: ErrorCode, detail: str) -> str:
    """Return a sentence that every interface shows, with what the API has to add to it."""
    return f"{detail} {TAKEOVER_HINT}" if code is _C.NUMBER_ALREADY_ROUTED else detail


def problem_body(
    code: ErrorCode,
    detail: str,
    *,
    errors: Mapping[str, list[str]] | None = None,
    more: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the body of a problem; `more` are members that its code alone has.

    Names of unknown fields and ids come from the client: phone numbers among them are masked.
    """
    shown = {mask_numbers(name): [mask_numbers(one) for one in messages] for name, messages in (errors or {}).items()}
    body: dict[str, object] = {
        "success": False,
        "type": f"urn:trunkline:problem:{code.value}",
        "title": KINDS[code].title,
        "status": KINDS[code].status,
        "detail": mask_numbers(hinted(code, detail)),
        "code": code.value,
    }
    return body | ({"errors": shown} if shown else {}) | dict(more or {})


def problem(
    code: ErrorCode,
    detail: str,
    *,
    errors: Mapping[str, list[str]] | None = None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> Response:
    """Build the response for a problem, with the Retry-After of its code."""
    body = problem_body(code, detail, errors=errors, more=more)
    response = Response(current_app.json.dumps(body), KINDS[code].status, mimetype=MIME_TYPE)
    response.headers.update(retry_after(KINDS[code].retry_after_s) | dict(headers or {}))
    return response


def retry_after(seconds: float | None) -> dict[str, str]:
    """Return the Retry-After header, if the seconds are known."""
    return {"Retry-After": str(math.ceil(seconds))} if seconds else {}


class Refused(Protocol):
    """Responds to a request that a service refuses."""

    def __call__(self, error: RefusedError, /) -> ResponseReturnValue:
        """Return the response."""


class Failed(Protocol):
    """Responds to a request that failed otherwise."""

    def __call__(
        self, code: ErrorCode, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> ResponseReturnValue:
        """Return the response."""


def register_error_handlers(scope: Flask | Blueprint, *, refused: Refused, failed: Failed) -> None:
    """Turn every exception of a request into a response: the API's are problems, the console's are pages."""

    def provider_failed(error: ProviderError) -> ResponseReturnValue:
        log.warning("provider_failed", code=error.code, detail=error.detail)
        return refused(RefusedError(error.code, error.detail, retry_after_s=error.retry_after_s))

    def invalid_input(error: HTTPError) -> ResponseReturnValue:
        # APIFlask: {location: {field: messages}}.
        detail = error.detail if isinstance(error.detail, dict) else {}
        errors = {name: messages for fields in detail.values() for name, messages in flat_errors(fields).items()}
        return refused(validation_failed(errors))

    def http_exception(error: HTTPException) -> ResponseReturnValue:
        status = error.code or FIRST_SERVER_ERROR
        if status < FIRST_CLIENT_ERROR:
            return error.get_response()
        kept = {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
        fallback = _C.MALFORMED_REQUEST if status < FIRST_SERVER_ERROR else _C.INTERNAL_ERROR
        return failed(_CODES_BY_STATUS.get(status, fallback), f"{error.name}.", headers=kept)

    scope.register_error_handler(RefusedError, refused)
    scope.register_error_handler(ProviderError, provider_failed)
    scope.register_error_handler(HTTPError, invalid_input)
    scope.register_error_handler(HTTPException, http_exception)
    scope.register_error_handler(Exception, lambda error: failed(*explain(error)))


def refused_problem(error: RefusedError) -> Response:
    """Build the problem for a refusal."""
    return problem(error.code, error.detail, errors=error.errors, headers=headers_of(error), more=error.more)


def explain(error: Exception) -> tuple[ErrorCode, str]:
    """Log an exception that no client is to blame for; return the code and sentence of its response."""
    if isinstance(error, LOST_DATABASE) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        log.error("database_unavailable", error=type(error).__name__)
        return _C.SERVICE_UNAVAILABLE, "The database does not respond. As far as we know, nothing was changed."
    log.error("request_failed", exc_info=error)
    return _C.INTERNAL_ERROR, "Something went wrong on our side; the log has it under this request's id."
