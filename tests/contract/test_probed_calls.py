"""A test call from end to end against the sandbox's LiveKit: SIP, the room that its API shows, and the verdict."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.calls.probing import place_test_call
from app.calls.sip_call import CallTimes, place_call
from app.calls.verdicts import CallTarget, Outcome
from app.domain.calls import AGENT_HOP, CallRoom, CallVerdict
from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL
from app.domain.sip_uris import parse_sip_uri
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media
from app.providers.errors import RejectedError, TransientError
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import E164, inbound_spec, made_by_hand, platform_at, rule_spec
from tests.support.leftovers import no_thread_left
from tests.support.sandbox import Sandbox

CALLER = "+12025550100"
AGENT = "receptionist"

TRANSPORTS = ("udp", "tcp")

TIMES = CallTimes(budget_s=4.0, talk_s=0.5, hang_up_s=0.5)


@dataclass
class Line:
    """A number's LiveKit trunk and rule at the sandbox, and calls to it over each transport."""

    sandbox: Sandbox
    platform: LiveKitPlatform
    trunk: InboundTrunk
    rule: DispatchRule

    def change_trunk(self, **fields: Any) -> None:
        wanted = replace(self.trunk, **fields)
        assert self.platform.update_inbound_trunk(self.trunk, wanted)
        self.trunk = wanted

    def change_rule(self, **fields: Any) -> None:
        wanted = replace(self.rule, **fields)
        assert self.platform.update_dispatch_rule(self.rule, wanted)
        self.rule = wanted

    def target(self, transport: str) -> CallTarget:
        uri = parse_sip_uri(f"sip:{self.sandbox.sip()['address']};transport={transport}")
        return CallTarget(uri, E164, CALLER, False, AGENT, self.trunk, self.rule)

    def call(self, times: CallTimes = TIMES, *, transports: Sequence[str] = TRANSPORTS, **other: Any) -> list[Outcome]:
        """Call over each of these transports, all at once: most of a call is waiting."""
        targets = [replace(self.target(transport), **other) for transport in transports]
        with ThreadPoolExecutor(len(targets)) as pool:
            return list(pool.map(lambda target: place_test_call(self.platform, target, times=times), targets))

    def ended_by(self) -> list[str]:
        return [call["endedBy"] for call in self.sandbox.sip()["calls"]]


@pytest.fixture
def line(sandbox: Sandbox, platform: LiveKitPlatform) -> Iterator[Line]:
    trunk = platform.create_inbound_trunk(replace(inbound_spec(), allowed_addresses=()))
    rule = platform.create_dispatch_rule(rule_spec(trunk.id))
    with no_thread_left():
        yield Line(sandbox, platform, trunk, rule)


def test_an_agent_answers(line: Line) -> None:
    line.sandbox.sip(answerS=0.6)
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.ANSWERED, "", 200)
        assert outcome.answer_s >= 0.6 > outcome.ring_s >= 0
        assert outcome.room == CallRoom(
            outcome.room.name, f"sip_{CALLER}", line.trunk.id, line.rule.id, (AGENT,), outcome.room.joined
        )
        assert CALLER in outcome.room.name
    assert line.ended_by() == ["caller", "caller"]


def test_nobody_answers(line: Line) -> None:
    line.change_trunk(ringing_timeout_s=2.0)
    line.sandbox.switch(agents=[])
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.NO_AGENT, AGENT_HOP, 486)
        assert (outcome.room.trunk_id, outcome.room.rule_id, outcome.room.joined) == (line.trunk.id, line.rule.id, ())
        assert AGENT in outcome.detail


def test_a_call_that_rings_for_longer_than_we_wait_is_cancelled(line: Line) -> None:
    line.sandbox.sip(answerS=60)
    for outcome in line.call(replace(TIMES, budget_s=2.5)):
        assert (outcome.verdict, outcome.sip_status) == (CallVerdict.NO_AGENT, 180)
        assert outcome.room is not None
    counts = line.sandbox.request_counts()
    assert counts["livekit.list_rooms"] == 2, "once a call was seen, only its room is looked at"
    assert counts["livekit.list_participants"] >= 4
    assert line.ended_by() == ["caller", "caller"]


