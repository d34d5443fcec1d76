"""What findings say of calls, checks and repairs: the rules that API, console and command line share."""

import uuid
from datetime import UTC, datetime

import pytest

from app.domain.errors import ErrorCode, RefusedError
from app.domain.findings import (
    CHECKS,
    Callers,
    Finding,
    FindingCode,
    Fix,
    Health,
    Severity,
    all_calls_in_words,
    calls_in_words,
    failed_checks,
    failing_callers,
    finding_json,
    health_of,
    stored_finding,
    worst_first,
)
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, VERIFICATION
from app.numbers.maintenance import RepairResult, VerifyResult, steps_to_repair
from app.views.operation_schemas import FindingOut
from app.views.operations import repair_message, verification_body

_Code = FindingCode

PIN = Finding(_Code.RULE_PIN, "a", (DISPATCH_RULE, "SDR_1"), callers=Callers.ALL)
SOME = Finding(_Code.RULE_FILTERED, "b", (DISPATCH_RULE, "SDR_2"), detail="Affected: some.", callers=Callers.SOME)
CHANGED = Finding(_Code.TRUNK_CHANGED, "a", detail="Its mode.")
UNREADABLE = Finding(_Code.UNREADABLE, "a", (DISPATCH_RULE, "SDR_3"), severity_override=Severity.WARNING)
FOREIGN_TRUNK = Finding(_Code.LIVEKIT_TRUNK_FOREIGN, "a", (INBOUND_TRUNK, "ST_9"), callers=Callers.ALL)
OTHER_URL = Finding(_Code.ORIGINATION_URL_OVERRIDDEN, "a", callers=Callers.ALL)
GONE = Finding(_Code.NUMBER_GONE, "a", (NUMBER, "PN1"), callers=Callers.ALL)
MOVED = Finding(_Code.NUMBER_MOVED, "a", (NUMBER, "PN1"), detail="Now on TK9.", callers=Callers.ALL)
PRESET = Finding(_Code.RULE_PRESET, "a", (DISPATCH_RULE, "SDR_1"), detail="It is lobby.")
CATCH_ALL = Finding(_Code.RULE_FOREIGN_CATCH_ALL, None, (DISPATCH_RULE, "SDR_8"))


def test_a_finding_is_stored_whole() -> None:
    for finding in (PIN, SOME, CHANGED, UNREADABLE, CATCH_ALL):
        back = stored_finding(finding_json(finding))
        assert (back, back.severity, back.fix) == (
            Finding(
                finding.code,
                finding.agent_id,
                finding.resource,
                detail=finding.detail,
                severity_override=finding.severity,
                callers=finding.callers,
            ),
            finding.severity,
            finding.fix,
        )


def test_a_finding_of_an_earlier_release_is_shown_by_the_api() -> None:
    stored = finding_json(PIN)
    del stored["callers"]

    assert FindingOut().dump(stored)["callers"] is None
    assert FindingOut().dump(finding_json(SOME))["callers"] == "some"
    assert (stored_finding(stored).severity, failing_callers([stored_finding(stored)])) == (
        Severity.CRITICAL,
        Callers.ALL,
    )


def test_the_worst_comes_first() -> None:
    assert worst_first([CATCH_ALL, CHANGED, SOME, PIN]) == [PIN, SOME, CHANGED, CATCH_ALL]


@pytest.mark.parametrize(
    ("findings", "callers", "words", "health"),
    [
        ((), None, "Every check passed.", Health.IN_SYNC),
        ((CATCH_ALL,), None, "Every check passed.", Health.IN_SYNC),
        ((CHANGED,), None, "No call is known to fail, but the path is not as we made it.", Health.DRIFTED),
        ((UNREADABLE,), None, "No call is known to fail, but the path is not as we made it.", Health.DRIFTED),
        ((CHANGED, SOME), Callers.SOME, "Some calls fail.", Health.DRIFTED),
        ((SOME, PIN), Callers.ALL, "Calls fail.", Health.DRIFTED),
    ],
)
def test_findings_say_first_whether_calls_fail(
    findings: tuple[Finding, ...], callers: Callers | None, words: str, health: Health
) -> None:
    assert (failing_callers(findings), calls_in_words(findings), health_of(findings)) == (callers, words, health)


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ((CHANGED, CATCH_ALL), "No call is known to fail."),
        ((PIN, FOREIGN_TRUNK), "Calls to 1 agent fail."),
        ((PIN, SOME), "Calls to 1 agent and some calls to 1 agent fail."),
    ],
)
def test_a_report_says_first_how_many_agents_calls_fail(findings: tuple[Finding, ...], words: str) -> None:
    assert all_calls_in_words(findings) == words


