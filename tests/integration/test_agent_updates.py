"""Changes of an agent whose path stands: what is opened, what becomes of it, and that a failure leaves all as it was.

Real rows, providers in memory; each provider call of an update is broken in turn.
"""

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    LAST,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.domain.options import RuleAgent, options_of
from app.numbers.changing import OUTRUN, Changed, ChangeService, patched_by
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media, RuleKind
from app.providers.errors import RejectedError, TransientError
from app.saga.state import CHANGED
from app.views.agent_schemas import AgentPatchIn
from tests.support.moved_numbers import FAILURES, Watch, drive, ids_of, ledger, snapshot
from tests.support.saga import ORIGIN, Saga

NAME = {"livekitAgentName": "night", "metadata": {"language": None, "shift": 2}}
"""Of the rule alone."""

LINE = {"call": {"ringingS": 20, "maxDurationS": 600}, "dispatch": {"kind": "callee", "pin": "4711"}}
"""Of trunk and rule."""

PATCHES: Mapping[str, tuple[TrunkMode, dict[str, Any]]] = {
    "rule": (TrunkMode.SHARED, NAME),
    "trunk and rule": (TrunkMode.SHARED, {**NAME, "options": LINE}),
    "its own Twilio trunk": (TrunkMode.DEDICATED, {"options": {"transfer": "sip-only"}}),
    "another shared trunk, and the rule": (TrunkMode.SHARED, {**NAME, "options": {"transfer": "sip-only"}}),
}
CALLS = {"rule": 7, "trunk and rule": 9, "its own Twilio trunk": 7, "another shared trunk, and the rule": 11}
"""Provider calls of each."""


def change(saga: Saga, agent_id: uuid.UUID, patch: Mapping[str, Any], **more: Any) -> Changed:
    service = ChangeService(saga.sessions, saga.publisher, saga.rows, saga.toolboxes)
    return service.change(agent_id, patched_by(AgentPatchIn().load(patch)), origin=ORIGIN, **more)


def queued(saga: Saga, agent_id: uuid.UUID, patch: Mapping[str, Any]) -> uuid.UUID:
    operation = change(saga, agent_id, patch).operation
    assert operation is not None
    return operation.id


def worked_on(saga: Saga, operation_id: uuid.UUID) -> set[str]:
    return {name for name, row in saga.snapshot(operation_id).rows.items() if row.state is StepState.PENDING}


def fields_of(saga: Saga, agent_id: uuid.UUID) -> tuple[str, str, dict[str, Any], dict[str, Any], int]:
    with saga.sessions() as session:
        agent = session.get_one(Agent, agent_id)
        return agent.name, agent.livekit_agent_name, agent.agent_metadata, agent.options, agent.version


def rule_of(saga: Saga) -> DispatchRule:
    (rule,) = saga.world.platform.rules.values()
    return rule


def trunk_of(saga: Saga) -> InboundTrunk:
    (trunk,) = saga.world.platform.trunks.values()
    return trunk


@pytest.fixture
def agent_id(saga: Saga, number_sid: str) -> uuid.UUID:
    saga.trunk_mode = TrunkMode.SHARED
    return saga.provisioned()


def test_an_agent_without_a_number_is_changed_at_once(saga: Saga) -> None:
    agent_id = saga.agent()

    changed = change(saga, agent_id, {**NAME, "options": LINE, "trunkMode": "shared"})

    assert changed.operation is None
    assert fields_of(saga, agent_id) == ("support", "night", {"shift": 2}, LINE, 2)
    assert (changed.agent.version, changed.agent.trunk_mode) == (2, TrunkMode.SHARED)
    assert saga.world.log.order == []


@pytest.mark.parametrize("patch", [{"name": "Night line"}, {"options": {"monitor": {"everyMinutes": 60}}}])
def test_what_no_provider_has_is_changed_at_once(saga: Saga, agent_id: uuid.UUID, patch: dict[str, Any]) -> None:
    saga.world.log.order.clear()

    assert change(saga, agent_id, patch).operation is None

    assert fields_of(saga, agent_id)[4] == 2
    assert saga.world.log.order == []


