"""SIP transactions of LiveKit's side: each request once, its last response again, and what faults do to both.

Retransmissions and timers are those of RFC 3261, section 17.2, and of livekit/sip pkg/sip/inbound.go at be5d3f5.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from app.dev.sandbox import faults
from app.dev.sandbox.call import project_at
from app.dev.sandbox.exchange import SIP, Exchange
from app.dev.sandbox.faults import FaultHit
from app.dev.sandbox.livekit_wire import new_id
from app.dev.sandbox.sip_wire import Message, parameter, read_address
from app.dev.sandbox.state import FIRST_PROJECT, Sandbox

TRYING, RINGING, OK = 100, 180, 200
BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, NOT_ALLOWED, PROXY_AUTH = 400, 401, 404, 405, 407
NO_CALL, BUSY_HERE, TERMINATED, INTERNAL_ERROR, UNAVAILABLE = 481, 486, 487, 500, 503

REASONS = {
    TRYING: "Processing",
    RINGING: "Ringing",
    OK: "OK",
    302: "Moved Temporarily",
    BAD_REQUEST: "Bad request",
    UNAUTHORIZED: "Unauthorized",
    NOT_FOUND: "Not Found",
    NOT_ALLOWED: "Method Not Allowed",
    PROXY_AUTH: "Unauthorized",
    NO_CALL: "Call does not exist",
    BUSY_HERE: "Rejected",
    TERMINATED: "Request Terminated",
    INTERNAL_ERROR: "Internal Server Error",
    UNAVAILABLE: "Try again later",
}
"""Reason phrases as livekit-sip writes them where it says nothing else."""

T1_S, T2_S = 0.5, 4.0
"""First and longest pause before something is sent again over UDP (RFC 3261, table 4)."""

TRANSACTION_S = 32.0
"""Seconds that a transaction is remembered after its last response: 64 x T1 (RFC 3261, timers H and J)."""

MOST_TRANSACTIONS = 5_000
"""Beyond them the oldest is forgotten."""

GARBAGE = b"\x00\xffSIP/2.0 2OO \r\nVia\r\n\r\n"
"""What a garbage response holds when the fault does not say."""

ELSEWHERE = "sip:elsewhere@192.0.2.1"
"""Where a redirection leads when the fault does not say: an address of nobody (RFC 5737)."""

ALLOW = "INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, MESSAGE, OPTIONS, INFO, SUBSCRIBE"

ECHOED = frozenset({"record-route", "from", "to", "call-id", "cseq"})
"""Headers that a response repeats, besides Via."""

Headers = list[tuple[str, str]]
Key = TypeVar("Key")
Value = TypeVar("Value")


def put_bounded(table: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Add to a table that forgets its oldest entry beyond so many."""
    table[key] = value
    if len(table) > most:
        table.popitem(last=False)


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


Later = Callable[[float, Callable[[], None]], Timer]
"""Runs something after so many seconds."""


@dataclass(eq=False, slots=True)
class Transaction:
    """A request, and the last response to it."""

    key: tuple[str, str, str]
    request: Message
    flow: Flow
    used_at: float
    """When the last response was made, by the clock."""
    last: bytes = b""
    is_final: bool = False
    is_delayed: bool = False
    """Whether a fault keeps the request from being looked at."""
    resending: Timer | None = None

    @property
    def to_tag(self) -> str:
        """What tells the dialog apart that the request begins, or belongs to."""
        return parameter(self.request.get("to"), "tag")

    def stop_resending(self) -> None:
        """Stop what an ACK or a later response has made needless."""
        if self.resending:
            self.resending.cancel()
            self.resending = None


