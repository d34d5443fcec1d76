"""What Twilio lists for the account of an application in a test, with a clock that the test moves."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.path.observed import CarrierNumber, NumberRouting, Unreadable
from app.providers.errors import ProviderError
from tests.support.api import Api
from tests.support.saga import ManualClock

FOREIGN_TRUNK, APPLICATION = "TK" + "f" * 32, "AP" + "f" * 32


@dataclass
class Account:
    """What Twilio lists for the account."""

    clock: ManualClock
    numbers: list[CarrierNumber] = field(default_factory=list)
    unreadable: int = 0
    error: ProviderError | None = None
    lists: int = 0
    meanwhile: Callable[[], None] = lambda: None

    def own(self, e164: str, routing: NumberRouting | None = None, **more: Any) -> str:
        sid = f"PN{len(self.numbers):032x}"
        self.numbers.append(
            CarrierNumber(sid, e164, "AC" + "0" * 32, routing or NumberRouting(None, None, None), **more)
        )
        return sid

    def list_numbers(self, unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        self.lists += 1
        self.meanwhile()
        if self.error is not None:
            raise self.error
        assert unreadable is not None
        unreadable += [Unreadable("", may_be_ours=True)] * self.unreadable
        return list(self.numbers)


@pytest.fixture
def account(own_api: Api) -> Account:
    """An account whose list the application asks for, with a clock that a test moves."""
    account = Account(ManualClock())
    own_api.carrier.list_numbers = account.list_numbers  # type: ignore[method-assign]
    own_api.wiring.inventory = replace(own_api.wiring.inventory, clock=account.clock)
    return account


def held(api: Api, number: str, name: str = "desk") -> str:
    """Connect a number, as a worker would."""
    agent_id = api.agent(name)
    api.succeed(api.provision(agent_id, number).json["operationId"])
    return agent_id
