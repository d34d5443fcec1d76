"""The closed list of findings, each with its severity, sentence, fix and advice, and what findings say of a path."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.domain.numbers import mask_numbers
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    STEP_BY_NAME,
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
    TRUNK_FOREIGN_NUMBER = "trunk_foreign_number"
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
    stops_after: bool = False
    """Whether calls stop on their way out of the resource that the check is about, not on their way into it."""
    critical_fix: Fix | None = None
    """What `--fix` does where calls fail by it, if that is something else."""


NUMBER_CHECK = "number_on_trunk"
TRUNK_CHECK = "twilio_trunk"
URL_CHECK = "origination_url"
INBOUND_CHECK = "livekit_inbound_trunk"
RULE_CHECK = "dispatch_rule"

CHECK_OF = {
    NUMBER: NUMBER_CHECK,
    TRUNK: TRUNK_CHECK,
    ORIGINATION_URL: URL_CHECK,
    INBOUND_TRUNK: INBOUND_CHECK,
    DISPATCH_RULE: RULE_CHECK,
}
"""Kind of resource (step name) -> the check that covers it, in the order in which a call passes them."""

CHECKS = tuple(CHECK_OF.values())

_CRITICAL, _WARNING, _FOREIGN = Severity.CRITICAL, Severity.WARNING, Severity.FOREIGN
_Code = FindingCode


def _kind(
    severity: Severity,
    check: str,
    sentence: str,
    fix: Fix = Fix.REPAIR,
    steps: tuple[str, ...] = (),
    *,
    stops_after: bool = False,
    critical_fix: Fix | None = None,
) -> FindingKind:
    return FindingKind(severity, sentence, fix, check, steps, stops_after, critical_fix)


FINDING_KINDS: Mapping[FindingCode, FindingKind] = {
    _Code.NUMBER_GONE: _kind(_CRITICAL, NUMBER_CHECK, "The Twilio account no longer owns the number.", Fix.NONE),
    _Code.NUMBER_DETACHED: _kind(
        _CRITICAL, NUMBER_CHECK, "The number is on no trunk.", steps=(NUMBER_ATTACHMENT,), stops_after=True
    ),
    _Code.NUMBER_MOVED: _kind(
        _CRITICAL,
        NUMBER_CHECK,
        "The number was moved to somebody else's trunk or application.",
        Fix.TAKE_BACK,
        (NUMBER_ATTACHMENT,),
        stops_after=True,
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
        stops_after=True,
    ),
    _Code.TRUNK_CHANGED: _kind(_WARNING, TRUNK_CHECK, "Our Twilio trunk is set differently.", steps=(TRUNK,)),
    _Code.TRUNK_FOREIGN_NUMBER: _kind(
        _FOREIGN, TRUNK_CHECK, "A number that no agent of ours has is on a trunk that our numbers share.", Fix.NONE
    ),
    _Code.ORIGINATION_URL_MISSING: _kind(
        _CRITICAL, URL_CHECK, "Our origination URL was deleted.", steps=(ORIGINATION_URL,)
    ),
    _Code.ORIGINATION_URL_DISABLED: _kind(
        _CRITICAL, URL_CHECK, "Our origination URL is disabled.", steps=(ORIGINATION_URL,)
    ),
    _Code.ORIGINATION_URL_CHANGED: _kind(
        _WARNING, URL_CHECK, "Our origination URL was changed.", steps=(ORIGINATION_URL,), stops_after=True
    ),
    _Code.ORIGINATION_HOST_WRONG: _kind(
        _CRITICAL,
        URL_CHECK,
        "Our origination URL does not lead to the host and port of LIVEKIT_SIP_URI.",
        steps=(ORIGINATION_URL,),
        stops_after=True,
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
        _CRITICAL, RULE_CHECK, "Our dispatch rule does not name the agent.", steps=(DISPATCH_RULE,), stops_after=True
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
        (DISPATCH_RULE,),
        stops_after=True,
        critical_fix=Fix.REPAIR,
    ),
    _Code.RULE_CHANGED: _kind(
        _WARNING, RULE_CHECK, "Our dispatch rule is set differently.", steps=(DISPATCH_RULE,), stops_after=True
    ),
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
    _Code.TWIN: _kind(
        _WARNING,
        "",
        "A duplicate: a second resource of ours for the same agent.",
        Fix.DELETE,
        (VERIFICATION,),  # it deletes the duplicates that stop calls
        critical_fix=Fix.REPAIR,
    ),
    _Code.ORPHAN: _kind(_WARNING, "", "An orphan: a resource of ours that is not in the database.", Fix.DELETE),
    _Code.UNREADABLE: _kind(_WARNING, "", "A resource or its tag cannot be read, so its state is unknown.", Fix.NONE),
}


@dataclass(frozen=True)
class Finding:
    """One reason why calls fail, or one difference between what we want and what a provider has."""

    code: FindingCode
    agent_id: str | None = None
    """The agent concerned; the first of them where it is about a trunk that many share."""
    resource: tuple[str, str] | None = None
    """Step name (the kind of resource) and external id."""
    parent_id: str | None = None
    phone_number: str = ""
    """The number of a LiveKit trunk, by which its deletion is confirmed. Never shown."""
    detail: str = ""
    severity_override: Severity | None = None
    callers: Callers | None = None
    """Whose calls fail; set where the severity is critical."""
    agent_ids: tuple[str, ...] = ()
    """All agents concerned, where they share the trunk that it is about; empty: `agent_id` alone."""
    is_anothers: bool = False
    """Whether it is about an adopted object that other numbers use too: Trunkline does not change it."""
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
    def fix(self) -> Fix:
        """What `--fix` does about it."""
        if self.is_anothers:
            return Fix.NONE
        return (self.severity is Severity.CRITICAL and self.kind.critical_fix) or self.kind.fix

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that a repair runs for it."""
        if self.fix not in {Fix.REPAIR, Fix.TAKE_BACK}:
            return ()
        return self.kind.steps or ((self.resource[0],) if self.resource else ())

    @property
    def check(self) -> str:
        """The named check of `verify` that it fails; empty where it concerns no single part of a path."""
        return self.kind.check or CHECK_OF.get(self.resource[0] if self.resource else "", "")

    @property
    def is_about_trunk(self) -> bool:
        """Whether it is about a Twilio trunk or its origination URLs, which numbers may share."""
        return self.resource is not None and self.resource[0] in {TRUNK, ORIGINATION_URL}

    @property
    def concerned(self) -> tuple[str, ...]:
        """The ids of all agents that it concerns."""
        return self.agent_ids or ((self.agent_id,) if self.agent_id else ())

    @property
    def is_for_a_person(self) -> bool:
        """Whether calls fail by it and a repair cannot help: what has to change is not ours."""
        return self.severity is Severity.CRITICAL and not self.steps

    @property
    def is_fixed(self) -> bool:
        """Whether `--fix` has deleted it, or queued its repair."""
        return bool(self.fixed) and not self.fixed.startswith("not ")

    @property
    def label(self) -> str:
        """Its severity in a word or two."""
        if self.severity is Severity.CRITICAL:
            return "Some calls fail" if self.callers is Callers.SOME else "Calls fail"
        if self.severity is Severity.FOREIGN:
            return "Someone else's"
        return _WARNING_LABELS.get(self.code, "Changed")

    @property
    def text(self) -> str:
        """What is wrong; numbers masked, since it quotes what others wrote at a provider."""
        return f"{self.kind.sentence} {mask_numbers(self.detail)}".strip()

    @property
    def about(self) -> str:
        """The resource that it concerns, as in `Dispatch rule SDR_abc`; empty without one."""
        if self.resource is None:
            return ""
        kind, external_id = self.resource
        return f"{STEP_BY_NAME[kind].label if kind in STEP_BY_NAME else kind} {external_id}"

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.is_anothers:
            return "Other numbers use it too, so that Trunkline leaves it alone: put it right at its provider."
        return _BY_PERSON[self.code] if self.fix is Fix.NONE else _BY_FIX[self.fix]

    @property
    def cause(self) -> str:
        """What is wrong, and with which object."""
        is_named = self.resource is None or self.resource[1] in self.text
        return self.text if is_named else f"{self.text} ({self.about})"

    @property
    def instruction(self) -> str:
        """The cause and the advice, for somebody who sees nothing else."""
        return f"{self.cause} {self.advice}"


