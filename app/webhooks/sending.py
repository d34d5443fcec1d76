"""Posts one signed message to one URL, at an IP address that was checked to be allowed."""

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
"""Host and port -> its addresses; OSError when it has none."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only IPv6 range that is assigned to public use (RFC 4291 2.4)."""

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses in an IPv6-only network (RFC 6052): the last 32 bits are the IPv4 address."""

REFUSED_NETWORKS = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure's platform service, at a public address
        "192.0.0.0/24",  # protocol assignments, among them a cloud's metadata service
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "2001::/23",  # protocol assignments, among them Teredo, which embeds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: likewise
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""Networks that Python's `ipaddress` counts as global, in every version or in some."""


CLOUD_METADATA = tuple(ip_network(each) for each in ("100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128"))
"""Metadata services with credentials at private addresses: Alibaba's, Amazon's and Google's.

Never allowed, even inside an allowed network. 169.254.169.254, which most clouds use, cannot be allowed at all.
"""


@dataclass(frozen=True)
class AddressRule:
    """Decides whether a webhook may be sent to an address."""

    allowed: tuple[Network, ...] = ()
    """Private networks to which webhooks may be sent."""

    def allows(self, address: Address) -> bool:
        """Tell whether the address is public, or in one of the allowed networks."""
        return self.allows_private(address) or is_public(address)

    def allows_private(self, address: Address) -> bool:
        """Tell whether the address is in one of the allowed networks, where unencrypted requests may be sent too."""
        address = _embedded_ipv4(address)
        if any(address in network for network in CLOUD_METADATA):
            return False
        return any(address in network for network in self.allowed)


def is_public(address: Address) -> bool:
    """Tell whether the address is public: not this machine, its network, or a cloud's metadata service."""
    address = _embedded_ipv4(address)
    if any(address in network for network in REFUSED_NETWORKS) or address.is_multicast or address.is_reserved:
        return False
    return address.is_global and (address.version == 4 or address in GLOBAL_UNICAST)  # noqa: PLR2004  # IP's own name


def literal_address(host: str) -> Address | None:
    """Return the address that a URL's host is, in any notation that a resolver accepts; None for a name.

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
    """Return the host's addresses from the system's resolver, best first; OSError when it has none."""
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _embedded_ipv4(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


TIMEOUT_S = 15.0
"""Seconds from the first connection to the last header: the minimum that Standard Webhooks recommends."""

CONNECT_TIMEOUT_S = 5.0
"""Seconds to connect to one address, and as many for its TLS handshake."""

MAX_ADDRESSES = 3
"""Addresses of one host that are tried, one after the other."""

MAX_BODY_BYTES = 1024
"""Bytes of a response body that are stored: enough to read an error message."""

RETRY_AFTER_CAP_S = 86400.0
"""Seconds: a longer `Retry-After` of a receiver is cut to a day."""

PORTS = {"https": 443, "http": 80}


class UrlRefusedError(ValueError):
    """A URL that is not allowed; the message goes to the client, after the field's name."""


class SendError(Exception):
    """No valid response arrived; `reason` is one of a few codes, without any text from the receiver."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class WebhookResponse:
    """The receiver's response."""

    status: int
    body: str
    retry_after_s: float | None