@pytest.mark.parametrize(
    ("patch", "reads", "steps"),
    [
        (NAME, [], {DISPATCH_RULE}),
        ({"options": {"dispatch": {"pin": "1"}}}, ["platform.get_dispatch_rule"], {DISPATCH_RULE}),
        ({"options": {"call": {"ringingS": 9}}}, ["platform.get_inbound_trunk"], {INBOUND_TRUNK}),
        # LiveKit cancels noise where either says so.
        (
            {"options": {"call": {"krisp": True}}},
            ["platform.get_inbound_trunk", "platform.get_dispatch_rule"],
            {INBOUND_TRUNK, DISPATCH_RULE},
        ),
        ({"options": {"transfer": "sip-only"}}, [], {TRUNK, ORIGINATION_URL, NUMBER_ATTACHMENT}),
    ],
)
def test_an_update_works_on_what_changes_and_reads_what_stands_there(
    saga: Saga, agent_id: uuid.UUID, patch: dict[str, Any], reads: list[str], steps: set[str]
) -> None:
    saga.world.log.order.clear()

    operation_id = queued(saga, agent_id, patch)

    assert saga.world.log.order == reads
    assert worked_on(saga, operation_id) == steps | {LAST}
    assert saga.publisher.plans[-1].operation_id == operation_id
    operation = saga.snapshot(operation_id).operation
    assert (operation.kind, operation.requested_by) == (OperationKind.UPDATE, ORIGIN.requested_by)


def test_a_transfer_on_a_trunk_of_its_own_changes_that(saga: Saga, number_sid: str) -> None:
    saga.trunk_mode = TrunkMode.DEDICATED
    agent_id = saga.provisioned()

    operation_id = queued(saga, agent_id, {"options": {"transfer": "sip-only"}})

    assert worked_on(saga, operation_id) == {TRUNK, LAST}
    saga.drive(operation_id)
    (trunk,) = saga.world.carrier.trunks.values()
    assert trunk.transfer_mode == "sip-only"


def test_the_agent_is_as_it_was_until_the_update_has_succeeded(saga: Saga, agent_id: uuid.UUID) -> None:
    before = fields_of(saga, agent_id)
    operation_id = queued(saga, agent_id, {**NAME, "name": "Night line", "options": LINE})

    saga.advance(operation_id, until=DISPATCH_RULE)
    assert fields_of(saga, agent_id) == before
    drive(saga, operation_id)

    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert fields_of(saga, agent_id) == ("Night line", "night", {"shift": 2}, LINE, 2)
    rule, trunk = rule_of(saga), trunk_of(saga)
    assert (rule.kind, rule.pin, rule.agents[0].name) == (RuleKind.CALLEE, "4711", "night")
    assert rule.agents[0].metadata == '{"shift": 2}'
    assert (trunk.ringing_timeout_s, trunk.max_call_duration_s) == (20, 600)


def assert_done(saga: Saga, agent_id: uuid.UUID, patch: Mapping[str, Any], version: int) -> None:
    name, livekit_name, metadata, options, now = fields_of(saga, agent_id)
    assert (name, livekit_name, now) == ("support", patch.get("livekitAgentName", "support"), version + 1)
    assert metadata == ({"shift": 2} if "metadata" in patch else {"language": "fr"})
    assert options_of(options) == options_of(patch.get("options", {}))
    assert rule_of(saga).agents[0].name == livekit_name


@pytest.mark.parametrize("what", PATCHES)
def test_an_update_changes_what_it_is_asked_to_and_calls_get_through(saga: Saga, number_sid: str, what: str) -> None:
    saga.trunk_mode, patch = PATCHES[what]
    agent_id = saga.provisioned()
    operation_id = queued(saga, agent_id, patch)
    watch = Watch(saga.world, (number_sid,))

    drive(saga, operation_id)

    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert (watch.cut_off, len(watch.calls)) == ([], CALLS[what])
    assert_done(saga, agent_id, patch, 1)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize(("what", "at"), [(what, at) for what, calls in CALLS.items() for at in range(calls)])
