"""Every error code of the API and of operations, and the error with which a service refuses a request."""

from collections.abc import Mapping
from enum import StrEnum


class ErrorCode(StrEnum):
    """The closed list of `code` in problems and in `operation.error`; docs/errors.md explains each one."""

    # Requests that are refused.
    VALIDATION_FAILED = "validation_failed"
    MALFORMED_REQUEST = "malformed_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TOO_LARGE = "request_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    RATE_LIMITED = "rate_limited"
    INTERNAL_ERROR = "internal_error"
    SERVICE_UNAVAILABLE = "service_unavailable"
    AGENT_NOT_FOUND = "agent_not_found"
    OPERATION_NOT_FOUND = "operation_not_found"
    AUDIT_NOT_FOUND = "audit_not_found"
    BULK_NOT_FOUND = "bulk_not_found"
    WEBHOOK_NOT_FOUND = "webhook_not_found"
    WEBHOOK_DELIVERY_NOT_FOUND = "webhook_delivery_not_found"
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_LIMIT = "webhook_limit"
    AGENT_HAS_PHONE = "agent_has_phone"
    AGENT_HAS_NO_PHONE = "agent_has_no_phone"
    NUMBER_IN_USE = "number_in_use"
    OPERATION_IN_PROGRESS = "operation_in_progress"
    OPERATION_FINISHED = "operation_finished"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IDEMPOTENCY_KEY_IN_PROGRESS = "idempotency_key_in_progress"

    # Operations that fail.
    CANCELLED = "cancelled"
    NUMBER_NOT_IN_ACCOUNT = "number_not_in_account"
    NUMBER_NOT_VOICE = "number_not_voice"
    NUMBER_ALREADY_ROUTED = "number_already_routed"
    NUMBER_MOVED = "number_moved"
    TWILIO_BAD_CREDENTIALS = "twilio_bad_credentials"
    TWILIO_FORBIDDEN = "twilio_forbidden"
    TWILIO_TRUNK_LIMIT = "twilio_trunk_limit"
    TWILIO_ORIGINATION_LIMIT = "twilio_origination_limit"
    TWILIO_EMERGENCY_NUMBER = "twilio_emergency_number"
    TWILIO_TRUNK_IN_USE = "twilio_trunk_in_use"
    TWILIO_TRUNK_GONE = "twilio_trunk_gone"
    TWILIO_UNSUPPORTED = "twilio_unsupported"
    TWILIO_REJECTED = "twilio_rejected"
    LIVEKIT_NUMBER_CONFLICT = "livekit_number_conflict"
    LIVEKIT_RULE_CONFLICT = "livekit_rule_conflict"
    LIVEKIT_BAD_CREDENTIALS = "livekit_bad_credentials"
    LIVEKIT_MISCONFIGURED = "livekit_misconfigured"
    LIVEKIT_REJECTED = "livekit_rejected"
    PATH_NOT_VERIFIED = "path_not_verified"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_BUSY = "provider_busy"
    INTERNAL_STEP_ERROR = "internal_step_error"


OPERATION_ERROR_CODES = (
    ErrorCode.CANCELLED,
    ErrorCode.NUMBER_NOT_IN_ACCOUNT,
    ErrorCode.NUMBER_NOT_VOICE,
    ErrorCode.NUMBER_ALREADY_ROUTED,
    ErrorCode.NUMBER_MOVED,
    ErrorCode.TWILIO_BAD_CREDENTIALS,
    ErrorCode.TWILIO_FORBIDDEN,
    ErrorCode.TWILIO_TRUNK_LIMIT,
    ErrorCode.TWILIO_ORIGINATION_LIMIT,
    ErrorCode.TWILIO_EMERGENCY_NUMBER,
    ErrorCode.TWILIO_TRUNK_IN_USE,
    ErrorCode.TWILIO_TRUNK_GONE,
    ErrorCode.TWILIO_UNSUPPORTED,
    ErrorCode.TWILIO_REJECTED,
    ErrorCode.LIVEKIT_NUMBER_CONFLICT,
    ErrorCode.LIVEKIT_RULE_CONFLICT,
    ErrorCode.LIVEKIT_BAD_CREDENTIALS,
    ErrorCode.LIVEKIT_MISCONFIGURED,
    ErrorCode.LIVEKIT_REJECTED,
    ErrorCode.PATH_NOT_VERIFIED,
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.PROVIDER_BUSY,
    ErrorCode.INTERNAL_STEP_ERROR,
)
"""The codes with which an operation ends; requests that wait for an operation may return them too."""


class RefusedError(Exception):
    """A request that a service refuses; its code decides the HTTP status, `errors` maps field -> messages.

    `retry_after_s` says when to retry, where more is known than the code implies.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: Mapping[str, list[str]] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = dict(errors or {})
        self.retry_after_s = retry_after_s


def agent_not_found(agent_id: object) -> RefusedError:
    """Build the 404 for an unknown agent id."""
    return RefusedError(ErrorCode.AGENT_NOT_FOUND, f"There is no agent {agent_id}.")


def operation_not_found(operation_id: object) -> RefusedError:
    """Build the 404 for an unknown operation id."""
    return RefusedError(ErrorCode.OPERATION_NOT_FOUND, f"There is no operation {operation_id}.")


def audit_not_found(audit_id: object = None) -> RefusedError:
    """Build the 404 for an unknown audit id or, without an id, for having no report yet."""
    detail = f"There is no audit {audit_id}." if audit_id else "No audit has finished yet."
    return RefusedError(ErrorCode.AUDIT_NOT_FOUND, detail)


def bulk_not_found(bulk_id: object) -> RefusedError:
    """Build the 404 for an unknown bulk id."""
    return RefusedError(ErrorCode.BULK_NOT_FOUND, f"There is no bulk {bulk_id}.")


def webhook_not_found(webhook_id: object) -> RefusedError:
    """Build the 404 for an unknown webhook id."""
    return RefusedError(ErrorCode.WEBHOOK_NOT_FOUND, f"There is no webhook {webhook_id}.")


def webhook_delivery_not_found(delivery_id: object) -> RefusedError:
    """Build the 404 for a delivery id that this webhook does not have."""
    detail = f"The webhook has no delivery {delivery_id}."
    return RefusedError(ErrorCode.WEBHOOK_DELIVERY_NOT_FOUND, detail)
