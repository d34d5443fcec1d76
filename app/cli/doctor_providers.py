"""The checks of `doctor` on both providers: credentials, permissions, free trunks, and where calls are sent."""

import functools
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from app.cli.doctor_checks import Check, CheckOutcome, CheckStatus, ok
from app.domain.errors import ErrorCode
from app.numbers.inventory import UNKNOWN_ROOM
from app.providers.errors import ProviderError, RejectedError
from app.saga.contradictions import Contradiction, is_foreign_catch_all, rule_contradictions, trunk_contradictions
from app.setting_values import is_loopback
from app.wiring import Wiring

FEW_NUMBERS = 500
"""Numbers that still fit, below which to warn: getting a higher limit of trunks from Twilio takes days."""

MOST_TOLD = 3
"""Contradictions that are told one by one: each has to be looked at by a person."""

CLOUD = ".livekit.cloud"
CLOUD_SIP = ".sip.livekit.cloud"

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
            return CheckOutcome(CheckStatus.FAILED, error.detail, FIXES.get(error.code, ""))

    return wrapper


@_provider_check
def _twilio(wiring: Wiring) -> CheckOutcome:
    try:
        wiring.carrier.ping()
    except RejectedError as error:
        # Valid credentials with limited permissions: the checks of numbers and trunks report which are missing.
        if error.code is not ErrorCode.TWILIO_FORBIDDEN:
            raise
    settings = wiring.settings
    where = f", through {settings.twilio_base_url}" if settings.twilio_base_url else ""
    return ok(f"account {settings.twilio_account_sid} accepts the credentials{where}")


@_provider_check
def _numbers(wiring: Wiring) -> CheckOutcome:
    owned = wiring.carrier.list_numbers(unreadable=[])
    voice = sum(number.is_voice for number in owned)
    if not voice:
        detail = f"the account owns {len(owned)} numbers, and none accepts calls"
        return CheckOutcome(CheckStatus.WARNING, detail, "Buy a number with Voice in the Twilio console.")
    return ok(f"the account owns {len(owned)}; {voice} accept calls")


@_provider_check
def _trunks(wiring: Wiring) -> CheckOutcome:
    wiring.carrier.list_trunks(unreadable=[])  # head-room keeps a refusal to itself
    room = wiring.headroom.now()
    if room is None:
        return CheckOutcome(CheckStatus.WARNING, UNKNOWN_ROOM, FIXES[ErrorCode.PROVIDER_UNAVAILABLE])
    if room.numbers_fit < FEW_NUMBERS:
        return CheckOutcome(CheckStatus.WARNING, room.summary, "Delete unused trunks, or ask Twilio support for more.")
    return ok(room.summary)


@_provider_check
def _livekit(wiring: Wiring) -> CheckOutcome:
    wiring.platform.ping()
    return ok(f"{urlsplit(wiring.settings.livekit_url).hostname} accepts the credentials and offers SIP")


@_provider_check
def _inbound_trunks(wiring: Wiring) -> CheckOutcome:
    trunks = wiring.platform.list_inbound_trunks(unreadable=[])
    found = trunk_contradictions(trunks)
    if not found:
        return ok(f"{len(trunks)} in the project, and no two contradict each other")
    status = CheckStatus.FAILED if any(one.stops_all for one in found) else CheckStatus.WARNING
    fix = "Leave one of them: delete the others in the LiveKit console, or give them other numbers."
    return CheckOutcome(status, _first_of(found), fix)


@_provider_check
def _rules(wiring: Wiring) -> CheckOutcome:
    rules = wiring.platform.list_dispatch_rules(unreadable=[])
    if found := rule_contradictions(rules):
        fix = "Leave one of them: delete the others in the LiveKit console, or give them other trunks or numbers."
        return CheckOutcome(CheckStatus.FAILED, _first_of(found), fix)
    catch_all = [rule.id for rule in rules if is_foreign_catch_all(rule)]
    if catch_all:
        detail = f"{', '.join(catch_all)} names no trunk: it accepts every call that no other rule accepts"
        return CheckOutcome(CheckStatus.WARNING, detail, "Set its trunks, or delete it in the LiveKit console.")
    return ok(f"{len(rules)} in the project, and none accepts every call")


def _first_of(found: Sequence[Contradiction]) -> str:
    """Return the first sentences, and how many more there are."""
    more = len(found) - MOST_TOLD
    return " ".join(one.sentence for one in found[:MOST_TOLD]) + (f" And {more} more." if more > 0 else "")


def _sip_uri(wiring: Wiring) -> CheckOutcome:
    """Compare LIVEKIT_SIP_URI with LIVEKIT_URL: the SIP host starts with the project's id, not with its name.

    A wrong host also responds to OPTIONS, so a request to it proves nothing
    (https://github.com/livekit/sip/issues/592).
    """
    url_host = (urlsplit(wiring.settings.livekit_url).hostname or "").lower()
    host = wiring.settings.livekit_sip_uri.host
    on_cloud, sip_on_cloud = url_host.endswith(CLOUD), host.endswith(CLOUD_SIP)
    copy = "Copy the SIP URI from the LiveKit project's settings: it starts with the project's id, without p_."
    if on_cloud and not sip_on_cloud:
        return CheckOutcome(
            CheckStatus.FAILED, f"{host} is not a LiveKit Cloud SIP host, but {url_host} is on LiveKit Cloud", copy
        )
    if on_cloud and host.split(".")[0] == url_host.split(".")[0]:
        detail = f'{host} starts with the project\'s name: LiveKit answers its calls with "no trunk found"'
        return CheckOutcome(CheckStatus.FAILED, detail, copy)
    if sip_on_cloud and not on_cloud and not is_loopback(url_host):
        detail = f"calls go to LiveKit Cloud ({host}), but {url_host} is a server of your own"
        return CheckOutcome(CheckStatus.FAILED, detail, "Set LIVEKIT_SIP_URI to the host of your own SIP service.")
    return ok(f"calls go to {host}")


_TWILIO = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY_SID", "TWILIO_API_KEY_SECRET", "TWILIO_BASE_URL")
_LIVEKIT = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")

PROVIDER_CHECKS = (
    Check("Twilio", _twilio, _TWILIO),
    Check("numbers", _numbers, after=("Twilio",)),
    Check("trunks", _trunks, after=("Twilio", "migrations")),
    Check("LiveKit", _livekit, _LIVEKIT),
    Check("LiveKit trunks", _inbound_trunks, after=("LiveKit",)),
    Check("dispatch rules", _rules, after=("LiveKit",)),
    Check("SIP URI", _sip_uri, ("LIVEKIT_SIP_URI", "LIVEKIT_URL")),
)
