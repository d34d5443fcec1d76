"""How SIP messages get to the far end and back: a socket over UDP, TCP or TLS, none of whose calls waits for long.

LiveKit's own names have plain addresses (A, AAAA), so that SRV and NAPTR (RFC 3263) are not asked for.
"""

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial
from ipaddress import ip_address
from typing import NamedTuple, Protocol, TypeVar

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from app.calls.messages import MAX_MESSAGE_BYTES, Framer

SEND_S = 1.0
"""Seconds that a message may wait for the send buffer of a connection: it is empty unless the far end takes nothing."""

_IP_RECVERR, _IPV6_RECVERR, _MSG_ERRQUEUE = 11, 25, 0x2000
"""Linux' names for "report what the network says of my packets" (ip(7), ipv6(7)); Python has none for them."""

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})

_AT_ONCE = 8
"""Reads before whoever waits looks at the clock again: a far end that sends without end stops nobody."""

_READ_BYTES = 16_384
"""Bytes of one read of a connection: a whole record of TLS (RFC 8446, 5.1), so that nothing waits behind the socket."""

Address = tuple[str, int]


class Trouble(StrEnum):
    """Why no SIP message could be exchanged, or no more of them."""

    NAME_NOT_FOUND = "name_not_found"
    NAME_TIMED_OUT = "name_timed_out"
    """The resolver has not answered in time."""
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    """All addresses of the host are ones that this installation does not call."""
    REFUSED = "refused"
    """Nothing listens at the port."""
    UNREACHABLE = "unreachable"
    """No network leads there."""
    CONNECT_TIMED_OUT = "connect_timed_out"
    TLS_CERTIFICATE = "tls_certificate"
    """The server's certificate is not valid for the host."""
    TLS = "tls"
    """The TLS handshake failed otherwise."""
    CLOSED = "closed"
    """The other side has closed the connection in the middle of the call."""
    UNREADABLE = "unreadable"
    """What came is no SIP."""
    LOCAL = "local"
    """This machine could not: no socket, no port, no network of its own."""


class TroubleError(Exception):
    """The far end cannot be reached, or not any longer."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.value)
        self.trouble = trouble


class Received(NamedTuple):
    """What has come since the last look."""

    messages: list[tuple[bytes, Address]]
    """Each with the address that it came from."""
    trouble: Trouble | None = None
    """Why nothing more will come."""


class Wire(Protocol):
    """One socket to the far end."""

    transport: str
    """As a Via names it."""
    is_reliable: bool
    """Whether nothing has to be sent twice."""
    local: Address
    peer: Address

    def fileno(self) -> int:
        """Return what to wait for."""

    def send(self, data: bytes, to: Address | None = None) -> None:
        """Send a message, over UDP to another address if one is given; `TroubleError`."""

    def receive(self) -> "Received":
        """Return the messages that have come."""

    def close(self) -> None:
        """Close the socket; a second call does nothing."""


def shown_address(address: Address) -> str:
    """Return `192.0.2.1:5060`, or `[2001:db8::1]:5060`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def wait_for(filenos: Iterable[int], seconds: float, events: int = select.POLLIN) -> None:
    """Wait until one of the sockets is ready, or for so many seconds."""
    poll = select.poll()
    for fileno in filenos:
        poll.register(fileno, events)
    poll.poll(max(seconds, 0.0) * 1000)


def resolve(host: str, port: int, timeout_s: float) -> list[str]:
    """Return the addresses of a host, best first; `TroubleError`.

    The system's resolver has no timeout of ours: where it does not answer in time, its thread ends when it does.
    """
    with suppress(ValueError):
        return [str(ip_address(host))]
    found: list[str] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            failed.append(OSError())
        else:
            found.extend(dict.fromkeys(str(entry[4][0]) for entry in entries))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(max(timeout_s, 0.0))
    if failed:
        raise TroubleError(Trouble.NAME_NOT_FOUND)
    if not found:
        raise TroubleError(Trouble.NAME_TIMED_OUT)
    return list(found)


@cache
def system_tls() -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CAs and those that come with requests; loaded once."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


@dataclass(frozen=True, slots=True)
class Route:
    """How to get to the far end."""

    host: str
    """For the certificate."""
    addresses: Sequence[str]
    port: int
    transport: str
    """`udp`, `tcp` or `tls`."""
    tls: ssl.SSLContext | None = None
    """None: `system_tls`."""


def connect(route: Route, deadline: float, each_s: float) -> Wire:
    """Open a socket to the first of the addresses that takes one; `TroubleError` says why the last one does not.

    `deadline` is on the monotonic clock; one address may take `each_s`.
    """
    if route.transport == "tls":
        route = replace(route, tls=route.tls or system_tls())  # loaded before the far end waits for us
    last = TroubleError(Trouble.CONNECT_TIMED_OUT)
    for address in route.addresses:
        until = min(deadline, time.monotonic() + each_s)
        try:
            if route.transport == "udp":
                return _Packets((address, route.port))
            return _Stream(route, (address, route.port), until)
        except TroubleError as error:
            last = error
        if time.monotonic() >= deadline:
            break
    raise last


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _trouble_of(error: OSError) -> Trouble:
    if isinstance(error, ConnectionRefusedError):
        return Trouble.REFUSED
    if isinstance(error, ConnectionError):
        return Trouble.CLOSED
    if isinstance(error, TimeoutError):
        return Trouble.CONNECT_TIMED_OUT
    if error.errno in _NO_ROUTE:
        return Trouble.UNREACHABLE
    return Trouble.LOCAL


