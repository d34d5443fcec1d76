"""The closed list of findings, each with its severity, sentence and fix, and the advice on every error code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.domain.errors import ErrorCode
from app.domain.numbers import mask_numbers
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
)


class Severity(StrEnum):
    """What a finding means."""

    CRITICAL = "critical"
    """Calls fail: those of all callers or of some (`Callers`). Raised when and only when a call fails."""
    WARNING = "warning"
    """Not as we made it: calls get through, but something of ours differs, or costs money for nothing."""
    FOREIGN = "foreign"
    """Somebody else's: it is not ours, and no call of ours fails because of it now."""


class Callers(StrEnum):
    """Whose calls fail."""

    ALL = "all"
    SOME = "some"
    """The finding's detail says which."""


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
    NUMBER_NO_VOICE = "number_no_voice"
    TRUNK_GONE = "trunk_gone"
    TRUNK_SECURE = "trunk_secure"
    TRUNK_CHANGED = "trunk_changed"
    ORIGINATION_URL_MISSING = "origination_url_missing"
    ORIGINATION_URL_DISABLED = "origination_url_disabled"
    ORIGINATION_URL_CHANGED = "origination_url_changed"
    ORIGINATION_HOST_WRONG = "origination_host_wrong"
    ORIGINATION_URL_OVERRIDDEN = "origination_url_overridden"
    LIVEKIT_TRUNK_GONE = "livekit_trunk_gone"
    LIVEKIT_TRUNK_LOST_NUMBER = "livekit_trunk_lost_number"
    LIVEKIT_TRUNK_CHANGED = "livekit_trunk_changed"
    LIVEKIT_TRUNK_CALLERS = "livekit_trunk_callers"
    LIVEKIT_TRUNK_OPEN = "livekit_trunk_open"
    LIVEKIT_TRUNK_ENCRYPTION = "livekit_trunk_encryption"
    LIVEKIT_TRUNK_FOREIGN = "livekit_trunk_foreign"
    RULE_GONE = "rule_gone"
    RULE_DEAD_TRUNK = "rule_dead_trunk"
    RULE_LOST_AGENT = "rule_lost_agent"
    RULE_WILDCARD = "rule_wildcard"
    RULE_FILTERED = "rule_filtered"
    RULE_PIN = "rule_pin"
    RULE_ENCRYPTION = "rule_encryption"
    RULE_PRESET = "rule_preset"
    RULE_CHANGED = "rule_changed"
    RULE_OVERRIDDEN = "rule_overridden"
    RULE_CONFLICT = "rule_conflict"
    RULE_FOREIGN_CATCH_ALL = "rule_foreign_catch_all"
    MARK_LOST = "mark_lost"
    TWIN = "twin"
    ORPHAN = "orphan"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class FindingKind:
    """The constants of a finding code. `check` is the named check of `verify` that it fails."""

    severity: Severity
    """Where the finding does not say otherwise: the same change may stop calls or not."""
    sentence: str
    fix: Fix
    check: str
    steps: tuple[str, ...] = ()
    """The steps that a repair runs; empty with `Fix.REPAIR`: the step of the resource."""


NUMBER_CHECK = "number_on_trunk"
TRUNK_CHECK = "twilio_trunk"
URL_CHECK = "origination_url"
INBOUND_CHECK = "livekit_inbound_trunk"
RULE_CHECK = "dispatch_rule"
CHECKS = (NUMBER_CHECK, TRUNK_CHECK, URL_CHECK, INBOUND_CHECK, RULE_CHECK)

_CHECK_OF = {
    NUMBER: NUMBER_CHECK,
    TRUNK: TRUNK_CHECK,
    ORIGINATION_URL: URL_CHECK,
    INBOUND_TRUNK: INBOUND_CHECK,
    DISPATCH_RULE: RULE_CHECK,
}
"""Kind of resource (step name) -> the check that covers it."""

_CRITICAL, _WARNING, _FOREIGN = Severity.CRITICAL, Severity.WARNING, Severity.FOREIGN
_Code = FindingCode


def _kind(
    severity: Severity, check: str, sentence: str, fix: Fix = Fix.REPAIR, steps: tuple[str, ...] = ()
) -> FindingKind:
    return FindingKind(severity, sentence, fix, check, steps)


