"""What the course of a test call says of the path: a verdict, the hop where it ended, and a sentence. Pure.

What each response means is livekit/sip's own (pkg/sip/inbound.go), tried on livekit-server 1.13.5 and 1.13.11.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import NamedTuple

from app.calls.sip_call import CallResponse, CallResult
from app.calls.sockets import Trouble
from app.domain.calls import AGENT_HOP, CallRoom, CallVerdict
from app.domain.numbers import mask_number, mask_numbers
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL
from app.domain.sip_uris import SipUri
from app.domain.texts import shown
from app.path.livekit_matching import addresses_let_in, admits, lets_caller_in, normalised_all
from app.path.observed import DispatchRule, Encryption, InboundTrunk, normalised

SILENT_S = 5.0
"""Seconds without another 180 after which LiveKit has dropped the call: it rings once a second.

UDP loses some of them, and a server with too much to do is late: with 50 calls at once on two busy cores it was 3 s.
"""

GIVEN_UP_S = 0.8
"""Seconds of ringing before which a refusal is no end of patience: LiveKit could not bring the caller into a room.

It took 20 ms for an unknown preset; a shorter `ringing_timeout` than a second is a finding of the path.
"""

OWN_FAULTS = frozenset({Trouble.LOCAL, Trouble.NAME_TIMED_OUT})
"""What may be wrong with this installation alone."""


@dataclass(frozen=True, slots=True)
class CallTarget:
    """Whom to call, as whom, and what is known of the path before the call."""

    uri: SipUri
    """The origination URI that Twilio calls."""
    called: str
    """E.164."""
    caller: str
    """E.164: from the range that is reserved for fiction, or a caller that the agent's options let in."""
    is_secure: bool = False
    """Whether the Twilio trunk encrypts media."""
    agent_name: str = ""
    """The agent that is to answer."""
    trunk: InboundTrunk | None = None
    """Its LiveKit trunk as it was just read; None where it is not known, or not there."""
    rule: DispatchRule | None = None
    """Likewise."""
    is_read: bool = False
    """Whether the two were just read: one that is None is not there then."""

    @property
    def where(self) -> str:
        """Whom the INVITE goes to, for people."""
        host = f"[{self.uri.host}]" if ":" in self.uri.host else self.uri.host
        return f"{host}:{self.uri.effective_port} over {self.uri.transport.upper()}"


@dataclass(frozen=True, slots=True)
class RoomSight:
    """What LiveKit's API showed while the call was under way."""

    room: CallRoom | None = None
    was_asked: bool = False
    """Whether it answered at all; else the room is not known."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test call."""

    verdict: CallVerdict
    hop: str
    """Where it ended: a step of the path (`app.domain.operations`) or `agent`; empty where it was answered."""
    detail: str
    """One sentence or a few for a person: the cause, and what to do. No whole phone number."""
    sip_status: int | None = None
    """The last SIP status; None where nothing answered."""
    ring_s: float | None = None
    """Seconds from the INVITE to the first ringing."""
    answer_s: float | None = None
    """Seconds from the INVITE to the answer."""
    room: CallRoom | None = None
    """None where LiveKit's API showed none, or could not be asked."""
    call_id: str = ""
    """The SIP Call-ID: LiveKit's logs and its participant's attribute `sip.callIDFull` have it."""
    is_conclusive: bool = True
    """Whether it says anything of a caller's call: not where only this installation's own address is refused, or where
    it has not got as far as calling."""


class _Finding(NamedTuple):
    verdict: CallVerdict
    hop: str
    detail: str
    is_conclusive: bool = True


def verdict_of(result: CallResult, sight: RoomSight, target: CallTarget) -> Outcome:
    """Say what a call's course, and what LiveKit showed of it, mean for the path."""
    verdict, hop, detail, is_conclusive = _finding(result, sight, target)
    return Outcome(
        verdict=verdict,
        hop=hop,
        detail=mask_numbers(detail),
        sip_status=result.responses[-1].status if result.responses else None,
        ring_s=result.ring_s,
        answer_s=result.answer_s,
        room=sight.room,
        call_id=result.call_id,
        is_conclusive=is_conclusive,
    )


def _finding(result: CallResult, sight: RoomSight, target: CallTarget) -> _Finding:
    if result.answer_s is not None:
        return _answered(result, sight, target)
    if sight.room is not None:
        return _Finding(CallVerdict.NO_AGENT, AGENT_HOP, _why_nobody(result, sight.room, target))
    if result.final is not None:
        return _refused(_Refusal(result.final, result, sight, target))
    if result.trouble is not None:
        return _in_trouble(result.trouble, result, target)
    return _left_open(result, sight, target)


