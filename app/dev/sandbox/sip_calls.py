"""LiveKit's SIP server: what it answers to each message, and the calls that ring and stand.

What becomes of a call is decided by `call_livekit.take_invite`; here are the transactions and dialogs around it, as
livekit/sip has them (pkg/sip/inbound.go, at be5d3f5). It does not check passwords: a caller who sends one gets 401.
"""

import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from livekit.protocol.models import ParticipantInfo
from livekit.protocol.room import RoomConfiguration

from app.dev.sandbox import faults
from app.dev.sandbox.call import project_at
from app.dev.sandbox.call_livekit import (
    BAD_REQUEST,
    BUSY_HERE,
    NOT_FOUND,
    OK,
    PROXY_AUTH,
    UNAVAILABLE,
    Answer,
    Invite,
    has_worker,
    shown_caller,
    take_invite,
)
from app.dev.sandbox.exchange import SIP, Exchange
from app.dev.sandbox.faults import FaultHit
from app.dev.sandbox.livekit_wire import new_id
from app.dev.sandbox.sip_wire import (
    REASONS,
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
from app.dev.sandbox.state import FIRST_PROJECT, Sandbox

TRYING, RINGING, UNAUTHORIZED, NOT_ALLOWED, NO_CALL, TERMINATED = 100, 180, 401, 405, 481, 487

RINGING_INTERVAL_S = 1.0
"""Seconds between two 180s (livekit/sip pkg/config/config.go, sip_ringing_interval)."""

RETRY_AFTER_S = (0.25, 0.5)
"""Pauses before a 200 without ACK is sent again over UDP (inbound.go, inviteOkRetryInterval and ...AttemptsNoACK)."""

ACK_LATE_S = 3.0
"""Seconds after which a missing ACK is noticed, and those that media may then still take (inviteOkAckLateTimeout)."""

MEDIA_INITIAL_S, MEDIA_S = 30.0, 15.0
"""Seconds without RTP after which LiveKit hangs up: before the first packet, and then (pkg/sip/media_port.go:42)."""

T1_S, T2_S = 0.5, 4.0
"""First and longest pause before something is sent again over UDP (RFC 3261, table 4)."""

TRANSACTION_S = 32.0
"""Seconds that a transaction is remembered after its final response: 64 x T1 (RFC 3261, timers H and J)."""

REJECTION_S = 60.0
"""Seconds for which a rejection is repeated to the same Call-ID and From tag (pkg/sip/server.go:55)."""

MOST_TRANSACTIONS, MOST_REJECTIONS, MOST_CALLS, KEPT_CALLS = 5_000, 5_000, 1_000, 500
"""Bounds: beyond them the oldest is forgotten; calls that ring or stand beyond theirs are 503."""

NO_RTP_PORT = 9
"""The port of an SDP where no media is taken (RFC 863, discard)."""

GARBAGE = b"\x00\xffSIP/2.0 2OO \r\nVia\r\n\r\n"
"""What a garbage response holds when the fault does not say."""

ELSEWHERE = "sip:elsewhere@192.0.2.1"
"""Where a redirection leads when the fault does not say: an address of nobody (RFC 5737)."""

ALLOW = "INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, MESSAGE, OPTIONS, INFO, SUBSCRIBE"

Key = TypeVar("Key")
Value = TypeVar("Value")


class Flow(Protocol):
    """Where a message came from, and the way back."""

    transport: str
    """`udp` or `tcp`."""
    address: tuple[str, int]
    """The peer's."""

    def send(self, data: bytes) -> None:
        """Send a message; one that cannot be delivered is lost."""
        ...

    def reset(self) -> None:
        """End a connection with a reset; nothing over UDP."""
        ...


class Timer(Protocol):
    """Something that happens later unless it is cancelled."""

    def cancel(self) -> None:
        """Have it not happen."""
        ...


@dataclass(eq=False, slots=True)
class Transaction:
    """A request, and the last response to it."""

    key: tuple[str, str, str]
    request: Message
    flow: Flow
    last: bytes = b""
    is_final: bool = False
    is_delayed: bool = False
    """Whether a fault keeps the request from being looked at."""
    used_at: float = 0.0
    """When the last response was made, on the monotonic clock."""
    resending: Timer | None = None

    def stop_resending(self) -> None:
        """Stop what an ACK or a later response has made needless."""
        if self.resending:
            self.resending.cancel()
            self.resending = None


@dataclass(eq=False, slots=True)
class Call:
    """A call that rings or stands; `record` is what the control API shows of it, for a while after its end too."""

    id: str
    project: str
    transaction: Transaction
    answer: Answer
    offer: Offer | None
    record: dict[str, Any]
    participant: ParticipantInfo | None = None
    sdp: bytes = b""
    is_standing: bool = False
    is_acked: bool = False
    last_rtp: float | None = None
    timers: list[Timer] = field(default_factory=list)


class SipCalls:
    """Everything that was said over SIP and is not over; all of it happens under the store's lock."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.later: Callable[[float, Callable[[], None]], Timer] | None = None
        """Runs something after so many seconds; the listener sets it, and it runs in the listener's thread only."""
        self.apply: Callable[[], None] = lambda: None
        """Has the listener follow the settings."""
        self.rtp_port = NO_RTP_PORT
        self._forget()

    def _forget(self) -> None:
        self._transactions: OrderedDict[tuple[str, str, str], Transaction] = OrderedDict()
        self._rejections: OrderedDict[tuple[str, str], tuple[int, str, float]] = OrderedDict()
        self._byes: dict[str, Timer] = {}
        self._calls: dict[str, Call] = {}
        self._records: deque[dict[str, Any]] = deque(maxlen=KEPT_CALLS)
        self._generation = self._sandbox.generation

    def shown(self) -> list[dict[str, Any]]:
        """Return the calls since the last reset, oldest first, those that are over included."""
        with self._sandbox.store.lock:
            is_current = self._generation == self._sandbox.generation
            return [dict(record) for record in self._records] if is_current else []

    def _check_reset(self) -> None:
        """Forget everything if the sandbox was emptied: calls end without a word."""
        if self._generation != self._sandbox.generation:
            for call in list(self._calls.values()):
                self._end(call, "reset")
            self._forget()

    def _after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run an action later, unless the sandbox is emptied before."""
        generation = self._generation

        def run() -> None:
            with self._sandbox.store.lock:
                self._check_reset()
                if generation == self._generation:
                    action()

        if self.later is None:
            raise RuntimeError("no listener runs")
        return self.later(seconds, run)

    # What comes in

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
            elif message.get("via"):
                self._on_request(flow, message, data)

    def heard(self, address: tuple[str, int]) -> None:
        """Note an RTP packet from this address."""
        with self._sandbox.store.lock:
            for call in self._calls.values():
                if call.offer and (call.offer.host, call.offer.port) == address:
                    call.last_rtp = time.monotonic()
                    call.record["rtpPackets"] += 1

    def _on_response(self, message: Message) -> None:
        """Take the response to a BYE of ours."""
        if message.status >= OK and (timer := self._byes.pop(message.branch, None)):
            timer.cancel()

    def _on_request(self, flow: Flow, message: Message, data: bytes) -> None:
        method = message.method
        self._forget_old()
        key = (message.branch, message.sent_by, "INVITE" if method == "ACK" else method)
        known = self._transactions.get(key)
        if known and method != "ACK":
            self._send(known, known.last)
            return
        hit = self._fault(flow, message, f"sip.{method.lower()}", data)
        if hit and hit.kind == faults.SIP_DROP:
            return
        if method == "ACK":
            self._on_ack(message, known)
            return
        transaction = Transaction(key, message, flow, used_at=time.monotonic())
        _put(self._transactions, key, transaction, MOST_TRANSACTIONS)
        if not parameter(message.get("to"), "tag"):
            message.headers = [
                (name, f"{value};tag={new_id('SCL_')}" if name == "to" else value) for name, value in message.headers
            ]
        if hit:
            self._strike(transaction, hit)
        else:
            self._handle(transaction)

    def _forget_old(self) -> None:
        """Forget transactions and rejections that are over: the oldest stand first."""
        now = time.monotonic()
        while self._transactions and next(iter(self._transactions.values())).used_at < now - TRANSACTION_S:
            self._transactions.popitem(last=False)
        while self._rejections and next(iter(self._rejections.values()))[2] < now:
            self._rejections.popitem(last=False)

    def _handle(self, transaction: Transaction) -> None:
        request = transaction.request
        handlers: dict[str, Callable[[Transaction], None]] = {
            "INVITE": self._on_invite,
            "CANCEL": self._on_cancel,
            "BYE": self._on_bye,
            "OPTIONS": partial(self._respond, status=OK),
        }
        handler = handlers.get(request.method)
        if handler is None:
            self._respond(transaction, NOT_ALLOWED)
        else:
            handler(transaction)

    # Faults

    def _fault(self, flow: Flow, message: Message, operation: str, data: bytes) -> FaultHit | None:
        exchange = Exchange(
            method=message.method,
            path=message.uri,
            query="",
            body=data,
            host="",
            authorization=None,
            content_type="",
            connection="{}:{}".format(*flow.address),
            socket=None,
            provider=SIP,
            operation=operation,
            owner=self._project(message) if message.method else "",
        )
        return self._sandbox.faults.match(exchange)

    def _strike(self, transaction: Transaction, hit: FaultHit) -> None:
        """Do to a request what its fault says."""
        spec, is_invite = hit.fault.spec, transaction.request.method == "INVITE"
        if hit.kind == faults.SIP_LATE:
            transaction.is_delayed = True
            self._after(hit.seconds, partial(self._handle_late, transaction))
        elif hit.kind == faults.SIP_RESET:
            transaction.flow.reset()
        elif hit.kind == faults.SIP_GARBAGE:
            transaction.last = str(spec["message"]).encode() if spec.get("message") else GARBAGE
            self._send(transaction, transaction.last)
        elif hit.kind == faults.SIP_SILENT and is_invite:
            self._respond(transaction, TRYING)
            if spec.get("status"):
                self._respond(transaction, int(spec["status"]))
        elif hit.kind == faults.SIP_STATUS:
            if is_invite:
                self._respond(transaction, TRYING)
            status = int(spec.get("status") or UNAVAILABLE)
            self._respond(transaction, status, str(spec.get("message") or ""), self._explained(status, spec))

    def _handle_late(self, transaction: Transaction) -> None:
        transaction.is_delayed = False
        if not transaction.is_final:
            self._handle(transaction)

    def _explained(self, status: int, spec: dict[str, Any]) -> list[tuple[str, str]]:
        if status < BAD_REQUEST:
            return [("contact", f"<{spec.get('contact') or ELSEWHERE}>")]
        return _challenge(status)

    # Calls

    def _on_invite(self, transaction: Transaction) -> None:
        invite = transaction.request
        from_tag, to = parameter(invite.get("from"), "tag"), read_address(invite.get("to"))
        caller = read_address(invite.get("from"))
        if not (invite.call_id and from_tag and to and caller):
            self._respond(transaction, BAD_REQUEST)
            return
        rejection = self._rejections.get((invite.call_id, from_tag))
        if rejection and time.monotonic() < rejection[2]:
            self._respond(transaction, *rejection[:2])
            return
        tag = parameter(invite.get("to"), "tag")
        if call := self._calls.get(tag):
            self._reinvite(call, transaction)
            return
        if len(self._calls) >= MOST_CALLS:
            self._reject(transaction, UNAVAILABLE, "Service temporarily unavailable")
            return
        self._respond(transaction, TRYING)
        project, offer = self._project(invite), read_offer(invite.body)
        source = self._sandbox.sip.source or transaction.flow.address[0]
        offered = Invite(
            to.user,
            caller.user,
            source,
            is_secure=offer is not None and offer.is_secure,
            codecs=frozenset(offer.codecs) if offer else frozenset(),
        )
        answer = take_invite(self._sandbox.of_project(project), offered)
        record = {
            "id": tag,
            "callId": invite.call_id,
            "project": project,
            "to": offered.called,
            "from": offered.caller,
            "source": source,
            "transport": transaction.flow.transport,
            "room": answer.room,
            "reason": answer.reason,
            "status": None,
            "endedBy": None,
            "rtpPackets": 0,
        }
        self._records.append(record)
        call = Call(tag, project, transaction, answer, offer, record)
        if not answer.is_ringing:
            self._refuse(call)
            return
        self._respond(transaction, RINGING)
        if answer.status is None:
            record["endedBy"] = "silence"
        elif answer.status != OK and not answer.room:
            self._refuse(call)
        else:
            self._ring(call, offered)

    def _refuse(self, call: Call) -> None:
        """Refuse a call that never gets into a room, with livekit-sip's words."""
        status = call.answer.status or NOT_FOUND
        call.record |= {"status": status, "endedBy": "livekit"}
        if status == PROXY_AUTH:
            refused = UNAUTHORIZED if call.transaction.request.get("proxy-authorization") else PROXY_AUTH
            call.record["status"] = refused
            self._respond(call.transaction, refused, "", _challenge(refused))
        elif status == BUSY_HERE:
            self._respond(call.transaction, status)
        else:
            no_rule = "Does not match Trunks or Dispatch Rules" if call.answer.is_ringing else "No trunk found"
            self._reject(call.transaction, status, no_rule if status == NOT_FOUND else "")

    def _reject(self, transaction: Transaction, status: int, reason: str = "") -> None:
        """Refuse an INVITE, and do so again without another look when it comes with the same Call-ID and From tag."""
        request = transaction.request
        key = (request.call_id, parameter(request.get("from"), "tag"))
        _put(self._rejections, key, (status, reason, time.monotonic() + REJECTION_S), MOST_REJECTIONS)
        self._respond(transaction, status, reason)

    def _ring(self, call: Call, invite: Invite) -> None:
        """Let a call into its room and ring, until somebody answers or the time is up."""
        self._calls[call.id] = call
        answer = call.answer
        if answer.room and answer.rule:
            self._join(call, invite)
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
        call.timers.append(self._after(seconds / speed if is_scaled else seconds, action))

    def _ring_again(self, call: Call) -> None:
        if not call.is_standing:
            self._respond(call.transaction, RINGING)
            self._in(call, RINGING_INTERVAL_S, partial(self._ring_again, call), is_scaled=True)

    def _join(self, call: Call, invite: Invite) -> None:
        """Let the caller into the room (livekit/protocol sip/sip.go:866-966; livekit/sip pkg/sip/types.go:230-280)."""
        rule = call.answer.rule
        if rule is None:
            return
        attributes = dict(rule.attributes) | {
            "sip.callID": call.id,
            "sip.callIDFull": call.transaction.request.call_id,
            "sip.callTag": parameter(call.transaction.request.get("from"), "tag"),
            "sip.callStatus": "ringing",
            "sip.trunkID": call.answer.trunk.sip_trunk_id if call.answer.trunk else "",
            "sip.ruleID": rule.sip_dispatch_rule_id,
        }
        identity = invite.caller
        if rule.hide_phone_number:
            identity = hashlib.sha256(invite.caller.encode()).hexdigest()[:16]
        else:
            host = read_address(call.transaction.request.get("from"))
            attributes |= {
                "sip.phoneNumber": invite.caller,
                "sip.trunkPhoneNumber": invite.called,
                "sip.hostname": host.host if host else "",
            }
        call.participant = ParticipantInfo(
            identity=f"sip_{identity}",
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
        if call.participant:
            call.participant.attributes["sip.callStatus"] = "active"
            config = call.answer.rule.room_config if call.answer.rule else RoomConfiguration()
            room = self._sandbox.rooms.opened(call.project, call.answer.room, config)
            sandbox = self._sandbox.of_project(call.project)
            for dispatch in room.dispatches:
                if has_worker(sandbox, dispatch.agent_name):
                    room.add_agent(dispatch.agent_name)
        offer = call.offer
        if offer is None:
            return
        codec = next(each for each in offer.codecs if each in call.answer.codecs)
        call.sdp = answer_sdp(offer, codec, self._host, self.rtp_port)
        call.is_standing = True
        call.record["status"] = OK
        self._respond(call.transaction, OK, "", [("content-type", "application/sdp")], call.sdp)
        if call.transaction.flow.transport == "udp":
            self._resend_answer(call, RETRY_AFTER_S)
        self._in(call, ACK_LATE_S, partial(self._check_ack, call))
        self._watch_media(call, MEDIA_INITIAL_S)

    def _resend_answer(self, call: Call, pauses: tuple[float, ...]) -> None:
        if pauses:

            def send() -> None:
                if not call.is_acked:
                    self._send(call.transaction, call.transaction.last)
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
            self._respond(transaction, OK, "OK", [("content-type", "application/sdp")], call.sdp)
        else:
            self._respond(transaction, UNAVAILABLE)

    def _on_ack(self, message: Message, known: Transaction | None) -> None:
        if known:
            known.stop_resending()
        if call := self._calls.get(parameter(message.get("to"), "tag")):
            call.is_acked = True

    def _on_cancel(self, transaction: Transaction) -> None:
        """End the INVITE of the same branch while it rings; a call that is answered is not ended so."""
        request = transaction.request
        invite = self._transactions.get((request.branch, request.sent_by, "INVITE"))
        call = self._calls.get(parameter(invite.request.get("to"), "tag")) if invite else None
        if invite is None or not (invite.is_final or invite.is_delayed or call):
            self._respond(transaction, NO_CALL)
            return
        to = invite.request.get("to")
        request.headers = [(name, to if name == "to" else value) for name, value in request.headers]
        self._respond(transaction, OK)
        if call and not call.is_standing:
            self._end(call, "caller")
            call.record["status"] = TERMINATED
        if not invite.is_final:
            self._respond(invite, TERMINATED)

    def _on_bye(self, transaction: Transaction) -> None:
        tag = parameter(transaction.request.get("to"), "tag")
        call = self._calls.get(tag)
        if call is None or not call.is_standing:
            self._respond(transaction, NO_CALL)
            return
        self._end(call, "caller")
        self._respond(transaction, OK)

    def _hang_up(self, call: Call, status: int = BUSY_HERE) -> None:
        """End a call from LiveKit's side: with this status while it rings, with BYE once it stands."""
        if call.id not in self._calls:
            return
        self._end(call, "livekit")
        if call.is_standing:
            self._say_bye(call)
        else:
            call.record["status"] = status
            self._respond(call.transaction, status)

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
            self._byes[branch] = self._after(pause_s, again)

    def _end(self, call: Call, ended_by: str) -> None:
        """Forget a call, and take its caller out of the room."""
        del self._calls[call.id]
        call.record["endedBy"] = ended_by
        for timer in call.timers:
            timer.cancel()
        call.timers.clear()
        if call.participant:
            self._sandbox.rooms.leave(call.project, call.answer.room, call.participant.sid)

    def _project(self, request: Message) -> str:
        """Return the project whose SIP host the request's URI names, else the first."""
        address = read_address(request.uri)
        return (project_at(self._sandbox, address.host) if address else None) or FIRST_PROJECT

    # What goes out

    @property
    def _host(self) -> str:
        return self._sandbox.sip_address.partition(":")[0]

    def _respond(
        self,
        transaction: Transaction,
        status: int,
        reason: str = "",
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> None:
        request, flow = transaction.request, transaction.flow
        message = Message(status=status, reason=reason or REASONS.get(status, "Error"), body=body)
        first, *others = request.all("via")
        message.headers += [("via", _received(first, flow.address)), *(("via", other) for other in others)]
        kept = {"record-route", "from", "to", "call-id", "cseq"}
        message.headers += [(name, value) for name, value in request.headers if name in kept]
        message.headers.append(("allow", ALLOW))
        if status > TRYING and not any(name == "contact" for name, _ in headers or ()):
            message.headers.append(("contact", f"<sip:{self._sandbox.sip_address};transport={flow.transport}>"))
        message.headers += headers or []
        transaction.stop_resending()
        transaction.last, transaction.is_final = message.encode(), status >= OK
        transaction.used_at = time.monotonic()
        if transaction.key in self._transactions:
            self._transactions.move_to_end(transaction.key)
        self._send(transaction, transaction.last, status)
        if transaction.is_final and request.method == "INVITE" and status > OK and flow.transport == "udp":
            self._resend(transaction, T1_S, TRANSACTION_S)

    def _resend(self, transaction: Transaction, pause_s: float, left_s: float) -> None:
        """Send a refusal again until its ACK comes (RFC 3261, 17.2.1, timers G and H)."""

        def send() -> None:
            self._send(transaction, transaction.last)
            self._resend(transaction, min(2 * pause_s, T2_S), left_s - pause_s)

        transaction.resending = self._after(pause_s, send) if left_s > pause_s else None

    def _send(self, transaction: Transaction, data: bytes, status: int = 0) -> None:
        if not data:
            return
        hit = self._fault(transaction.flow, Message(), f"sip.response_{status}", data) if status else None
        if hit and hit.kind == faults.SIP_LATE:
            self._after(hit.seconds, partial(transaction.flow.send, data))
        elif hit and hit.kind == faults.SIP_GARBAGE:
            transaction.flow.send(GARBAGE)
        elif not hit or hit.kind != faults.SIP_DROP:
            transaction.flow.send(data)


def _put(table: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Add to a table that forgets its oldest."""
    table[key] = value
    if len(table) > most:
        table.popitem(last=False)


def _challenge(status: int) -> list[tuple[str, str]]:
    """Return the header that asks for a password (inbound.go, handleInviteAuth)."""
    if status not in (UNAUTHORIZED, PROXY_AUTH):
        return []
    name = "proxy-authenticate" if status == PROXY_AUTH else "www-authenticate"
    return [(name, f'Digest realm="LiveKit", nonce="{secrets.token_hex(16)}", algorithm=MD5')]


def _received(via: str, address: tuple[str, int]) -> str:
    """Return the topmost Via with where the request really came from (RFC 3261, 18.2.1; RFC 3581)."""
    first, comma, rest = via.partition(",")
    parts = [part for part in first.split(";") if part.strip().lower() != "rport"]
    is_asked = len(parts) < len(first.split(";"))
    parts += [f"received={address[0]}", *([f"rport={address[1]}"] if is_asked else [])]
    return ";".join(parts) + comma + rest
