"""Adopted paths afterwards, over HTTP with the real SDKs: repairs, moves, audits, and what is the pool's."""

import uuid
from collections.abc import Callable

import pytest
from livekit.protocol import sip

from app.db.models import Agent
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Origin
from app.domain.findings import FindingCode, Severity
from app.domain.operations import (
    COLUMNS,
    DISPATCH_RULE,
    INBOUND_TRUNK,
    ORIGINATION_URL,
    TRUNK,
    PathChoice,
    PhoneStatus,
)
from app.path.marks import TAG_PREFIX
from app.wiring import Wiring
from tests.support.changed_path import OwnSandbox, new_agent
from tests.support.handmade import OTHER_NUMBER, HandMade, changes, plain

TARGET = "night shift"


@pytest.fixture
def made(changing: tuple[OwnSandbox, Wiring]) -> HandMade:
    path = new_agent(*changing)
    path.sandbox.number(OTHER_NUMBER)
    return HandMade(path)


def shared(made: HandMade) -> None:
    """Build a path on a trunk with another number, which is in the LiveKit trunk too."""
    made.trunk()
    made.put(OTHER_NUMBER)
    made.url()
    made.inbound(numbers=[made.number, OTHER_NUMBER])
    made.rule(("front-desk", '{"tone": "kind"}'))


def repair(made: HandMade) -> None:
    """Repair the path, and run it to its end."""
    found = made.path.wiring.maintenance.repair(made.path.agent_id, takeover=False, origin=Origin())
    assert found.operation is not None
    made.path.drive()


def cannot_repair(made: HandMade) -> None:
    """Check that a repair is refused, by request and by an audit, and that nothing changes."""
    there = made.objects()
    with pytest.raises(RefusedError) as refused:
        made.path.wiring.maintenance.repair(made.path.agent_id, takeover=False, origin=Origin())
    assert "Other numbers use it too" in refused.value.detail
    made.path.audit(fix=True)
    assert changes(there, made.objects()) == {}


def delete_rule(made: HandMade) -> None:
    made.path.wiring.platform.delete_dispatch_rule(made.ids[DISPATCH_RULE])


def target_of(made: HandMade) -> uuid.UUID:
    return made.path.wiring.agents.create(TARGET, "front-desk", {"tone": "kind"}).id


def move(made: HandMade, target: uuid.UUID) -> None:
    made.path.wiring.maintenance.move(made.path.agent_id, target, origin=Origin())
    made.path.drive()
    made.path.agent_id = target


# Repairs.


def _disable_url(made: HandMade) -> None:
    urls = f"/v1/Trunks/{made.ids[TRUNK]}/OriginationUrls/{made.ids[ORIGINATION_URL]}"
    made.path.console.twilio("POST", urls, Enabled="false")


def _other_agent(made: HandMade) -> None:
    def change(info: sip.SIPDispatchRuleInfo) -> None:
        info.room_config.agents[0].agent_name = "back-office"

    made.path.change_rule(change)


@pytest.mark.parametrize(
    ("change", "code"),
    [(_disable_url, FindingCode.ORIGINATION_URL_DISABLED), (_other_agent, FindingCode.RULE_LOST_AGENT)],
)
def test_what_others_use_too_is_reported_and_never_changed(
    made: HandMade, change: Callable[[HandMade], None], code: FindingCode
) -> None:
    shared(made)
    made.adopt()
    change(made)
    found = made.path.findings()
    assert [(one.code, one.severity, one.steps) for one in found] == [(code, Severity.CRITICAL, ())], found
    cannot_repair(made)


def test_what_was_adopted_and_is_the_agents_alone_is_mended_in_place(made: HandMade) -> None:
    plain(made)
    before = made.objects()
    made.adopt()
    adopted = made.objects()
    _other_agent(made)
    repair(made)
    assert (changes(adopted, made.objects()), made.path.findings()) == ({}, [])
    made.deprovision(PathChoice.KEEP)
    assert changes(before, made.objects()) == {}


def test_a_lost_mark_is_put_back_and_the_former_name_is_still_known(made: HandMade) -> None:
    plain(made)
    before = made.objects()
    made.adopt()
    made.path.change_trunk(FriendlyName="Reception")
    assert [one.code for one in made.path.findings()] == [FindingCode.MARK_LOST]
    repair(made)
    assert made.path.findings() == []
    made.deprovision(PathChoice.KEEP)
    assert changes(before, made.objects()) == {}


@pytest.mark.parametrize("build", [plain, shared])
def test_a_rule_that_is_gone_is_made_anew_and_adopted_no_more(
    made: HandMade, build: Callable[[HandMade], None]
) -> None:
    build(made)
    calls = [call[:3] for call in made.calls()]
    made.adopt()
    delete_rule(made)
    before = made.objects()
    repair(made)
    agent, after = made.path.agent, made.objects()
    assert agent.livekit_dispatch_rule_id != made.ids[DISPATCH_RULE]
    assert changes(before, after) == {str(agent.livekit_dispatch_rule_id): {"made"}}
    assert ([call[:3] for call in made.calls()], made.path.findings()) == (calls, [])
    # A rule that is made beside what others use takes the calls of this number alone.
    assert list(made.path.rule().numbers) == ([made.number] if build is shared else [])
    made.deprovision(PathChoice.KEEP)
    kept = made.objects()
    assert [call[:3] for call in made.calls()] == calls
    assert not [key for key, record in kept.items() if TAG_PREFIX in str(record)]