def _left_open(result: CallResult, sight: RoomSight, target: CallTarget) -> _Finding:
    """Judge a call without a final response in which LiveKit has shown no room."""
    if not result.responses:
        detail = (
            f"Nothing has answered at {target.where} within {result.waited_s:.0f} s. Host, port or transport of the "
            "SIP URI is wrong, LiveKit's SIP server is down, or a firewall lets in only Twilio's addresses. Then "
            "callers may get through, and for a test call it has to let in this installation's address as well."
        )
        return _Finding(CallVerdict.FAILED, ORIGINATION_URL, detail)
    if result.ringing and result.waited_s - result.ringing[-1].at_s < SILENT_S:
        return _unanswered(result, sight, target)
    said = "rang once and then said nothing more" if result.ringing else "took the call and then said nothing more"
    return _without_route(f"LiveKit {said}", "", result, target)


def _answered(result: CallResult, sight: RoomSight, target: CallTarget) -> _Finding:
    """Judge an answer: to be asked for a PIN is none, and Twilio hangs up on a plain answer to its secure trunk."""
    if target.rule is not None and target.rule.pin and sight.room is None:
        detail = (
            "LiveKit answers and asks the caller for a PIN: no agent is called before it is typed. Take the PIN off "
            "the dispatch rule unless callers know it."
        )
        return _Finding(CallVerdict.BLOCKED, DISPATCH_RULE, detail)
    if target.is_secure and result.is_answer_plain:
        detail = (
            "LiveKit answers without encryption, and Twilio hangs up on that, since its trunk is secure: set media "
            "encryption on the LiveKit trunk (a repair does)."
        )
        return _Finding(CallVerdict.FAILED, INBOUND_TRUNK, detail)
    said = [f"Answered after {_seconds(result.answer_s)}"]
    if sight.room is not None:
        said.append(f"in room {shown(sight.room.name)}{_by_whom(sight.room)}")
        said += _detours(sight.room, target)
    elif sight.was_asked:
        said.append("in a room that LiveKit's API did not show")
    return _Finding(CallVerdict.ANSWERED, "", f"{', '.join(said)}.")


def _by_whom(room: CallRoom) -> str:
    names = ", ".join(shown(name) for name in room.agents if name)
    return f" by agent {names}" if names and room.joined else ""


def _detours(room: CallRoom, target: CallTarget) -> list[str]:
    """Say which other objects than those of the path took the call."""
    found = []
    if target.trunk is not None and room.trunk_id != target.trunk.id:
        through = f"trunk {shown(room.trunk_id)}" if room.trunk_id else "no trunk"
        found.append(f"but through {through} instead of {shown(target.trunk.id)}")
    if target.rule is not None and room.rule_id != target.rule.id:
        found.append(f"but by rule {shown(room.rule_id)} instead of {shown(target.rule.id)}")
    if target.agent_name and room.agents and target.agent_name not in room.agents:
        names = ", ".join(shown(name) or "any agent without a name" for name in room.agents)
        found.append(f"but LiveKit was asked there for {names} instead of {shown(target.agent_name)}")
    return found


def _why_nobody(result: CallResult, room: CallRoom, target: CallTarget) -> str:
    """Say why nobody answered in a room that LiveKit has shown."""
    begun = [f"LiveKit brought the caller into room {shown(room.name)}", *_detours(room, target)]
    end = result.final
    how = f"ended it with {_said(end)}" if end else "let it ring until we gave up"
    begun.append(f"and {how} after {_seconds(result.waited_s)}")
    return f"{', '.join(begun)}. {_why_no_agent(room, target.agent_name)}"


def _why_no_agent(room: CallRoom, agent_name: str) -> str:
    if room.joined:
        return (
            f"An agent is in the room ({shown(room.joined[0])}) and publishes no sound: LiveKit answers once it does. "
            "Look at the agent's log."
        )
    if agent_name and room.agents and agent_name not in room.agents:
        return "Repair the path, so that its dispatch rule names the agent."
    return f"No agent came: {_about_worker(agent_name)}"


def _about_worker(agent_name: str) -> str:
    exactly = f" that registers as exactly {shown(agent_name)}" if agent_name else ""
    return f"is a worker running{exactly}, with the credentials of this LiveKit project?"


def _unanswered(result: CallResult, sight: RoomSight, target: CallTarget) -> _Finding:
    """Judge ringing without an answer in a call of which LiveKit has shown no room."""
    seen = "showed no room of the call meanwhile" if sight.was_asked else "could not be asked for the room"
    how = f"ended it with {_said(result.final)}" if result.final else "nobody answered"
    detail = (
        f"LiveKit took the call and let it ring; after {_seconds(result.waited_s)} {how}, and its API {seen}. Most "
        f"often no agent came: {_about_worker(target.agent_name)}"
    )
    return _Finding(CallVerdict.NO_AGENT, AGENT_HOP, detail)


