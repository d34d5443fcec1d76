"""What the console's pages show of the rows: timelines, paths, actions and labels."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.console.operation_pages import agent_actions, build_timeline, can_retry
from app.console.path_diagram import build_path_diagram
from app.console.presentation import ago, badge, error_notice, format_count, format_duration, health_card
from app.db.models import Agent, Event, Operation, OperationStep
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import DeliveryStatus, EventName
from app.domain.findings import ADVICE, FINDING_KINDS, Finding, FindingCode, Health, advice_on_finding
from app.domain.operations import STEPS, BulkStatus, ItemStatus, OperationKind, OperationStatus, PhoneStatus, StepState
from app.numbers.maintenance import finding_json
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


def make_agent(status: PhoneStatus, *findings: FindingCode) -> Agent:
    return Agent(
        id=uuid.uuid4(),
        name="desk",
        livekit_agent_name="desk",
        phone_provisioning_status=status,
        health_state=Health.DRIFTED if findings else Health.IN_SYNC,
        health_checked_at=START,
        health_findings=[finding_json(Finding(code)) for code in findings],
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


@pytest.mark.parametrize(
    "code", [code for code in FindingCode if FINDING_KINDS[code].check and code.value != "rule_foreign_catch_all"]
)
def test_every_finding_about_a_path_breaks_one_link(code: FindingCode) -> None:
    assert sorted(tones(make_agent(PhoneStatus.PROVISIONED, code))) == ["bad"] + ["good"] * 5


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
    card = health_card(PhoneView.of(make_agent(PhoneStatus.PROVISIONED, FindingCode.NUMBER_DETACHED), None))

    assert [check.state.label for check in card.checks] == ["Broken", "OK", "OK", "OK", "OK"]
    assert card.findings[0].advice == "Repair fixes it."


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


def test_a_failure_is_retried_only_while_its_agent_is_without_a_number() -> None:
    failed = make_operation(status=OperationStatus.FAILED)

    assert can_retry(failed, make_agent(PhoneStatus.FAILED), may_write=True)
    assert not can_retry(failed, make_agent(PhoneStatus.PROVISIONED), may_write=True)
    assert not can_retry(failed, make_agent(PhoneStatus.FAILED), may_write=False)


def test_every_code_finding_and_status_has_a_label() -> None:
    assert set(ADVICE) == set(ErrorCode)
    assert all(advice_on_finding(code) for code in FindingCode)
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


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(5, "just now"), (90, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago"), (9_000_000, "2026-11-24")],
)
def test_a_time_is_shown_relative_to_now(seconds: float, label: str) -> None:
    assert ago(START, at(seconds)) == label


def test_a_count_is_exact_only_up_to_its_limit() -> None:
    assert (format_count(7, 1000), format_count(1000, 1000), format_count(1001, 1000)) == ("7", "1,000", "1,000+")
