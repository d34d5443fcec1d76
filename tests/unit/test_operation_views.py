import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.models import Operation, OperationStep, Resource
from app.db.queries import Position
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus, StepState
from app.views.operations import OperationView, StepView, phone_status_of
from app.views.reader import CursorField, encode_cursor

LATER = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


def _operation(kind: OperationKind, status: OperationStatus, *states: StepState) -> Operation:
    steps = [
        OperationStep(name=f"step{number}", position=number, state=state, attempts=number)
        for number, state in enumerate(states)
    ]
    return Operation(kind=kind, status=status, steps=steps)


_P, _R, _D, _F = StepState.PENDING, StepState.RUNNING, StepState.DONE, StepState.FAILED
_U, _N = StepState.UNDOING, StepState.UNDONE
UP, DOWN = OperationKind.PROVISION, OperationKind.DEPROVISION


@pytest.mark.parametrize(
    ("kind", "status", "states", "current"),
    [
        (UP, OperationStatus.QUEUED, (_P, _P, _P), "step0"),
        (UP, OperationStatus.RUNNING, (_D, _R, _P), "step1"),
        (UP, OperationStatus.RUNNING, (_D, _D, _P), "step2"),
        (UP, OperationStatus.RUNNING, (_D, _P, _R), "step2"),
        (UP, OperationStatus.RUNNING, (_D, _D, _D), None),
        (UP, OperationStatus.ROLLING_BACK, (_D, _F, _P), "step1"),
        (UP, OperationStatus.ROLLING_BACK, (_D, _N, _P), "step0"),
        (UP, OperationStatus.ROLLING_BACK, (_U, _N, _P), "step0"),
        (UP, OperationStatus.ROLLING_BACK, (_N, _N, _P), None),
        (UP, OperationStatus.NEEDS_ATTENTION, (_D, _U, _N), "step1"),
        (DOWN, OperationStatus.QUEUED, (_P, _P, _P), "step2"),
        (DOWN, OperationStatus.RUNNING, (_P, _P, _N), "step1"),
        (DOWN, OperationStatus.RUNNING, (_P, _U, _N), "step1"),
        (UP, OperationStatus.SUCCEEDED, (_D, _D, _D), None),
        (UP, OperationStatus.FAILED, (_N, _F, _P), None),
        (DOWN, OperationStatus.SUCCEEDED, (_N, _N, _N), None),
    ],
)
def test_the_current_step_is_at_work_or_next(
    kind: OperationKind, status: OperationStatus, states: tuple[StepState, ...], current: str | None
) -> None:
    assert OperationView.of(_operation(kind, status, *states)).current_step == current


def test_attempts_are_counted_over_all_steps() -> None:
    assert OperationView.of(_operation(UP, OperationStatus.RUNNING, _D, _D, _R)).attempts == 3


@pytest.mark.parametrize(
    ("kind", "status", "shown"),
    [
        (UP, OperationStatus.RUNNING, False),
        (UP, OperationStatus.ROLLING_BACK, True),
        (UP, OperationStatus.NEEDS_ATTENTION, True),
        (DOWN, OperationStatus.RUNNING, True),
        (UP, OperationStatus.SUCCEEDED, False),
        (DOWN, OperationStatus.SUCCEEDED, False),
    ],
)
def test_leftovers_are_shown_while_the_path_is_taken_down(
    kind: OperationKind, status: OperationStatus, shown: bool
) -> None:
    left = [Resource(provider="twilio", kind="twilio_trunk", external_id="TK1")]

    assert list(OperationView.of(_operation(kind, status), resources=left).leftovers) == (left if shown else [])


@pytest.mark.parametrize(
    ("state", "token", "until", "shown"),
    [
        (_R, None, LATER, LATER),
        (_U, None, LATER, LATER),
        (_P, None, LATER, LATER),
        (_R, uuid.uuid4(), LATER, None),
        (_R, None, None, None),
        (_D, None, LATER, None),
        (_N, None, LATER, None),
    ],
    ids=lambda value: "token" if isinstance(value, uuid.UUID) else None,
)
def test_only_a_step_that_rests_has_a_next_attempt(
    state: StepState, token: uuid.UUID | None, until: datetime | None, shown: datetime | None
) -> None:
    assert StepView.of(OperationStep(state=state, lease_token=token, lease_until=until)).next_attempt_at == shown


@pytest.mark.parametrize(
    ("kind", "status", "phone"),
    [
        (UP, OperationStatus.QUEUED, PhoneStatus.PENDING),
        (UP, OperationStatus.RUNNING, PhoneStatus.PROVISIONING),
        (UP, OperationStatus.ROLLING_BACK, PhoneStatus.ROLLING_BACK),
        (UP, OperationStatus.NEEDS_ATTENTION, PhoneStatus.ROLLING_BACK),
        (DOWN, OperationStatus.QUEUED, PhoneStatus.DEPROVISIONING),
        (DOWN, OperationStatus.NEEDS_ATTENTION, PhoneStatus.DEPROVISIONING),
        # One that has ended between a retry and its response.
        (OperationKind.REPAIR, OperationStatus.SUCCEEDED, PhoneStatus.PROVISIONED),
        (OperationKind.REPAIR, OperationStatus.FAILED, PhoneStatus.PROVISIONED),
        (OperationKind.REPAIR, OperationStatus.CANCELLED, PhoneStatus.PROVISIONED),
    ],
)
def test_an_open_operation_tells_where_the_number_stands(
    kind: OperationKind, status: OperationStatus, phone: PhoneStatus
) -> None:
    assert phone_status_of(_operation(kind, status)) is phone


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_leads_back_to_its_row(moment: datetime, row_id: uuid.UUID) -> None:
    position = Position(moment, row_id)

    assert CursorField().deserialize(encode_cursor(position)) == position
