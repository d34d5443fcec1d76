"""What an audit may find: the closed list, each with its severity, its sentence and what mends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is for a caller."""

    CRITICAL = "critical"
    """No caller reaches the agent."""
    WARNING = "warning"
    """Calls pass, but something is not as it was built, or costs money for nothing."""


class Health(StrEnum):
    """Whether a provisioned path is as it was built; UNKNOWN until somebody has looked."""

    IN_SYNC = "IN_SYNC"
    DRIFTED = "DRIFTED"
    UNKNOWN = "UNKNOWN"


class AuditStatus(StrEnum):
    """`audits.status`."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Mend(StrEnum):
    """What `--fix` does about a finding."""

    REPAIR = "repair"
    """Rebuild what is missing through the same steps."""
    TAKE_BACK = "take_back"
    """The same, but only with `takeover`: the number belongs to somebody else now."""
    DELETE = "delete"
    """Delete it: it is ours, and no row knows it."""
    NONE = "none"
    """A person decides: it is not ours."""


class FindingCode(StrEnum):
    """The closed list; docs/operations.md says the same in a table."""

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
class Kind:
    """What is fixed about a finding code. `check` is the named check of `verify` that it fails."""

    severity: Severity
    sentence: str
    mend: Mend
    check: str
    steps: tuple[str, ...] = ()
    """The steps whose resource is made right."""


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
"""Kind of resource (step name) -> the check that looks at it."""

_CRITICAL, _WARNING = Severity.CRITICAL, Severity.WARNING
_Code = FindingCode

KINDS: Mapping[FindingCode, Kind] = {
    _Code.NUMBER_GONE: Kind(_CRITICAL, "The Twilio account no longer owns the number.", Mend.NONE, NUMBER_CHECK),
    _Code.NUMBER_DETACHED: Kind(
        _CRITICAL, "The number is on no trunk.", Mend.REPAIR, NUMBER_CHECK, ("twilio_number_attachment",)
    ),
    _Code.NUMBER_MOVED: Kind(
        _CRITICAL,
        "The number was put on somebody else's trunk or application.",
        Mend.TAKE_BACK,
        NUMBER_CHECK,
        ("twilio_number_attachment",),
    ),
    _Code.TRUNK_GONE: Kind(
        _CRITICAL,
        "Our Twilio trunk was deleted.",
        Mend.REPAIR,
        TRUNK_CHECK,
        ("twilio_trunk", "twilio_origination_url", "twilio_number_attachment"),
    ),
    _Code.TRUNK_SECURE: Kind(
        _CRITICAL,
        "The Twilio trunk demands encrypted media, which the LiveKit trunk does not offer.",
        Mend.REPAIR,
        TRUNK_CHECK,
        ("twilio_trunk",),
    ),
    _Code.ORIGINATION_URL_MISSING: Kind(
        _CRITICAL, "Our origination URL was deleted.", Mend.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_URL_DISABLED: Kind(
        _CRITICAL, "Our origination URL is disabled.", Mend.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_URL_CHANGED: Kind(
        _CRITICAL, "Our origination URL was changed.", Mend.REPAIR, URL_CHECK, ("twilio_origination_url",)
    ),
    _Code.ORIGINATION_HOST_WRONG: Kind(
        _CRITICAL,
        "Our origination URL points at a host that is not LIVEKIT_SIP_URI's.",
        Mend.REPAIR,
        URL_CHECK,
        ("twilio_origination_url",),
    ),
    _Code.LIVEKIT_TRUNK_GONE: Kind(
        _CRITICAL,
        "Our LiveKit trunk was deleted.",
        Mend.REPAIR,
        INBOUND_CHECK,
        ("livekit_inbound_trunk", "livekit_dispatch_rule"),
    ),
    _Code.LIVEKIT_TRUNK_LOST_NUMBER: Kind(
        _CRITICAL, "Our LiveKit trunk lost the number.", Mend.REPAIR, INBOUND_CHECK, ("livekit_inbound_trunk",)
    ),
    _Code.LIVEKIT_TRUNK_CHANGED: Kind(
        _CRITICAL,
        "Our LiveKit trunk demands a password, or does not let Twilio call.",
        Mend.REPAIR,
        INBOUND_CHECK,
        ("livekit_inbound_trunk",),
    ),
    _Code.LIVEKIT_TRUNK_FOREIGN: Kind(
        _CRITICAL, "Another LiveKit trunk has the number too: LiveKit refuses its calls.", Mend.NONE, INBOUND_CHECK
    ),
    _Code.RULE_GONE: Kind(
        _CRITICAL, "Our dispatch rule was deleted.", Mend.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_DEAD_TRUNK: Kind(
        _CRITICAL, "Our dispatch rule does not name our trunk.", Mend.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_LOST_AGENT: Kind(
        _CRITICAL, "Our dispatch rule does not name the agent.", Mend.REPAIR, RULE_CHECK, ("livekit_dispatch_rule",)
    ),
    _Code.RULE_WILDCARD: Kind(
        _WARNING,
        "Our dispatch rule names no trunk: it takes every call of the project.",
        Mend.REPAIR,
        RULE_CHECK,
        ("livekit_dispatch_rule",),
    ),
    _Code.RULE_FILTERED: Kind(
        _CRITICAL,
        "Our dispatch rule takes only some callers or numbers.",
        Mend.REPAIR,
        RULE_CHECK,
        ("livekit_dispatch_rule",),
    ),
    _Code.RULE_FOREIGN_CATCH_ALL: Kind(
        _WARNING,
        "Somebody else's dispatch rule names no trunk: it takes every call that no other rule does.",
        Mend.NONE,
        RULE_CHECK,
    ),
    _Code.TWIN: Kind(_WARNING, "A second resource of ours for the same agent.", Mend.DELETE, ""),
    _Code.ORPHAN: Kind(_WARNING, "A resource of ours that no row knows.", Mend.DELETE, ""),
    _Code.UNREADABLE: Kind(
        _WARNING, "A resource cannot be read, or its mark cannot: nothing is known of it.", Mend.NONE, ""
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    code: FindingCode
    agent_id: str | None = None
    resource: tuple[str, str] | None = None
    """Step name (the kind of resource) and external id."""
    parent_id: str | None = None
    phone_number: str = ""
    """The number that a LiveKit trunk has: where its deletion is confirmed. Never shown."""
    detail: str = ""
    fixed: str = field(default="", compare=False)
    """What `--fix` did about it."""

    @property
    def kind(self) -> Kind:
        """What is fixed about the code."""
        return KINDS[self.code]

    @property
    def check(self) -> str:
        """The named check of `verify` that it fails."""
        return check_of(self.code, self.resource[0] if self.resource else "")


def check_of(code: FindingCode, kind: str) -> str:
    """Return the named check of `verify` that a finding about this kind of resource (step name) fails, or ""."""
    return KINDS[code].check or (_CHECK_OF.get(kind, "") if code is FindingCode.UNREADABLE else "")
