"""One outgoing call over SIP (RFC 3261), placed and ended within a budget of time."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from app.domain.sip_uris import SipUri


class Trouble(StrEnum):
    """Why no SIP message could be exchanged, or no more of them."""

    NAME_NOT_FOUND = "name_not_found"
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
    """To the INVITE, in order, repetitions of the 180 included; without those that came after we gave up."""
    trouble: Trouble | None = None
    was_heard: bool = False
    """Whether anything came back at all."""
    waited_s: float = 0.0
    """Seconds from the INVITE to its final response, or until we gave up."""
    redirected_to: str = ""
    """The host that a 3xx names."""
    local_address: str = ""
    """The address and port that we called from, as this machine knows them."""
    rtp_packets: int = 0
    """Packets of sound that came."""

    @property
    def final(self) -> CallResponse | None:
        """The final response, or None when none came in time."""
        return next((one for one in self.responses if one.status >= FIRST_FINAL), None)


FIRST_FINAL = 200
"""Statuses below are provisional."""


@dataclass(frozen=True, slots=True)
class CallTimes:
    """How long a call may take; seconds."""

    budget_s: float = 30.0
    """From the start to the answer, or to giving up: looking the name up, connecting and ringing included."""


def place_call(
    uri: SipUri,
    called: str,
    caller: str,
    *,
    is_secure: bool = False,
    times: CallTimes | None = None,
    allows: Callable[[str], bool] = lambda _: True,
    tls: ssl.SSLContext | None = None,
) -> CallResult:
    """Call `called` (E.164) at an origination URI as `caller` (E.164), and hang up; return how it went, always."""
    raise NotImplementedError