class _Refusal(NamedTuple):
    """A final response other than 2xx in a call of which LiveKit has shown no room."""

    final: CallResponse
    result: CallResult
    sight: RoomSight
    target: CallTarget

    @property
    def said(self) -> str:
        return _said(self.final)


def _redirected(refusal: _Refusal) -> _Finding:
    host = shown(refusal.result.redirected_to) or "another address"
    detail = f"The SIP server sends the call on to {host} ({refusal.said}), which a test call does not follow."
    return _Finding(CallVerdict.FAILED, ORIGINATION_URL, f"{detail} Put the right host into the SIP URI.")


def _asked_for_password(refusal: _Refusal) -> _Finding:
    detail = (
        f"LiveKit asks for a user name and a password ({refusal.said}), which a Twilio trunk cannot send: take them "
        "off the LiveKit trunk."
    )
    return _Finding(CallVerdict.BLOCKED, INBOUND_TRUNK, detail)


def _forbidden(refusal: _Refusal) -> _Finding:
    return _blocked_by_address(f"The SIP server refuses the call ({refusal.said})", refusal.result)


def _not_found(refusal: _Refusal) -> _Finding:
    said = f"LiveKit answers {refusal.said}"
    return _without_route(said, refusal.final.reason, refusal.result, refusal.target)


def _given_up(refusal: _Refusal) -> _Finding:
    """Judge what LiveKit's 486 says too: that nobody answers; at once it says that there is no room to answer in."""
    final, result, sight, target = refusal
    if result.ring_s is not None and final.at_s - result.ring_s >= GIVEN_UP_S:
        return _unanswered(result, sight, target)
    detail = (
        f"LiveKit gave the call up at once ({refusal.said}), before anybody could answer: it may not have the room "
        "preset that the rule names, not take the room's name, or have no room left."
    )
    return _Finding(CallVerdict.FAILED, DISPATCH_RULE, detail)


def _without_media(refusal: _Refusal) -> _Finding:
    detail = f"LiveKit refuses the media that Twilio offers ({refusal.said}): {_why_media(refusal.target)}"
    return _Finding(CallVerdict.FAILED, INBOUND_TRUNK, detail)


def _unavailable(refusal: _Refusal) -> _Finding:
    """Judge a 503: LiveKit looks for the trunk before it rings, and for the rule after that (inbound.go:486, 879)."""
    if "temporarily" in refusal.final.reason:
        detail = f"LiveKit takes no more calls for now ({refusal.said}): most often the quota of its plan is used up."
        return _Finding(CallVerdict.FAILED, INBOUND_TRUNK, detail)
    hop, what = (DISPATCH_RULE, "dispatch rules") if refusal.result.ringing else (INBOUND_TRUNK, "trunks")
    detail = (
        f"LiveKit cannot tell who takes the call ({refusal.said}): two {what} contradict each other, which the path's "
        "findings name, or its SIP server does not reach its main server."
    )
    return _Finding(CallVerdict.NO_ROUTE, hop, detail)


def _unserved(refusal: _Refusal) -> _Finding:
    detail = (
        f"LiveKit cannot serve the call ({refusal.said}): its trunk or rule may list a codec that it does not know. "
        "Its log says what is wrong, under the Call-ID."
    )
    return _Finding(CallVerdict.FAILED, INBOUND_TRUNK, detail)


def _refused_otherwise(refusal: _Refusal) -> _Finding:
    detail = f"The SIP server refuses the call with {refusal.said}. Its log says why, under the Call-ID."
    return _Finding(CallVerdict.FAILED, INBOUND_TRUNK, detail)


_JUDGES: tuple[tuple[Container[int], Callable[[_Refusal], _Finding]], ...] = (
    (range(300, 400), _redirected),
    ({401, 407}, _asked_for_password),
    ({403}, _forbidden),
    ({404}, _not_found),
    ({408, 480, 486, 487, 600, 603}, _given_up),
    ({400, 415, 488, 606}, _without_media),
    ({500}, _unserved),
    ({503}, _unavailable),
)
"""Statuses -> what they say; the rest: `_refused_otherwise`."""


def _refused(refusal: _Refusal) -> _Finding:
    judge = next((judge for statuses, judge in _JUDGES if refusal.final.status in statuses), _refused_otherwise)
    return judge(refusal)


def _why_media(target: CallTarget) -> str:
    required = [each for each in (target.trunk, target.rule) if each and each.media.encryption is Encryption.REQUIRE]
    if required and not target.is_secure:
        return (
            f"{shown(required[0].id)} requires encryption, and the Twilio trunk is not secure. Change one of the two."
        )
    return "encryption or codecs of its trunk or rule are not those of the Twilio trunk. The path's findings say which."


