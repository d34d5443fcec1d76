"""LiveKit's SIP server: the calls that ring and stand, and what it answers to each message about them.

What becomes of a call is decided by `call_livekit.take_invite`; here is what happens around it, as livekit/sip has it
(pkg/sip/inbound.go, at be5d3f5). It does not check passwords: a caller who sends one gets 401.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from livekit.protocol.models import ParticipantInfo
from livekit.protocol.sip import SIP_NO_HEADERS, SIP_X_HEADERS

from app.dev.sandbox.call_livekit import (
    Answer,
    Invite,
    Rule,
    Trunk,
    caller_identity,
    has_worker,
    shown_caller,
    take_invite,
)
from app.dev.sandbox.faults import SIP_DROP
from app.dev.sandbox.livekit_wire import DISABLE
from app.dev.sandbox.sip_transactions import (
    BAD_REQUEST,
    BUSY_HERE,
    NO_CALL,
    NOT_ALLOWED,
    NOT_FOUND,
    OK,
    PROXY_AUTH,
    RINGING,
    T1_S,
    T2_S,
    TERMINATED,
    TRYING,
    UNAUTHORIZED,
    UNAVAILABLE,
    Flow,
    Timer,
    Transaction,
    Transactions,
    called_project,
    challenge,
    put_bounded,
)
from app.dev.sandbox.sip_wire import (
    VERSION,
    MalformedError,
    Message,
    Offer,
    answer_sdp,
    new_branch,
    parameter,
    read_address,
    read_message,
    read_offer,
)
from app.dev.sandbox.state import Sandbox

RINGING_INTERVAL_S = 1.0
"""Seconds between two 180s (livekit/sip pkg/config/config.go, sip_ringing_interval)."""

RETRY_AFTER_S = (0.25, 0.5)
"""Pauses before a 200 without ACK is sent again over UDP (inbound.go, inviteOkRetryInterval and ...AttemptsNoACK)."""

ACK_LATE_S = 3.0
"""Seconds after which a missing ACK is noticed, and those that media may then still take (inviteOkAckLateTimeout)."""

MEDIA_INITIAL_S, MEDIA_S = 30.0, 15.0
"""Seconds without RTP after which LiveKit hangs up: before the first packet, and then (pkg/sip/media_port.go:42)."""

REJECTION_S = 60.0
"""Seconds for which a rejection is repeated to the same Call-ID and From tag (pkg/sip/server.go:55)."""

MOST_REJECTIONS, MOST_CALLS, KEPT_CALLS = 5_000, 1_000, 500
"""Bounds: the oldest rejections and finished calls are forgotten; a call beyond those that ring or stand is 503."""

NO_RTP_PORT = 9
"""The port of an SDP where no sound is taken (RFC 863, discard)."""

NO_OFFER = Offer("", 0, {}, is_secure=False)
"""What an INVITE without a readable SDP offers: nothing that LiveKit could take."""


@dataclass(eq=False, slots=True)
class Call:
    """A call that rings or stands; `record` is what the control API shows of it, for a while after its end too."""

    id: str
    project: str
    transaction: Transaction
    answer: Answer
    offer: Offer
    record: dict[str, Any]
    participant: ParticipantInfo | None = None
    sdp: bytes = b""
    is_standing: bool = False
    is_acked: bool = False
    last_rtp: float | None = None
    timers: list[Timer] = field(default_factory=list)


class SipCalls:
    """The calls that are not over, and for a while those that are; all of it happens under the store's lock."""

    def __init__(self, sandbox: Sandbox, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds: when what is kept for a repetition is forgotten."""
        self._sandbox = sandbox
        self.transactions = Transactions(sandbox, clock)
        self.apply: Callable[[], None] = lambda: None
        """Has the listener follow the settings."""
        self.rtp_port = NO_RTP_PORT
        self._rejections: OrderedDict[tuple[str, str], tuple[int, str, float]] = OrderedDict()
        self._byes: dict[str, Timer] = {}
        self._calls: dict[str, Call] = {}
        self._records: deque[dict[str, Any]] = deque(maxlen=KEPT_CALLS)
        self._generation = sandbox.generation

    def shown(self) -> list[dict[str, Any]]:
        """Return the calls since the last reset, oldest first, those that are over included."""
        with self._sandbox.store.lock:
            is_current = self._generation == self._sandbox.generation
            return [dict(record) for record in self._records] if is_current else []

    def _check_reset(self) -> None:
        """Forget everything if the sandbox was emptied: calls end without a word."""
        if self._generation == self._sandbox.generation:
            return
        self._generation = self._sandbox.generation
        for timer in (*self._byes.values(), *(each for call in self._calls.values() for each in call.timers)):
            timer.cancel()
        self.transactions.clear()
        for table in (self._rejections, self._byes, self._calls, self._records):
            table.clear()

    def receive(self, flow: Flow, data: bytes) -> None:
        """Handle one message; what cannot be read is dropped, as livekit-sip does."""
        try:
            message = read_message(data)
        except MalformedError:
            return
        with self._sandbox.store.lock:
            self._check_reset()
            if message.status:
                self._on_response(message)
            elif message.method == "ACK":
                self._on_ack(flow, message, data)
            elif message.get("via"):
                self.transactions.begin(flow, message, data, self._handle)

    def heard(self, address: tuple[str, int]) -> None:
        """Note an RTP packet from this address."""
        with self._sandbox.store.lock:
            for call in self._calls.values():
                if (call.offer.host, call.offer.port) == address:
                    call.last_rtp = self.transactions.clock()
                    call.record["rtpPackets"] += 1

    def _on_response(self, message: Message) -> None:
        """Take the response to a BYE of ours."""
        if message.status >= OK and (timer := self._byes.pop(message.branch, None)):
            timer.cancel()

    def _handle(self, transaction: Transaction) -> None:
        handlers: dict[str, Callable[[Transaction], None]] = {
            "INVITE": self._on_invite,
            "CANCEL": self._on_cancel,
            "BYE": self._on_bye,
            "OPTIONS": partial(self.transactions.respond, status=OK),
        }
        refuse = partial(self.transactions.respond, status=NOT_ALLOWED)
        handlers.get(transaction.request.method, refuse)(transaction)

    def _on_invite(self, transaction: Transaction) -> None:
        invite = transaction.request
        from_tag, to = parameter(invite.get("from"), "tag"), read_address(invite.get("to"))
        caller = read_address(invite.get("from"))
        if not (invite.call_id and from_tag and to and caller):
            self.transactions.respond(transaction, BAD_REQUEST)
            return
        rejection = self._rejections.get((invite.call_id, from_tag))
        if rejection and self.transactions.clock() < rejection[2]:
            self.transactions.respond(transaction, *rejection[:2])
            return
        tag = transaction.to_tag
        if call := self._calls.get(tag):
            self._reinvite(call, transaction)
            return
        if len(self._calls) >= MOST_CALLS:
            self._reject(transaction, UNAVAILABLE, "Service temporarily unavailable")
            return
        self.transactions.respond(transaction, TRYING)
        offer, source = read_offer(invite.body) or NO_OFFER, self._sandbox.sip.source or transaction.flow.address[0]
        self._take(transaction, Invite(to.user, caller.user, source, offer.is_secure, frozenset(offer.codecs)), offer)

    def _take(self, transaction: Transaction, invite: Invite, offer: Offer) -> None:
        """Do with a new call what LiveKit's objects say."""
        project = called_project(self._sandbox, transaction.request)
        answer = take_invite(self._sandbox.of_project(project), invite)
        record = {
            "id": transaction.to_tag,
            "callId": transaction.request.call_id,
            "project": project,
            "to": invite.called,
            "from": invite.caller,
            "source": invite.source,
            "transport": transaction.flow.transport,
            "room": answer.room,
            "reason": answer.reason,
            "status": None,
            "endedBy": None,
            "rtpPackets": 0,
        }
        self._records.append(record)
        call = Call(transaction.to_tag, project, transaction, answer, offer, record)
        if answer.is_ringing:
            self.transactions.respond(transaction, RINGING)
        if answer.status is None:
            record["endedBy"] = "silence"
        elif not answer.is_ringing or (answer.status != OK and not answer.room):
            self._refuse(call, answer.status)
        else:
            self._ring(call, invite)

    def _refuse(self, call: Call, status: int) -> None:
        """Refuse a call that never gets into a room, with livekit-sip's words."""
        call.record |= {"status": status, "endedBy": "livekit"}
        if status == PROXY_AUTH:
            refused = UNAUTHORIZED if call.transaction.request.get("proxy-authorization") else PROXY_AUTH
            call.record["status"] = refused
            self.transactions.respond(call.transaction, refused, "", challenge(refused))
        elif status == BUSY_HERE:
            self.transactions.respond(call.transaction, status)
        else:
            no_rule = "Does not match Trunks or Dispatch Rules" if call.answer.is_ringing else "No trunk found"
            self._reject(call.transaction, status, no_rule if status == NOT_FOUND else "")

    def _reject(self, transaction: Transaction, status: int, reason: str = "") -> None:
        """Refuse an INVITE, and do so again without another look when it comes with the same Call-ID and From tag."""
        request = transaction.request
        key = (request.call_id, parameter(request.get("from"), "tag"))
        put_bounded(self._rejections, key, (status, reason, self.transactions.clock() + REJECTION_S), MOST_REJECTIONS)
        self.transactions.respond(transaction, status, reason)

    def _ring(self, call: Call, invite: Invite) -> None:
        """Let a call into its room and ring, until somebody answers or the time is up."""
        self._calls[call.id] = call
        answer = call.answer
        if answer.room and answer.rule:
            self._join(call, invite, answer.rule)
        self._in(call, answer.longest_s, partial(self._hang_up, call), is_scaled=True)
        if not answer.room:
            self._accept(call)
            return
        self._in(call, RINGING_INTERVAL_S, partial(self._ring_again, call), is_scaled=True)
        if answer.answered_by is None:
            self._in(call, answer.rings_s, partial(self._hang_up, call, answer.status or BUSY_HERE), is_scaled=True)
        else:
            self._in(call, self._sandbox.sip.answer_s, partial(self._accept, call))

    def _in(self, call: Call, seconds: float, action: Callable[[], None], *, is_scaled: bool = False) -> None:
        speed = self._sandbox.sip.speed or 1.0
        call.timers.append(self.transactions.after(seconds / speed if is_scaled else seconds, action))

    def _ring_again(self, call: Call) -> None:
        if not call.is_standing:
            self.transactions.respond(call.transaction, RINGING)
            self._in(call, RINGING_INTERVAL_S, partial(self._ring_again, call), is_scaled=True)

    def _join(self, call: Call, invite: Invite, rule: Rule) -> None:
        """Let the caller into the room (livekit/protocol sip/sip.go:866-966; livekit/sip pkg/sip/types.go:230-280)."""
        attributes = dict(rule.attributes) | {
            "sip.callID": call.id,
            "sip.callIDFull": call.transaction.request.call_id,
            "sip.callTag": parameter(call.transaction.request.get("from"), "tag"),
            "sip.callStatus": "ringing",
            "sip.trunkID": call.answer.trunk.sip_trunk_id if call.answer.trunk else "",
            "sip.ruleID": rule.sip_dispatch_rule_id,
        }
        if not rule.hide_phone_number:
            host = read_address(call.transaction.request.get("from"))
            attributes |= {
                "sip.phoneNumber": invite.caller,
                "sip.trunkPhoneNumber": invite.called,
                "sip.hostname": host.host if host else "",
            }
        attributes |= _of_headers(call.transaction.request, call.answer.trunk)
        call.participant = ParticipantInfo(
            identity=caller_identity(rule, invite.caller),
            name=f"Phone {shown_caller(rule, invite.caller)}",
            kind=ParticipantInfo.Kind.SIP,
            metadata=rule.metadata,
            attributes=attributes,
        )
        room = self._sandbox.rooms.opened(call.project, call.answer.room, rule.room_config)
        former = room.join(call.participant)
        if former and (earlier := self._calls.get(former.attributes.get("sip.callID", ""))):
            self._hang_up(earlier)

    def _accept(self, call: Call) -> None:
        """Answer the call."""
        if call.participant and (room := self._sandbox.rooms.get(call.project, call.answer.room)):
            call.participant.attributes["sip.callStatus"] = "active"
            sandbox = self._sandbox.of_project(call.project)
            for dispatch in room.dispatches:
                if has_worker(sandbox, dispatch.agent_name):
                    room.add_agent(dispatch.agent_name)
        offer = call.offer
        codec = next(each for each in offer.codecs if each in call.answer.codecs)
        host, is_secure = self._sandbox.sip_address.partition(":")[0], call.answer.encryption != DISABLE
        call.sdp = answer_sdp(offer, codec, host, self.rtp_port, is_secure=offer.is_secure and is_secure)
        call.is_standing = True
        call.record["status"] = OK
        self.transactions.respond(call.transaction, OK, "", [("content-type", "application/sdp")], call.sdp)
        if call.transaction.flow.transport == "udp":
            self._resend_answer(call, RETRY_AFTER_S)
        self._in(call, ACK_LATE_S, partial(self._check_ack, call))
        self._watch_media(call, MEDIA_INITIAL_S)

    def _resend_answer(self, call: Call, pauses: tuple[float, ...]) -> None:
        if pauses:

            def send() -> None:
                if not call.is_acked:
                    self.transactions.send(call.transaction, call.transaction.last)
                    self._resend_answer(call, pauses[1:])

            self._in(call, pauses[0], send)

    def _check_ack(self, call: Call) -> None:
        """Give the media of a call without an ACK little time."""
        if not call.is_acked:
            self._watch_media(call, ACK_LATE_S)

    def _watch_media(self, call: Call, seconds: float) -> None:
        """Hang up unless a packet comes within so many seconds, and then another, and so on."""
        before = call.last_rtp

        def check() -> None:
            if call.last_rtp == before:
                self._hang_up(call)
            else:
                self._watch_media(call, self._media_s(call))

        self._in(call, seconds, check, is_scaled=True)

    def _media_s(self, call: Call) -> float:
        for info in (call.answer.rule, call.answer.trunk):
            if info and (seconds := info.media.media_timeout.ToTimedelta().total_seconds()) > 0:
                return seconds
        return MEDIA_S

    def _reinvite(self, call: Call, transaction: Transaction) -> None:
        """Answer an INVITE within a call with what the call has."""
        if call.is_standing:
            self.transactions.respond(transaction, OK, "OK", [("content-type", "application/sdp")], call.sdp)
        else:
            self.transactions.respond(transaction, UNAVAILABLE)

    def _on_ack(self, flow: Flow, message: Message, data: bytes) -> None:
        hit = self.transactions.fault(flow, message, "sip.ack", data)
        if hit and hit.kind == SIP_DROP:
            return
        if known := self.transactions.find_invite(message):
            known.stop_resending()
        if call := self._calls.get(parameter(message.get("to"), "tag")):
            call.is_acked = True

    def _on_cancel(self, transaction: Transaction) -> None:
        """End the INVITE of the same branch while it rings; a call that is answered is not ended so."""
        request = transaction.request
        invite = self.transactions.find_invite(request)
        call = self._calls.get(invite.to_tag) if invite else None
        if invite is None or not (invite.is_final or invite.is_delayed or call):
            self.transactions.respond(transaction, NO_CALL)
            return
        to = invite.request.get("to")
        request.headers = [(name, to if name == "to" else value) for name, value in request.headers]
        self.transactions.respond(transaction, OK)
        if call and not call.is_standing:
            self._end(call, "caller")
            call.record["status"] = TERMINATED
        if not invite.is_final:
            self.transactions.respond(invite, TERMINATED)

    def _on_bye(self, transaction: Transaction) -> None:
        call = self._calls.get(transaction.to_tag)
        if call is None or not call.is_standing:
            self.transactions.respond(transaction, NO_CALL)
            return
        self._end(call, "caller")
        self.transactions.respond(transaction, OK)

    def _hang_up(self, call: Call, status: int = BUSY_HERE) -> None:
        """End a call from LiveKit's side: with this status while it rings, with BYE once it stands."""
        if call.id not in self._calls:
            return
        self._end(call, "livekit")
        if call.is_standing:
            self._say_bye(call)
        else:
            call.record["status"] = status
            self.transactions.respond(call.transaction, status)

    def _say_bye(self, call: Call) -> None:
        invite, flow = call.transaction.request, call.transaction.flow
        contact = invite.get("contact")
        uri = contact.partition("<")[2].partition(">")[0] if "<" in contact else contact or "sip:unknown"
        branch = new_branch()
        headers = [
            ("via", f"{VERSION}/{flow.transport.upper()} {self._sandbox.sip_address};branch={branch};rport"),
            *(("route", value) for value in invite.all("record-route")),
            ("max-forwards", "70"),
            ("from", invite.get("to")),
            ("to", invite.get("from")),
            ("call-id", invite.call_id),
            ("cseq", f"{invite.cseq + 1} BYE"),
        ]
        data = Message(method="BYE", uri=uri, headers=headers).encode()
        self._send_bye(flow, branch, data, T1_S)

    def _send_bye(self, flow: Flow, branch: str, data: bytes, pause_s: float) -> None:
        """Send a BYE, over UDP again and again until it is answered or has been sent for long enough."""
        flow.send(data)
        self._byes.pop(branch, None)
        if flow.transport == "udp" and pause_s <= T2_S:
            again = partial(self._send_bye, flow, branch, data, 2 * pause_s)
            self._byes[branch] = self.transactions.after(pause_s, again)

    def _end(self, call: Call, ended_by: str) -> None:
        """Forget a call, and take its caller out of the room."""
        del self._calls[call.id]
        call.record["endedBy"] = ended_by
        for timer in call.timers:
            timer.cancel()
        call.timers.clear()
        if call.participant:
            self._sandbox.rooms.leave(call.project, call.answer.room, call.participant.sid)


HEADER_ATTRIBUTES = {"x-twilio-accountsid": "sip.twilio.accountSid", "x-twilio-callsid": "sip.twilio.callSid"}
"""Headers of Twilio that LiveKit always shows as attributes (livekit/sip pkg/sip/participant.go, headerToAttr)."""


def _of_headers(invite: Message, trunk: Trunk | None) -> dict[str, str]:
    """Return the caller's attributes that an INVITE's headers make (livekit/sip pkg/sip/types.go, HeadersToAttrs)."""
    which = trunk.include_headers if trunk else SIP_NO_HEADERS
    wanted = "x-" if which == SIP_X_HEADERS else ""
    names = [name for name, _ in invite.headers if which != SIP_NO_HEADERS and name.startswith(wanted)]
    found = {f"sip.h.{name}": invite.all(name)[-1] for name in names}
    for name, attribute in (*HEADER_ATTRIBUTES.items(), *(trunk.headers_to_attributes.items() if trunk else ())):
        if value := invite.get(name.lower()):
            found[attribute] = value
    return found
