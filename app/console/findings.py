"""What is wrong, as the pages show it: an error with its advice, the named checks of a path, an audit's findings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.api.operation_views import Failure, PhoneView
from app.api.problems import KINDS as PROBLEMS
from app.console.words import CHECK_WORDS, Badge, Tone, badge, step_words
from app.domain.advice import ADVICE, advice_on_finding
from app.domain.errors import ErrorCode, RefusedError
from app.domain.findings import KINDS, FindingCode, Health, Severity, check_of

MOST_SHOWN = 200
"""Findings of one report on the page: beyond that they are a single cause, and the API has them all."""

_SEVERITY: Mapping[Severity, Badge] = {
    Severity.CRITICAL: Badge("Critical", Tone.BAD),
    Severity.WARNING: Badge("Warning", Tone.WARN),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error for a person: what, why, and what to do."""

    title: str
    detail: str
    advice: str
    code: str


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of a path."""

    words: str
    state: Badge


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One finding, with what mends it and what was done."""

    sentence: str
    detail: str
    severity: Badge
    advice: str
    code: str
    agent_id: str | None
    resource: str | None
    resource_id: str | None
    fixed: str


@dataclass(frozen=True, slots=True)
class HealthCard:
    """What the last look at the providers found of one path."""

    state: Badge
    checked_at: datetime | None
    checks: Sequence[Check]
    findings: Sequence[FindingLine]


def trouble_of(error: RefusedError | Failure | None) -> Trouble | None:
    """Put an error into a person's words."""
    if error is None:
        return None
    code = ErrorCode(error.code)
    return Trouble(PROBLEMS[code].title, error.detail, ADVICE[code], code)


def health_card(phone: PhoneView) -> HealthCard:
    """Read the agent's health off its row; without a path that stands there is nothing to check."""
    agent = phone.agent
    health = agent.health_state if phone.has_phone else Health.UNKNOWN
    found = (agent.health_findings or []) if phone.has_phone else []
    lines = [finding_line(finding) for finding in found]
    failed = {check_of(FindingCode(one["code"]), (one["resource"] or {}).get("kind", "")) for one in found}
    is_known = phone.has_phone and agent.health_checked_at is not None
    checks = [Check(text, _check_state(name in failed, is_known=is_known)) for name, text in CHECK_WORDS.items()]
    return HealthCard(badge(health), agent.health_checked_at if phone.has_phone else None, checks, lines)


def finding_line(finding: Mapping[str, Any]) -> FindingLine:
    """Put a stored finding into a person's words."""
    code, resource = FindingCode(finding["code"]), finding["resource"]
    return FindingLine(
        sentence=finding["sentence"],
        detail=finding["detail"],
        severity=_SEVERITY[KINDS[code].severity],
        advice=advice_on_finding(code),
        code=code,
        agent_id=finding["agentId"],
        resource=step_words(resource["kind"]) if resource else None,
        resource_id=resource["id"] if resource else None,
        fixed=finding["fixed"],
    )


def worst_first(findings: Sequence[Mapping[str, Any]]) -> list[FindingLine]:
    """Return up to `MOST_SHOWN` findings, critical ones first."""
    lines = [finding_line(finding) for finding in findings]
    return sorted(lines, key=lambda line: line.severity.tone is not Tone.BAD)[:MOST_SHOWN]


def _check_state(has_failed: bool, *, is_known: bool) -> Badge:
    if not is_known:
        return Badge("Not checked", Tone.QUIET)
    return Badge("Broken", Tone.BAD) if has_failed else Badge("OK", Tone.GOOD)
