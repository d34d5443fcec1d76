"""What a view reaches for: the wiring, the services of the door, and who is asking."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Request, current_app, g, request

from app.access import Caller, KeyService
from app.api.bulk_reads import BulkReader
from app.api.rates import RateLimit
from app.api.readiness import Readiness
from app.api.reads import Reader
from app.domain.activity import Channel, Origin
from app.first_answers import FirstAnswers
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


def client_address(request: Request) -> str | None:
    """Return the address that the request came from; None where the server cannot tell."""
    return request.remote_addr or None


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