def test_an_update_broken_anywhere_ends_whole_or_as_it_was_found(
    saga: Saga, number_sid: str, what: str, at: int, kind: str
) -> None:
    saga.trunk_mode, patch = PATCHES[what]
    agent_id = saga.provisioned()
    # Somebody has set it by hand, where no option says it.
    world = saga.world.platform
    world.trunks = {one.id: replace(one, ringing_timeout_s=77, krisp=True) for one in world.trunks.values()}
    world.rules = {one.id: replace(one, room="theirs", hides_caller=True) for one in world.rules.values()}
    before, there, known = ids_of(saga, agent_id), snapshot(saga.world), ledger(saga, agent_id)
    fields = fields_of(saga, agent_id)
    operation_id = queued(saga, agent_id, patch)
    watch = Watch(saga.world, (number_sid,), at, **FAILURES[kind]())

    drive(saga, operation_id)

    watch.look("at the end")
    assert watch.cut_off == []
    assert saga.status_of(agent_id) is PhoneStatus.PROVISIONED
    assert ledger(saga, agent_id) == known
    if saga.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_done(saga, agent_id, patch, fields[4])
        return
    assert (kind, saga.status(operation_id)) == ("refused", OperationStatus.FAILED)
    assert (ids_of(saga, agent_id), snapshot(saga.world)) == (before, there)
    assert fields_of(saga, agent_id) == fields


@pytest.mark.parametrize("what", PATCHES)
def test_an_update_that_the_last_look_refuses_goes_back_to_what_was_found(
    saga: Saga, number_sid: str, what: str
) -> None:
    saga.trunk_mode, patch = PATCHES[what]
    agent_id = saga.provisioned()
    world = saga.world.platform
    world.trunks = {one.id: replace(one, ringing_timeout_s=77) for one in world.trunks.values()}
    world.rules = {one.id: replace(one, room="theirs") for one in world.rules.values()}
    before, there, fields = ids_of(saga, agent_id), snapshot(saga.world), fields_of(saga, agent_id)
    operation_id = queued(saga, agent_id, patch)
    saga.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))

    drive(saga, operation_id)

    assert saga.status(operation_id) is OperationStatus.FAILED
    assert (ids_of(saga, agent_id), snapshot(saga.world)) == (before, there)
    assert fields_of(saga, agent_id) == fields


THEIRS, OURS = RuleAgent("night", "all of it"), RuleAgent("support", '{"language": "fr"}')
RECORDER = RuleAgent("recorder", "{}")

BY_HAND: Mapping[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a name that another agent on the rule has": ({}, NAME, {"agents": (OURS, THEIRS)}, {}),
    "the same, with that one first": ({}, NAME, {"agents": (THEIRS, RECORDER, OURS)}, {}),
    "the name of an agent of the options": (
        {"agents": [{"name": "recorder"}]},
        {"livekitAgentName": "recorder", "options": {"agents": None}},
        {"agents": (THEIRS, OURS, RECORDER)},
        {},
    ),
    "an agent in the middle that is taken out": (
        {"agents": [{"name": "recorder"}]},
        {"options": {"agents": None}},
        {"agents": (OURS, RECORDER, THEIRS)},
        {},
    ),
    "noise that the rule cancels": ({}, {"options": {"call": {"krisp": False}}}, {"krisp": True}, {}),
    "what is set already": (
        {},
        {"options": {"participant": {"hidePhoneNumber": True}, "call": {"ringingS": 77}}},
        {"hides_caller": True},
        {"ringing_timeout_s": 77.0},
    ),
    "what no option names, and differs from what is ours": (
        {},
        NAME,
        {"pin": "0815", "numbers": ("+15145550199", "+15145551234"), "media": Media(Encryption.REQUIRE)},
        {},
    ),
}
"""The agent's options, the change, and what somebody has set by hand on rule and trunk."""


@pytest.mark.parametrize("at", [None, 1, 3])
@pytest.mark.parametrize("what", BY_HAND)
def test_a_failed_update_leaves_what_somebody_has_set_by_hand(
    saga: Saga, agent_id: uuid.UUID, number_sid: str, what: str, at: int | None
) -> None:
    """Refused at a write or a look, and by the last look; what it has not come to is not made right either."""
    options, patch, on_rule, on_trunk = BY_HAND[what]
    with saga.sessions.begin() as session:
        session.get_one(Agent, agent_id).options = options
    world = saga.world.platform
    world.rules = {one.id: replace(one, **on_rule) for one in world.rules.values()}
    world.trunks = {one.id: replace(one, **on_trunk) for one in world.trunks.values()}
    there, fields = snapshot(saga.world), fields_of(saga, agent_id)
    operation_id = queued(saga, agent_id, patch)
    if at is None:
        saga.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))
    else:
        Watch(saga.world, (number_sid,), at, **FAILURES["refused"]())

    drive(saga, operation_id)

    if saga.status(operation_id) is OperationStatus.FAILED:
        assert (snapshot(saga.world), fields_of(saga, agent_id)) == (there, fields)
    else:
        assert at is not None
        assert rule_of(saga).agents[0].name in {"night", "recorder", "support"}


