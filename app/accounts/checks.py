"""The named checks of a carrier account and of a voice project: on save, on demand, and those of `doctor`.

A check says what it found and how to fix it. Which credential is at fault is known only to who asked, so that the
sentences about errors are the caller's (`Fixes`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import urlsplit

from app.domain.errors import ErrorCode
from app.domain.operations import UNKNOWN_ROOM
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import ProviderError, RejectedError
from app.saga.contradictions import Contradiction, is_foreign_catch_all, rule_contradictions, trunk_contradictions
from app.setting_values import is_loopback

CREDENTIALS, NUMBERS, TRUNKS, SIP, RULES = "credentials", "numbers", "trunks", "sip", "rules"
"""The names of the checks in rows, responses and on pages."""

FEW_NUMBERS = 500
"""Numbers that still fit, below which to warn: getting a higher limit of trunks from Twilio takes days."""

MOST_TOLD = 3
"""Contradictions that are told one by one: each has to be looked at by a person."""

CLOUD = ".livekit.cloud"
CLOUD_SIP = ".sip.livekit.cloud"

Fixes = Mapping[ErrorCode, str]
"""Error code -> what to do about it."""

ACCOUNT_FIXES: Fixes = {
    ErrorCode.TWILIO_BAD_CREDENTIALS: (
        "The secret is not that of the account or API key, or it was revoked, or it belongs to another region: rotate "
        "it to the one in the Twilio console."
    ),
    ErrorCode.TWILIO_FORBIDDEN: (
        "A restricted API key needs Phone Numbers and Elastic SIP Trunking, read and write; SIP trunking needs an "
        "upgraded account."
    ),
    ErrorCode.TWILIO_REJECTED: "Look up the code at twilio.com/docs/api/errors; a suspended account also causes this.",
    ErrorCode.LIVEKIT_BAD_CREDENTIALS: (
        "Key and secret are not this project's, or were revoked, or the key lacks SIP admin: rotate them to those of "
        "the project that the URL names."
    ),
    ErrorCode.LIVEKIT_MISCONFIGURED: "The URL is not a LiveKit server with SIP: copy it from the project's settings.",
    ErrorCode.PROVIDER_UNAVAILABLE: "Check the provider's status page and the account's address, then check again.",
}
"""Those of accounts in rows; doctor.py has those of the environment's, which names settings."""


