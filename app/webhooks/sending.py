"""Posts one signed message to one URL: to an address that webhooks may go to, the very one that was checked."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, parse_headers
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import BinaryIO

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, LocationParseError, NewConnectionError
from urllib3.util import Url, parse_url

from app.providers.errors import parse_retry_after

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port -> every address of it; OSError where there is none."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 space that is given out (RFC 4291 2.4)."""

NAT64 = IPv6Network("64:ff9b::/96")
"""An IPv4 address as an IPv6-only network spells it (RFC 6052): the last 32 bits decide."""

REFUSED_NETWORKS = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure's own service for its machines, on a public address
        "192.0.0.0/24",  # protocol assignments, one cloud's metadata among them
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address in disguise
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: likewise
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""What the tables of Python's `ipaddress` count as global, some in every version and some in a few."""


CLOUD_METADATA = tuple(ip_network(each) for each in ("100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128"))
"""Where clouds tell a machine its credentials within private networks: Alibaba's, Amazon's and Google's.

Never a receiver, whatever is allowed around it. The one that most share, 169.254.169.254, cannot be allowed at all.
"""


@dataclass(frozen=True)
class AddressRule:
    """Says of an address whether a webhook may go there."""

    allowed: tuple[Network, ...] = ()
    """Private networks whose receivers are trusted."""

    def admits(self, address: Address) -> bool:
        """Say whether it is public, or in one of the allowed networks."""
        return self.names(address) or is_public(address)

    def names(self, address: Address) -> bool:
        """Say whether it is in one of the allowed networks: only there may a request go unencrypted."""
        address = _unwrapped(address)
        if any(address in network for network in CLOUD_METADATA):
            return False
        return any(address in network for network in self.allowed)


def is_public(address: Address) -> bool:
    """Say whether anybody on the internet could be meant: not this machine, its network, or a cloud's metadata."""
    address = _unwrapped(address)
    if any(address in network for network in REFUSED_NETWORKS) or address.is_multicast or address.is_reserved:
        return False
    return address.is_global and (address.version == 4 or address in GLOBAL_UNICAST)  # noqa: PLR2004  # IP's own name


def literal_address(host: str) -> Address | None:
    """Return the address that a URL's host spells out, in any spelling that a resolver takes; None for a name.

    `2130706433`, `0x7f.1` and `127.1` are 127.0.0.1 to getaddrinfo.
    """
    text = host.strip("[]")
    try:
        return ip_address(text)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver for every address of the host, best first; OSError where it has none."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


TIMEOUT_S = 15.0
"""Seconds from the first connection to the last header: the least that Standard Webhooks asks senders to grant."""

CONNECT_TIMEOUT_S = 5.0
"""Seconds for one address to accept, and as many for its TLS handshake."""

MAX_ADDRESSES = 3
"""Addresses of one host that are tried in turn."""

KEPT_BYTES = 1024
"""How much of an answer is read: enough to see what a receiver complains of."""

RETRY_AFTER_CAP_S = 86400.0
"""Seconds: the longest wish of a receiver that is granted, a day."""

PORTS = {"https": 443, "http": 80}


class UrlRefusedError(Exception):
    """A URL that webhooks do not go to; the message goes to the client, after the field's name."""