def test_what_somebody_has_changed_since_stays_when_an_update_goes_back(
    saga: Saga, agent_id: uuid.UUID, number_sid: str
) -> None:
    world = saga.world.platform
    world.rules = {one.id: replace(one, agents=(OURS, THEIRS)) for one in world.rules.values()}
    operation_id = queued(saga, agent_id, {**NAME, "options": LINE})
    saga.advance(operation_id, until=DISPATCH_RULE)
    (rule,) = world.rules.values()
    assert [one.name for one in rule.agents] == ["night"]
    world.rules = {rule.id: replace(rule, agents=(*rule.agents, RECORDER), hides_caller=True)}
    saga.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))

    drive(saga, operation_id)

    assert saga.status(operation_id) is OperationStatus.FAILED
    now = rule_of(saga)
    assert (now.agents, now.hides_caller, now.pin) == ((OURS, THEIRS, RECORDER), True, "")


def test_an_update_of_a_release_before_goes_back_by_the_agents_row(saga: Saga, agent_id: uuid.UUID) -> None:
    before = rule_of(saga)
    operation_id = queued(saga, agent_id, NAME)
    saga.advance(operation_id, until=DISPATCH_RULE)
    with saga.sessions.begin() as session:
        session.get_one(Operation, operation_id).former_options = {}
    saga.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))

    drive(saga, operation_id)

    assert (saga.status(operation_id), rule_of(saga)) == (OperationStatus.FAILED, before)


def test_what_stood_before_is_forgotten_with_the_end_of_the_operation(saga: Saga, agent_id: uuid.UUID) -> None:
    operation_id = queued(saga, agent_id, NAME)
    saga.advance(operation_id, until=DISPATCH_RULE)
    assert "support" in str(saga.snapshot(operation_id).operation.former_options)

    drive(saga, operation_id)

    assert saga.snapshot(operation_id).operation.former_options is None


@pytest.mark.parametrize("until", [None, INBOUND_TRUNK, DISPATCH_RULE])
def test_a_deprovisioning_takes_down_an_update_under_way(
    saga: Saga, agent_id: uuid.UUID, number_sid: str, until: str | None
) -> None:
    fields = fields_of(saga, agent_id)
    operation_id = queued(saga, agent_id, {**NAME, "options": LINE})
    if until:
        saga.advance(operation_id, until=until)

    deprovisioning = saga.deprovision(agent_id)
    drive(saga, deprovisioning)

    assert saga.status(operation_id) is OperationStatus.CANCELLED
    assert saga.status(deprovisioning) is OperationStatus.SUCCEEDED
    assert (saga.world.platform.trunks, saga.world.platform.rules) == ({}, {})
    assert not saga.world.routing(number_sid).is_taken
    assert fields_of(saga, agent_id) == fields


def test_what_is_the_same_but_for_its_order_or_layout_changes_nothing(saga: Saga) -> None:
    agent_id = saga.agent()
    options = {
        "agents": [{"name": "recorder", "metadata": {"zz": 1, "a": [True, None]}}],
        "room": {"maxParticipants": 4},
    }
    change(saga, agent_id, {"metadata": {"zz": 1, "a": 1}, "options": options})

    again = change(
        saga, agent_id, {"metadata": {"a": 1, "zz": 1}, "options": {**options, "room": {"maxParticipants": 4.0}}}
    )

    assert again.agent.version == 2


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0, False), ([1], [True])])
def test_values_that_python_takes_for_equal_and_json_does_not_are_a_change(saga: Saga, before: Any, after: Any) -> None:
    agent_id = saga.agent()
    change(saga, agent_id, {"metadata": {"value": before}})

    changed = change(saga, agent_id, {"metadata": {"value": after}})

    assert (changed.agent.version, repr(changed.agent.agent_metadata["value"])) == (3, repr(after))


def meanwhile(saga: Saga, act: Callable[[], object], times: int) -> Callable[[], int]:
    """Have somebody else act while a rule is read, so many times; return how often it was read."""
    read, reads = saga.world.platform.get_dispatch_rule, []

    def reading(rule_id: str) -> DispatchRule | None:
        reads.append(rule_id)
        if len(reads) <= times:
            # In a thread, as another request is.
            other = threading.Thread(target=act)
            other.start()
            other.join()
        return read(rule_id)

    saga.world.platform.get_dispatch_rule = reading  # type: ignore[method-assign]  # of this one world
    return lambda: len(reads)


