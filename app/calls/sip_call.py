"""One outgoing call over SIP (RFC 3261), placed and ended within a budget of time."""

import math
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from app.calls.media import Sound, offer_of, read_answer
from app.calls.messages import Leg, Message, parameter, read_message
from app.calls.sockets import (
    Address,
    Route,
    Trouble,
    TroubleError,
    Wire,
    connect,
    resolve,
    shown_address,
    wait_for,
)
from app.domain.sip_uris import SipUri, parse_sip_uri

RINGING, SESSION_PROGRESS, OK = 180, 183, 200

_ANSWERED, _REDIRECTED = range(200, 300), range(300, 400)

_TIMER_B = 64
"""How many T1 an INVITE without any response is given (RFC 3261, 17.1.1.2)."""

_MOST_RESPONSES = 1_000
"""Responses that are kept: LiveKit rings once a second."""

_MOST_DIALOGS = 8
"""Far ends that are hung up: who makes up more of them is not to have us send without end."""


@dataclass(frozen=True, slots=True)
class CallTimes:
    """How long a call may take; seconds. All of it together is `longest_s`."""

    budget_s: float = 30.0
    """From the start to the answer, or to giving up: looking the name up, connecting and ringing included."""
    talk_s: float = 1.0
    """How long an answered call stands, while we send silence: long enough for the far end's first sound."""
    hang_up_s: float = 3.0
    """How long the end of our CANCEL or BYE is waited for: four tries over UDP."""
    connect_s: float = 5.0
    """To connect to one address, its TLS handshake included."""
    t1_s: float = 0.5
    """The first pause before a message is sent again over UDP (RFC 3261, 17.1.1.1)."""
    t2_s: float = 4.0
    """The longest of these pauses, but for an INVITE."""

    @property
    def longest_s(self) -> float:
        """How long a call takes at most, whatever the far end does."""
        return self.budget_s + self.talk_s + self.hang_up_s


@dataclass(frozen=True, slots=True)
class CallResponse:
    """One response to the INVITE."""

    status: int
    reason: str
    at_s: float
    """Seconds after the INVITE was sent for the first time."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The course of one call: plain values, all that a verdict needs."""

    call_id: str
    responses: tuple[CallResponse, ...] = ()
    """To the INVITE, in order, each 180 of its own; of those after we gave up only an answer."""
    trouble: Trouble | None = None
    was_heard: bool = False
    """Whether anything came back at all."""
    waited_s: float = 0.0
    """Seconds from the INVITE to its final response, or until we gave up."""
    redirected_to: str = ""
    """The host that a 3xx names."""
    local_address: str = ""
    """The address and port that we called from, as this machine knows them."""
    is_answer_plain: bool = False
    """Whether the answer takes sound, and not encrypted."""
    rtp_packets: int = 0
    """Packets of sound that came, encrypted or not."""

    @property
    def final(self) -> CallResponse | None:
        """The final response, or None when none came in time."""
        return next((one for one in self.responses if one.status >= OK), None)

    @property
    def ringing(self) -> tuple[CallResponse, ...]:
        """The responses that say that it rings."""
        return tuple(one for one in self.responses if one.status in {RINGING, SESSION_PROGRESS})

    @property
    def ring_s(self) -> float | None:
        """Seconds until it rang."""
        return self.ringing[0].at_s if self.ringing else None

    @property
    def answer_s(self) -> float | None:
        """Seconds until it was answered."""
        return self.final.at_s if self.final and self.final.status in _ANSWERED else None


def new_call_id() -> str:
    """Return a Call-ID that nobody can guess: LiveKit repeats its rejection to one that it knows (inbound.go:403)."""
    return f"{secrets.token_hex(16)}@trunkline"


def place_call(
    uri: SipUri,
    called: str,
    caller: str,
    *,
    call_id: str = "",
    is_secure: bool = False,
    times: CallTimes | None = None,
    allows: Callable[[str], bool] = lambda _: True,
    tls: ssl.SSLContext | None = None,
) -> CallResult:
    """Call `called` (E.164) at an origination URI as `caller` (E.164), and hang up; return how it went, always.

    The user of the URI, if it has one, is called instead, as Twilio does. With `is_secure` the media that is offered
    is encrypted, and none is sent. `allows` says whether an IP address may be called. Takes `times.longest_s` at most.
    """
    call_id = call_id or new_call_id()
    call = _Call(uri, uri.called or called, caller, call_id, times or CallTimes(), allows, is_secure=is_secure)
    try:
        call.open(tls)
        call.ring()
    except TroubleError as error:
        call.trouble = error.trouble
    else:
        with suppress(TroubleError):
            call.talk()
            call.hang_up()
    finally:
        call.close()
    return call.result()