def test_a_trunk_that_is_gone_is_made_anew_and_can_be_left_to_whoever_takes_over(made: HandMade) -> None:
    plain(made)
    calls = [call[:3] for call in made.calls()]
    made.adopt()
    made.path.console.twilio("DELETE", f"/v1/Trunks/{made.ids[TRUNK]}")
    repair(made)
    agent = made.path.agent
    assert (agent.trunk_id, agent.phone_provisioning_status) == (None, PhoneStatus.PROVISIONED)
    assert ([call[:3] for call in made.calls()], made.path.findings()) == (calls, [])
    made.deprovision(PathChoice.KEEP)
    assert [call[:3] for call in made.calls()] == calls
    assert not [key for key, record in made.objects().items() if TAG_PREFIX in str(record)]


def test_a_shared_trunk_whose_url_is_gone_gets_none_of_ours(made: HandMade) -> None:
    shared(made)
    made.adopt()
    urls = f"/v1/Trunks/{made.ids[TRUNK]}/OriginationUrls/{made.ids[ORIGINATION_URL]}"
    made.path.console.twilio("DELETE", urls)
    cannot_repair(made)
    assert FindingCode.ORIGINATION_URL_MISSING in {one.code for one in made.path.findings()}


# Moves.


def test_a_move_takes_what_was_adopted_along(made: HandMade) -> None:
    plain(made)
    before = made.objects()
    made.adopt()
    source, calls = made.path.agent_id, made.calls()
    with made.path.wiring.sessions.begin() as session:
        found = session.get_one(Agent, source)
        target = target_of(made)
        session.get_one(Agent, target).options = dict(found.options)
    move(made, target)
    assert made.path.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert (made.calls(), made.path.findings()) == (calls, [])
    assert set(made.path.agent.adopted or {}) == set(made.ids)
    assert made.path.wiring.agents.get(source).adopted is None
    assert not [key for key, record in made.objects().items() if str(source) in str(record)]
    made.deprovision(PathChoice.KEEP)
    assert changes(before, made.objects()) == {}


def test_a_move_that_fails_leaves_the_path_with_who_had_adopted_it(made: HandMade) -> None:
    plain(made)
    before = made.objects()
    made.adopt()
    marked, source, calls = made.objects(), made.path.agent_id, made.calls()
    target = target_of(made)
    made.path.sandbox.fault("livekit.list_dispatch_rules", "reject", contains=made.ids[INBOUND_TRUNK])
    move(made, target)
    assert made.path.agent.twilio_phone_number is None
    made.path.agent_id = source
    # The mark in the metadata names the operation that has written it.
    assert changes(marked, made.objects()) in ({}, {made.ids[INBOUND_TRUNK]: {"metadata"}})
    assert (made.calls(), made.path.findings(), set(made.path.agent.adopted or {})) == (calls, [], set(made.ids))
    made.deprovision(PathChoice.KEEP)
    assert changes(before, made.objects()) == {}


def test_a_rule_that_others_use_too_is_not_moved(made: HandMade) -> None:
    shared(made)
    made.adopt()
    there, target = made.objects(), target_of(made)
    with pytest.raises(RefusedError) as refused:
        move(made, target)
    assert (refused.value.code, made.ids[DISPATCH_RULE] in refused.value.detail) == (
        ErrorCode.SHARED_WITH_OTHERS,
        True,
    )
    assert changes(there, made.objects()) == {}


# What concerns all agents.


def test_a_consolidation_leaves_an_adopted_path_where_it_was_found(made: HandMade) -> None:
    plain(made)
    made.adopt()
    plan, bulk = made.path.wiring.consolidation.start(origin=Origin())
    assert ([(one.reason, one.count) for one in plan.left_out], bulk) == ([("adopted", 1)], None), plan.left_out


def test_an_audit_takes_the_mark_off_what_somebody_else_has_made_and_deletes_nothing(made: HandMade) -> None:
    plain(made)
    before, calls = made.objects(), made.calls()
    made.adopt()
    with made.path.wiring.sessions.begin() as session:
        agent = session.get_one(Agent, made.path.agent_id)
        agent.phone_provisioning_status, agent.twilio_phone_number = PhoneStatus.NOT_PROVISIONED, None
        agent.adopted = agent.previous_routing = None
        for column in COLUMNS.values():
            setattr(agent, column, None)
    audit = made.path.audit(fix=True)
    assert {one["fixed"] for one in audit.findings} == {"unmarked: somebody else has made it"}, audit.findings
    assert (changes(before, made.objects()), made.calls()) == ({}, calls)
