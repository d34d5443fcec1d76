"""An adoption broken anywhere: callers never notice, and the path is the agent's whole or as it was found."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select

from app.db.models import Agent, Trunk
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    ORIGINATION_URL,
    TRUNK,
    OperationKind,
    OperationStatus,
    PathChoice,
    PhoneStatus,
    TrunkMode,
)
from app.domain.options import RuleAgent
from app.numbers.adoption import AdoptionService
from app.path.marks import tag_of
from app.providers.errors import RejectedError
from tests.support.moved_numbers import FAILURES, Watch, drive, ids_of, ledger, rings, snapshot
from tests.support.saga import E164, ORIGIN, SIP_URI, Saga

OTHER = "+15145550101"
ADOPT_CALLS = 14
KEEP_CALLS = 8
REMOVE_CALLS = {False: 20, True: 7}
"""As many as such an operation makes where nothing fails; of a removal, by whether others use the path."""

NO = RejectedError(ErrorCode.LIVEKIT_REJECTED, "No.")


@dataclass(frozen=True)
class Made:
    """A path that somebody built, and an agent without a number."""

    saga: Saga
    number_sid: str
    agent_id: uuid.UUID
    ids: dict[str, str]

    @property
    def adoption(self) -> AdoptionService:
        saga = self.saga
        return AdoptionService(saga.sessions, saga.publisher, saga.rows, saga.toolboxes)

    def open(self, agent_id: uuid.UUID | None = None) -> uuid.UUID:
        """Open an adoption; return the operation's id."""
        return self.adoption.adopt(agent_id or self.agent_id, E164, origin=ORIGIN).id

    def adopted(self) -> None:
        """Adopt the path, to the end."""
        drive(self.saga, self.open())
        assert self.saga.status_of(self.agent_id) is PhoneStatus.PROVISIONED

    def deprovision(self, path: PathChoice | None) -> uuid.UUID:
        operation = self.saga.service.deprovision(self.agent_id, origin=ORIGIN, path=path)
        assert operation is not None
        return operation.id

    def columns(self) -> dict[str, Any]:
        """Return what an adoption writes into the agent's row."""
        with self.saga.sessions() as session:
            agent = session.get_one(Agent, self.agent_id)
            names = ("name", "livekit_agent_name", "agent_metadata", "options", "version", "adopted")
            return {name: getattr(agent, name) for name in names}

    def share(self) -> None:
        """Let another number use both trunks and the rule."""
        carrier, platform, trunk_id = self.saga.world.carrier, self.saga.world.platform, self.ids[INBOUND_TRUNK]
        carrier.own_number(OTHER, trunk_sid=self.ids[TRUNK])
        platform.trunks[trunk_id] = replace(platform.trunks[trunk_id], numbers=(E164, OTHER))


@pytest.fixture
def made(saga: Saga, number_sid: str) -> Made:
    carrier, platform = saga.world.carrier, saga.world.platform
    trunk_sid = carrier.own_trunk("Front desk line")
    url_sid = carrier.own_url(trunk_sid, SIP_URI, "to LiveKit", priority=1, weight=7)
    carrier.route(number_sid, trunk_sid=trunk_sid)
    trunk_id = platform.own_trunk(E164, name="Front desk", metadata='{"costCentre": 42}')
    rule_id = platform.own_rule(trunk_id, "front-desk", name="Callers")
    platform.rules[rule_id] = replace(platform.rules[rule_id], agents=(RuleAgent("front-desk", '{"tone": "kind"}'),))
    ids = {TRUNK: trunk_sid, ORIGINATION_URL: url_sid, INBOUND_TRUNK: trunk_id, DISPATCH_RULE: rule_id}
    return Made(saga, number_sid, saga.agent(), ids | {NUMBER: number_sid})