class Transactions:
    """The requests that may come again; used under the store's lock."""

    def __init__(self, sandbox: Sandbox, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._sandbox = sandbox
        self._table: OrderedDict[tuple[str, str, str], Transaction] = OrderedDict()
        self.clock = clock
        self.later: Later | None = None
        """Set by the listener, whose thread it runs in and must be called from."""

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._table)

    def clear(self) -> None:
        """Forget every one."""
        for transaction in self._table.values():
            transaction.stop_resending()
        self._table.clear()

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Run an action later, under the store's lock, unless the sandbox is emptied before."""
        generation = self._sandbox.generation

        def run() -> None:
            with self._sandbox.store.lock:
                if generation == self._sandbox.generation:
                    action()

        if self.later is None:
            raise RuntimeError("no listener runs")
        return self.later(seconds, run)

    def find_invite(self, message: Message) -> Transaction | None:
        """Return the INVITE that an ACK or a CANCEL is about."""
        return self._table.get((message.branch, message.sent_by, "INVITE"))

    def begin(self, flow: Flow, message: Message, data: bytes, handle: Callable[[Transaction], None]) -> None:
        """Handle a request that is new, or do to it what a fault says; send the last response to one that is not."""
        now = self.clock()
        while self._table and next(iter(self._table.values())).used_at < now - TRANSACTION_S:
            self._table.popitem(last=False)
        key = (message.branch, message.sent_by, message.method)
        if known := self._table.get(key):
            self.send(known, known.last)
            return
        hit = self.fault(flow, message, f"sip.{message.method.lower()}", data)
        if hit and hit.kind == faults.SIP_DROP:
            return
        if not parameter(message.get("to"), "tag"):
            tagged = f"{message.get('to')};tag={new_id('SCL_')}"
            message.headers = [(name, tagged if name == "to" else value) for name, value in message.headers]
        transaction = Transaction(key, message, flow, now)
        put_bounded(self._table, key, transaction, MOST_TRANSACTIONS)
        if hit:
            self._strike(transaction, hit, handle)
        else:
            handle(transaction)

    def fault(self, flow: Flow, message: Message, operation: str, data: bytes) -> FaultHit | None:
        """Return the fault that hits a message."""
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
            owner=called_project(self._sandbox, message) if message.method else "",
        )
        return self._sandbox.faults.match(exchange)

    def _strike(self, transaction: Transaction, hit: FaultHit, handle: Callable[[Transaction], None]) -> None:
        """Do to a request what its fault says."""
        spec, is_invite = hit.fault.spec, transaction.request.method == "INVITE"
        if hit.kind == faults.SIP_LATE:
            transaction.is_delayed = True
            self.after(hit.seconds, partial(_handle_late, transaction, handle))
        elif hit.kind == faults.SIP_RESET:
            transaction.flow.reset()
        elif hit.kind == faults.SIP_GARBAGE:
            transaction.last = str(spec["message"]).encode() if spec.get("message") else GARBAGE
            self.send(transaction, transaction.last)
        elif hit.kind == faults.SIP_SILENT and is_invite:
            self.respond(transaction, TRYING)
            if spec.get("status"):
                self.respond(transaction, int(spec["status"]))
        elif hit.kind == faults.SIP_STATUS:
            if is_invite:
                self.respond(transaction, TRYING)
            status, contact = int(spec["status"]), spec.get("contact") or ELSEWHERE
            headers = [("contact", f"<{contact}>")] if status < BAD_REQUEST else challenge(status)
            self.respond(transaction, status, str(spec.get("message") or ""), headers)

    def respond(
        self,
        transaction: Transaction,
        status: int,
        reason: str = "",
        headers: Headers | None = None,
        body: bytes = b"",
    ) -> None:
        """Respond to a request; a refusal of an INVITE is sent over UDP until its ACK comes."""
        request, flow, added = transaction.request, transaction.flow, headers or []
        message = Message(status=status, reason=reason or REASONS.get(status, "Error"), body=body)
        first, *others = request.all("via")
        message.headers += [("via", _received(first, flow.address)), *(("via", other) for other in others)]
        message.headers += [(name, value) for name, value in request.headers if name in ECHOED]
        message.headers.append(("allow", ALLOW))
        if status > TRYING and not any(name == "contact" for name, _ in added):
            message.headers.append(("contact", f"<sip:{self._sandbox.sip_address};transport={flow.transport}>"))
        message.headers += added
        transaction.stop_resending()
        transaction.last, transaction.is_final = message.encode(), status >= OK
        transaction.used_at = self.clock()
        if transaction.key in self._table:
            self._table.move_to_end(transaction.key)
        self.send(transaction, transaction.last, status)
        if transaction.is_final and request.method == "INVITE" and status > OK and flow.transport == "udp":
            self._resend(transaction, T1_S, TRANSACTION_S)

    def _resend(self, transaction: Transaction, pause_s: float, left_s: float) -> None:
        """Send a refusal again until its ACK comes (timers G and H)."""

        def send() -> None:
            self.send(transaction, transaction.last)
            self._resend(transaction, min(2 * pause_s, T2_S), left_s - pause_s)

        transaction.resending = self.after(pause_s, send) if left_s > pause_s else None

    def send(self, transaction: Transaction, data: bytes, status: int = 0) -> None:
        """Send bytes to where a request came from; `status` is that of a response that is sent for the first time."""
        if not data:
            return
        hit = self.fault(transaction.flow, Message(), f"sip.response_{status}", data) if status else None
        if hit and hit.kind == faults.SIP_LATE:
            self.after(hit.seconds, partial(transaction.flow.send, data))
        elif hit and hit.kind == faults.SIP_GARBAGE:
            transaction.flow.send(GARBAGE)
        elif not hit or hit.kind != faults.SIP_DROP:
            transaction.flow.send(data)


def _handle_late(transaction: Transaction, handle: Callable[[Transaction], None]) -> None:
    transaction.is_delayed = False
    if not transaction.is_final:
        handle(transaction)


def called_project(sandbox: Sandbox, request: Message) -> str:
    """Return the project whose SIP host the request's URI names, else the first."""
    address = read_address(request.uri)
    return (project_at(sandbox, address.host) if address else None) or FIRST_PROJECT


def challenge(status: int) -> Headers:
    """Return the header of a 401 or 407 that asks for a password (inbound.go, handleInviteAuth); none otherwise."""
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
