"""What a view needs of the running application: the wiring, the services of the web process, and the caller."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import Request, current_app, g, request

from app.access import Caller, KeyService
from app.domain.events import Origin
from app.idempotency import IdempotencyStore
from app.views.bulks import BulkReader
from app.views.overview import OverviewReader
from app.views.reader import Reader
from app.views.trunks import TrunkReader
from app.web.limits import RateLimit
from app.web.readiness import Readiness
from app.wiring import Wiring

WIRING = "trunkline"
WEB_SERVICES = "trunkline.web"


@dataclass(frozen=True)
class WebServices:
    """The services that only a web process has."""

    keys: KeyService
    idempotency: IdempotencyStore
    reader: Reader
    bulk_reader: BulkReader
    trunk_reader: TrunkReader
    overview_reader: OverviewReader
    readiness: Readiness
    metrics: Callable[[], bytes]
    rate_limit: RateLimit | None


def wiring() -> Wiring:
    """Return what this application was built on."""
    found: Wiring = current_app.extensions[WIRING]
    return found


def web_services() -> WebServices:
    """Return the services that only a web process has."""
    found: WebServices = current_app.extensions[WEB_SERVICES]
    return found


def caller() -> Caller:
    """Return who sent this request; only after the key was checked."""
    found: Caller = g.caller
    return found


def client_address(request: Request) -> str:
    """Return the address that a request came from; empty on a Unix socket, which has none."""
    forwarded_for = request.headers.get("X-Forwarded-For", "")
    return address_behind(request.remote_addr or "", forwarded_for, wiring().settings.trusted_networks)


def address_behind(peer: str, forwarded_for: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return the client's address behind `peer`; only what trusted proxies wrote into `X-Forwarded-For` counts.

    Each proxy appends the address that it saw. So the header is read from its end, up to the first address that is
    not a trusted proxy; a client can write anything before that.
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
    """Parse an address as proxies write it, some with a port; an IPv4-mapped IPv6 address becomes IPv4."""
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
    """Return what is recorded about this request: who sent it, and from where."""
    return Origin(
        requested_by=caller().name,
        request_id=g.request_id,
        traceparent=wiring().telemetry.tracing.traceparent(),
        channel=caller().channel,
        key_id=caller().key_id,
        # There is none at the command line of the installation.
        address=client_address(request) or None,
    )