def assert_adopted(made: Made, there: Any) -> None:
    """Check that the path is the agent's, and that nothing but names and a mark differs from what was there."""
    saga, tag = made.saga, tag_of("test", made.agent_id)
    assert saga.status_of(made.agent_id) is PhoneStatus.PROVISIONED
    assert {step: value for step, value in ids_of(saga, made.agent_id).items() if step in made.ids} == made.ids
    columns = made.columns()
    assert (columns["name"], columns["livekit_agent_name"]) == ("support", "front-desk")
    assert (columns["agent_metadata"], columns["version"]) == ({"tone": "kind"}, 2)
    assert set(columns["adopted"]) == {TRUNK, ORIGINATION_URL, INBOUND_TRUNK, DISPATCH_RULE}
    carrier, platform = saga.world.carrier, saga.world.platform
    names = (*(one.tag for one in (*carrier.trunks.values(), *carrier.urls.values())),)
    assert {*names, *(one.name for one in (*platform.trunks.values(), *platform.rules.values()))} == {tag}
    assert '"costCentre": 42' in platform.trunks[made.ids[INBOUND_TRUNK]].metadata
    carrier.trunks = {sid: replace(one, tag=there["trunks"][sid].tag) for sid, one in carrier.trunks.items()}
    carrier.urls = {sid: replace(one, tag=there["urls"][sid].tag) for sid, one in carrier.urls.items()}
    trunks, rules = there["livekit"]
    for key, one in platform.trunks.items():
        platform.trunks[key] = replace(one, name=trunks[key].name, metadata=trunks[key].metadata)
    platform.rules = {key: replace(one, name=rules[key].name) for key, one in platform.rules.items()}
    assert snapshot(saga.world) == there


def assert_as_found(made: Made, there: Any, status: PhoneStatus) -> None:
    """Check that nothing of Trunkline is left at the providers and in the agent's row."""
    assert (snapshot(made.saga.world), made.saga.status_of(made.agent_id)) == (there, status)
    assert (made.columns()["adopted"], ledger(made.saga, made.agent_id)) == (None, set())
    assert {value for step, value in ids_of(made.saga, made.agent_id).items() if step != "phone"} == {None}


def test_an_adoption_marks_each_object_once_and_changes_nothing_else(made: Made) -> None:
    there, watch = snapshot(made.saga.world), Watch(made.saga.world, (made.number_sid,))
    operation_id = made.open()
    looked = len(watch.calls)
    made.saga.drive(operation_id)
    assert made.saga.status(operation_id) is OperationStatus.SUCCEEDED
    written = [call for call in watch.calls if not call.partition(".")[2].startswith(("get_", "list_", "find_"))]
    assert sorted(written) == [
        "carrier.update_origination_url",
        "carrier.update_trunk",
        "platform.update_dispatch_rule",
        "platform.update_inbound_trunk",
    ]
    assert watch.cut_off == []
    assert ledger(made.saga, made.agent_id) == set(made.ids.values()) - {made.number_sid}
    assert len(watch.calls) - looked == ADOPT_CALLS
    assert_adopted(made, there)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("at", range(ADOPT_CALLS))
def test_an_adoption_broken_anywhere_ends_whole_or_as_it_was_found(made: Made, at: int, kind: str) -> None:
    there, before = snapshot(made.saga.world), made.columns()
    operation_id = made.open()
    watch = Watch(made.saga.world, (made.number_sid,), at, **FAILURES[kind]())
    drive(made.saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    if made.saga.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_adopted(made, there)
        return
    assert (kind, made.saga.status(operation_id)) == ("refused", OperationStatus.FAILED)
    assert made.columns() == before
    assert_as_found(made, there, PhoneStatus.FAILED)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "refused"])
@pytest.mark.parametrize("at", range(KEEP_CALLS))
def test_its_way_back_broken_anywhere_ends_as_it_was_found(made: Made, at: int, kind: str) -> None:
    there = snapshot(made.saga.world)
    operation_id = made.open()
    made.saga.world.log.plan("carrier.list_trunk_numbers", before=NO)
    made.saga.world.log.plan("platform.list_dispatch_rules", before=NO)
    made.saga.drive_until(operation_id, OperationStatus.ROLLING_BACK)
    assert snapshot(made.saga.world) != there
    watch = Watch(made.saga.world, (made.number_sid,), at, **FAILURES[kind]())
    drive(made.saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert_as_found(made, there, PhoneStatus.FAILED)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "refused"])
