"""The closed list of audit findings, each with its severity, sentence and fix, and the advice on every error code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.errors import ErrorCode


class Severity(StrEnum):
    """How a finding affects callers."""

    CRITICAL = "critical"
    """Calls do not reach the agent."""
    WARNING = "warning"
    """Calls work, but something differs from how it was built, or costs money for nothing."""


class Health(StrEnum):
    """Whether a provisioned path is as it was built; UNKNOWN until it is first checked."""

    IN_SYNC = "IN_SYNC"
    DRIFTED = "DRIFTED"
    UNKNOWN = "UNKNOWN"


class AuditStatus(StrEnum):
    """`audits.status`."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Fix(StrEnum):
    """What `--fix` does about a finding."""

    REPAIR = "repair"
    """Repair it through the steps that provisioned it."""
    TAKE_BACK = "take_back"
    """The same, but only with `takeover`: the number is in use elsewhere now."""
    DELETE = "delete"
    """Delete it: it is ours, and no row refers to it."""
    NONE = "none"
    """Nothing automatic: it is not ours, so a person decides."""


class FindingCode(StrEnum):
    """The closed list; docs/operations.md has it as a table."""

    NUMBER_GONE = "number_gone"
    NUMBER_DETACHED = "number_detached"
    NUMBER_MOVED = "number_moved"
    TRUNK_GONE = "trunk_gone"
    TRUNK_SECURE = "trunk_secure"
    ORIGINATION_URL_MISSING = "origination_url_missing"
    ORIGINATION_URL_DISABLED = "origination_url_disabled"
    ORIGINATION_URL_CHANGED = "origination_url_changed"
    ORIGINATION_HOST_WRONG = "origination_host_wrong"
    LIVEKIT_TRUNK_GONE = "livekit_trunk_gone"
    LIVEKIT_TRUNK_LOST_NUMBER = "livekit_trunk_lost_number"
    LIVEKIT_TRUNK_CHANGED = "livekit_trunk_changed"
    LIVEKIT_TRUNK_FOREIGN = "livekit_trunk_foreign"
    RULE_GONE = "rule_gone"
    RULE_DEAD_TRUNK = "rule_dead_trunk"
    RULE_LOST_AGENT = "rule_lost_agent"
    RULE_WILDCARD = "rule_wildcard"
    RULE_FILTERED = "rule_filtered"
    RULE_FOREIGN_CATCH_ALL = "rule_foreign_catch_all"
    TWIN = "twin"
    ORPHAN = "orphan"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class FindingKind:
    """The constants of a finding code. `check` is the named check of `verify` that it fails."""

    severity: Severity
    sentence: str
    fix: Fix
    check: str
    steps: tuple[str, ...] = ()
    """The steps that a repair runs."""


NUMBER_CHECK = "number_on_trunk"
TRUNK_CHECK = "twilio_trunk"
URL_CHECK = "origination_url"
INBOUND_CHECK = "livekit_inbound_trunk"
RULE_CHECK = "dispatch_rule"
CHECKS = (NUMBER_CHECK, TRUNK_CHECK, URL_CHECK, INBOUND_CHECK, RULE_CHECK)

_CHECK_OF = {
    "twilio_number": NUMBER_CHECK,
    "twilio_trunk": TRUNK_CHECK,
    "twilio_origination_url": URL_CHECK,
    "livekit_inbound_trunk": INBOUND_CHECK,
    "livekit_dispatch_rule": RULE_CHECK,
}
"""Kind of resource (step name) -> the check that covers it."""

_CRITICAL, _WARNING = Severity.CRITICAL, Severity.WARNING
_Code = FindingCode