class CheckStatus(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but needs attention."""
    FAILED = "failed"
    """Numbers cannot be connected until it is fixed."""
    SKIPPED = "skipped"
    """A setting or check that it depends on failed."""


@dataclass(frozen=True)
class CheckOutcome:
    """What a check found, and how to fix it."""

    status: CheckStatus
    detail: str
    fix: str = ""


def ok(detail: str) -> CheckOutcome:
    """Build the outcome of a check that passed."""
    return CheckOutcome(CheckStatus.OK, detail)


def failed(error: ProviderError, fixes: Fixes) -> CheckOutcome:
    """Build the outcome of a check that a provider's error ended."""
    return CheckOutcome(CheckStatus.FAILED, error.detail, fixes.get(error.code, ""))


class Room(Protocol):
    """How many more numbers fit in a carrier account."""

    @property
    def numbers_fit(self) -> int:
        """Numbers."""

    @property
    def summary(self) -> str:
        """One sentence."""


def check_carrier_credentials(carrier: Carrier, where: str) -> CheckOutcome:
    """Prove that the credential is valid; what it may do is found by the other checks, one by one."""
    try:
        carrier.ping()
    except RejectedError as error:
        if error.code is not ErrorCode.TWILIO_FORBIDDEN:
            raise
    return ok(f"{where} accepts the credentials")


def check_numbers(carrier: Carrier) -> CheckOutcome:
    """Prove that numbers can be read."""
    owned = carrier.list_numbers(unreadable=[])
    voice = sum(number.is_voice for number in owned)
    if not voice:
        detail = f"the account owns {len(owned)} numbers, and none accepts calls"
        return CheckOutcome(CheckStatus.WARNING, detail, "Buy a number with Voice in the Twilio console.")
    return ok(f"the account owns {len(owned)}; {voice} accept calls")


def check_trunks(carrier: Carrier, room_of: Callable[[], Room | None], fixes: Fixes) -> CheckOutcome:
    """Prove that trunks can be read, and say how many more numbers fit."""
    carrier.list_trunks(unreadable=[])  # head-room keeps a refusal to itself
    room = room_of()
    if room is None:
        return CheckOutcome(CheckStatus.WARNING, UNKNOWN_ROOM, fixes.get(ErrorCode.PROVIDER_UNAVAILABLE, ""))
    if room.numbers_fit < FEW_NUMBERS:
        return CheckOutcome(CheckStatus.WARNING, room.summary, "Delete unused trunks, or ask Twilio support for more.")
    return ok(room.summary)


def check_platform_credentials(platform: VoicePlatform, url: str) -> CheckOutcome:
    """Prove that the key is valid and may administer SIP."""
    platform.ping()
    return ok(f"{urlsplit(url).hostname} accepts the credentials and offers SIP")


def check_inbound_trunks(platform: VoicePlatform) -> CheckOutcome:
    """Prove that inbound trunks can be read, and find those that contradict each other."""
    trunks = platform.list_inbound_trunks(unreadable=[])
    found = trunk_contradictions(trunks)
    if not found:
        return ok(f"{len(trunks)} in the project, and no two contradict each other")
    status = CheckStatus.FAILED if any(one.stops_all for one in found) else CheckStatus.WARNING
    fix = "Leave one of them: delete the others in the LiveKit console, or give them other numbers."
    return CheckOutcome(status, _first_of(found), fix)


def check_rules(platform: VoicePlatform) -> CheckOutcome:
    """Prove that dispatch rules can be read, and find those that stand in the way of others."""
    rules = platform.list_dispatch_rules(unreadable=[])
    if found := rule_contradictions(rules):
        fix = "Leave one of them: delete the others in the LiveKit console, or give them other trunks or numbers."
        return CheckOutcome(CheckStatus.FAILED, _first_of(found), fix)
    catch_all = [rule.id for rule in rules if is_foreign_catch_all(rule)]
    if catch_all:
        detail = f"{', '.join(catch_all)} names no trunk: it accepts every call that no other rule accepts"
        return CheckOutcome(CheckStatus.WARNING, detail, "Set its trunks, or delete it in the LiveKit console.")
    return ok(f"{len(rules)} in the project, and none accepts every call")


def check_sip_host(url: str, host: str) -> CheckOutcome:
    """Compare the host of a project's SIP URI with its URL: the SIP host starts with the project's id, not its name.

    A wrong host also responds to OPTIONS, so a request to it proves nothing
    (https://github.com/livekit/sip/issues/592).
    """
    url_host = (urlsplit(url).hostname or "").lower()
    on_cloud, sip_on_cloud = url_host.endswith(CLOUD), host.endswith(CLOUD_SIP)
    copy = "Copy the SIP URI from the LiveKit project's settings: it starts with the project's id, without p_."
    if on_cloud and not sip_on_cloud:
        return CheckOutcome(
            CheckStatus.FAILED, f"{host} is not a LiveKit Cloud SIP host, but {url_host} is on LiveKit Cloud", copy
        )
    if on_cloud and host.split(".", maxsplit=1)[0] == url_host.split(".")[0]:
        detail = f'{host} starts with the project\'s name: LiveKit answers its calls with "no trunk found"'
        return CheckOutcome(CheckStatus.FAILED, detail, copy)
    if sip_on_cloud and not on_cloud and not is_loopback(url_host):
        detail = f"calls go to LiveKit Cloud ({host}), but {url_host} is a server of your own"
        return CheckOutcome(CheckStatus.FAILED, detail, "Set the SIP URI to the host of your own SIP service.")
    return ok(f"calls go to {host}")


@dataclass(frozen=True)
class Checked:
    """The named checks of one account, and what the provider said of the credential."""

    outcomes: Mapping[str, CheckOutcome]
    """In the order in which they were made; none follows refused credentials."""
    error: ProviderError | None
    """The first one: a `RejectedError` means that the credential cannot do its work, any other that nobody knows."""

    @property
    def is_accepted(self) -> bool:
        """Whether the provider let us do everything."""
        return self.error is None

    @property
    def refusal(self) -> RejectedError | None:
        """Why the provider refuses."""
        return self.error if isinstance(self.error, RejectedError) else None

    def as_json(self) -> list[dict[str, Any]]:
        """Return them as they are stored and shown."""
        return [
            {
                "name": name,
                "ok": outcome.status in {CheckStatus.OK, CheckStatus.WARNING},
                "detail": outcome.detail,
                "fix": outcome.fix or None,
            }
            for name, outcome in self.outcomes.items()
        ]


def check_carrier(carrier: Carrier, where: str, room_of: Callable[[], Room | None]) -> Checked:
    """Make the checks of a carrier account; `where` names the account and its server."""
    return _run(
        (CREDENTIALS, lambda: check_carrier_credentials(carrier, where)),
        (NUMBERS, lambda: check_numbers(carrier)),
        (TRUNKS, lambda: check_trunks(carrier, room_of, ACCOUNT_FIXES)),
    )


def check_platform(platform: VoicePlatform, url: str) -> Checked:
    """Make the checks of a voice project."""
    return _run(
        (CREDENTIALS, lambda: check_platform_credentials(platform, url)),
        (SIP, lambda: check_inbound_trunks(platform)),
        (RULES, lambda: check_rules(platform)),
    )


def _run(*checks: tuple[str, Callable[[], CheckOutcome]]) -> Checked:
    outcomes: dict[str, CheckOutcome] = {}
    first: ProviderError | None = None
    for name, check in checks:
        try:
            outcomes[name] = check()
        except ProviderError as error:
            outcomes[name], first = failed(error, ACCOUNT_FIXES), first or error
            if name == CREDENTIALS:
                break
    return Checked(outcomes, first)


def _first_of(found: Sequence[Contradiction]) -> str:
    """Return the first sentences, and how many more there are."""
    more = len(found) - MOST_TOLD
    return " ".join(one.sentence for one in found[:MOST_TOLD]) + (f" And {more} more." if more > 0 else "")