class SendError(Exception):
    """Nothing came back that is an answer; `reason` is one of a few words, without anything of the receiver's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """What the receiver answered."""

    status: int
    body: str
    retry_after_s: float | None


@dataclass(frozen=True)
class Sender:
    """Sends to what `rule` admits. Proxies of the environment are not used: they would resolve names themselves."""

    rule: AddressRule
    resolve: Resolve = resolve
    timeout_s: float = TIMEOUT_S
    authorities: str = DEFAULT_CA_BUNDLE_PATH
    """A file of certificates that are trusted beside the system's."""

    def check_url(self, url: str) -> Url:
        """Return the URL in parts; `UrlRefusedError` says what is wrong with it, as far as one can without asking."""
        try:
            parts = parse_url(url)
        except LocationParseError as error:
            raise UrlRefusedError("is not a URL") from error
        if parts.scheme not in (PORTS if self.rule.allowed else {"https"}) or not parts.host:
            raise UrlRefusedError("must be an https:// URL")
        if parts.auth is not None or parts.fragment is not None:
            raise UrlRefusedError("must have no user, password or fragment")
        host = parts.host.rstrip(".").lower()
        address = literal_address(host)
        is_here = host == "localhost" or host.endswith(".localhost")
        if (address and not self._admits(parts, address)) or (is_here and not self.rule.allowed):
            raise UrlRefusedError("must not be a private address")
        return parts

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post the body; every failure short of an answer is a `SendError`."""
        try:
            parts = self.check_url(url)
        except UrlRefusedError as error:
            raise SendError("url_refused") from error
        deadline = time.monotonic() + self.timeout_s
        for address in self._addresses(parts):
            connection = self._connection(parts, address, deadline)
            try:
                connection.connect()
            except (NewConnectionError, ConnectTimeoutError):
                connection.close()
                continue
            except (ssl.SSLError, HTTPError, OSError, ValueError) as error:
                connection.close()
                raise SendError("tls_failed") from error
            return _exchange(connection, parts, headers, body, deadline)
        raise SendError("connection_failed")

    def _addresses(self, parts: Url) -> Sequence[str]:
        """Resolve the host; one address that is not admitted is enough to refuse them all."""
        try:
            found = self.resolve(parts.host or "", _port(parts))
        except (OSError, UnicodeError) as error:
            raise SendError("name_not_resolved") from error
        if not all(self._admits(parts, ip_address(each)) for each in found):
            raise SendError("address_refused")
        return found[:MAX_ADDRESSES]

    def _admits(self, parts: Url, address: Address) -> bool:
        return self.rule.admits(address) if parts.scheme == "https" else self.rule.names(address)

    def _connection(self, parts: Url, address: str, deadline: float) -> HTTPConnection:
        """Prepare a connection to the address itself; the name is only what TLS asks for and checks."""
        limit_s = max(min(CONNECT_TIMEOUT_S, deadline - time.monotonic()), 0.001)
        if parts.scheme == "http":
            return HTTPConnection(address, _port(parts), timeout=limit_s)
        name = (parts.host or "").strip("[]").rstrip(".")
        tls = _trusting(self.authorities)
        return HTTPSConnection(address, _port(parts), timeout=limit_s, ssl_context=tls, server_hostname=name)


@cache
def _trusting(authorities: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's authorities and those in the file; read once, when first needed."""
    context = ssl.create_default_context()
    context.load_verify_locations(authorities)
    return context


def _exchange(
    connection: HTTPConnection, parts: Url, headers: Mapping[str, str], body: bytes, deadline: float
) -> Answer:
    """Send and read; at the deadline the connection is cut, however slowly bytes drip in. Redirects are answers."""
    is_late = threading.Event()
    # The socket itself: http.client forgets it as soon as the receiver announces that it will close.
    cut = threading.Timer(max(deadline - time.monotonic(), 0), _cut, (connection.sock, is_late))
    cut.daemon = True
    cut.start()
    connection.timeout = None
    try:
        sent = {**headers, "Host": parts.netloc or ""}
        connection.request("POST", parts.request_uri, body=body, headers=sent)
        response = _begin_response(connection.sock)
        kept = bytearray()
        # The status is the answer: a body that breaks off takes nothing from it.
        with suppress(HTTPError, HTTPException, OSError, ValueError):
            while len(kept) < KEPT_BYTES and (chunk := response.read1(KEPT_BYTES - len(kept))):
                kept += chunk
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        raise SendError("timed_out" if is_late.is_set() else "broken_answer") from error
    finally:
        cut.cancel()
        connection.close()
    text = bytes(kept).decode("utf-8", "replace").replace("\0", "\ufffd")
    retry_after_s = parse_retry_after(response.headers.get("Retry-After"), cap_s=RETRY_AFTER_CAP_S)
    return Answer(response.status, text, retry_after_s)


class _WholeLines:
    """The stream under a response's head, in which a line that breaks off is an error.

    `http.client` takes it for the end: a receiver that dies within its headers, or is cut there at the deadline, would
    have answered.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.close = stream.close

    def readline(self, limit: int) -> bytes:
        """Return the next line; one that is too long is for the caller to refuse."""
        line = self._stream.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise HTTPException("the head broke off")
        return line


class _Response(HTTPResponse):
    """An answer whose head came whole, behind any number of informational ones (RFC 9110, 15.2)."""

    def begin(self) -> None:
        """Read the head."""
        stream = self.fp
        self.fp = _WholeLines(stream)  # type: ignore[assignment]  # all that `begin` asks of it
        super().begin()
        if self.fp is not None:
            self.fp = stream

    def _read_status(self) -> tuple[str, int, str]:
        """Read a status line and, of 100 and its like, go on to the next: http.client does it for 100 alone."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
            if status // 100 != 1 or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            parse_headers(self.fp)


def _begin_response(connected: socket.socket) -> _Response:
    """Read the head of the answer. Not urllib3's way, which logs the URL where a header is malformed."""
    connected.settimeout(None)  # the deadline's timer ends every wait
    response = _Response(connected, method="POST")
    response.begin()
    return response


def _cut(connected: socket.socket | None, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(OSError):
        if connected is not None:
            connected.shutdown(socket.SHUT_RDWR)  # whoever waits on it wakes up


def _port(parts: Url) -> int:
    return parts.port or PORTS[parts.scheme or "https"]
