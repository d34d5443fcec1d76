"""What the console's pages show of the rows: timelines, paths, actions and labels."""

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.console.operation_pages import agent_actions, build_timeline, can_retry
from app.console.path_diagram import build_path_diagram
from app.console.presentation import (
    badge,
    error_notice,
    event_count,
    exact_utc,
    format_count,
    format_duration,
    health_badge,
    health_card,
    number_badge,
    severity_counts,
    tick_label,
    utc,
)
from app.db.models import Agent, Event, Operation, OperationStep
from app.db.queries import MAX_TIMELINE
from app.domain.errors import ADVICE, ErrorCode, RefusedError
from app.domain.events import DeliveryStatus, EventName
from app.domain.findings import (
    FINDING_KINDS,
    Callers,
    Finding,
    FindingCode,
    Health,
    Severity,
    finding_json,
    health_of,
)
from app.domain.operations import (
    INBOUND_TRUNK,
    STEPS,
    BulkStatus,
    ItemStatus,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.views.operations import OperationView, PhoneView

START = datetime(2026, 11, 24, 9, tzinfo=UTC)
TRUNK = "twilio_trunk"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def event(seconds: float, name: EventName, step: str | None = TRUNK, **detail: Any) -> Event:
    return Event(step=step, event=name, detail=detail, at=at(seconds))


def make_operation(
    *events: Event,
    status: OperationStatus = OperationStatus.RUNNING,
    kind: OperationKind = OperationKind.PROVISION,
    states: dict[str, StepState] | None = None,
    ended_s: float | None = None,
    step_started_s: float | None = None,
) -> OperationView:
    row = Operation(kind=kind, status=status, created_at=START, finished_at=None if ended_s is None else at(ended_s))
    for position, step in enumerate(STEPS):
        state = (states or {}).get(step.name, StepState.PENDING)
        row.steps.append(OperationStep(name=step.name, position=position, state=state, attempts=0))
    if step_started_s is not None:
        row.steps[1].started_at = at(step_started_s)
    return OperationView.of(row, events)


_Code = FindingCode


def failing(code: FindingCode, callers: Callers = Callers.ALL) -> Finding:
    return Finding(code, severity_override=Severity.CRITICAL, callers=callers)


def changed(code: FindingCode) -> Finding:
    return Finding(code, severity_override=Severity.WARNING)


def make_agent(status: PhoneStatus, *findings: Finding) -> Agent:
    return Agent(
        id=uuid.uuid4(),
        name="desk",
        livekit_agent_name="desk",
        phone_provisioning_status=status,
        health_state=health_of(findings),
        health_checked_at=START,
        health_findings=[finding_json(finding) for finding in findings],
    )


def timeline_row(operation: OperationView, now_s: float = 10) -> Any:
    return next(one for one in build_timeline(operation, at(now_s)).rows if one.label == "Twilio trunk")


def test_a_step_that_waits_and_tries_again_is_three_bars() -> None:
    operation = make_operation(
        event(1, EventName.STEP_STARTED, attempt=1),
        event(2, EventName.STEP_RESTS, reason="Twilio does not answer."),
        event(6, EventName.STEP_STARTED, attempt=2),
        event(10, EventName.STEP_DONE),
        status=OperationStatus.SUCCEEDED,
        ended_s=10,
    )

    found = timeline_row(operation)

    assert [(bar.x, bar.width, bar.style) for bar in found.bars] == [
        (10, 10, "work"),
        (20, 40, "wait"),
        (60, 40, "work"),
    ]
    assert (found.attempts, found.duration) == (2, "5.0 s")
    assert "Twilio does not answer." in found.bars[1].label


def test_a_failure_and_an_undo_have_their_own_bars() -> None:
    operation = make_operation(
        event(1, EventName.STEP_STARTED),
        event(5, EventName.STEP_FAILED, reason="no"),
        event(5, EventName.OPERATION_TURNED, None),
        event(6, EventName.STEP_UNDOING),
        event(8, EventName.STEP_UNDONE),
        status=OperationStatus.FAILED,
        states={TRUNK: StepState.UNDONE},
        ended_s=10,
        step_started_s=6,
    )

    found = timeline_row(operation)

    assert [bar.style for bar in found.bars] == ["fail", "undo"]
    assert (found.state.label, found.note) == ("Failed", "no")
    assert build_timeline(operation, at(99)).rollback_starts == [50]
    never = build_timeline(operation, at(99)).rows[0]
    assert never.state.label == "Waiting"


def test_an_open_bar_reaches_to_now() -> None:
    operation = make_operation(event(2, EventName.STEP_STARTED), states={TRUNK: StepState.RUNNING})

    found = timeline_row(operation, now_s=8)

    assert [(bar.x, bar.width, bar.is_open) for bar in found.bars] == [(25, 75, True)]


def test_a_bar_is_visible_however_short_and_stays_within_its_row() -> None:
    operation = make_operation(
        event(10, EventName.STEP_STARTED), event(10, EventName.STEP_DONE), status=OperationStatus.SUCCEEDED, ended_s=10
    )

    bar = timeline_row(operation).bars[0]

    assert bar.width > 0
    assert bar.x + bar.width <= 100


def test_a_deprovisioning_lists_its_steps_in_the_order_in_which_they_run() -> None:
    rows = build_timeline(make_operation(kind=OperationKind.DEPROVISION), at(1)).rows

    assert [one.label for one in rows[-2:]] == ["Twilio trunk", "Twilio number"]


def test_an_operation_without_events_has_a_timeline() -> None:
    assert build_timeline(make_operation(), START).summary == "Running. 0 of 7 steps done."


def tones(agent: Agent, operation: OperationView | None = None) -> list[str]:
    return [hop.link.tone.value for hop in build_path_diagram(PhoneView.of(agent, operation))]


def test_a_path_in_sync_is_green_and_none_is_grey() -> None:
    assert tones(make_agent(PhoneStatus.PROVISIONED)) == ["good"] * 6
    assert tones(make_agent(PhoneStatus.NOT_PROVISIONED)) == ["quiet"] * 6


OF_A_PATH = [code for code in FindingCode if FINDING_KINDS[code].check]


@pytest.mark.parametrize("code", OF_A_PATH)
@pytest.mark.parametrize(("severity", "tone"), [(Severity.CRITICAL, "bad"), (Severity.WARNING, "warn")])
def test_a_finding_marks_one_link_by_what_it_means(code: FindingCode, severity: Severity, tone: str) -> None:
    found = tones(make_agent(PhoneStatus.PROVISIONED, Finding(code, severity_override=severity)))

    assert sorted(found) == sorted([tone, *["good"] * 5])


@pytest.mark.parametrize(
    ("code", "link"),
    [
        (_Code.NUMBER_GONE, 0),
        (_Code.NUMBER_NO_VOICE, 0),
        (_Code.NUMBER_DETACHED, 1),
        (_Code.NUMBER_MOVED, 1),
        (_Code.TRUNK_GONE, 1),
        (_Code.TRUNK_SECURE, 2),
        (_Code.ORIGINATION_URL_DISABLED, 2),
        (_Code.ORIGINATION_URL_OVERRIDDEN, 2),
        (_Code.ORIGINATION_HOST_WRONG, 3),
        (_Code.LIVEKIT_TRUNK_GONE, 3),
        (_Code.LIVEKIT_TRUNK_FOREIGN, 3),
        (_Code.RULE_DEAD_TRUNK, 4),
        (_Code.RULE_OVERRIDDEN, 4),
        (_Code.RULE_PIN, 4),
        (_Code.RULE_LOST_AGENT, 5),
        (_Code.RULE_PRESET, 5),
    ],
)
def test_a_link_is_broken_where_the_call_stops(code: FindingCode, link: int) -> None:
    assert tones(make_agent(PhoneStatus.PROVISIONED, failing(code))).index("bad") == link


def test_the_worst_finding_decides_about_a_link() -> None:
    agent = make_agent(
        PhoneStatus.PROVISIONED,
        changed(_Code.RULE_WILDCARD),
        failing(_Code.RULE_FILTERED, Callers.SOME),
        Finding(_Code.RULE_FOREIGN_CATCH_ALL),
    )

    assert tones(agent) == ["good"] * 4 + ["bad", "good"]
    assert build_path_diagram(PhoneView.of(agent, None))[4].link.label == "Some calls fail"


def test_what_is_someone_elses_breaks_no_link_and_fails_no_check() -> None:
    agent = make_agent(PhoneStatus.PROVISIONED, Finding(_Code.RULE_FOREIGN_CATCH_ALL))

    card = health_card(PhoneView.of(agent, None))

    assert tones(agent) == ["good"] * 6
    assert (card.state.label, {check.state.label for check in card.checks}) == ("In sync", {"OK"})
    assert [line.severity.label for line in card.findings] == ["Someone else's"]


def test_a_resource_that_cannot_be_read_marks_its_own_link() -> None:
    unreadable = Finding(_Code.UNREADABLE, resource=(INBOUND_TRUNK, "ST_aaaaaaaaaaaa"))

    assert tones(make_agent(PhoneStatus.PROVISIONED, unreadable)) == ["good"] * 3 + ["warn", "good", "good"]


def test_during_provisioning_each_link_shows_the_state_of_its_step() -> None:
    states = {"twilio_number": StepState.DONE, TRUNK: StepState.DONE, "twilio_origination_url": StepState.RUNNING}
    operation = make_operation(states=states | {"livekit_inbound_trunk": StepState.UNDOING})

    assert tones(make_agent(PhoneStatus.PROVISIONING), operation) == ["good", "quiet", "busy", "warn", "quiet", "quiet"]


def test_the_link_that_failed_is_red_after_the_rollback() -> None:
    operation = make_operation(
        event(1, EventName.STEP_FAILED, "livekit_dispatch_rule"),
        event(1, EventName.OPERATION_TURNED, None),
        status=OperationStatus.FAILED,
        ended_s=2,
    )

    assert tones(make_agent(PhoneStatus.FAILED), operation) == ["quiet"] * 4 + ["bad", "quiet"]


def test_the_checks_of_a_path_show_what_is_broken() -> None:
    agent = make_agent(PhoneStatus.PROVISIONED, changed(_Code.MARK_LOST), failing(_Code.NUMBER_DETACHED))
    agent.health_findings[0]["resource"] = {"kind": INBOUND_TRUNK, "id": "ST_aaaaaaaaaaaa"}

    card = health_card(PhoneView.of(agent, None))

    assert [check.state.label for check in card.checks] == ["Calls fail", "OK", "OK", "Changed", "OK"]
    assert (card.state.label, card.text) == ("Calls fail", "Calls fail.")
    assert [line.code for line in card.findings] == ["number_detached", "mark_lost"]
    assert card.findings[0].advice == "Repair fixes it."


def test_what_cannot_be_said_of_one_part_fails_every_check() -> None:
    card = health_card(PhoneView.of(make_agent(PhoneStatus.PROVISIONED, Finding(_Code.UNREADABLE)), None))

    assert {check.state.label for check in card.checks} == {"Not readable"}


def test_a_finding_that_an_earlier_release_stored_is_shown() -> None:
    agent = make_agent(PhoneStatus.PROVISIONED, failing(_Code.RULE_GONE))
    (stored,) = agent.health_findings
    del stored["callers"]

    card = health_card(PhoneView.of(agent, None))

    assert (card.state.label, card.findings[0].severity.label) == ("Calls fail", "Calls fail")
    assert tones(agent)[4] == "bad"


def test_a_finding_that_a_later_release_stored_keeps_its_meaning() -> None:
    agent = make_agent(PhoneStatus.PROVISIONED, failing(_Code.RULE_PIN))
    agent.health_findings[0] |= {"code": "rule_haunted", "sentence": "Our rule is haunted."}

    card = health_card(PhoneView.of(agent, None))

    assert (card.state.label, card.findings[0].severity.label) == ("Calls fail", "Calls fail")
    assert "rule_haunted: Our rule is haunted." in card.findings[0].detail


@pytest.mark.parametrize(
    ("findings", "label", "tone"),
    [
        ([], "In sync", "good"),
        ([failing(_Code.RULE_PIN, Callers.SOME)], "Some calls fail", "bad"),
        ([failing(_Code.RULE_PIN, Callers.SOME), failing(_Code.RULE_GONE)], "Calls fail", "bad"),
        ([changed(_Code.TRUNK_CHANGED), Finding(_Code.RULE_FOREIGN_CATCH_ALL)], "Changed", "warn"),
    ],
)
def test_the_health_of_a_path_is_that_of_its_worst_finding(findings: list[Finding], label: str, tone: str) -> None:
    shown = health_badge(make_agent(PhoneStatus.PROVISIONED, *findings))

    assert (shown.label, shown.tone) == (label, tone)


def test_findings_are_counted_by_what_they_mean() -> None:
    findings = [Finding(_Code.ORPHAN), failing(_Code.RULE_PIN), changed(_Code.TRUNK_CHANGED), failing(_Code.RULE_GONE)]

    counts = [(one.label, one.tone.value) for one in severity_counts(findings)]

    assert counts == [("Calls fail: 2", "bad"), ("Left over: 1", "warn"), ("Changed: 1", "warn")]


@pytest.mark.parametrize("status", list(PhoneStatus))
def test_a_read_only_key_is_offered_no_action(status: PhoneStatus) -> None:
    offered = agent_actions(PhoneView.of(make_agent(status), None), may_write=False)

    assert not any([offered.provision, offered.clear, offered.cancel, offered.verify, offered.repair])
    assert not any([offered.move, offered.deprovision])


def test_buttons_follow_what_the_services_accept() -> None:
    def offered(status: PhoneStatus, operation: OperationView | None = None) -> set[str]:
        found = agent_actions(PhoneView.of(make_agent(status), operation), may_write=True)
        names = ("provision", "clear", "cancel", "verify", "repair", "move", "deprovision")
        return {name for name in names if getattr(found, name)}

    assert offered(PhoneStatus.NOT_PROVISIONED) == {"provision"}
    assert offered(PhoneStatus.FAILED) == {"provision", "clear"}
    assert offered(PhoneStatus.PROVISIONED) == {"verify", "repair", "move", "deprovision"}
    assert offered(PhoneStatus.PROVISIONING, make_operation()) == {"cancel"}
    assert offered(PhoneStatus.PROVISIONED, make_operation(kind=OperationKind.REPAIR)) == {"verify", "deprovision"}
    assert offered(PhoneStatus.PROVISIONED, make_operation(kind=OperationKind.MOVE)) == {"verify"}


def test_repair_is_recommended_only_where_it_helps() -> None:
    def recommended(*findings: Finding) -> tuple[bool, bool]:
        found = agent_actions(PhoneView.of(make_agent(PhoneStatus.PROVISIONED, *findings), None), may_write=True)
        return found.repair_first, found.repair_takes_over

    assert recommended(failing(_Code.RULE_GONE)) == (True, False)
    assert recommended(failing(_Code.NUMBER_MOVED)) == (True, True)
    assert recommended(failing(_Code.LIVEKIT_TRUNK_FOREIGN)) == (False, False)


def test_a_failure_is_retried_only_while_its_agent_is_without_a_number() -> None:
    failed = make_operation(status=OperationStatus.FAILED)

    assert can_retry(failed, make_agent(PhoneStatus.FAILED), may_write=True)
    assert not can_retry(failed, make_agent(PhoneStatus.PROVISIONED), may_write=True)
    assert not can_retry(failed, make_agent(PhoneStatus.FAILED), may_write=False)


def test_every_code_finding_and_status_has_a_label() -> None:
    assert set(ADVICE) == set(ErrorCode)
    for severity in Severity:
        assert all(Finding(code, severity_override=severity).advice for code in FindingCode)
    for status in (*PhoneStatus, *OperationStatus, *StepState, *Health, *BulkStatus, *ItemStatus, *DeliveryStatus):
        assert badge(status).label
    assert badge(OperationStatus.RUNNING) != badge(StepState.PENDING)
    shown = error_notice(RefusedError(ErrorCode.NUMBER_IN_USE, "The number belongs to another agent."))
    assert shown
    assert shown.code == "number_in_use"


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(0.44, "0.4 s"), (12, "12 s"), (200, "3 min 20 s"), (18_120, "5 h 2 min"), (273_600, "3 d 4 h"), (-1, "0.0 s")],
)
def test_a_duration_is_short_to_read(seconds: float, label: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == label


def test_a_time_has_its_date_and_says_that_it_is_utc() -> None:
    local = datetime(2026, 11, 24, 23, 30, 1, 250_999, tzinfo=timezone(timedelta(hours=-5)))

    assert utc(local) == "2026-11-25 04:30 UTC"
    assert exact_utc(local) == "2026-11-25 04:30:01.250 UTC"


@pytest.mark.parametrize(
    ("whole", "labels"),
    [
        (0.8, ["0.0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s"]),
        (40, ["0.0 s", "10 s", "20 s", "30 s", "40 s"]),
        (291, ["0:00", "1:12", "2:25", "3:38", "4:51"]),
        (7260, ["0:00 h", "0:30 h", "1:00 h", "1:30 h", "2:01 h"]),
        (345_600, ["0.0 d", "1.0 d", "2.0 d", "3.0 d", "4.0 d"]),
    ],
)
def test_the_labels_of_a_scale_are_short_enough_not_to_meet(whole: float, labels: list[str]) -> None:
    span = timedelta(seconds=whole)

    assert [tick_label(span * part / 4, span) for part in range(5)] == labels


def test_a_number_whose_operation_needs_a_person_looks_like_it() -> None:
    agent = Agent(phone_provisioning_status=PhoneStatus.DEPROVISIONING)

    assert number_badge(agent, OperationStatus.NEEDS_ATTENTION).label == "Needs attention"
    assert number_badge(agent, OperationStatus.NEEDS_ATTENTION).tone == "bad"
    assert number_badge(agent, OperationStatus.RUNNING).label == "Deprovisioning"
    assert number_badge(agent, None).label == "Deprovisioning"


def test_a_count_is_exact_only_up_to_its_limit() -> None:
    assert (format_count(7, 1000), format_count(1000, 1000), format_count(1001, 1000)) == ("7", "1,000", "1,000+")


def test_an_event_log_that_is_cut_says_so() -> None:
    assert event_count([Event()] * (MAX_TIMELINE - 1)) == str(MAX_TIMELINE - 1)
    assert event_count([Event()] * MAX_TIMELINE) == f"the last {MAX_TIMELINE}"