@pytest.mark.parametrize("at", range(KEEP_CALLS))
def test_a_kept_path_rings_throughout_and_is_as_it_was_found(made: Made, at: int, kind: str) -> None:
    there = snapshot(made.saga.world)
    made.adopted()
    operation_id = made.deprovision(PathChoice.KEEP)
    watch = Watch(made.saga.world, (made.number_sid,), at, **FAILURES[kind]())
    drive(made.saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert_as_found(made, there, PhoneStatus.NOT_PROVISIONED)


def remove(made: Made, *, is_shared: bool, breaks_at: int = -1, **failure: Any) -> Watch:
    """Adopt the path and take it down, whatever fails; what is left is checked."""
    if is_shared:
        made.share()
    there = snapshot(made.saga.world)
    made.adopted()
    operation_id = made.deprovision(PathChoice.REMOVE)
    watch = Watch(made.saga.world, (), breaks_at, **failure)
    drive(made.saga, operation_id)
    carrier, platform = made.saga.world.carrier, made.saga.world.platform
    assert not made.saga.world.routing(made.number_sid).is_taken
    if not is_shared:
        assert (carrier.trunks, carrier.urls, platform.trunks, platform.rules) == ({}, {}, {}, {})
        return watch
    trunk_id = made.ids[INBOUND_TRUNK]
    assert platform.trunks[trunk_id].numbers == (OTHER,)
    platform.trunks[trunk_id] = replace(platform.trunks[trunk_id], numbers=(E164, OTHER))
    carrier.route(made.number_sid, trunk_sid=made.ids[TRUNK])
    assert_as_found(made, there, PhoneStatus.NOT_PROVISIONED)
    return watch


@pytest.mark.parametrize("is_shared", REMOVE_CALLS)
def test_a_removal_leaves_what_others_use(made: Made, *, is_shared: bool) -> None:
    assert len(remove(made, is_shared=is_shared).calls) == REMOVE_CALLS[is_shared]


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "refused"])
@pytest.mark.parametrize(
    ("is_shared", "at"), [(each, at) for each, calls in REMOVE_CALLS.items() for at in range(calls)]
)
def test_a_removal_broken_anywhere_leaves_the_same(made: Made, at: int, kind: str, *, is_shared: bool) -> None:
    remove(made, is_shared=is_shared, breaks_at=at, **FAILURES[kind]())


# Races.


def test_of_two_adoptions_of_one_number_one_is_refused(made: Made) -> None:
    second = made.saga.agent("second")
    found = made.adoption.preview(second, E164)
    made.adopted()
    with pytest.raises(RefusedError) as refused:
        made.open(second)
    assert refused.value.code is ErrorCode.NUMBER_IN_USE

    class Late(AdoptionService):
        """Has looked before the other wrote."""

        def preview(self, *_: Any, **__: Any) -> Any:
            return found

    late = Late(*(getattr(made.adoption, name) for name in AdoptionService.__dataclass_fields__))
    with pytest.raises(RefusedError) as refused:
        late.adopt(second, E164, origin=ORIGIN)
    assert refused.value.code is ErrorCode.NUMBER_IN_USE
    assert made.saga.status_of(second) is PhoneStatus.NOT_PROVISIONED


def test_an_agent_that_was_changed_while_its_path_was_looked_at_keeps_the_change(made: Made) -> None:
    def change() -> None:
        with made.saga.sessions.begin() as session:
            agent = session.get_one(Agent, made.agent_id)
            agent.name, agent.version = "changed", agent.version + 1

    made.saga.world.log.plan("platform.list_dispatch_rules", after=change)
    with pytest.raises(RefusedError) as refused:
        made.open()
    assert refused.value.code is ErrorCode.OPERATION_IN_PROGRESS
    assert made.columns()["name"] == "changed"


def _moved(made: Made) -> None:
    other = made.saga.world.carrier.own_trunk("another trunk")
    made.saga.world.carrier.route(made.number_sid, trunk_sid=other)


def _renamed(made: Made) -> None:
    platform, trunk_id = made.saga.world.platform, made.ids[INBOUND_TRUNK]
    platform.trunks[trunk_id] = replace(platform.trunks[trunk_id], name="Reception")


def _other_agent(made: Made) -> None:
    platform, rule_id = made.saga.world.platform, made.ids[DISPATCH_RULE]
    platform.rules[rule_id] = replace(platform.rules[rule_id], agents=(RuleAgent("night", "{}"),))


