"""Every error code of the API and of operations with its advice, and the error with which a service refuses."""

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
    WORKSPACE_NOT_FOUND = "workspace_not_found"
    AGENT_NOT_FOUND = "agent_not_found"
    OPERATION_NOT_FOUND = "operation_not_found"
    AUDIT_NOT_FOUND = "audit_not_found"
    BULK_NOT_FOUND = "bulk_not_found"
    WEBHOOK_NOT_FOUND = "webhook_not_found"
    WEBHOOK_DELIVERY_NOT_FOUND = "webhook_delivery_not_found"
    WEBHOOK_DISABLED = "webhook_disabled"
    WEBHOOK_LIMIT = "webhook_limit"
    WORKSPACE_EXISTS = "workspace_exists"
    WORKSPACE_NOT_EMPTY = "workspace_not_empty"
    KEY_NOT_FOUND = "key_not_found"
    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNT_IN_USE = "account_in_use"
    CREDENTIAL_KEYS_MISSING = "credential_keys_missing"
    AGENT_HAS_PHONE = "agent_has_phone"
    AGENT_HAS_NO_PHONE = "agent_has_no_phone"
    NUMBER_IN_USE = "number_in_use"
    EXTERNAL_ID_IN_USE = "external_id_in_use"
    DECLARATION_CONFLICT = "declaration_conflict"
    ACCOUNTS_DIFFER = "accounts_differ"
    OPERATION_IN_PROGRESS = "operation_in_progress"
    OPERATION_FINISHED = "operation_finished"
    VERSION_MISMATCH = "version_mismatch"
    NOT_ADOPTABLE = "not_adoptable"
    KEEP_OR_REMOVE = "keep_or_remove"
    SHARED_WITH_OTHERS = "shared_with_others"
    TEST_CALL_NOT_FOUND = "test_call_not_found"
    TEST_CALL_LIMIT = "test_call_limit"
    NOT_OURS_TO_REPAIR = "not_ours_to_repair"
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
    TRUNK_BEING_MADE = "trunk_being_made"
    CREDENTIALS_REFUSED = "credentials_refused"
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
    ErrorCode.TRUNK_BEING_MADE,
    ErrorCode.CREDENTIALS_REFUSED,
    ErrorCode.INTERNAL_STEP_ERROR,
)
"""The codes with which an operation ends; requests that wait for an operation may return them too."""


WAITING_CODES = (ErrorCode.PROVIDER_BUSY, ErrorCode.TRUNK_BEING_MADE, ErrorCode.CREDENTIALS_REFUSED)
"""Why a step waits for its turn: no failure, and no try."""

UNTIMED_CODES = (ErrorCode.PROVIDER_BUSY, ErrorCode.CREDENTIALS_REFUSED)
"""Those of them whose time is not the operation's: a provider's line, and an account that people must put right."""


_C = ErrorCode