def _without_route(said: str, reason: str, result: CallResult, target: CallTarget) -> _Finding:
    """Judge a call that no trunk or no rule has taken: silence on open source up to 1.13.7, 404 later and on Cloud."""
    trunk = target.trunk
    if trunk is not None and (kept_out := _kept_out(said, result, target, trunk)):
        return kept_out
    is_taken = trunk is not None and (not trunk.numbers or normalised(target.called) in normalised_all(trunk.numbers))
    if is_taken and "trunk found" not in reason and "any SIP Trunks" not in reason:
        detail = f"{said}: no dispatch rule takes the call. Repair the path, or look at its findings."
        return _Finding(CallVerdict.NO_ROUTE, DISPATCH_RULE, detail)
    if is_taken:
        detail = (
            f"{said}, though this project has a trunk with the number: the SIP URI leads to another one. Compare it "
            "with the SIP URI in the project's settings."
        )
        return _Finding(CallVerdict.NO_ROUTE, ORIGINATION_URL, detail)
    detail = f"{said}: no inbound trunk has the number, or no dispatch rule takes its calls. Repair the path."
    return _Finding(CallVerdict.NO_ROUTE, INBOUND_TRUNK, detail)


def _kept_out(said: str, result: CallResult, target: CallTarget, trunk: InboundTrunk) -> _Finding | None:
    """Say why our LiveKit trunk does not take this call, or leads it to no rule, as far as it is known."""
    if not lets_caller_in(trunk.allowed_numbers, target.caller):
        detail = (
            f"{said}: the LiveKit trunk lets in only some callers, and {mask_number(target.caller)}, as whom this test "
            "called, is none of them. Those that it lets in may get through: call as one of them."
        )
        return _Finding(CallVerdict.BLOCKED, INBOUND_TRUNK, detail, is_conclusive=False)
    if target.is_read and target.rule is None:
        detail = f"{said}: the path's dispatch rule is gone. Repair the path."
        return _Finding(CallVerdict.NO_ROUTE, DISPATCH_RULE, detail)
    if admits(trunk.allowed_addresses, _host(result.local_address)):
        return None
    if addresses_let_in(trunk.allowed_addresses):
        return _blocked_by_address(said, result)
    detail = f"{said}: the LiveKit trunk's allowed addresses have neither Twilio's nor this installation's."
    return _Finding(CallVerdict.BLOCKED, INBOUND_TRUNK, detail)


def _blocked_by_address(said: str, result: CallResult) -> _Finding:
    return _Finding(
        CallVerdict.BLOCKED,
        INBOUND_TRUNK,
        f"{said}, most likely because this installation's address is none that LiveKit lets in; callers come from "
        f"Twilio's and may get through. To test from here, add the address that {_host(result.local_address)} has for "
        "LiveKit to the allowed addresses (LIVEKIT_ALLOWED_ADDRESSES, or those of the voice project) and repair.",
        is_conclusive=False,
    )


def _in_trouble(trouble: Trouble, result: CallResult, target: CallTarget) -> _Finding:
    """Judge a call that has not got far enough for an answer."""
    host = shown(target.uri.host)
    heard = f" after {_said(result.responses[-1])}" if result.responses else ""
    detail = {
        Trouble.NAME_NOT_FOUND: f"The name {host} has no address: correct the SIP URI.",
        Trouble.NAME_TIMED_OUT: f"The resolver of this installation has not found {host} in time. Twilio may find it.",
        Trouble.ADDRESS_NOT_ALLOWED: f"{host} leads to addresses that this installation may not call.",
        Trouble.REFUSED: f"Nothing listens at {target.where}: LiveKit's SIP server is down, or the port is wrong.",
        Trouble.UNREACHABLE: f"No network leads from this installation to {target.where}.",
        Trouble.CONNECT_TIMED_OUT: (
            f"{target.where} takes no connection: host or port is wrong, or a firewall lets in only Twilio's "
            "addresses, so that callers may get through."
        ),
        Trouble.TLS_CERTIFICATE: f"The certificate at {target.where} is not valid for {host}: Twilio refuses it too.",
        Trouble.TLS: f"{target.where} does not speak TLS, or no version of it that we do.",
        Trouble.CLOSED: f"The SIP server at {target.where} has closed the connection{heard}, without a final answer.",
        Trouble.UNREADABLE: f"What answers at {target.where} does not speak SIP.",
        Trouble.LOCAL: "This installation could not open a socket for the call: try again.",
    }[trouble]
    return _Finding(CallVerdict.FAILED, ORIGINATION_URL, detail, is_conclusive=trouble not in OWN_FAULTS)


def _said(response: CallResponse | None) -> str:
    return f"{response.status} {shown(response.reason)}".strip() if response else "silence"


def _seconds(value: float | None) -> str:
    return f"{value or 0.0:.1f} s"


def _host(address: str) -> str:
    """Return the host of `192.0.2.1:5060` or `[2001:db8::1]:5060`."""
    return address.rpartition(":")[0].strip("[]")