FINDING_KINDS: Mapping[FindingCode, FindingKind] = {
    _Code.NUMBER_GONE: _kind(_CRITICAL, NUMBER_CHECK, "The Twilio account no longer owns the number.", Fix.NONE),
    _Code.NUMBER_DETACHED: _kind(_CRITICAL, NUMBER_CHECK, "The number is on no trunk.", steps=(NUMBER_ATTACHMENT,)),
    _Code.NUMBER_MOVED: _kind(
        _CRITICAL,
        NUMBER_CHECK,
        "The number was moved to somebody else's trunk or application.",
        Fix.TAKE_BACK,
        (NUMBER_ATTACHMENT,),
    ),
    _Code.NUMBER_NO_VOICE: _kind(
        _CRITICAL, NUMBER_CHECK, "The number takes no voice calls, as it is set at Twilio.", Fix.NONE
    ),
    _Code.TRUNK_GONE: _kind(
        _CRITICAL,
        TRUNK_CHECK,
        "Our Twilio trunk was deleted.",
        steps=(TRUNK, ORIGINATION_URL, NUMBER_ATTACHMENT),
    ),
    _Code.TRUNK_SECURE: _kind(
        _CRITICAL,
        TRUNK_CHECK,
        "The Twilio trunk requires encrypted media, which the LiveKit trunk does not offer.",
        steps=(TRUNK,),
    ),
    _Code.TRUNK_CHANGED: _kind(_WARNING, TRUNK_CHECK, "Our Twilio trunk is set differently.", steps=(TRUNK,)),
    _Code.ORIGINATION_URL_MISSING: _kind(
        _CRITICAL, URL_CHECK, "Our origination URL was deleted.", steps=(ORIGINATION_URL,)
    ),
    _Code.ORIGINATION_URL_DISABLED: _kind(
        _CRITICAL, URL_CHECK, "Our origination URL is disabled.", steps=(ORIGINATION_URL,)
    ),
    _Code.ORIGINATION_URL_CHANGED: _kind(
        _WARNING, URL_CHECK, "Our origination URL was changed.", steps=(ORIGINATION_URL,)
    ),
    _Code.ORIGINATION_HOST_WRONG: _kind(
        _CRITICAL,
        URL_CHECK,
        "Our origination URL does not lead to the host and port of LIVEKIT_SIP_URI.",
        steps=(ORIGINATION_URL,),
    ),
    _Code.ORIGINATION_URL_OVERRIDDEN: _kind(
        _CRITICAL, URL_CHECK, "Another origination URL on our trunk takes calls to another host.", Fix.NONE
    ),
    _Code.LIVEKIT_TRUNK_GONE: _kind(
        _CRITICAL, INBOUND_CHECK, "Our LiveKit trunk was deleted.", steps=(INBOUND_TRUNK, DISPATCH_RULE)
    ),
    _Code.LIVEKIT_TRUNK_LOST_NUMBER: _kind(
        _CRITICAL, INBOUND_CHECK, "Our LiveKit trunk no longer has the number.", steps=(INBOUND_TRUNK,)
    ),
    _Code.LIVEKIT_TRUNK_CHANGED: _kind(
        _WARNING, INBOUND_CHECK, "Our LiveKit trunk is set differently.", steps=(INBOUND_TRUNK,)
    ),
    _Code.LIVEKIT_TRUNK_CALLERS: _kind(
        _CRITICAL, INBOUND_CHECK, "Our LiveKit trunk lets only some calls in.", steps=(INBOUND_TRUNK,)
    ),
    _Code.LIVEKIT_TRUNK_OPEN: _kind(
        _WARNING, INBOUND_CHECK, "Our LiveKit trunk takes calls from any address.", steps=(INBOUND_TRUNK,)
    ),
    _Code.LIVEKIT_TRUNK_ENCRYPTION: _kind(
        _CRITICAL,
        INBOUND_CHECK,
        "Our LiveKit trunk requires encrypted media, which the Twilio trunk does not send.",
        steps=(INBOUND_TRUNK,),
    ),
    _Code.LIVEKIT_TRUNK_FOREIGN: _kind(
        _CRITICAL, INBOUND_CHECK, "Another LiveKit trunk also takes the number: LiveKit refuses its calls.", Fix.NONE
    ),
    _Code.RULE_GONE: _kind(_CRITICAL, RULE_CHECK, "Our dispatch rule was deleted.", steps=(DISPATCH_RULE,)),
    _Code.RULE_DEAD_TRUNK: _kind(
        _CRITICAL, RULE_CHECK, "Our dispatch rule does not name our trunk.", steps=(DISPATCH_RULE,)
    ),
    _Code.RULE_LOST_AGENT: _kind(
        _CRITICAL, RULE_CHECK, "Our dispatch rule does not name the agent.", steps=(DISPATCH_RULE,)
    ),
    _Code.RULE_WILDCARD: _kind(
        _WARNING,
        RULE_CHECK,
        "Our dispatch rule names no trunk: it matches every call of the project.",
        steps=(DISPATCH_RULE,),
    ),
    _Code.RULE_FILTERED: _kind(
        _CRITICAL, RULE_CHECK, "Our dispatch rule matches only some callers or numbers.", steps=(DISPATCH_RULE,)
    ),
    _Code.RULE_PIN: _kind(
        _CRITICAL, RULE_CHECK, "Our dispatch rule asks every caller for a PIN.", steps=(DISPATCH_RULE,)
    ),
    _Code.RULE_ENCRYPTION: _kind(
        _CRITICAL,
        RULE_CHECK,
        "Our dispatch rule requires encrypted media, which the Twilio trunk does not send.",
        steps=(DISPATCH_RULE,),
    ),
    _Code.RULE_PRESET: _kind(
        _WARNING,
        RULE_CHECK,
        "Our dispatch rule names a room preset: if the LiveKit server has none of that name, calls fail.",
        Fix.NONE,
    ),
    _Code.RULE_CHANGED: _kind(_WARNING, RULE_CHECK, "Our dispatch rule is set differently.", steps=(DISPATCH_RULE,)),
    _Code.RULE_OVERRIDDEN: _kind(_CRITICAL, RULE_CHECK, "Another dispatch rule takes the calls before ours.", Fix.NONE),
    _Code.RULE_CONFLICT: _kind(
        _CRITICAL, RULE_CHECK, "Dispatch rules contradict each other: LiveKit refuses the calls.", Fix.NONE
    ),
    _Code.RULE_FOREIGN_CATCH_ALL: _kind(
        _FOREIGN,
        RULE_CHECK,
        "Somebody else's dispatch rule names no trunk: it matches every call that no other rule matches.",
        Fix.NONE,
    ),
    _Code.MARK_LOST: _kind(_WARNING, "", "The mark by which Trunkline knows this resource as its own was changed."),
    _Code.TWIN: _kind(_WARNING, "", "A duplicate: a second resource of ours for the same agent.", Fix.DELETE),
    _Code.ORPHAN: _kind(_WARNING, "", "An orphan: a resource of ours that is not in the database.", Fix.DELETE),
    _Code.UNREADABLE: _kind(_WARNING, "", "A resource or its tag cannot be read, so its state is unknown.", Fix.NONE),
}