FINDING_KINDS: Mapping[FindingCode, FindingKind] = {
    _Code.NUMBER_GONE: FindingKind(_CRITICAL, "The Twilio account no longer owns the number.", Fix.NONE, NUMBER_CHECK),
    _Code.NUMBER_DETACHED: FindingKind(
        _CRITICAL, "The number is on no trunk.", Fix.REPAIR, NUMBER_CHECK, ("twilio_number_attachment",)
    ),
    _Code.NUMBER_MOVED: FindingKind(
        _CRITICAL,
        "The number was moved to somebody else's trunk or application.",
        Fix.TAKE_BACK,
        NUMBER_CHECK,
        ("twilio_number_attachment",),
    ),
    _Code.TRUNK_GONE: FindingKind(
        _CRITICAL,
        "Our Twilio trunk was deleted.",
        Fix.REPAIR,
        TRUNK_CHECK,
        ("twilio_trunk", "twilio_origination_url", "twilio_number_attachment"),
    ),
    _Code.TRUNK_SECURE: FindingKind(
        _CRITICAL,
        "The Twilio trunk requires encrypted media, which the LiveKit trunk does not offer.",
        Fix.REPAIR,
        TRUNK_CHECK,
        ("twilio_trunk",),
    ),
    _Code.ORIGINATION_URL_MISSING: FindingKind(
        _CRITICAL, "Our origination URL was deleted.", Fix.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_URL_DISABLED: FindingKind(
        _CRITICAL, "Our origination URL is disabled.", Fix.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_URL_CHANGED: FindingKind(
        _CRITICAL, "Our origination URL was changed.", Fix.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_HOST_WRONG: FindingKind(
        _CRITICAL,
        "Our origination URL points to a host other than LIVEKIT_SIP_URI's.",
        Fix.REPAIR,
        URL_CHECK,
        ("twilio_origination_url",),
    ),
    _Code.LIVEKIT_TRUNK_GONE: FindingKind(
        _CRITICAL,
        "Our LiveKit trunk was deleted.",
        Fix.REPAIR,
        INBOUND_CHECK,
        ("livekit_inbound_trunk", "livekit_dispatch_rule"),
    ),
    _Code.LIVEKIT_TRUNK_LOST_NUMBER: FindingKind(
        _CRITICAL, "Our LiveKit trunk no longer has the number.", Fix.REPAIR, INBOUND_CHECK, ("livekit_inbound_trunk",)
    ),
    _Code.LIVEKIT_TRUNK_CHANGED: FindingKind(
        _CRITICAL,
        "Our LiveKit trunk requires a password, or does not accept calls from Twilio.",
        Fix.REPAIR,
        INBOUND_CHECK,
        ("livekit_inbound_trunk",),
    ),
    _Code.LIVEKIT_TRUNK_FOREIGN: FindingKind(
        _CRITICAL, "Another LiveKit trunk also has the number: LiveKit refuses its calls.", Fix.NONE, INBOUND_CHECK
    ),
    _Code.RULE_GONE: FindingKind(
        _CRITICAL, "Our dispatch rule was deleted.", Fix.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_DEAD_TRUNK: FindingKind(
        _CRITICAL, "Our dispatch rule does not name our trunk.", Fix.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_LOST_AGENT: FindingKind(
        _CRITICAL, "Our dispatch rule does not name the agent.", Fix.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_WILDCARD: FindingKind(
        _WARNING,
        "Our dispatch rule names no trunk: it matches every call of the project.",
        Fix.REPAIR,
        RULE_CHECK,
        ("livekit_dispatch_rule",),
    ),
    _Code.RULE_FILTERED: FindingKind(
        _CRITICAL,
        "Our dispatch rule matches only some callers or numbers.",
        Fix.REPAIR,
        RULE_CHECK,
        ("livekit_dispatch_rule",),
    ),
    _Code.RULE_FOREIGN_CATCH_ALL: FindingKind(
        _WARNING,
        "Somebody else's dispatch rule names no trunk: it matches every call that no other rule matches.",
        Fix.NONE,
        RULE_CHECK,
    ),
    _Code.TWIN: FindingKind(_WARNING, "A duplicate: a second resource of ours for the same agent.", Fix.DELETE, ""),
    _Code.ORPHAN: FindingKind(_WARNING, "An orphan: a resource of ours that is not in the database.", Fix.DELETE, ""),
    _Code.UNREADABLE: FindingKind(
        _WARNING, "A resource or its tag cannot be read, so its state is unknown.", Fix.NONE, ""
    ),
}


@dataclass(frozen=True)
class Finding:
    """One difference between what we stored and what a provider has."""

    code: FindingCode
    agent_id: str | None = None
    resource: tuple[str, str] | None = None
    """Step name (the kind of resource) and external id."""
    parent_id: str | None = None
    phone_number: str = ""
    """The number of a LiveKit trunk, by which its deletion is confirmed. Never shown."""
    detail: str = ""
    fixed: str = field(default="", compare=False)
    """What `--fix` did about it."""

    @property
    def kind(self) -> FindingKind:
        """The constants of its code."""
        return FINDING_KINDS[self.code]

    @property
    def check(self) -> str:
        """The named check of `verify` that it fails."""
        return check_of(self.code, self.resource[0] if self.resource else "")


def check_of(code: FindingCode, kind: str) -> str:
    """Return the named check of `verify` that a finding about this kind of resource (step name) fails, or ""."""
    return FINDING_KINDS[code].check or (_CHECK_OF.get(kind, "") if code is FindingCode.UNREADABLE else "")


_C = ErrorCode

ADVICE: Mapping[ErrorCode, str] = {
    _C.VALIDATION_FAILED: "Correct the marked fields and send the form again.",
    _C.MALFORMED_REQUEST: "Reload the page and send the form again.",
    _C.UNAUTHENTICATED: "Sign in with a valid API key.",
    _C.FORBIDDEN: "Sign in with a key that has the scope: flask --app app keys create NAME --scope SCOPE.",
    _C.NOT_FOUND: "Check the address, or start again from Numbers.",
    _C.METHOD_NOT_ALLOWED: "Go back and use the page's own buttons.",
    _C.REQUEST_TOO_LARGE: "Send less at once.",
    _C.UNSUPPORTED_MEDIA_TYPE: "Go back and use the page's own forms.",
    _C.RATE_LIMITED: "Wait a moment, then try again.",
    _C.INTERNAL_ERROR: "Search the web process's log for the request id, and report it.",
    _C.SERVICE_UNAVAILABLE: "Check /readyz: it names what does not respond. Then try again.",
    _C.AGENT_NOT_FOUND: "It may have been deleted: check Numbers.",
    _C.OPERATION_NOT_FOUND: "Its agent may have been deleted: check Operations.",
    _C.AUDIT_NOT_FOUND: "Run an audit.",
    _C.BULK_NOT_FOUND: "Check Bulk.",
    _C.WEBHOOK_NOT_FOUND: "It may have been deleted: check Webhooks.",
    _C.WEBHOOK_DELIVERY_NOT_FOUND: "Finished deliveries are deleted after 30 days: choose a newer one.",
    _C.WEBHOOK_DISABLED: "Enable the webhook, then send again.",
    _C.WEBHOOK_LIMIT: "Delete an unused webhook. An old secret expires after a day.",
    _C.AGENT_HAS_PHONE: "Deprovision that agent's number first, or choose another agent.",
    _C.AGENT_HAS_NO_PHONE: "Provision a number first.",
    _C.NUMBER_IN_USE: "Choose another number, or move this one from the agent that has it.",
    _C.OPERATION_IN_PROGRESS: "Wait until the open operation has finished, or cancel it.",
    _C.OPERATION_FINISHED: "Start a new one from the agent's page.",
    _C.IDEMPOTENCY_KEY_REUSED: "Use a new Idempotency-Key for a new request.",
    _C.IDEMPOTENCY_KEY_IN_PROGRESS: "Wait until the first request has finished.",
    _C.CANCELLED: "Nothing: a deprovision was requested. Provision again to reconnect the number.",
    _C.NUMBER_NOT_IN_ACCOUNT: "Check the number, and which Twilio account the credentials are for.",
    _C.NUMBER_NOT_VOICE: "Choose another number, or change this one's configuration in the Twilio console.",
    _C.NUMBER_ALREADY_ROUTED: "Use takeover to move it here; deprovisioning restores the old routing.",
    _C.NUMBER_MOVED: "Find out in the Twilio console who moved it, then try again.",
    _C.TWILIO_BAD_CREDENTIALS: "Fix the Twilio settings, restart the workers, then retry.",
    _C.TWILIO_FORBIDDEN: "Give the Twilio key the permission, restart the workers, then retry.",
    _C.TWILIO_TRUNK_LIMIT: "Delete unused trunks, or ask Twilio for more and raise TWILIO_TRUNK_LIMIT.",
    _C.TWILIO_ORIGINATION_LIMIT: "Somebody added origination URLs to the trunk (ten at most): remove them, then retry.",
    _C.TWILIO_EMERGENCY_NUMBER: "Unregister the number's emergency address at Twilio, then retry.",
    _C.TWILIO_TRUNK_IN_USE: "Our trunk carries numbers that are not ours: move them away, then retry.",
    _C.TWILIO_REJECTED: "Look up the Twilio error code in the detail, fix the cause, then retry.",
    _C.LIVEKIT_NUMBER_CONFLICT: "Remove the number from the other LiveKit trunk, then retry.",
    _C.LIVEKIT_RULE_CONFLICT: "Delete one of the conflicting dispatch rules in LiveKit, then retry.",
    _C.LIVEKIT_BAD_CREDENTIALS: "Fix the LiveKit settings, restart the workers, then retry.",
    _C.LIVEKIT_MISCONFIGURED: "Check LIVEKIT_URL and that the server offers SIP, restart the workers, then retry.",
    _C.LIVEKIT_REJECTED: "Read LiveKit's reason in the detail, fix the cause, then retry.",
    _C.PATH_NOT_VERIFIED: "The detail says what differs: try again.",
    _C.PROVIDER_UNAVAILABLE: "Check the provider's status page, then try again.",
    _C.PROVIDER_BUSY: "Nothing: it waits for the rate limit. If that takes long, ask the provider for a higher limit.",
    _C.INTERNAL_STEP_ERROR: "A defect in Trunkline: see the worker's log, and please report it.",
}
"""Error code -> what a person should do."""

_BY_FIX: Mapping[Fix, str] = {
    Fix.REPAIR: "Repair fixes it.",
    Fix.TAKE_BACK: "Repair with takeover takes the number back.",
    Fix.DELETE: "An audit with fix deletes it once it is old enough.",
}

_BY_PERSON: Mapping[FindingCode, str] = {
    FindingCode.NUMBER_GONE: "Deprovision the agent, or buy the number again.",
    FindingCode.LIVEKIT_TRUNK_FOREIGN: "Remove the number from the other trunk in LiveKit.",
    FindingCode.UNREADABLE: "Check it in the provider's console: the detail says what is wrong with it.",
    FindingCode.RULE_FOREIGN_CATCH_ALL: "Ask its owner to set the rule's trunks, or to delete it in LiveKit.",
}
"""Advice on the findings that a person has to decide."""


def advice_on_finding(code: FindingCode) -> str:
    """Return what fixes a finding."""
    fix = FINDING_KINDS[code].fix
    return _BY_PERSON[code] if fix is Fix.NONE else _BY_FIX[fix]