def _deleted(made: Made) -> None:
    made.saga.world.platform.rules.clear()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_moved, ErrorCode.NUMBER_MOVED),
        (_renamed, ErrorCode.PATH_NOT_VERIFIED),
        (_other_agent, ErrorCode.PATH_NOT_VERIFIED),
        (_deleted, ErrorCode.PATH_NOT_VERIFIED),
    ],
)
def test_what_somebody_changes_between_look_and_mark_fails_it_and_stays_theirs(
    made: Made, change: Callable[[Made], None], code: ErrorCode
) -> None:
    operation_id = made.open()
    change(made)
    there = snapshot(made.saga.world)
    drive(made.saga, operation_id)
    snap = made.saga.snapshot(operation_id)
    assert (snap.operation.status, snap.operation.error_code) == (OperationStatus.FAILED, code)
    assert_as_found(made, there, PhoneStatus.FAILED)
    assert not made.saga.world.ours()[TRUNK]


def test_what_somebody_renames_after_the_mark_is_theirs(made: Made) -> None:
    made.adopted()
    carrier, platform, trunk_id = made.saga.world.carrier, made.saga.world.platform, made.ids[INBOUND_TRUNK]
    carrier.trunks[made.ids[TRUNK]] = replace(carrier.trunks[made.ids[TRUNK]], tag="Reception line")
    platform.trunks[trunk_id] = replace(platform.trunks[trunk_id], metadata='{"costCentre": 7}')
    drive(made.saga, made.deprovision(PathChoice.KEEP))
    assert carrier.trunks[made.ids[TRUNK]].tag == "Reception line"
    assert platform.trunks[trunk_id].metadata == '{"costCentre": 7}'
    assert platform.trunks[trunk_id].name == "Front desk"
    assert carrier.urls[made.ids[ORIGINATION_URL]].tag == "to LiveKit"
    assert rings(made.saga.world, made.number_sid)


# What ends one, and what an agent without a number is asked.


@pytest.mark.parametrize("until", [None, TRUNK, INBOUND_TRUNK, DISPATCH_RULE])
def test_a_cancelled_adoption_takes_its_marks_off(made: Made, until: str | None) -> None:
    there, before = snapshot(made.saga.world), made.columns()
    operation_id = made.open()
    if until:
        made.saga.advance(operation_id, until=until)
    watch = Watch(made.saga.world, (made.number_sid,))
    cancelling = made.deprovision(None)
    made.saga.drive(cancelling)
    assert made.saga.status(operation_id) is OperationStatus.CANCELLED
    assert (watch.cut_off, made.columns()) == ([], before)
    assert_as_found(made, there, PhoneStatus.NOT_PROVISIONED)


def test_a_number_on_a_trunk_of_the_pool_has_left_what_could_be_kept(made: Made) -> None:
    made.adopted()
    made.saga.world.carrier.own_number(OTHER)
    made.saga.trunk_mode = TrunkMode.SHARED
    made.saga.provisioned(e164=OTHER)
    with made.saga.sessions.begin() as session:
        session.get_one(Agent, made.agent_id).trunk_id = session.scalars(select(Trunk.id)).one()
    with pytest.raises(RefusedError) as refused:
        made.deprovision(PathChoice.KEEP)
    assert (refused.value.code, "only be removed" in refused.value.detail) == (ErrorCode.KEEP_OR_REMOVE, True)
    assert made.saga.status_of(made.agent_id) is PhoneStatus.PROVISIONED


def test_a_busy_agent_and_one_with_a_number_cannot_adopt(made: Made) -> None:
    operation_id = made.open()
    with pytest.raises(RefusedError) as refused:
        made.open()
    assert refused.value.code is ErrorCode.OPERATION_IN_PROGRESS
    made.saga.drive(operation_id)
    with pytest.raises(RefusedError) as refused:
        made.open()
    assert refused.value.code is ErrorCode.AGENT_HAS_PHONE
    with pytest.raises(RefusedError) as refused:
        made.adoption.preview(uuid.uuid4(), E164)
    assert refused.value.code is ErrorCode.AGENT_NOT_FOUND


def test_the_operation_is_an_adoption_with_what_becomes_of_the_agent(made: Made) -> None:
    operation = made.saga.snapshot(made.open()).operation
    assert operation.kind is OperationKind.ADOPT
    assert set(operation.wanted or {}) == {"livekit_agent_name", "metadata", "adopted"}