def test_a_check_fails_by_calls_and_by_changes_and_by_nothing_of_others() -> None:
    twin = Finding(_Code.TWIN, "a", (INBOUND_TRUNK, "ST_2"), severity_override=Severity.CRITICAL, callers=Callers.ALL)

    assert set(failed_checks([PIN, CHANGED, CATCH_ALL])) == {"dispatch_rule", "twilio_trunk"}
    assert set(failed_checks([twin])) == {"livekit_inbound_trunk"}
    assert set(failed_checks([Finding(_Code.UNREADABLE, "a")])) == set(CHECKS)


def test_a_verification_tells_the_checks_and_why_they_fail() -> None:
    findings = [PIN, CATCH_ALL]
    checks = {name: name not in failed_checks(findings) for name in CHECKS}

    body = verification_body(VerifyResult(checks, findings, health_of(findings), datetime(2026, 11, 24, tzinfo=UTC)))

    assert body["success"] is False
    assert [(one["name"], one["detail"]) for one in body["checks"] if not one["ok"]] == [
        ("dispatch_rule", "Our dispatch rule asks every caller for a PIN.")
    ]


@pytest.mark.parametrize(
    ("findings", "code", "detail"),
    [
        (
            [FOREIGN_TRUNK, OTHER_URL],
            ErrorCode.NOT_OURS_TO_REPAIR,
            f"{FOREIGN_TRUNK.text} (LiveKit trunk ST_9) {FOREIGN_TRUNK.advice} {OTHER_URL.text} {OTHER_URL.advice}",
        ),
        (
            [MOVED, PIN],
            ErrorCode.NUMBER_ALREADY_ROUTED,
            f"{MOVED.text} (Twilio number PN1) Only with takeover does a repair take the number back.",
        ),
        ([GONE, PIN], ErrorCode.NUMBER_NOT_IN_ACCOUNT, f"{GONE.text} (Twilio number PN1) {GONE.advice}"),
    ],
)
def test_a_repair_that_cannot_help_is_refused_by_name(findings: list[Finding], code: ErrorCode, detail: str) -> None:
    with pytest.raises(RefusedError) as refused:
        steps_to_repair(findings, takeover=False)

    assert (refused.value.code, str(refused.value)) == (code, detail)


def test_a_repair_runs_the_steps_of_what_is_ours() -> None:
    assert steps_to_repair([], takeover=False) == frozenset()
    assert steps_to_repair([PRESET, UNREADABLE, CATCH_ALL], takeover=False) == frozenset()
    assert steps_to_repair([PIN, FOREIGN_TRUNK], takeover=False) == {DISPATCH_RULE}
    assert steps_to_repair([MOVED], takeover=True) == {"twilio_number_attachment"}


@pytest.mark.parametrize(
    ("code", "usual", "steps"),
    [(_Code.TWIN, Fix.DELETE, {VERIFICATION}), (_Code.RULE_PRESET, Fix.NONE, {DISPATCH_RULE})],
)
def test_some_findings_are_repaired_only_where_calls_fail_by_them(
    code: FindingCode, usual: Fix, steps: set[str]
) -> None:
    harmless = Finding(code, "a", (DISPATCH_RULE, "SDR_1"), severity_override=Severity.WARNING)
    harmful = Finding(code, "a", (DISPATCH_RULE, "SDR_1"), severity_override=Severity.CRITICAL)

    assert (harmless.fix, harmless.steps, finding_json(harmless)["fix"]) == (usual, (), usual)
    assert (harmful.fix, set(harmful.steps), harmful.advice) == (Fix.REPAIR, steps, "Repair fixes it.")
    assert not harmful.is_for_a_person


def test_nothing_to_repair_names_what_is_left_to_a_person() -> None:
    assert repair_message(RepairResult(None), "Nothing to repair.") == "Nothing to repair."
    assert repair_message(RepairResult(None, [PRESET]), "Nothing to repair.") == (
        f"Nothing that a repair can change. {PRESET.text} (Dispatch rule SDR_1) {PRESET.advice}"
    )


def test_an_object_that_the_detail_names_is_named_once() -> None:
    named = Finding(_Code.RULE_OVERRIDDEN, "a", (DISPATCH_RULE, "SDR_7"), detail="SDR_7 is matched before ours.")

    assert named.cause == f"{named.kind.sentence} SDR_7 is matched before ours."
    assert PIN.cause == f"{PIN.kind.sentence} (Dispatch rule SDR_1)"


def test_a_number_in_a_detail_is_masked_wherever_it_is_told() -> None:
    quoted = Finding(_Code.RULE_FILTERED, str(uuid.uuid4()), detail="Callers +15145551234.")

    assert "+15145551234" not in quoted.text + quoted.instruction + str(finding_json(quoted))
