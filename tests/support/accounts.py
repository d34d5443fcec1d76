"""Twilio accounts and LiveKit projects in memory, by their credentials: what the account service checks and rotates."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from app.accounts.service import AccountService
from app.domain.errors import ErrorCode
from app.path.observed import CarrierNumber, CarrierTrunk, DispatchRule, InboundTrunk, Unreadable
from app.providers.errors import RejectedError, TransientError
from app.sealing import Sealer
from app.webhooks.sending import AddressRule, Sender
from tests.support.api import Api

SID = "AC" + "a" * 32
KEY_SID = "SK" + "b" * 32
TOKEN = "marked-token-of-acme"
PROJECT_URL = "wss://acme-1a2b3c.livekit.cloud"
PROJECT_KEY = "APIacme"
PROJECT_SECRET = "marked-secret-of-acme"

CARRIER = {"name": "Acme", "accountSid": SID, "secret": TOKEN}
"""The body that stores the Twilio account."""

PROJECT = {
    "name": "Acme",
    "url": PROJECT_URL,
    "username": PROJECT_KEY,
    "secret": PROJECT_SECRET,
    "sipUri": "sip:4nd0vfrjcr1.sip.livekit.cloud",
}
"""The body that stores the LiveKit project."""

PUBLIC_ADDRESS = "93.184.215.14"

CARRIERS, PROJECTS = "/api/carrier-accounts", "/api/voice-projects"


@dataclass
class FakeAccounts:
    """Both providers: which credentials they accept, and what they refuse."""

    accepted: set[tuple[str, str, str]] = field(default_factory=set)
    """(account SID or URL, user name, secret)."""
    is_down: bool = False
    is_restricted: bool = False
    """Whether the credentials may not read trunks."""
    hides_numbers: bool = False
    """Whether they may not read numbers."""
    addresses: dict[str, str] = field(default_factory=dict)
    """What a name of a server leads to, nothing for an empty text; every other name to a public address."""
    calls: list[str] = field(default_factory=list)
    open_platforms: int = 0

    def carrier(self, _carrier_account_id: uuid.UUID) -> Any:
        return _Carrier(self, None)

    def platform(self, _voice_project_id: uuid.UUID) -> Any:
        return _Platform(self, None)

    def trial_carrier(self, account_sid: str, username: str, secret: str, base_url: str | None) -> Any:
        self.calls.append(base_url or "api.twilio.com")
        return _Carrier(self, (account_sid, username, secret))

    def trial_platform(self, url: str, api_key: str, secret: str) -> Any:
        self.open_platforms += 1
        return _Platform(self, (url, api_key, secret))

    def resolve(self, host: str, _port: int) -> list[str]:
        address = self.addresses.get(host, PUBLIC_ADDRESS)
        if not address:
            raise OSError("There is no such name.")
        return [host if host[0].isdigit() else address]

    def ask(self, credential: tuple[str, str, str] | None, code: ErrorCode) -> None:
        if self.is_down:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "It does not respond.")
        if credential is not None and credential not in self.accepted:
            raise RejectedError(code, "The provider refuses the credential: HTTP 401.")


@dataclass
class _Carrier:
    accounts: FakeAccounts
    credential: tuple[str, str, str] | None

    def ping(self) -> None:
        self.accounts.ask(self.credential, ErrorCode.TWILIO_BAD_CREDENTIALS)
        if self.accounts.is_restricted:
            raise RejectedError(ErrorCode.TWILIO_FORBIDDEN, "Twilio forbids the call.")

    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        assert unreadable == []
        self.accounts.ask(self.credential, ErrorCode.TWILIO_BAD_CREDENTIALS)
        if self.accounts.hides_numbers:
            raise RejectedError(ErrorCode.TWILIO_FORBIDDEN, "Twilio forbids the call.")
        return []

    def list_trunks(self, unreadable: list[Unreadable] | None = None) -> list[CarrierTrunk]:
        assert unreadable == []
        self.ping()
        return []


@dataclass
class _Platform:
    accounts: FakeAccounts
    credential: tuple[str, str, str] | None

    def ping(self) -> None:
        self.accounts.ask(self.credential, ErrorCode.LIVEKIT_BAD_CREDENTIALS)

    def list_inbound_trunks(self, *, unreadable: list[Unreadable]) -> list[InboundTrunk]:
        assert unreadable == []
        self.ping()
        return []

    def list_dispatch_rules(self, *, unreadable: list[Unreadable]) -> list[DispatchRule]:
        assert unreadable == []
        self.ping()
        return []

    def close(self) -> None:
        self.accounts.open_platforms -= 1


@dataclass(frozen=True)
class Room:
    """Head-room as a check shows it."""

    numbers_fit: int = 50_000
    summary: str = "room for 50000 more numbers"


def accepting() -> FakeAccounts:
    """Return providers that accept the credentials of CARRIER and PROJECT."""
    return FakeAccounts({(SID, SID, TOKEN), (PROJECT_URL, PROJECT_KEY, PROJECT_SECRET)})


@contextmanager
def with_accounts(api: Api, accounts: FakeAccounts, keys: tuple[bytes, ...] = (b"k" * 32,)) -> Iterator[AccountService]:
    """Have the application reach these providers, and seal with these keys, in the block."""
    before = api.wiring.accounts
    sender = Sender(AddressRule(), resolve=accounts.resolve)
    api.wiring.accounts = service = replace(
        before,
        sealer=Sealer(keys),
        clients=accounts,
        room_of=lambda _: Room(),
        check_server=sender.check_server,
    )
    try:
        yield service
    finally:
        api.wiring.accounts = before
