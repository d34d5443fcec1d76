"""A test call from end to end: the call itself, LiveKit's view of it while it rings, and the verdict."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from app.calls.sip_call import CallTimes
from app.calls.verdicts import Outcome
from app.domain.sip_uris import SipUri
from app.path.observed import DispatchRule, InboundTrunk
from app.providers.base import VoicePlatform


@dataclass(frozen=True, slots=True)
class CallTarget:
    """Whom to call, as whom, and what is known of the path before the call."""

    uri: SipUri
    """The origination URI that Twilio calls."""
    called: str
    """E.164."""
    caller: str
    """E.164: from the range that is reserved for fiction, or a caller that the agent's options let in."""
    is_secure: bool = False
    """Whether the Twilio trunk encrypts media."""
    agent_name: str = ""
    """The agent that is to answer."""
    trunk: InboundTrunk | None = None
    """Its LiveKit trunk as it was just read; None where it is not known."""
    rule: DispatchRule | None = None
    """Likewise."""


def place_test_call(
    platform: VoicePlatform,
    target: CallTarget,
    *,
    times: CallTimes | None = None,
    allows: Callable[[str], bool] = lambda _: True,
    tls: ssl.SSLContext | None = None,
) -> Outcome:
    """Call the target, ask LiveKit for the room meanwhile, and say what it shows; never raises.

    Takes `times.budget_s` at most, and then a few seconds to hang up. `allows` says whether an IP address may be
    called at all.
    """
    raise NotImplementedError