ADVICE: Mapping[ErrorCode, str] = {
    _C.VALIDATION_FAILED: "Correct the marked fields and send the form again.",
    _C.MALFORMED_REQUEST: "Reload the page and send the form again.",
    _C.UNAUTHENTICATED: "Sign in with a valid API key.",
    _C.FORBIDDEN: "Sign in with a key that has the scope: trunkline keys create NAME --scope SCOPE.",
    _C.NOT_FOUND: "Check the address, or start again from Numbers.",
    _C.METHOD_NOT_ALLOWED: "Go back and use the page's own buttons.",
    _C.REQUEST_TOO_LARGE: "Send less at once.",
    _C.UNSUPPORTED_MEDIA_TYPE: "Go back and use the page's own forms.",
    _C.RATE_LIMITED: "Wait a moment, then try again.",
    _C.INTERNAL_ERROR: "Search the web process's log for the request id, and report it.",
    _C.SERVICE_UNAVAILABLE: "Check /readyz: it names what does not respond. Then try again.",
    _C.WORKSPACE_NOT_FOUND: "Check its name, and whose key this is.",
    _C.AGENT_NOT_FOUND: "It may have been deleted: check Numbers.",
    _C.OPERATION_NOT_FOUND: "Its agent may have been deleted: check Operations.",
    _C.AUDIT_NOT_FOUND: "Run an audit.",
    _C.BULK_NOT_FOUND: "Check Bulk.",
    _C.WEBHOOK_NOT_FOUND: "It may have been deleted: check Webhooks.",
    _C.WEBHOOK_DELIVERY_NOT_FOUND: "Finished deliveries are deleted after 30 days: choose a newer one.",
    _C.WEBHOOK_DISABLED: "Enable the webhook, then send again.",
    _C.WEBHOOK_LIMIT: "Delete an unused webhook. An old secret expires after a day.",
    _C.WORKSPACE_EXISTS: "Choose another slug.",
    _C.WORKSPACE_NOT_EMPTY: "Delete or revoke what the detail names, then delete the workspace.",
    _C.KEY_NOT_FOUND: "It may have been revoked: check Keys.",
    _C.ACCOUNT_NOT_FOUND: "It may have been deleted: check Accounts.",
    _C.ACCOUNT_IN_USE: "Delete the agents that use it, or wait until its empty trunks are deleted, then try again.",
    _C.CREDENTIAL_KEYS_MISSING: "Set CREDENTIAL_KEYS (openssl rand -base64 32) for every process, and restart them.",
    _C.AGENT_HAS_PHONE: "Deprovision that agent's number first, or choose another agent.",
    _C.AGENT_HAS_NO_PHONE: "Provision a number first.",
    _C.NUMBER_IN_USE: "Choose another number, or move this one from the agent that has it.",
    _C.EXTERNAL_ID_IN_USE: "Choose another external id, or change the agent that has this one.",
    _C.DECLARATION_CONFLICT: "Change the file where the errors point, or the agents that they name; then apply again.",
    _C.ACCOUNTS_DIFFER: "Choose an agent that uses the same accounts, or deprovision and provision again.",
    _C.OPERATION_IN_PROGRESS: "Wait until the open operation has finished, or cancel it.",
    _C.OPERATION_FINISHED: "Start a new one from the agent's page.",
    _C.VERSION_MISMATCH: "Somebody has changed the agent meanwhile: load it again, and apply your change to that.",
    _C.NOT_ADOPTABLE: "Make right what the detail names at its provider, or provision the number with takeover.",
    _C.KEEP_OR_REMOVE: "Say what becomes of the path that was there before: path=keep or path=remove.",
    _C.SHARED_WITH_OTHERS: "Change it at its provider, where it serves other numbers too.",
    _C.TEST_CALL_NOT_FOUND: "Test calls are kept for 30 days: check the agent's page.",
    _C.TEST_CALL_LIMIT: "Wait until the oldest test call of the last 15 minutes is past them.",
    _C.NOT_OURS_TO_REPAIR: "Change what the detail names at its provider, then verify again.",
    _C.IDEMPOTENCY_KEY_REUSED: "Use a new Idempotency-Key for a new request.",
    _C.IDEMPOTENCY_KEY_IN_PROGRESS: "Wait until the first request has finished.",
    _C.CANCELLED: "Nothing: a deprovision was requested. Provision again to reconnect the number.",
    _C.NUMBER_NOT_IN_ACCOUNT: "Check the number, and which Twilio account the credentials are for.",
    _C.NUMBER_NOT_VOICE: "Choose another number, or change this one's configuration in the Twilio console.",
    _C.NUMBER_ALREADY_ROUTED: "Tick the box that takes the number over; deprovisioning restores the old routing.",
    _C.NUMBER_MOVED: "Find out in the Twilio console who moved it, then try again.",
    _C.TWILIO_BAD_CREDENTIALS: "Fix the Twilio settings, restart the workers, then retry.",
    _C.TWILIO_FORBIDDEN: "Give the Twilio key the permission, restart the workers, then retry.",
    _C.TWILIO_TRUNK_LIMIT: "Move numbers off trunks of their own (trunkline trunks consolidate), or ask for more.",
    _C.TWILIO_ORIGINATION_LIMIT: "Somebody added origination URLs to the trunk (ten at most): remove them, then retry.",
    _C.TWILIO_EMERGENCY_NUMBER: "Unregister the number's emergency address at Twilio, then retry.",
    _C.TWILIO_TRUNK_IN_USE: "Our trunk carries numbers that are not ours: move them away, then retry.",
    _C.TWILIO_TRUNK_GONE: "Ask who deletes trunks in the Twilio account, then try again: a new trunk is made.",
    _C.TWILIO_UNSUPPORTED: "Check the Twilio account's region, and ask Twilio whether it offers what the detail names.",
    _C.TWILIO_REJECTED: "Look up the Twilio error code in the detail, fix the cause, then retry.",
    _C.LIVEKIT_NUMBER_CONFLICT: "Remove the number from the other LiveKit trunk, then retry.",
    _C.LIVEKIT_RULE_CONFLICT: "Delete one of the conflicting dispatch rules in LiveKit, then retry.",
    _C.LIVEKIT_BAD_CREDENTIALS: "Fix the LiveKit settings, restart the workers, then retry.",
    _C.LIVEKIT_MISCONFIGURED: "Check LIVEKIT_URL and that the server offers SIP, restart the workers, then retry.",
    _C.LIVEKIT_REJECTED: "Read LiveKit's reason in the detail, fix the cause, then retry.",
    _C.PATH_NOT_VERIFIED: "The detail says what differs: try again.",
    _C.PROVIDER_UNAVAILABLE: "Check the provider's status page, then try again.",
    _C.PROVIDER_BUSY: "Nothing: it waits for the rate limit. If that takes long, ask the provider for a higher limit.",
    _C.TRUNK_BEING_MADE: "Nothing: another number's operation is making the Twilio trunk that both will share.",
    _C.CREDENTIALS_REFUSED: "Rotate the credential of the account: what waits for it goes on within a minute.",
    _C.INTERNAL_STEP_ERROR: "A defect in Trunkline: see the worker's log, and please report it.",
}
"""Error code -> what a person should do."""


