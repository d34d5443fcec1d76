"""What the course of a test call means: one row for each verdict and hop."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.calls.sip_call import CallResponse, CallResult
from app.calls.sockets import Trouble
from app.calls.verdicts import CallTarget, Outcome, RoomSight, verdict_of
from app.domain.calls import AGENT_HOP, CallRoom, CallVerdict
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL
from app.domain.options import RuleAgent
from app.domain.sip_uris import TWILIO_SIGNALLING, parse_sip_uri
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media

V = CallVerdict
CALLED, CALLER = "+15145550001", "+12025550100"

TRUNK = InboundTrunk("ST_ours", "", "", (CALLED,))
RULE = DispatchRule("SDR_ours", "", "", (TRUNK.id,), (RuleAgent("front-desk"),))
TARGET = CallTarget(
    parse_sip_uri("sip:abc.sip.livekit.cloud;transport=tcp"), CALLED, CALLER, False, "front-desk", TRUNK, RULE
)
ROOM = CallRoom("call-_+12025550100_abc", "sip_+12025550100", TRUNK.id, RULE.id, ("front-desk",))
JOINED = RoomSight(replace(ROOM, joined=("agent-AJ_1",)), was_asked=True)
SEEN, NOT_SEEN, UNKNOWN = RoomSight(ROOM, was_asked=True), RoomSight(was_asked=True), RoomSight()

NOTHING = CallResult("id@trunkline", waited_s=30.0, local_address="203.0.113.9:40000")


def course(*responses: tuple[int, str] | int, every_s: float = 1.0, waited_s: float | None = None) -> CallResult:
    """Return a call with these responses, a second apart unless said otherwise."""
    said = [one if isinstance(one, tuple) else (one, "") for one in responses]
    noted = tuple(CallResponse(status, reason, place * every_s) for place, (status, reason) in enumerate(said))
    return replace(NOTHING, responses=noted, was_heard=True, waited_s=noted[-1].at_s if waited_s is None else waited_s)


RINGING = course(100, *[180] * 30, waited_s=30.0)
REJECTED = course(100, *[180] * 20, (486, "Rejected"))
SILENCE = course(100, 180, every_s=0.01, waited_s=30.0)
NO_MATCH = course(100, 180, (404, "Does not match Trunks or Dispatch Rules"), every_s=0.01)
NO_TRUNK = course(100, (404, "No trunk found"), every_s=0.01)
ANSWERED = course(100, 180, (200, "OK"))


def judged(result: CallResult, sight: RoomSight = UNKNOWN, **known: object) -> Outcome:
    return verdict_of(result, sight, replace(TARGET, **known))


ROWS = {
    "an answer": (ANSWERED, JOINED, {}, V.ANSWERED, "", "front-desk"),
    "an answer, and LiveKit's API is away": (ANSWERED, UNKNOWN, {}, V.ANSWERED, "", "Answered after 2.0 s."),
    "an answer of which LiveKit shows no room": (ANSWERED, NOT_SEEN, {}, V.ANSWERED, "", "did not show"),
    "ringing to the end": (RINGING, SEEN, {}, V.NO_AGENT, AGENT_HOP, "until we gave up"),
    "ringing to the end, unseen": (RINGING, NOT_SEEN, {}, V.NO_AGENT, AGENT_HOP, "showed no room"),
    "ringing to the end, LiveKit's API away": (RINGING, UNKNOWN, {}, V.NO_AGENT, AGENT_HOP, "could not be asked"),
    "ringing until LiveKit's 486": (REJECTED, SEEN, {}, V.NO_AGENT, AGENT_HOP, "486 Rejected"),
    "ringing until LiveKit's 486, unseen": (REJECTED, NOT_SEEN, {}, V.NO_AGENT, AGENT_HOP, "486 Rejected"),
    "the trunk's own status for nobody": (course(100, 180, 180, (503, "x")), SEEN, {}, V.NO_AGENT, AGENT_HOP, "503 x"),
    "486 at once": (
        course(100, 180, (486, "Rejected"), every_s=0.01),
        NOT_SEEN,
        {},
        V.FAILED,
        DISPATCH_RULE,
        "room preset",
    ),
    "silence after one ring": (SILENCE, NOT_SEEN, {}, V.NO_ROUTE, DISPATCH_RULE, "no dispatch rule"),
    "silence after one ring, no trunk known": (
        SILENCE,
        NOT_SEEN,
        {"trunk": None},
        V.NO_ROUTE,
        INBOUND_TRUNK,
        "no inbound",
    ),
    "silence after 100": (course(100, waited_s=30.0), NOT_SEEN, {"trunk": None}, V.NO_ROUTE, INBOUND_TRUNK, "took the"),
    "404 of open source": (NO_MATCH, NOT_SEEN, {}, V.NO_ROUTE, DISPATCH_RULE, "no dispatch rule"),
    "404 of open source, trunk without the number": (
        NO_MATCH,
        NOT_SEEN,
        {"trunk": replace(TRUNK, numbers=("+15145550009",))},
        V.NO_ROUTE,
        INBOUND_TRUNK,
        "no inbound trunk",
    ),
    "404 of Cloud": (NO_TRUNK, NOT_SEEN, {"trunk": None}, V.NO_ROUTE, INBOUND_TRUNK, "No trunk found"),
    "404 of Cloud, though the trunk is there": (NO_TRUNK, NOT_SEEN, {}, V.NO_ROUTE, ORIGINATION_URL, "another"),
    "two trunks": (course(100, (503, "Try again later")), NOT_SEEN, {}, V.NO_ROUTE, INBOUND_TRUNK, "two trunks"),
    "two rules": (
        course(100, 180, (503, "Try again later")),
        NOT_SEEN,
        {},
        V.NO_ROUTE,
        DISPATCH_RULE,
        "dispatch rules",
    ),
    "a quota": (course(100, (503, "Service temporarily unavailable")), NOT_SEEN, {}, V.FAILED, INBOUND_TRUNK, "quota"),
    "a password": (course(100, (407, "Unauthorized")), NOT_SEEN, {}, V.BLOCKED, INBOUND_TRUNK, "password"),
    "a password of a registrar": (course((401, "Unauthorized")), NOT_SEEN, {}, V.BLOCKED, INBOUND_TRUNK, "password"),
    "403": (course((403, "Forbidden")), NOT_SEEN, {}, V.BLOCKED, INBOUND_TRUNK, "may get through"),
    "a PIN": (ANSWERED, NOT_SEEN, {"rule": replace(RULE, pin="1234")}, V.BLOCKED, DISPATCH_RULE, "PIN"),
    "encryption that only LiveKit requires": (
        course(100, 180, (400, "")),
        NOT_SEEN,
        {"trunk": replace(TRUNK, media=Media(Encryption.REQUIRE))},
        V.FAILED,
        INBOUND_TRUNK,
        "ST_ours requires encryption",
    ),
    "no common codec": (course(100, 180, (400, "")), NOT_SEEN, {}, V.FAILED, INBOUND_TRUNK, "codecs"),
    "a plain answer to a secure trunk": (
        replace(ANSWERED, is_answer_plain=True),
        SEEN,
        {"is_secure": True},
        V.FAILED,
        INBOUND_TRUNK,
        "without encryption",
    ),
    "500": (course(100, 180, (500, "")), NOT_SEEN, {}, V.FAILED, INBOUND_TRUNK, "500"),
    "a status of nobody": (course((482, "Loop")), NOT_SEEN, {}, V.FAILED, INBOUND_TRUNK, "482 Loop"),
    "a redirection": (
        replace(course((302, "Moved")), redirected_to="elsewhere.example"),
        NOT_SEEN,
        {},
        V.FAILED,
        ORIGINATION_URL,
        "elsewhere.example",
    ),
    "nothing at all": (NOTHING, NOT_SEEN, {}, V.FAILED, ORIGINATION_URL, "abc.sip.livekit.cloud:5060 over TCP"),
    **{
        trouble.value: (replace(NOTHING, trouble=trouble), UNKNOWN, {}, V.FAILED, ORIGINATION_URL, "")
        for trouble in Trouble
    },
    "a connection that ends in the middle": (
        replace(course(100, (180, "Ringing")), trouble=Trouble.CLOSED),
        NOT_SEEN,
        {},
        V.FAILED,
        ORIGINATION_URL,
        "after 180 Ringing",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_course_has_its_verdict_hop_and_sentence(row: str) -> None:
    result, sight, known, verdict, hop, words = ROWS[row]
    outcome = judged(result, sight, **known)
    assert (outcome.verdict, outcome.hop) == (verdict, hop)
    assert words in outcome.detail
    assert outcome.detail.endswith((".", "?"))
    assert CALLER not in outcome.detail
    assert CALLED not in outcome.detail


def test_every_verdict_has_a_row() -> None:
    assert {row[3] for row in ROWS.values()} == set(CallVerdict)


def test_the_figures_are_those_of_the_call() -> None:
    outcome = judged(ANSWERED, SEEN)
    assert (outcome.sip_status, outcome.ring_s, outcome.answer_s) == (200, 1.0, 2.0)
    assert (outcome.room, outcome.call_id) == (ROOM, "id@trunkline")
    assert judged(NOTHING).sip_status is None
    assert judged(SILENCE).sip_status == 180


@pytest.mark.parametrize("result", [SILENCE, NO_MATCH, NO_TRUNK], ids=["silence", "404", "cloud"])
def test_an_address_that_only_twilio_has_is_blocked_and_proves_nothing(result: CallResult) -> None:
    outcome = judged(result, NOT_SEEN, trunk=replace(TRUNK, allowed_addresses=TWILIO_SIGNALLING))
    assert (outcome.verdict, outcome.hop, outcome.is_conclusive) == (V.BLOCKED, INBOUND_TRUNK, False)
    assert "may get through" in outcome.detail
    assert "LIVEKIT_ALLOWED_ADDRESSES" in outcome.detail
    assert "203.0.113.9" in outcome.detail


def test_an_address_that_is_let_in_is_no_reason() -> None:
    allowed = (*TWILIO_SIGNALLING, "203.0.113.0/24")
    outcome = judged(SILENCE, NOT_SEEN, trunk=replace(TRUNK, allowed_addresses=allowed))
    assert outcome.verdict is V.NO_ROUTE


def test_addresses_without_twilios_are_blocked_for_everybody() -> None:
    outcome = judged(SILENCE, NOT_SEEN, trunk=replace(TRUNK, allowed_addresses=("198.51.100.0/24",)))
    assert (outcome.verdict, outcome.is_conclusive) == (V.BLOCKED, True)
    assert "neither" in outcome.detail


def test_a_caller_that_is_not_let_in_is_blocked_and_proves_nothing() -> None:
    outcome = judged(NO_MATCH, NOT_SEEN, trunk=replace(TRUNK, allowed_numbers=("+13105550100",)))
    assert (outcome.verdict, outcome.hop, outcome.is_conclusive) == (V.BLOCKED, INBOUND_TRUNK, False)
    assert "********0100" in outcome.detail


def test_what_this_installation_alone_may_have_wrong_proves_nothing() -> None:
    inconclusive = {trouble for trouble in Trouble if not judged(replace(NOTHING, trouble=trouble)).is_conclusive}
    assert inconclusive == {Trouble.LOCAL, Trouble.NAME_TIMED_OUT}


DETOURS = {
    "another trunk": (replace(ROOM, trunk_id="ST_other"), "through trunk ST_other instead of ST_ours"),
    "no trunk": (replace(ROOM, trunk_id=""), "through no trunk instead of ST_ours"),
    "another rule": (replace(ROOM, rule_id="SDR_other"), "by rule SDR_other instead of SDR_ours"),
    "another agent": (replace(ROOM, agents=("back-office",)), "for back-office instead of front-desk"),
    "any agent": (replace(ROOM, agents=("",)), "for any agent without a name instead of front-desk"),
}


@pytest.mark.parametrize("detour", DETOURS)
@pytest.mark.parametrize("result", [ANSWERED, RINGING], ids=["answered", "ringing"])
def test_a_call_that_others_took_says_so(detour: str, result: CallResult) -> None:
    room, words = DETOURS[detour]
    assert words in judged(result, RoomSight(room, was_asked=True)).detail


def test_nobody_came_names_the_agent_that_should_have() -> None:
    assert "as exactly front-desk" in judged(RINGING, SEEN).detail
    assert "names the agent" in judged(RINGING, RoomSight(replace(ROOM, agents=("other",)), was_asked=True)).detail


def test_an_agent_without_sound_is_another_fault_than_none() -> None:
    outcome = judged(RINGING, JOINED)
    assert (outcome.verdict, outcome.hop) == (V.NO_AGENT, AGENT_HOP)
    assert "agent-AJ_1" in outcome.detail
    assert "no sound" in outcome.detail


STATUSES = st.tuples(st.integers(100, 699), st.text(max_size=20))


@given(st.lists(STATUSES, max_size=5), st.sampled_from([None, *Trouble]), st.sampled_from([SEEN, NOT_SEEN, UNKNOWN]))
def test_every_course_has_a_verdict(said: list[tuple[int, str]], trouble: Trouble | None, sight: RoomSight) -> None:
    result = replace(course(*said) if said else NOTHING, trouble=trouble)
    outcome = judged(result, sight, trunk=None, rule=None, agent_name="")
    assert (outcome.hop == "") is (outcome.verdict is V.ANSWERED)
    assert outcome.detail.isprintable()