@dataclass(frozen=True)
class Finding:
    """One reason why calls fail, or one difference between what we want and what a provider has."""

    code: FindingCode
    agent_id: str | None = None
    resource: tuple[str, str] | None = None
    """Step name (the kind of resource) and external id."""
    parent_id: str | None = None
    phone_number: str = ""
    """The number of a LiveKit trunk, by which its deletion is confirmed. Never shown."""
    detail: str = ""
    severity_override: Severity | None = None
    callers: Callers | None = None
    """Whose calls fail; set where the severity is critical."""
    fixed: str = field(default="", compare=False)
    """What `--fix` did about it."""

    @property
    def kind(self) -> FindingKind:
        """The constants of its code."""
        return FINDING_KINDS[self.code]

    @property
    def severity(self) -> Severity:
        """What it means."""
        return self.severity_override or self.kind.severity

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that a repair runs for it."""
        if self.code is FindingCode.TWIN and self.severity is Severity.CRITICAL:
            return (VERIFICATION,)  # it deletes the duplicates that stop calls
        if self.kind.fix not in {Fix.REPAIR, Fix.TAKE_BACK}:
            return ()
        return self.kind.steps or ((self.resource[0],) if self.resource else ())

    @property
    def check(self) -> str:
        """The named check of `verify` that it fails."""
        return check_of(self.code, self.resource[0] if self.resource else "")


def finding_json(finding: Finding) -> dict[str, object]:
    """Return a finding as it is stored and as the API shows it."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "callers": finding.callers,
        "sentence": finding.kind.sentence,
        # It quotes what others wrote at a provider: a SIP URI may contain a number.
        "detail": mask_numbers(finding.detail),
        "fix": finding.kind.fix,
        "fixed": finding.fixed,
        "agentId": finding.agent_id,
        "resource": {"kind": finding.resource[0], "id": finding.resource[1]} if finding.resource else None,
    }


def check_of(code: FindingCode, kind: str) -> str:
    """Return the named check of `verify` that a finding about this kind of resource (step name) fails, or ""."""
    is_of_any_kind = code in {FindingCode.UNREADABLE, FindingCode.MARK_LOST}
    return FINDING_KINDS[code].check or (_CHECK_OF.get(kind, "") if is_of_any_kind else "")


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
    FindingCode.NUMBER_NO_VOICE: "Set the number to receive voice calls in the Twilio console.",
    FindingCode.ORIGINATION_URL_OVERRIDDEN: (
        "Ask whose the other URL is: delete it in the Twilio console, or give it a higher priority number than ours."
    ),
    FindingCode.LIVEKIT_TRUNK_FOREIGN: "Remove the number from the other trunk in LiveKit.",
    FindingCode.RULE_PRESET: "List the server's presets in LIVEKIT_ROOM_PRESETS, or take it out of the rule.",
    FindingCode.RULE_OVERRIDDEN: "Ask whose the other rule is: delete it in LiveKit, or take our trunk out of it.",
    FindingCode.RULE_CONFLICT: "Delete one of the named rules in LiveKit, or narrow it.",
    FindingCode.UNREADABLE: "Check it in the provider's console: the detail says what is wrong with it.",
    FindingCode.RULE_FOREIGN_CATCH_ALL: "Ask its owner to set the rule's trunks, or to delete it in LiveKit.",
}
"""Advice on the findings that a person has to decide."""


def advice_on_finding(code: FindingCode) -> str:
    """Return what fixes a finding."""
    fix = FINDING_KINDS[code].fix
    return _BY_PERSON[code] if fix is Fix.NONE else _BY_FIX[fix]