def rename_livekit_agent(saga: Saga, agent_id: uuid.UUID) -> None:
    with saga.sessions.begin() as session:
        agent = session.get_one(Agent, agent_id, with_for_update=True)
        agent.livekit_agent_name += "!"
        agent.version += 1


def test_what_was_read_of_an_agent_that_changed_meanwhile_is_read_again(saga: Saga, agent_id: uuid.UUID) -> None:
    reads = meanwhile(saga, lambda: rename_livekit_agent(saga, agent_id), times=1)

    operation_id = queued(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}})

    assert reads() == 2
    drive(saga, operation_id)
    assert fields_of(saga, agent_id)[1:] == ("support!", {"language": "fr"}, {"dispatch": {"pin": "1"}}, 3)
    assert rule_of(saga).agents[0].name == "support!"


def test_one_that_changes_again_and_again_is_given_up(saga: Saga, agent_id: uuid.UUID) -> None:
    reads = meanwhile(saga, lambda: rename_livekit_agent(saga, agent_id), times=9)

    with pytest.raises(RefusedError) as refused:
        change(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}})

    assert (refused.value.code, refused.value.detail, reads()) == (ErrorCode.OPERATION_IN_PROGRESS, OUTRUN, 2)
    with saga.sessions() as session:
        assert session.query(Operation).filter_by(kind=OperationKind.UPDATE).count() == 0


def test_an_operation_that_was_opened_meanwhile_is_not_disturbed(saga: Saga, agent_id: uuid.UUID) -> None:
    reads = meanwhile(saga, lambda: queued(saga, agent_id, NAME), times=1)

    with pytest.raises(RefusedError) as refused:
        change(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}})

    assert (refused.value.code, reads()) == (ErrorCode.OPERATION_IN_PROGRESS, 1)


def test_a_provider_that_cannot_be_read_changes_nothing(saga: Saga, agent_id: uuid.UUID) -> None:
    saga.world.log.plan("platform.get_dispatch_rule", before=TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Not now."))
    published = len(saga.publisher.plans)

    with pytest.raises(TransientError):
        change(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}})

    assert fields_of(saga, agent_id)[4] == 1
    assert len(saga.publisher.plans) == published


def test_a_404_that_is_not_true_is_asked_once_more(saga: Saga, agent_id: uuid.UUID) -> None:
    world = saga.world.platform
    world.rules = {one.id: replace(one, pin="0815") for one in world.rules.values()}
    read, answers = world.get_dispatch_rule, [None]
    world.get_dispatch_rule = lambda rule_id: answers.pop() if answers else read(rule_id)  # type: ignore[method-assign]  # of this one world

    operation_id = queued(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}})

    assert saga.snapshot(operation_id).operation.former_options == {"dispatch": {"pin": "0815"}, CHANGED: {}}


def test_an_object_that_other_numbers_use_too_is_not_changed(saga: Saga, agent_id: uuid.UUID) -> None:
    with saga.sessions.begin() as session:
        agent = session.get_one(Agent, agent_id)
        rule_id = agent.livekit_dispatch_rule_id
        agent.adopted = {DISPATCH_RULE: {"id": rule_id, "name": "theirs", "metadata": "", "is_shared": True}}

    with pytest.raises(RefusedError) as refused:
        change(saga, agent_id, NAME)

    assert refused.value.code is ErrorCode.SHARED_WITH_OTHERS
    assert str(rule_id) in refused.value.detail
    assert change(saga, agent_id, {"options": {"call": {"ringingS": 9}}}).operation is not None


def test_what_an_adopted_path_has_and_nobody_could_set_is_left_alone(saga: Saga, agent_id: uuid.UUID) -> None:
    with saga.sessions.begin() as session:
        agent = session.get_one(Agent, agent_id)
        agent.options = {"call": {"ringingS": 0.5}, "agents": [{"name": "theirs", "metadata": "not JSON"}]}

    drive(saga, queued(saga, agent_id, {"options": {"dispatch": {"pin": "1"}}}))

    options = {
        "call": {"ringingS": 0.5},
        "agents": [{"name": "theirs", "metadata": "not JSON"}],
        "dispatch": {"pin": "1"},
    }
    assert fields_of(saga, agent_id)[3] == options
    with pytest.raises(RefusedError):
        change(saga, agent_id, {"options": {"call": {"ringingS": 0}}})