_WARNING_LABELS: Mapping[FindingCode, str] = {
    _Code.TWIN: "Left over",
    _Code.ORPHAN: "Left over",
    _Code.UNREADABLE: "Not readable",
}


def finding_json(finding: Finding) -> dict[str, object]:
    """Return a finding as it is stored and as the API shows it."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "callers": finding.callers,
        "sentence": finding.kind.sentence,
        # It quotes what others wrote at a provider: a SIP URI may contain a number.
        "detail": mask_numbers(finding.detail),
        "fix": finding.fix,
        "fixed": finding.fixed,
        "agentId": finding.agent_id,
        "agentIds": list(finding.concerned),
        "resource": {"kind": finding.resource[0], "id": finding.resource[1]} if finding.resource else None,
    }


def stored_finding(stored: Mapping[str, Any]) -> Finding:
    """Return the finding that `finding_json` was made of, also by a release that stored less.

    In an upgrade, workers may store codes that the web process does not know yet: such a finding keeps its meaning.
    """
    resource, callers = stored.get("resource"), stored.get("callers")
    severity, code, detail = stored.get("severity"), str(stored["code"]), stored.get("detail") or ""
    is_known, agent_ids = code in list(FindingCode), stored.get("agentIds") or ()
    found = Finding(
        FindingCode(code) if is_known else FindingCode.UNREADABLE,
        stored.get("agentId"),
        (resource["kind"], resource["id"]) if resource else None,
        detail=detail if is_known else f"A later release found {code}: {stored.get('sentence')} {detail}".strip(),
        severity_override=Severity(severity) if severity else None,
        callers=Callers(callers) if callers else None,
        agent_ids=tuple(agent_ids) if len(agent_ids) > 1 else (),
        fixed=stored.get("fixed") or "",
    )
    return replace(found, is_anothers=stored.get("fix") == Fix.NONE and found.fix is not Fix.NONE)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort: where all calls fail, where some do, what is not as we made it, what is someone else's."""
    severities = list(Severity)
    return sorted(findings, key=lambda one: (severities.index(one.severity), one.callers is Callers.SOME))