def bound_socket(host: str) -> socket.socket:
    """Return a UDP socket at a free port of one of our addresses; `TroubleError`."""
    made = _made(_family(host), socket.SOCK_DGRAM)
    try:
        made.bind((host, 0))
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise TroubleError(_trouble_of(error)) from None
    return made


def _made(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    try:
        return socket.socket(family, kind)
    except OSError:
        raise TroubleError(Trouble.LOCAL) from None


def _local_address_to(peer: Address) -> str:
    """Return the address of ours that packets to `peer` come from; nothing is sent."""
    with _made(_family(peer[0]), socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(peer)
            return str(probe.getsockname()[0])
        except OSError as error:
            raise TroubleError(_trouble_of(error)) from None


class _Packets:
    """SIP over UDP.

    Responses count from wherever they come, as in RFC 3261, 18.1.2: a server with several addresses may answer from
    another one. So the socket is not connected, and what the network says of our packets is asked for.
    """

    transport = "UDP"
    is_reliable = False

    def __init__(self, peer: Address) -> None:
        self.peer = peer
        self._socket = bound_socket(_local_address_to(peer))
        self.local = self._socket.getsockname()[:2]
        level, option = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if ":" in peer[0] else (socket.IPPROTO_IP, _IP_RECVERR)
        with suppress(OSError):
            self._socket.setsockopt(level, option, 1)

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._socket.fileno()

    def send(self, data: bytes, to: Address | None = None) -> None:
        """Send a packet; one that cannot go now counts as lost on the way: it is sent again."""
        try:
            self._socket.sendto(data, to or self.peer)
        except BlockingIOError:
            return
        except OSError as error:
            self._forget_errors()
            raise TroubleError(_trouble_of(error)) from None

    def receive(self) -> Received:
        """Return the packets that have come, and what the network says of ours."""
        packets: list[tuple[bytes, Address]] = []
        for _ in range(_AT_ONCE):
            try:
                data, source = self._socket.recvfrom(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._forget_errors()
                return Received(packets, _trouble_of(error))
            packets.append((data, source[:2]))
        return Received(packets)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _forget_errors(self) -> None:
        """Empty the queue of errors, for which the socket would be ready all the time."""
        with suppress(OSError):
            while True:
                self._socket.recvmsg(512, 512, _MSG_ERRQUEUE)


class _Stream:
    """SIP over TCP or TLS."""

    is_reliable = True

    def __init__(self, route: Route, peer: Address, until: float) -> None:
        self.transport = route.transport.upper()
        self.peer = peer
        self._framer = Framer()
        self._socket = _made(_family(peer[0]), socket.SOCK_STREAM)
        try:
            self._open(route, until)
        except BaseException:
            self._socket.close()
            raise
        self.local: Address = self._socket.getsockname()[:2]

    def _open(self, route: Route, until: float) -> None:
        try:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            self._socket.connect(self.peer)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
        except OSError as error:
            raise TroubleError(_trouble_of(error)) from None
        if route.transport == "tls":
            self._secure(route, until)

    def _secure(self, route: Route, until: float) -> None:
        """Shake hands; the certificate has to be valid for the host of the URI."""
        context = route.tls or system_tls()
        try:
            secured = context.wrap_socket(self._socket, server_hostname=route.host, do_handshake_on_connect=False)
            self._socket = secured
            _retried(secured.do_handshake, secured.fileno(), until)
        except ssl.SSLCertVerificationError:
            raise TroubleError(Trouble.TLS_CERTIFICATE) from None
        except TimeoutError:
            raise TroubleError(Trouble.CONNECT_TIMED_OUT) from None
        except (OSError, ValueError):
            raise TroubleError(Trouble.TLS) from None

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._socket.fileno()

    def send(self, data: bytes, to: Address | None = None) -> None:  # noqa: ARG002  # a connection leads to one address
        """Send a message within `SEND_S`."""
        until = time.monotonic() + SEND_S
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[_retried(partial(self._socket.send, rest), self.fileno(), until) :]
        except OSError:
            raise TroubleError(Trouble.CLOSED) from None

    def receive(self) -> Received:
        """Return the messages that are whole, and whether the connection is over."""
        messages: list[tuple[bytes, Address]] = []
        for _ in range(_AT_ONCE):
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                return Received(messages, Trouble.CLOSED)
            try:
                messages.extend((message, self.peer) for message in self._framer.feed(data))
            except ValueError:
                return Received(messages, Trouble.UNREADABLE)
            if not data:
                return Received(messages, Trouble.CLOSED)
        return Received(messages)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


Returned = TypeVar("Returned")


def _retried(call: Callable[[], Returned], fileno: int, until: float) -> Returned:
    """Repeat a call on a socket that does not wait until it goes through; `TimeoutError` at `until`."""
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            events = select.POLLIN
        except (BlockingIOError, ssl.SSLWantWriteError):
            events = select.POLLOUT
        remaining_s = until - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        wait_for([fileno], remaining_s, events)