@dataclass(frozen=True)
class Sender:
    """Sends to the addresses that `rule` allows. Proxies are not used: they would resolve names themselves."""

    rule: AddressRule
    resolve: Resolve = resolve
    timeout_s: float = TIMEOUT_S
    authorities: str = DEFAULT_CA_BUNDLE_PATH
    """A file of CA certificates that are trusted in addition to the system's."""

    def check_url(self, url: str) -> Url:
        """Parse the URL; `UrlRefusedError` says what is wrong with it. Names are not resolved here."""
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
        is_localhost = host == "localhost" or host.endswith(".localhost")
        if (address and not self._allows(parts, address)) or (is_localhost and not self.rule.allowed):
            raise UrlRefusedError("must not be a private address")
        return parts

    def check_server(self, url: str) -> None:
        """Check the URL as it is before a webhook is sent: by what its name resolves to now; `UrlRefusedError`."""
        parts = self.check_url(url)
        try:
            self._addresses(parts)
        except SendError as error:
            is_refused = error.reason == "address_refused"
            raise UrlRefusedError("must not be a private address" if is_refused else "has no address") from error

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> WebhookResponse:
        """Post the body; every failure without a response is a `SendError`."""
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
            return _post(connection, parts, headers, body, deadline)
        raise SendError("connection_failed")

    def _addresses(self, parts: Url) -> Sequence[str]:
        """Resolve the host; one address that is not allowed is enough to refuse them all."""
        try:
            found = self.resolve(parts.host or "", _port(parts))
        except (OSError, UnicodeError) as error:
            raise SendError("name_not_resolved") from error
        if not all(self._allows(parts, ip_address(each)) for each in found):
            raise SendError("address_refused")
        return found[:MAX_ADDRESSES]

    def _allows(self, parts: Url, address: Address) -> bool:
        return self.rule.allows(address) if parts.scheme == "https" else self.rule.allows_private(address)

    def _connection(self, parts: Url, address: str, deadline: float) -> HTTPConnection:
        """Prepare a connection to the address itself; the name is used for TLS only."""
        limit_s = max(min(CONNECT_TIMEOUT_S, deadline - time.monotonic()), 0.001)
        if parts.scheme == "http":
            return HTTPConnection(address, _port(parts), timeout=limit_s)
        name = (parts.host or "").strip("[]").rstrip(".")
        tls = _tls_context(self.authorities)
        return HTTPSConnection(address, _port(parts), timeout=limit_s, ssl_context=tls, server_hostname=name)


@cache
def _tls_context(authorities: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CAs and those in the file; loaded once, when first needed."""
    context = ssl.create_default_context()
    context.load_verify_locations(authorities)
    return context


def _post(
    connection: HTTPConnection, parts: Url, headers: Mapping[str, str], body: bytes, deadline: float
) -> WebhookResponse:
    """Send and read the response; at the deadline the connection is closed, even while bytes arrive. No redirects."""
    is_late = threading.Event()
    # The socket itself: http.client drops it as soon as the receiver announces that it will close.
    cut = threading.Timer(max(deadline - time.monotonic(), 0), _cut, (connection.sock, is_late))
    cut.daemon = True
    cut.start()
    connection.timeout = None
    try:
        sent = {**headers, "Host": parts.netloc or ""}
        connection.request("POST", parts.request_uri, body=body, headers=sent)
        response = _begin_response(connection.sock)
        kept = bytearray()
        # The status decides: an incomplete body does not matter.
        with suppress(HTTPError, HTTPException, OSError, ValueError):
            while len(kept) < MAX_BODY_BYTES and (chunk := response.read1(MAX_BODY_BYTES - len(kept))):
                kept += chunk
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        raise SendError("timed_out" if is_late.is_set() else "broken_answer") from error
    finally:
        cut.cancel()
        connection.close()
    text = bytes(kept).decode("utf-8", "replace").replace("\0", "\ufffd")
    retry_after_s = parse_retry_after(response.headers.get("Retry-After"), cap_s=RETRY_AFTER_CAP_S)
    return WebhookResponse(response.status, text, retry_after_s)


class _CompleteLines:
    """The stream of a response's head, in which an incomplete line is an error.

    `http.client` takes it for the end of the headers: a receiver that dies there, or is closed at the deadline, would
    count as having responded.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.close = stream.close

    def readline(self, limit: int) -> bytes:
        """Return the next line; the caller refuses one that is too long."""
        line = self._stream.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise HTTPException("the head broke off")
        return line


class _Response(HTTPResponse):
    """A response with a complete head, after any number of informational ones (RFC 9110, 15.2)."""

    def begin(self) -> None:
        """Read the head."""
        stream = self.fp
        self.fp = _CompleteLines(stream)  # type: ignore[assignment]  # all that `begin` uses
        super().begin()
        if self.fp is not None:
            self.fp = stream

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line, skipping all 1xx responses: http.client skips 100 only."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed leaves it out
            if status // 100 != 1 or status == HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            parse_headers(self.fp)


def _begin_response(connected: socket.socket) -> _Response:
    """Read the head of the response. urllib3's own code would log the URL when a header is malformed."""
    connected.settimeout(None)  # the timer of the deadline ends every wait
    response = _Response(connected, method="POST")
    response.begin()
    return response


def _cut(connected: socket.socket | None, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(OSError):
        if connected is not None:
            connected.shutdown(socket.SHUT_RDWR)  # wakes up whoever waits on it


def _port(parts: Url) -> int:
    return parts.port or PORTS[parts.scheme or "https"]