@pytest.mark.parametrize("server", ["cloud", "openSource", "openSource1.13.7"])
def test_a_number_of_no_trunk_has_no_route(line: Line, server: str) -> None:
    line.sandbox.switch(livekitServer=server)
    for outcome in line.call(replace(TIMES, budget_s=5.5), called="+15145559999", trunk=None, rule=None):
        assert (outcome.verdict, outcome.hop) == (CallVerdict.NO_ROUTE, INBOUND_TRUNK)
        assert outcome.sip_status == (180 if server == "openSource1.13.7" else 404)
        assert outcome.room is None


def test_a_trunk_without_a_rule_has_no_route(line: Line) -> None:
    line.platform.delete_dispatch_rule(line.rule.id)
    for outcome in line.call(rule=None):
        assert (outcome.verdict, outcome.hop) == (CallVerdict.NO_ROUTE, DISPATCH_RULE)


def test_two_trunks_with_the_number_have_no_route(line: Line) -> None:
    made_by_hand(
        line.sandbox,
        "CreateSIPInboundTrunk",
        {"trunk": {"name": "x", "numbers": [E164], "allowed_numbers": [CALLER]}},
    )
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.NO_ROUTE, INBOUND_TRUNK, 503)


def test_an_address_of_twilios_only_is_blocked(line: Line) -> None:
    line.change_trunk(allowed_addresses=("54.172.60.0/30",))
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.is_conclusive) == (CallVerdict.BLOCKED, INBOUND_TRUNK, False)


def test_a_caller_that_is_not_let_in_is_blocked(line: Line) -> None:
    line.change_trunk(allowed_numbers=("+13105550100",))
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop) == (CallVerdict.BLOCKED, INBOUND_TRUNK)
    for outcome in line.call(caller="+13105550100"):
        assert outcome.verdict is CallVerdict.ANSWERED


def test_a_pin_is_blocked(line: Line) -> None:
    line.change_rule(pin="1234")
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.BLOCKED, DISPATCH_RULE, 200)


def test_encryption_that_only_livekit_requires_fails(line: Line) -> None:
    line.change_trunk(media=Media(Encryption.REQUIRE))
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.FAILED, INBOUND_TRUNK, 400)


def test_a_room_that_livekit_does_not_make_fails_at_the_rule(line: Line) -> None:
    line.change_rule(room_preset="nobodys")
    for outcome in line.call():
        assert (outcome.verdict, outcome.hop, outcome.sip_status) == (CallVerdict.FAILED, DISPATCH_RULE, 486)


def test_a_rule_for_all_trunks_that_takes_the_call_is_named(line: Line) -> None:
    line.sandbox.switch(livekitServer="openSource")
    line.sandbox.sip(answerS=60)
    line.platform.delete_trunk(line.trunk.id)
    line.change_rule(trunk_ids=())
    for outcome in line.call(replace(TIMES, budget_s=1.5)):
        assert (outcome.verdict, outcome.room.trunk_id) == (CallVerdict.NO_AGENT, "")
        assert "through no trunk" in outcome.detail


def test_a_hidden_caller_is_found_all_the_same(line: Line) -> None:
    line.sandbox.sip(answerS=60)
    line.change_rule(hides_caller=True)
    for outcome in line.call(replace(TIMES, budget_s=1.5)):
        assert outcome.room.rule_id == line.rule.id
        assert CALLER not in outcome.room.name


SIP_FAULTS = {
    "a redirection": ("sip.invite", "sip_status", {"status": 302}, CallVerdict.FAILED, ORIGINATION_URL),
    "a challenge": ("sip.invite", "sip_status", {"status": 407}, CallVerdict.BLOCKED, INBOUND_TRUNK),
    "garbage": ("sip.invite", "sip_garbage", {}, CallVerdict.FAILED, ORIGINATION_URL),
    "silence from the start": ("sip.*", "sip_drop", {"times": None}, CallVerdict.FAILED, ORIGINATION_URL),
}


@pytest.mark.parametrize("fault", SIP_FAULTS)
def test_a_fault_of_the_far_end_has_its_verdict(line: Line, fault: str) -> None:
    operation, kind, fields, verdict, hop = SIP_FAULTS[fault]
    line.sandbox.fault(operation, kind, **{"times": None, **fields})
    for outcome in line.call(replace(TIMES, budget_s=1.5)):
        assert (outcome.verdict, outcome.hop) == (verdict, hop)


