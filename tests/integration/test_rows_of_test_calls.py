"""Test calls as rows: who may ask, who places them, what monitors do, and what is announced of a number."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.calls.verdicts import CallTarget, Outcome
from app.db.models import Agent, TestCall
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.calls import AGENT_HOP, CallRoom, CallStatus, CallVerdict, Reachability
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import INBOUND_TRUNK, NUMBER_ATTACHMENT, ORIGINATION_URL
from app.numbers.test_calls import LEASE, MOST_CALLS, RETRY_AFTER, CallService, reachability_after
from app.providers.errors import TransientError
from tests.support.saga import CALLER, E164, ORIGIN, SIP_URI, Saga

ANSWERED = Outcome(
    CallVerdict.ANSWERED, "", "An agent answered.", 200, 0.2, 1.5, CallRoom("call_x", "sip_x", "ST_1", "SDR_1", ("a",))
)
NOBODY = Outcome(CallVerdict.NO_AGENT, AGENT_HOP, "Nobody answered.", 486, 0.2)
BLOCKED = Outcome(CallVerdict.BLOCKED, INBOUND_TRUNK, "Not from here.", 404)
OPTIONS: dict[str, Any] = {"monitor": {"everyMinutes": 15}}


@dataclass
class Caller:
    """Places calls that end as it says."""

    outcomes: list[Outcome] = field(default_factory=lambda: [ANSWERED])
    targets: list[CallTarget] = field(default_factory=list)
    allowed: list[bool] = field(default_factory=list)

    def __call__(self, _platform: object, target: CallTarget, allows: Any) -> Outcome:
        self.targets.append(target)
        self.allowed.append(allows("10.0.0.1"))
        return self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def calls(saga: Saga, caller: Caller) -> Iterator[CallService]:
    service = replace(saga.sweeper.calls, place=caller)
    yield service
    service.close()


@pytest.fixture
def endpoint(saga: Saga) -> uuid.UUID:
    row = WebhookEndpoint(id=uuid.uuid4(), url="https://example.com/", sealed_secret="whsec_AAAA")  # none
    with saga.sessions.begin() as session:
        session.add(row)
        return row.id


@pytest.fixture
def agent_id(saga: Saga, number_sid: str) -> uuid.UUID:
    assert number_sid
    return saga.provisioned()


def with_options(saga: Saga, agent_id: uuid.UUID, options: dict[str, Any], **more: Any) -> None:
    with saga.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == agent_id).values(options=options, **more))


def agent_of(saga: Saga, agent_id: uuid.UUID) -> Agent:
    with saga.sessions() as session:
        return session.get_one(Agent, agent_id)


def announced(saga: Saga) -> list[str]:
    with saga.sessions() as session:
        return list(session.scalars(select(WebhookDelivery.event).order_by(WebhookDelivery.created_at)))


def age_calls(saga: Saga, by: timedelta) -> None:
    with saga.sessions.begin() as session:
        session.execute(
            update(TestCall).values(created_at=TestCall.created_at - by, lease_until=TestCall.lease_until - by)
        )


def test_a_call_is_placed_by_a_worker_and_keeps_its_verdict(
    saga: Saga, calls: CallService, caller: Caller, agent_id: uuid.UUID
) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    assert saga.publisher.calls == [asked.id]
    assert (asked.status, asked.verdict, asked.caller) == (CallStatus.QUEUED, None, CALLER)
    ended = calls.run(asked.id)
    assert ended is not None
    assert (ended.status, ended.verdict, ended.sip_status) == (CallStatus.FINISHED, CallVerdict.ANSWERED, 200)
    assert ended.room == {
        "name": "call_x",
        "identity": "sip_x",
        "trunk_id": "ST_1",
        "rule_id": "SDR_1",
        "agents": ["a"],
        "joined": [],
    }
    (target,) = caller.targets
    assert (str(target.uri), target.called, target.caller) == (SIP_URI, E164, CALLER)
    assert target.trunk is not None
    assert target.rule is not None
    assert calls.get(agent_id, asked.id).finished_at is not None
    assert agent_of(saga, agent_id).reachability is Reachability.REACHABLE


def test_a_call_is_placed_once(calls: CallService, caller: Caller, agent_id: uuid.UUID) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    assert calls.run(asked.id) is not None
    assert calls.run(asked.id) is None
    assert len(caller.targets) == 1


def test_a_worker_that_died_is_followed_by_another(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    with saga.sessions.begin() as session:
        session.execute(update(TestCall).values(status=CallStatus.RUNNING, lease_until=func.now() + LEASE))
    assert (calls.run(asked.id), calls.take_due()) == (None, [])
    age_calls(saga, LEASE)
    assert calls.take_due() == [asked.id]
    assert calls.run(asked.id) is not None


def test_a_late_worker_does_not_overwrite_the_verdict_of_another(
    saga: Saga, calls: CallService, agent_id: uuid.UUID
) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)

    def slow(*_: object) -> Outcome:
        age_calls(saga, 2 * LEASE)
        assert replace(calls, place=lambda *_: ANSWERED).run(asked.id) is not None
        return NOBODY

    assert replace(calls, place=slow).run(asked.id) is None
    assert calls.get(agent_id, asked.id).verdict is CallVerdict.ANSWERED


def test_a_lost_message_is_sent_again(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    assert calls.take_due() == []
    age_calls(saga, timedelta(seconds=11))
    assert calls.take_due() == [asked.id]
    assert calls.take_due() == []


def test_an_eleventh_call_within_a_quarter_of_an_hour_is_refused(
    saga: Saga, calls: CallService, agent_id: uuid.UUID
) -> None:
    for _ in range(MOST_CALLS):
        calls.request(agent_id, origin=ORIGIN)
    with pytest.raises(RefusedError) as refused:
        calls.request(agent_id, origin=ORIGIN)
    assert refused.value.code is ErrorCode.TEST_CALL_LIMIT
    assert refused.value.retry_after_s == pytest.approx(900, abs=60)
    age_calls(saga, timedelta(minutes=15))
    calls.request(agent_id, origin=ORIGIN)


def test_an_agent_without_a_number_is_not_called(saga: Saga, calls: CallService) -> None:
    with pytest.raises(RefusedError) as refused:
        calls.request(saga.agent(), origin=ORIGIN)
    assert refused.value.code is ErrorCode.AGENT_HAS_NO_PHONE


def test_a_number_that_was_taken_down_meanwhile_is_not_called(
    saga: Saga, calls: CallService, caller: Caller, agent_id: uuid.UUID
) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    saga.drive(saga.deprovision(agent_id))
    ended = calls.run(asked.id)
    assert ended is not None
    assert (ended.verdict, ended.hop, caller.targets) == (CallVerdict.FAILED, NUMBER_ATTACHMENT, [])


@pytest.mark.parametrize(
    ("change", "hop"), [("detach", NUMBER_ATTACHMENT), ("no url", ORIGINATION_URL), ("other host", ORIGINATION_URL)]
)
def test_what_twilio_would_not_call_is_no_route(
    saga: Saga, calls: CallService, caller: Caller, agent_id: uuid.UUID, number_sid: str, change: str, hop: str
) -> None:
    carrier = saga.world.carrier
    if change == "detach":
        carrier.route(number_sid, trunk_sid=None)
    elif change == "no url":
        carrier.urls.clear()
    else:
        carrier.urls.update(
            {sid: replace(url, sip_url="sip:elsewhere.example.com") for sid, url in carrier.urls.items()}
        )
    ended = calls.run(calls.request(agent_id, origin=ORIGIN).id)
    assert ended is not None
    assert (ended.verdict, ended.hop, caller.targets) == (CallVerdict.NO_ROUTE, hop, [])
    assert ended.detail


def test_a_provider_that_does_not_say_is_no_reason_not_to_call(
    saga: Saga, calls: CallService, caller: Caller, agent_id: uuid.UUID
) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    saga.world.log.plan("carrier.get_number", before=TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Not now."))
    ended = calls.run(asked.id)
    assert ended is not None
    assert (str(caller.targets[0].uri), caller.targets[0].trunk) == (SIP_URI, None)


def test_an_agent_that_lets_in_some_callers_is_called_by_one_of_them(
    saga: Saga, calls: CallService, agent_id: uuid.UUID
) -> None:
    with_options(saga, agent_id, {"call": {"allowedCallers": ["+15145550199", "+15145550198"]}})
    assert calls.request(agent_id, origin=ORIGIN).caller == "+15145550199"


def test_the_environments_project_may_be_anywhere(calls: CallService, caller: Caller, agent_id: uuid.UUID) -> None:
    calls.run(calls.request(agent_id, origin=ORIGIN).id)
    assert caller.allowed == [True]
    assert not calls._allows("10.0.0.1")  # what a workspace's project is asked
    assert calls._allows("161.115.180.1")


# Monitors.


def test_a_monitor_calls_when_it_is_due(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    assert calls.take_due() == []
    with_options(saga, agent_id, OPTIONS)
    (call_id,) = calls.take_due()
    assert calls.take_due() == []
    call = calls.get(agent_id, call_id)
    assert (call.is_monitor, call.phone_number, call.caller) == (True, E164, CALLER)
    with_options(saga, agent_id, OPTIONS, monitor_due_at=func.now() - timedelta(seconds=1))
    assert len(calls.take_due()) == 1


def test_a_monitor_waits_until_there_is_room_for_its_call(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    for _ in range(MOST_CALLS):
        calls.request(agent_id, origin=ORIGIN)
    with_options(saga, agent_id, OPTIONS)
    assert calls.take_due() == []
    with saga.sessions.begin() as session:
        oldest = select(TestCall.id).order_by(TestCall.created_at).limit(1).scalar_subquery()
        long_ago = TestCall.created_at - timedelta(minutes=16)
        session.execute(update(TestCall).where(TestCall.id == oldest).values(created_at=long_ago))
    (call_id,) = calls.take_due()
    with saga.sessions() as session:
        assert session.get_one(TestCall, call_id).is_monitor


def test_a_shorter_interval_counts_from_now(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    with_options(saga, agent_id, {"monitor": {"everyMinutes": 1440}})
    assert len(calls.take_due()) == 1
    with_options(saga, agent_id, OPTIONS)
    assert len(calls.take_due()) == 1


def test_a_monitor_waits_for_an_operation_and_without_a_number(
    saga: Saga, calls: CallService, agent_id: uuid.UUID
) -> None:
    with_options(saga, agent_id, OPTIONS)
    operation_id = saga.deprovision(agent_id)
    assert calls.take_due() == []
    saga.drive(operation_id)
    assert calls.take_due() == []


def monitored(saga: Saga, calls: CallService, agent_id: uuid.UUID, *outcomes: Outcome) -> None:
    """Let the monitor call with these outcomes, one after the other."""
    for outcome in outcomes:
        with_options(saga, agent_id, OPTIONS, monitor_due_at=None)
        (call_id,) = calls.take_due()
        assert replace(calls, place=lambda *_, it=outcome: it).run(call_id) is not None


def test_a_number_is_unreachable_after_two_calls_in_a_row_and_told_once(
    saga: Saga, calls: CallService, agent_id: uuid.UUID, endpoint: uuid.UUID
) -> None:
    assert endpoint
    before = announced(saga)
    monitored(saga, calls, agent_id, ANSWERED, NOBODY)
    agent = agent_of(saga, agent_id)
    assert (agent.reachability, announced(saga)) == (Reachability.REACHABLE, before)
    with saga.sessions() as session:
        soon = session.scalar(select(Agent.monitor_due_at - func.now()).where(Agent.id == agent_id))
    assert soon <= RETRY_AFTER
    monitored(saga, calls, agent_id, NOBODY, NOBODY)
    assert agent_of(saga, agent_id).reachability is Reachability.UNREACHABLE
    assert announced(saga) == [*before, "phone.unreachable"]
    monitored(saga, calls, agent_id, BLOCKED, ANSWERED, ANSWERED)
    assert agent_of(saga, agent_id).reachability is Reachability.REACHABLE
    assert announced(saga) == [*before, "phone.unreachable", "phone.reachable"]


def test_a_fault_of_our_own_machine_says_nothing_of_a_number(
    saga: Saga, calls: CallService, caller: Caller, agent_id: uuid.UUID
) -> None:
    caller.outcomes = [ANSWERED, replace(NOBODY, is_conclusive=False)]
    for _ in range(3):
        calls.run(calls.request(agent_id, origin=ORIGIN).id)
    assert agent_of(saga, agent_id).reachability is Reachability.REACHABLE


def test_without_a_monitor_nobody_is_told(
    saga: Saga, calls: CallService, agent_id: uuid.UUID, endpoint: uuid.UUID
) -> None:
    assert endpoint
    before = announced(saga)
    for _ in range(2):
        replace(calls, place=lambda *_: NOBODY).run(calls.request(agent_id, origin=ORIGIN).id)
    assert agent_of(saga, agent_id).reachability is Reachability.UNREACHABLE
    assert announced(saga) == before


def test_a_number_that_was_taken_down_is_no_longer_unreachable(
    saga: Saga, calls: CallService, agent_id: uuid.UUID
) -> None:
    for _ in range(2):
        replace(calls, place=lambda *_: NOBODY).run(calls.request(agent_id, origin=ORIGIN).id)
    saga.drive(saga.deprovision(agent_id))
    assert agent_of(saga, agent_id).reachability is Reachability.UNKNOWN


@pytest.mark.parametrize(
    ("before", "latest", "last", "after"),
    [
        (Reachability.UNKNOWN, CallVerdict.NO_AGENT, None, Reachability.UNKNOWN),
        (Reachability.REACHABLE, CallVerdict.NO_AGENT, CallVerdict.ANSWERED, Reachability.REACHABLE),
        (Reachability.REACHABLE, CallVerdict.NO_ROUTE, CallVerdict.FAILED, Reachability.UNREACHABLE),
        (Reachability.UNREACHABLE, CallVerdict.ANSWERED, CallVerdict.FAILED, Reachability.REACHABLE),
        (Reachability.UNREACHABLE, CallVerdict.BLOCKED, CallVerdict.FAILED, Reachability.UNREACHABLE),
        (Reachability.UNKNOWN, CallVerdict.ANSWERED, None, Reachability.REACHABLE),
    ],
)
def test_reachability(before: Reachability, latest: CallVerdict, last: CallVerdict | None, after: Reachability) -> None:
    assert reachability_after(before, latest, last) is after


def test_old_calls_are_purged(saga: Saga, calls: CallService, agent_id: uuid.UUID) -> None:
    asked = calls.request(agent_id, origin=ORIGIN)
    assert calls.purge() == 0
    age_calls(saga, timedelta(days=31))
    assert calls.purge() == 1
    with pytest.raises(RefusedError) as refused:
        calls.get(agent_id, asked.id)
    assert refused.value.code is ErrorCode.TEST_CALL_NOT_FOUND
