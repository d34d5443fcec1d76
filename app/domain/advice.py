"""What a person does about an error code or a finding: one plain sentence each, docs/errors.md in short."""

from collections.abc import Mapping

from app.domain.errors import ErrorCode
from app.domain.findings import KINDS, FindingCode, Mend

_C = ErrorCode

ADVICE: Mapping[ErrorCode, str] = {
    _C.VALIDATION_FAILED: "Correct the marked fields and send the form again.",
    _C.MALFORMED_REQUEST: "Reload the page and send the form again.",
    _C.UNAUTHENTICATED: "Sign in with a live API key.",
    _C.FORBIDDEN: "Sign in with a key that has the scope: flask --app app keys create NAME --scope SCOPE.",
    _C.NOT_FOUND: "Check the address, or start again from Numbers.",
    _C.METHOD_NOT_ALLOWED: "Go back and use the page's own buttons.",
    _C.REQUEST_TOO_LARGE: "Send less at once.",
    _C.UNSUPPORTED_MEDIA_TYPE: "Go back and use the page's own forms.",
    _C.RATE_LIMITED: "Wait a moment, then try again.",
    _C.INTERNAL_ERROR: "Look in the web process's log for the request id, and report it.",
    _C.SERVICE_UNAVAILABLE: "Look at /readyz: it names what does not answer. Then try again.",
    _C.AGENT_NOT_FOUND: "It may have been deleted: look for it on Numbers.",
    _C.OPERATION_NOT_FOUND: "Its agent may have been deleted: look on Operations.",
    _C.AUDIT_NOT_FOUND: "Run an audit.",
    _C.BULK_NOT_FOUND: "Look for it on Bulk.",
    _C.WEBHOOK_NOT_FOUND: "It may have been deleted: look on Webhooks.",
    _C.WEBHOOK_DELIVERY_NOT_FOUND: "Deliveries that are over leave the log after 30 days: look at the newer ones.",
    _C.WEBHOOK_DISABLED: "Enable the webhook again, then send.",
    _C.WEBHOOK_LIMIT: "Delete a webhook that nobody listens to any more; an old secret ends after its day.",
    _C.AGENT_HAS_PHONE: "Deprovision that agent's number first, or choose another agent.",
    _C.AGENT_HAS_NO_PHONE: "Provision a number first.",
    _C.NUMBER_IN_USE: "Choose another number, or move this one over from the agent that has it.",
    _C.OPERATION_IN_PROGRESS: "Wait until the open operation has ended, or cancel it.",
    _C.OPERATION_FINISHED: "Start a new one from the agent's page.",
    _C.IDEMPOTENCY_KEY_REUSED: "Use a new Idempotency-Key for a new request.",
    _C.IDEMPOTENCY_KEY_IN_PROGRESS: "Wait for the first request to end.",
    _C.CANCELLED: "Nothing: somebody asked to deprovision. Provision again when you want the number back.",
    _C.NUMBER_NOT_IN_ACCOUNT: "Check the number, and which Twilio account the credentials are for.",
    _C.NUMBER_NOT_VOICE: "Choose another number, or change what this one is set to in the Twilio console.",
    _C.NUMBER_ALREADY_ROUTED: "Choose takeover to move it here; deprovisioning puts the old routing back.",
    _C.NUMBER_MOVED: "Look in the Twilio console who moved it, then try again.",
    _C.TWILIO_BAD_CREDENTIALS: "Mend the Twilio settings, restart the workers, then retry.",
    _C.TWILIO_FORBIDDEN: "Give the Twilio key the permission, restart the workers, then retry.",
    _C.TWILIO_TRUNK_LIMIT: "Remove trunks that are not used, or ask Twilio for more and raise TWILIO_TRUNK_LIMIT.",
    _C.TWILIO_ORIGINATION_LIMIT: "Somebody added origination URLs to the trunk (ten at most): remove them, then retry.",
    _C.TWILIO_EMERGENCY_NUMBER: "Unregister the number's emergency address at Twilio, then retry.",
    _C.TWILIO_TRUNK_IN_USE: "Our trunk carries numbers that are not ours: move them away, then retry.",
    _C.TWILIO_REJECTED: "Look up Twilio's error number in the detail, mend the cause, then retry.",
    _C.LIVEKIT_NUMBER_CONFLICT: "Remove the number from the other LiveKit trunk, then retry.",
    _C.LIVEKIT_RULE_CONFLICT: "Remove one of the contradicting dispatch rules in LiveKit, then retry.",
    _C.LIVEKIT_BAD_CREDENTIALS: "Mend the LiveKit settings, restart the workers, then retry.",
    _C.LIVEKIT_MISCONFIGURED: "Check LIVEKIT_URL and that the server offers SIP, restart the workers, then retry.",
    _C.LIVEKIT_REJECTED: "Read LiveKit's reason in the detail, mend the cause, then retry.",
    _C.PATH_NOT_VERIFIED: "The detail names what was read back wrong: try again.",
    _C.PROVIDER_UNAVAILABLE: "Look at the provider's status page, then try again.",
    _C.PROVIDER_BUSY: "Nothing: its turn comes. Where it waits for long, ask the provider for a higher limit.",
    _C.INTERNAL_STEP_ERROR: "A defect of ours: the worker's log has it. Please report it.",
}
"""Every code of the closed list."""

_BY_MEND: Mapping[Mend, str] = {
    Mend.REPAIR: "Repair rebuilds it.",
    Mend.TAKE_BACK: "Repair with takeover takes the number back.",
    Mend.DELETE: "An audit with fix deletes it once it is old enough.",
}

_BY_PERSON: Mapping[FindingCode, str] = {
    FindingCode.NUMBER_GONE: "Deprovision the agent, or buy the number again.",
    FindingCode.LIVEKIT_TRUNK_FOREIGN: "Remove the number from the other trunk in LiveKit.",
    FindingCode.UNREADABLE: "Look at it in the provider's console: the detail says what is odd about it.",
    FindingCode.RULE_FOREIGN_CATCH_ALL: "Have its owner give that rule a trunk, or delete it in LiveKit.",
}
"""Findings that a person decides."""


def advice_on_finding(code: FindingCode) -> str:
    """Return what mends a finding."""
    mend = KINDS[code].mend
    return _BY_PERSON[code] if mend is Mend.NONE else _BY_MEND[mend]
