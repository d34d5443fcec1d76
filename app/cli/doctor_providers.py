"""The checks of `doctor` on both providers: credentials, permissions, free trunks, and where calls are sent."""

import functools
from collections.abc import Callable
from dataclasses import replace

from app.accounts import checks
from app.accounts.checks import CheckOutcome
from app.cli.doctor_checks import Check
from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError
from app.wiring import Wiring

FIXES = {
    ErrorCode.TWILIO_BAD_CREDENTIALS: (
        "TWILIO_AUTH_TOKEN is not TWILIO_ACCOUNT_SID's, or the API key was deleted or is another account's: copy them "
        "again from the Twilio console."
    ),
    ErrorCode.TWILIO_FORBIDDEN: (
        "The credentials may not do this: a restricted API key needs Phone Numbers and Elastic SIP Trunking, read and "
        "write; SIP trunking needs an upgraded account."
    ),
    ErrorCode.TWILIO_REJECTED: "Look up the code at twilio.com/docs/api/errors; a suspended account also causes this.",
    ErrorCode.LIVEKIT_BAD_CREDENTIALS: (
        "LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not this project's, or the key lacks SIP admin: copy them again "
        "from the project that LIVEKIT_URL names. A wrong clock on this host also causes this."
    ),
    ErrorCode.LIVEKIT_MISCONFIGURED: (
        "LIVEKIT_URL is not a LiveKit server with SIP: copy it from the project's settings; your own server needs the "
        "SIP service and its Redis."
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: (
        "Check this host's network, DNS, proxy and certificates, and the provider's status page; then the address in "
        "the settings."
    ),
}
"""Code -> how to fix it; docs/errors.md has the same for operations."""

CheckFunction = Callable[[Wiring], CheckOutcome]


def _provider_check(run: CheckFunction) -> CheckFunction:
    """Decorate a check to turn a provider's error into a failed outcome."""

    @functools.wraps(run)
    def wrapper(wiring: Wiring) -> CheckOutcome:
        try:
            return run(wiring)
        except ProviderError as error:
            return checks.failed(error, FIXES)

    return wrapper


@_provider_check
def _twilio(wiring: Wiring) -> CheckOutcome:
    settings = wiring.settings
    where = f", through {settings.twilio_base_url}" if settings.twilio_base_url else ""
    outcome = checks.check_carrier_credentials(wiring.carrier, f"account {settings.twilio_account_sid}")
    return replace(outcome, detail=f"{outcome.detail}{where}")


@_provider_check
def _livekit(wiring: Wiring) -> CheckOutcome:
    return checks.check_platform_credentials(wiring.platform, wiring.settings.livekit_url)


def _sip_uri(wiring: Wiring) -> CheckOutcome:
    return checks.check_sip_host(wiring.settings.livekit_url, wiring.settings.livekit_sip_uri.host)


_TWILIO = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY_SID", "TWILIO_API_KEY_SECRET", "TWILIO_BASE_URL")
_LIVEKIT = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")

PROVIDER_CHECKS = (
    Check("Twilio", _twilio, _TWILIO),
    Check("numbers", _provider_check(lambda wiring: checks.check_numbers(wiring.carrier)), after=("Twilio",)),
    Check(
        "trunks",
        _provider_check(lambda wiring: checks.check_trunks(wiring.carrier, wiring.headroom.of, FIXES)),
        after=("Twilio", "migrations"),
    ),
    Check("LiveKit", _livekit, _LIVEKIT),
    Check(
        "LiveKit trunks",
        _provider_check(lambda wiring: checks.check_inbound_trunks(wiring.platform)),
        after=("LiveKit",),
    ),
    Check("dispatch rules", _provider_check(lambda wiring: checks.check_rules(wiring.platform)), after=("LiveKit",)),
    Check("SIP URI", _sip_uri, ("LIVEKIT_SIP_URI", "LIVEKIT_URL")),
)