TAKEOVER_HINT = "Send `takeover: true` to have it moved."
"""What the API adds where a takeover helps; the command line and the console have hints of their own."""


class RefusedError(Exception):
    """A request that a service refuses; its code decides the HTTP status, `errors` maps field -> messages.

    `retry_after_s` says when to retry, where more is known than the code implies; `more` are further members of the
    problem, as JSON.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: Mapping[str, list[str]] | None = None,
        retry_after_s: float | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = dict(errors or {})
        self.retry_after_s = retry_after_s
        self.more = dict(more or {})


def validation_failed(errors: Mapping[str, list[str]]) -> RefusedError:
    """Build the 422 that names the invalid fields."""
    detail = "The request is not valid: " + ", ".join(sorted(errors)) + "." if errors else "The request is not valid."
    return RefusedError(ErrorCode.VALIDATION_FAILED, detail, errors=errors)


def workspace_not_found(slug: object) -> RefusedError:
    """Build the 404 for a workspace that there is not, or that the key does not see."""
    return RefusedError(ErrorCode.WORKSPACE_NOT_FOUND, f"There is no workspace {slug}.")


def agent_not_found(agent_id: object) -> RefusedError:
    """Build the 404 for an unknown agent id."""
    return RefusedError(ErrorCode.AGENT_NOT_FOUND, f"There is no agent {agent_id}.")


def test_call_not_found(call_id: object) -> RefusedError:
    """Build the 404 for an unknown id of a test call."""
    return RefusedError(ErrorCode.TEST_CALL_NOT_FOUND, f"There is no test call {call_id} of this agent.")


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


def trunk_not_found(trunk_id: object) -> RefusedError:
    """Build the 404 for an unknown id of a shared trunk."""
    return RefusedError(ErrorCode.NOT_FOUND, f"There is no trunk {trunk_id}.")


def account_not_found(kind: str, account_id: object) -> RefusedError:
    """Build the 404 for an unknown carrier account or voice project, or one that is not seen."""
    return RefusedError(ErrorCode.ACCOUNT_NOT_FOUND, f"There is no {kind} {account_id}.")


def webhook_not_found(webhook_id: object) -> RefusedError:
    """Build the 404 for an unknown webhook id."""
    return RefusedError(ErrorCode.WEBHOOK_NOT_FOUND, f"There is no webhook {webhook_id}.")


def webhook_delivery_not_found(delivery_id: object) -> RefusedError:
    """Build the 404 for a delivery id that this webhook does not have."""
    detail = f"The webhook has no delivery {delivery_id}."
    return RefusedError(ErrorCode.WEBHOOK_DELIVERY_NOT_FOUND, detail)


def key_not_found(key_id: object) -> RefusedError:
    """Build the 404 for an id that no valid API key has."""
    return RefusedError(ErrorCode.KEY_NOT_FOUND, f"There is no valid key {key_id}.")