@dataclass(slots=True)
class _Resent:
    """A request that is sent again until its response comes, over UDP only."""

    data: bytes
    pause_s: float
    at: float
    """When next, on the monotonic clock."""
    longest_s: float
    to: Address | None
    tries: int = 1


@dataclass(slots=True)
class _Dialog:
    """A far end that has answered: one, unless a proxy has forked the call."""

    ack: bytes
    bye: bytes
    to: Address | None = None
    """Where its Contact leads over UDP; None: where the INVITE went."""
    has_bye: bool = False
    """Whether a BYE was sent, ours or theirs."""
    is_over: bool = False
    """Whether it was confirmed."""


class _Call:
    """The one call, and what is open for it."""

    def __init__(
        self,
        uri: SipUri,
        called: str,
        caller: str,
        call_id: str,
        times: CallTimes,
        allows: Callable[[str], bool],
        *,
        is_secure: bool,
    ) -> None:
        self._uri, self._called, self._caller = uri, called, caller
        self._times, self._allows, self._is_secure = times, allows, is_secure
        self._deadline = time.monotonic() + times.budget_s
        self._call_id = call_id
        self._wire: Wire | None = None
        self._sound: Sound | None = None
        self._leg: Leg | None = None
        self._sent_at: float | None = None
        self._waited_s = 0.0
        self._resent: dict[str, _Resent] = {}
        self._responses: list[CallResponse] = []
        self._dialogs: dict[str, _Dialog] = {}
        self._refusal: Message | None = None
        self._is_proceeding = False
        self._has_given_up = False
        self._is_cancelled = False
        self._was_heard = False
        self._is_garbled = False
        self._is_answer_plain = False
        self.trouble: Trouble | None = None

    def result(self) -> CallResult:
        """Return how it went."""
        return CallResult(
            call_id=self._call_id,
            responses=tuple(self._responses),
            trouble=self.trouble,
            was_heard=self._was_heard,
            waited_s=self._waited_s,
            redirected_to=_redirected_to(self._refusal),
            is_answer_plain=self._is_answer_plain,
            local_address=shown_address(self._wire.local) if self._wire else "",
            rtp_packets=self._sound.packets if self._sound else 0,
        )

    def open(self, tls: ssl.SSLContext | None) -> None:
        """Find the far end and open what the call needs."""
        uri = self._uri
        addresses = resolve(uri.host, uri.effective_port, self._remaining_s())
        allowed = [address for address in addresses if self._allows(address)]
        if not allowed:
            raise TroubleError(Trouble.ADDRESS_NOT_ALLOWED)
        route = Route(uri.host, allowed, uri.effective_port, uri.transport, tls)
        self._wire = wire = connect(route, self._deadline, self._times.connect_s)
        self._sound = Sound(wire.local[0], self._allows, is_secure=self._is_secure)
        self._leg = Leg(
            uri=uri,
            called=self._called,
            caller=self._caller,
            transport=wire.transport,
            address=shown_address(wire.local),
            call_id=self._call_id,
            tag=secrets.token_hex(8),
            branch=_new_branch(),
        )

    def ring(self) -> None:
        """Send the INVITE; wait for its final response, or until the budget or all tries are used up."""
        wire, leg, sound = self._opened()
        self._sent_at = time.monotonic()
        self._request("INVITE", leg.invite(offer_of(wire.local[0], sound.port, is_secure=self._is_secure)))
        all_tries = self._sent_at + _TIMER_B * self._times.t1_s
        while not (self._refusal or self._dialogs):
            until = self._deadline if self._is_proceeding else min(self._deadline, all_tries)
            if time.monotonic() >= until:
                break
            self._wait(until)
        self._waited_s = time.monotonic() - self._sent_at
        if self._is_garbled and not self._responses:
            raise TroubleError(Trouble.UNREADABLE)

    def talk(self) -> None:
        """Let an answered call stand for a moment; over earlier if the far end hangs up."""
        until = time.monotonic() + self._times.talk_s
        while any(not dialog.is_over for dialog in self._dialogs.values()) and time.monotonic() < until:
            self._wait(until)

    def hang_up(self) -> None:
        """End what is open, and wait a moment for the far end to confirm it."""
        self._has_given_up = True
        self._resent.pop("INVITE", None)
        self._end()
        until = time.monotonic() + self._times.hang_up_s
        while self._is_open() and time.monotonic() < until:
            self._wait(until)

    def close(self) -> None:
        """Say goodbye if nobody has, whatever happened, and close all sockets."""
        try:
            with suppress(TroubleError):
                self._end()
        finally:
            for each in (self._wire, self._sound):
                if each is not None:
                    each.close()

    def _remaining_s(self) -> float:
        return self._deadline - time.monotonic()

    def _opened(self) -> tuple[Wire, Leg, Sound]:
        if self._wire is None or self._leg is None or self._sound is None:
            raise TroubleError(Trouble.LOCAL)
        return self._wire, self._leg, self._sound

    def _is_open(self) -> bool:
        """Say whether the far end still holds something of this call, so far as we know."""
        if self._refusal is not None or self._sent_at is None:
            return False
        return not self._dialogs or any(not dialog.is_over for dialog in self._dialogs.values())

    def _end(self) -> None:
        """Send the BYE of every answer, or the CANCEL of an INVITE that is only under way."""
        if not self._is_open():
            return
        for tag, dialog in self._dialogs.items():
            if not dialog.has_bye:
                dialog.has_bye = True
                self._request(f"BYE {tag}", dialog.bye, dialog.to)
        # Without a provisional response no CANCEL may be sent (9.1): the INVITE may not have arrived.
        if not self._dialogs and self._is_proceeding and not self._is_cancelled:
            self._is_cancelled = True
            self._request("CANCEL", self._opened()[1].cancel())

    def _request(self, name: str, data: bytes, to: Address | None = None) -> None:
        wire = self._opened()[0]
        if not wire.is_reliable:
            pause_s = self._times.t1_s
            longest_s = math.inf if name == "INVITE" else self._times.t2_s
            self._resent[name] = _Resent(data, pause_s, time.monotonic() + pause_s, longest_s, to)
        self._send(data, to)

    def _send(self, data: bytes, to: Address | None = None) -> None:
        """Send; what the network says of one packet means nothing once the far end was heard."""
        wire = self._opened()[0]
        try:
            wire.send(data, to)
        except TroubleError:
            if wire.is_reliable or not self._was_heard:
                raise

    def _wait(self, until: float) -> None:
        """Do what is due, wait for what comes next, but not beyond `until`, and take it."""
        wire, _, sound = self._opened()
        now = time.monotonic()
        sound.send_due(now)
        for each in self._resent.values():
            if now >= each.at:
                each.pause_s = min(2 * each.pause_s, each.longest_s)
                each.at = now + each.pause_s
                each.tries += 1
                # Every other time to where the INVITE went: the address of a Contact may be one of an inner network.
                self._send(each.data, each.to if each.tries % 2 else None)
        next_at = min((until, sound.next_at(), *(each.at for each in self._resent.values())))
        wait_for((wire.fileno(), sound.fileno()), next_at - time.monotonic())
        sound.receive()
        received = wire.receive()
        for data, source in received.messages:
            self._was_heard = True
            self._take(data, source)
        # A packet that nobody took says nothing once somebody has answered.
        is_over = wire.is_reliable or not self._was_heard
        if received.trouble and is_over and not self._refusal:
            raise TroubleError(received.trouble)

    def _take(self, data: bytes, source: Address) -> None:
        message = read_message(data)
        if message is None:
            self._is_garbled = True
        elif message.method:
            self._take_request(message, source)
        elif message.call_id == self._call_id:
            self._take_response(message)

    def _take_request(self, request: Message, source: Address) -> None:
        """Respond to a request of the far end; one of another call is not ours."""
        leg = self._opened()[1]
        if request.method == "ACK":
            return
        status, reason = _RESPONSES.get(request.method, (405, "Method Not Allowed"))
        if request.call_id != self._call_id:
            status, reason = 481, "Call Does Not Exist"
        elif request.method == "BYE":
            dialog = self._dialogs.get(parameter(request.header("from"), "tag"))
            if dialog is not None:
                dialog.has_bye = dialog.is_over = True
        self._send(leg.respond(request, status, reason), source)

    def _take_response(self, response: Message) -> None:
        match response.cseq.method:
            case "INVITE":
                self._resent.pop("INVITE", None)
                if response.status < OK:
                    self._take_progress(response)
                elif response.status in _ANSWERED:
                    self._take_answer(response)
                else:
                    self._take_refusal(response)
            case "CANCEL" if response.status >= OK:
                self._resent.pop("CANCEL", None)
            case "BYE" if response.status >= OK:
                self._resent.pop(f"BYE {response.to_tag}", None)
                if dialog := self._dialogs.get(response.to_tag):
                    dialog.is_over = True

    def _take_progress(self, response: Message) -> None:
        self._is_proceeding = True
        if self._has_given_up:
            self._end()
            return
        self._note(response)
        if response.body:
            self._opened()[2].aim(response.body)

    def _take_answer(self, response: Message) -> None:
        """Confirm an answer, also one that is said again; one too many or too late is hung up at once."""
        _, leg, sound = self._opened()
        dialog = self._dialogs.get(response.to_tag)
        if dialog is not None:
            # Our ACK was lost, or the address of the Contact leads nowhere.
            self._send(dialog.ack, dialog.to)
            if dialog.to:
                self._send(dialog.ack)
            return
        if len(self._dialogs) == _MOST_DIALOGS:
            return
        self._resent.pop("CANCEL", None)
        ack, bye = leg.ack(response, _new_branch()), leg.bye(response, _new_branch())
        # Kept before anything else, so that it is hung up whatever comes.
        dialog = self._dialogs[response.to_tag] = _Dialog(ack, bye)
        dialog.to = self._contact_address(response)
        self._send(ack, dialog.to)
        if len(self._dialogs) == 1:
            self._note(response)
            sound_at = read_answer(response.body)
            self._is_answer_plain = sound_at is not None and not sound_at.is_encrypted
        if self._has_given_up or len(self._dialogs) > 1:
            dialog.has_bye = True
            self._request(f"BYE {response.to_tag}", bye, dialog.to)
        elif response.body:
            sound.aim(response.body)

    def _take_refusal(self, response: Message) -> None:
        leg = self._opened()[1]
        if self._refusal is None and not self._dialogs:
            self._refusal = response
            self._resent.clear()
            if not self._has_given_up:
                self._note(response)
        self._send(leg.ack_refusal(response))

    def _note(self, response: Message) -> None:
        if self._sent_at is not None and len(self._responses) < _MOST_RESPONSES:
            at_s = time.monotonic() - self._sent_at
            self._responses.append(CallResponse(response.status, response.reason, at_s))

    def _contact_address(self, answer: Message) -> Address | None:
        """Return where the ACK and the BYE go over UDP: to the Contact, unless a proxy stays in between (16.12.1.1)."""
        wire = self._opened()[0]
        if wire.is_reliable or answer.headers_named("record-route"):
            return None
        try:
            uri = parse_sip_uri(answer.contact)
            address = ip_address(uri.host)
        except ValueError:
            return None
        is_ours = address.version == ip_address(wire.peer[0]).version and self._allows(str(address))
        return (str(address), uri.effective_port) if is_ours else None


_RESPONSES = {"BYE": (200, "OK"), "OPTIONS": (200, "OK"), "INVITE": (488, "Not Acceptable Here")}
"""Method -> what we respond to a request of the call; a new offer (INVITE) is declined and the call goes on (14.2)."""


def _new_branch() -> str:
    """Return what tells a transaction apart (8.1.1.7)."""
    return f"z9hG4bK{secrets.token_hex(12)}"


def _redirected_to(refusal: Message | None) -> str:
    if refusal is None or refusal.status not in _REDIRECTED:
        return ""
    try:
        return parse_sip_uri(refusal.contact).host
    except ValueError:
        return ""