def one_for_each_trunk(findings: Iterable[Finding], trunk_of: Mapping[str, str]) -> list[Finding]:
    """Return the findings with one of each code and object for all agents that share a trunk, the worst of them.

    `trunk_of`: agent id -> the sid of the trunk that it shares. Where that is gone, it says also that their numbers are
    on no trunk: Twilio detaches them with it.
    """
    found = list(findings)
    gone = {
        (FindingCode.TRUNK_GONE, (TRUNK, trunk_of[one.agent_id or ""]))
        for one in found
        if one.code is FindingCode.TRUNK_GONE and one.agent_id in trunk_of
    }
    merged: dict[object, list[Finding]] = {}
    for one in found:
        trunk_sid = trunk_of.get(one.agent_id or "")
        if one.code is FindingCode.NUMBER_DETACHED and (FindingCode.TRUNK_GONE, (TRUNK, trunk_sid)) in gone:
            continue
        key = (one.code, one.resource) if trunk_sid and one.is_about_trunk else object()
        merged.setdefault(key, []).append(one)
    return [_of_all(alike) for alike in merged.values()]


def _of_all(alike: Sequence[Finding]) -> Finding:
    """Return the worst of findings about one object, as one of all their agents."""
    if len(alike) == 1:
        return alike[0]
    agent_ids = tuple(sorted({agent_id for one in alike for agent_id in one.concerned}))
    return replace(worst_first(alike)[0], agent_id=agent_ids[0], agent_ids=agent_ids)


def failing_callers(findings: Iterable[Finding]) -> Callers | None:
    """Return whose calls fail; None where nobody's do."""
    critical = [finding for finding in findings if finding.severity is Severity.CRITICAL]
    if not critical:
        return None
    return Callers.SOME if all(finding.callers is Callers.SOME for finding in critical) else Callers.ALL


def failed_checks(findings: Iterable[Finding]) -> Mapping[str, Sequence[Finding]]:
    """Return the named checks that are not passed, each with the findings that fail it.

    What is someone else's fails none; what concerns no single part of the path fails all.
    """
    failed: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity is not Severity.FOREIGN:
            for check in (finding.check,) if finding.check else CHECKS:
                failed.setdefault(check, []).append(finding)
    return failed


def health_of(findings: Iterable[Finding]) -> Health:
    """Return the health that an agent with these findings has."""
    return Health.DRIFTED if failed_checks(findings) else Health.IN_SYNC


_BY_FIX: Mapping[Fix, str] = {
    Fix.REPAIR: "Repair fixes it.",
    Fix.TAKE_BACK: "Only with takeover does a repair take the number back.",
    Fix.DELETE: "An audit with fix deletes it once it is old enough.",
}

_BY_PERSON: Mapping[FindingCode, str] = {
    FindingCode.NUMBER_GONE: "Deprovision the agent, or buy the number again.",
    FindingCode.NUMBER_NO_VOICE: "Set the number to receive voice calls in the Twilio console.",
    FindingCode.TRUNK_FOREIGN_NUMBER: "Ask whose it is: give it to an agent with takeover, or take it off the trunk.",
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


def calls_in_words(findings: Iterable[Finding]) -> str:
    """Return what findings about one path say of its calls."""
    found = list(findings)
    if callers := failing_callers(found):
        return "Some calls fail." if callers is Callers.SOME else "Calls fail."
    return "No call is known to fail, but the path is not as we made it." if failed_checks(found) else PASSED


PASSED = "Every check passed."


def all_calls_in_words(findings: Iterable[Finding]) -> str:
    """Return what findings about many paths say of their calls."""
    paths: dict[str, list[Finding]] = {}
    for finding in findings:
        for agent_id in finding.concerned or ("",):
            paths.setdefault(agent_id, []).append(finding)
    failing = Counter(failing_callers(path) for path in paths.values())
    counts = [(failing[Callers.ALL], "calls to"), (failing[Callers.SOME], "some calls to")]
    parts = [f"{words} {count:,} agent{'s' if count > 1 else ''}" for count, words in counts if count]
    return f"{' and '.join(parts)} fail.".capitalize() if parts else "No call is known to fail."
