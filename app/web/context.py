"""What a view reaches for: the wiring, the services of the door, and who is asking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import Request, current_app, g, request

from app.access import Caller, KeyService
from app.domain.events import Channel, Origin
from app.idempotency import FirstAnswers
from app.views.bulks import BulkReader
from app.views.reader import Reader
from app.web.limits import RateLimit
from app.web.readiness import Readiness
from app.wiring import Wiring

WIRING = "trunkline"
DOOR = "trunkline.door"


@dataclass(frozen=True)
class Door:
    """The services that only the HTTP API has."""

    keys: KeyService
    first_answers: FirstAnswers
    reader: Reader
    bulk_reader: BulkReader
    readiness: Readiness
    metrics: Callable[[], bytes]
    rate_limit: RateLimit | None


def wiring() -> Wiring:
    """Return what this application was built on."""
    found: Wiring = current_app.extensions[WIRING]
    return found


def door() -> Door:
    """Return the API's own services."""
    found: Door = current_app.extensions[DOOR]
    return found


def caller() -> Caller:
    """Return who sent this request; only behind the check of keys."""
    found: Caller = g.caller
    return found


def client_address(request: Request) -> str:
    """Return the address that a request came from; empty on a Unix socket, which has none."""
    forwarded_for = request.headers.get("X-Forwarded-For", "")
    return address_behind(request.remote_addr or "", forwarded_for, wiring().settings.trusted_networks)


def address_behind(peer: str, forwarded_for: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return who is behind `peer`: `X-Forwarded-For` is believed as far as trusted proxies wrote it.

    Each proxy appends the address that it saw, so it is read from its end, up to the first address that is no trusted
    proxy. What stands before that anybody could have written.
    """
    address = _as_address(peer)
    for text in reversed(forwarded_for.split(",")):
        if address is None or not any(address in network for network in trusted):
            break
        if (further := _as_address(text)) is None:
            break
        address = further
    return str(address) if address else peer


def _as_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address as proxies write it, some with a port; IPv4 within IPv6 counts as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def origin() -> Origin:
    """Return what is remembered of this request: who sent it, and from where."""
    return Origin(
        requested_by=caller().name,
        request_id=g.request_id,
        traceparent=wiring().telemetry.tracing.traceparent(),
        channel=Channel.API,
        key_id=caller().key_id,
        address=client_address(request),
    )