def test_lost_packets_change_nothing(line: Line) -> None:
    for operation in ("sip.invite", "sip.response_200", "sip.ack", "sip.bye"):
        line.sandbox.fault(operation, "sip_drop")
    (outcome,) = line.call(replace(TIMES, hang_up_s=2.0), transports=["udp"])
    assert outcome.verdict is CallVerdict.ANSWERED
    assert line.ended_by() == ["caller"]


def test_a_key_that_may_not_look_leaves_the_room_unknown(line: Line) -> None:
    line.sandbox.sip(answerS=60)
    line.sandbox.fault("livekit.list_rooms", "reject", times=None, code="permission_denied", message="no")
    for outcome in line.call(replace(TIMES, budget_s=1.5)):
        assert (outcome.verdict, outcome.room) == (CallVerdict.NO_AGENT, None)
        assert "could not be asked" in outcome.detail


def test_an_api_that_hangs_does_not_hold_the_call_for_long(line: Line) -> None:
    line.sandbox.fault("livekit.list_rooms", "hang", times=None, seconds=30)
    started = time.monotonic()
    for outcome in line.call():
        assert (outcome.verdict, outcome.room) == (CallVerdict.ANSWERED, None)
    assert time.monotonic() - started < 6


def test_many_at_once_do_not_take_each_others_room(line: Line) -> None:
    line.sandbox.sip(answerS=2.5)
    outcomes = line.call(replace(TIMES, budget_s=10.0), transports=TRANSPORTS * 5)
    assert [outcome.verdict for outcome in outcomes] == [CallVerdict.ANSWERED] * 10
    assert len({outcome.room.name for outcome in outcomes}) == 10


# What LiveKit's API shows, asked directly.


@pytest.fixture
def ringing(line: Line) -> Iterator[Callable[[], str]]:
    """Let a call ring in a thread; return its Call-ID once it is in its room."""
    line.sandbox.sip(answerS=60)
    call_id = "of-a-test@trunkline"
    target = line.target("tcp")
    times = replace(TIMES, budget_s=1.5)
    thread = threading.Thread(
        target=place_call, args=(target.uri, E164, CALLER), kwargs={"call_id": call_id, "times": times}
    )
    thread.start()
    time.sleep(0.3)
    yield lambda: call_id
    thread.join()


def test_a_call_is_found_by_its_call_id_alone(line: Line, ringing: Callable[[], str]) -> None:
    found = line.platform.find_call(ringing(), "+13105550100", "+13105550101")
    assert (found.trunk_id, found.rule_id, found.agents) == (line.trunk.id, line.rule.id, (AGENT,))
    assert line.platform.find_call(ringing(), CALLER, E164, found.name) == found
    assert line.platform.find_call(ringing(), CALLER, E164, "another-room") == found
    assert line.platform.find_call("of-another@trunkline", CALLER, E164) is None


def test_rooms_of_other_calls_are_looked_at_once(line: Line, ringing: Callable[[], str]) -> None:
    found = line.platform.find_call(ringing(), CALLER, E164)
    others: set[str] = set()
    assert line.platform.find_call("of-another@trunkline", CALLER, E164, others=others) is None
    assert others == {found.name}
    line.sandbox.forget_requests()
    assert line.platform.find_call("of-another@trunkline", CALLER, E164, others=others) is None
    assert line.sandbox.request_counts() == {"livekit.list_rooms": 1}


def test_a_room_is_shown_without_what_was_dispatched_where_livekit_does_not_say(
    line: Line, ringing: Callable[[], str]
) -> None:
    line.sandbox.fault("livekit.list_dispatches", "500", times=None)
    found = line.platform.find_call(ringing(), CALLER, E164)
    assert (found.rule_id, found.agents) == (line.rule.id, ())


def test_failures_are_those_of_an_adapter(line: Line) -> None:
    line.sandbox.fault("livekit.list_rooms", "500")
    with pytest.raises(TransientError):
        line.platform.find_call("x", CALLER, E164)
    with closing(platform_at(line.sandbox, secret="wrong" * 8)) as stranger, pytest.raises(RejectedError) as caught:
        stranger.find_call("x", CALLER, E164)
    assert caught.value.code is ErrorCode.LIVEKIT_BAD_CREDENTIALS
