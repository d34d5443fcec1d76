"""What a step knows: whose a resource is, how much time is left, and how it waits for a change to show."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from app.path.marks import mark_in, tag_of
from app.providers.errors import TransientError
from app.saga.state import Timing
from tests.support.step_context import AGENT, make_context

LONGEST_INSTANCE = "a" * 16
TAG_LIMIT = 64
OTHER = uuid.UUID("00000000-0000-4000-8000-000000000002")


def test_the_longest_tag_fits_the_shortest_name_field() -> None:
    assert len(tag_of(LONGEST_INSTANCE, uuid.uuid4())) <= TAG_LIMIT
    assert tag_of("test", AGENT) == f"trunkline/test/{AGENT}"


def test_a_resource_is_ours_by_its_metadata() -> None:
    context = make_context()
    mark = mark_in(context.spec.label.metadata)
    assert mark is not None
    assert (mark.instance, mark.agent_id) == ("test", str(AGENT))
    assert context.has_own_mark(context.spec.label.metadata)
    assert context.has_own_mark(replace(context, operation_id=uuid.uuid4()).spec.label.metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        json.dumps({"managedBy": "someone", "instance": "test", "agentId": str(AGENT)}),
        json.dumps({"managedBy": "trunkline", "instance": "other", "agentId": str(AGENT)}),
        json.dumps({"managedBy": "trunkline", "instance": "test", "agentId": str(OTHER)}),
        json.dumps({"managedBy": "trunkline"}),
    ],
)
def test_anything_else_is_not_ours(metadata: str) -> None:
    assert not make_context().has_own_mark(metadata)


def test_the_spans_follow_from_the_timeout_of_a_call() -> None:
    timing = Timing(timedelta(seconds=10), timedelta(minutes=15))
    assert timing.quiet > timing.provider_timeout
    # Two calls of full length, each sent only while a third one still fits.
    assert timing.lease >= 3 * timing.provider_timeout


@pytest.mark.parametrize(("spent_s", "may_call"), [(0, True), (19.9, True), (20.1, False), (1000, False)])
def test_no_call_is_sent_that_could_outlive_the_lease(spent_s: float, may_call: bool) -> None:
    context = make_context()
    context.tools.sleep(spent_s)
    if may_call:
        context.check_time()
        return
    with pytest.raises(TransientError):
        context.check_time()


@pytest.mark.parametrize(("looks", "sleeps"), [(1, []), (2, [0.5]), (5, [0.5, 1.0, 2.0, 4.0])])
def test_a_change_is_waited_for_with_growing_pauses(looks: int, sleeps: list[float]) -> None:
    context, answers = make_context(), [False] * (looks - 1) + [True]
    assert context.wait_until(lambda: answers.pop(0)) is True
    assert context.tools.clock.sleeps == sleeps
    assert answers == []


def test_a_change_that_never_shows_is_given_up() -> None:
    context = make_context()
    assert context.wait_until(lambda: False) is False
    assert sum(context.tools.clock.sleeps) == 7.5


def test_with_short_timeouts_some_reads_are_the_answer() -> None:
    context = make_context()
    timing = replace(context.tools.timing, provider_timeout=timedelta(seconds=3))
    context = replace(context, tools=replace(context.tools, timing=timing))
    assert context.wait_until(lambda: False) is False
    assert context.tools.clock.sleeps == [0.5, 1.0, 2.0]


def test_waiting_for_a_change_ends_with_the_lease() -> None:
    context = make_context()

    def slow() -> bool:
        context.tools.sleep(10)
        return False

    with pytest.raises(TransientError):
        context.wait_until(slow)
