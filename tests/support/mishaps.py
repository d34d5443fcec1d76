"""What befalls a worker at a provider call: it dies, its request lands late, or it stalls while others go on."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError, UnknownOutcomeError
from tests.support.providers import WorkerDiedError

UNCERTAIN = frozenset(
    {
        "create_trunk",
        "update_trunk",
        "create_origination_url",
        "update_origination_url",
        "attach_number",
        "restore_routing",
        "create_inbound_trunk",
        "update_inbound_trunk",
        "create_dispatch_rule",
        "update_dispatch_rule",
    }
)
"""The calls whose outcome is unknown when their answer is lost; the adapters repeat every other one freely."""


class Mishap(Enum):
    """One of them."""

    DIES_BEFORE = auto()
    DIES_AFTER = auto()
    LANDS_LATE = auto()
    """The call is given up, and takes effect when nobody waits for it any more."""
    DIES_AND_LANDS_LATE = auto()
    STALLS_BEFORE = auto()
    """Something else happens before the request leaves."""
    STALLS_AFTER = auto()
    """Something else happens between the answer and what is written of it."""


@dataclass
class Fate:
    """The mishap planned for one of the next provider calls, and the requests that are still under way."""

    mishap: Mishap | None = None
    calls_before: int = 0
    meanwhile: Callable[[], object] = lambda: None
    under_way: list[Callable[[], object]] = field(default_factory=list)
    at: str = ""
    """The call that the mishap struck."""

    def plan(self, mishap: Mishap, calls_before: int, meanwhile: Callable[[], object]) -> None:
        """Let it happen once, at the call after `calls_before` others; `meanwhile` is what a stall leaves time for."""
        self.mishap, self.calls_before, self.meanwhile = mishap, calls_before, meanwhile

    def heal(self) -> None:
        """Plan nothing."""
        self.mishap = None

    def land(self) -> None:
        """Let every request take effect that is under way; nobody reads the answers."""
        while self.under_way:
            with suppress(ProviderError):
                self.under_way.pop(0)()

    def call(self, name: str, request: Callable[[], Any]) -> Any:
        """Make a provider call, or what is left of it."""
        mishap = self._strike()
        self.at = name if mishap else self.at
        if mishap is Mishap.STALLS_BEFORE:
            self.meanwhile()
        if mishap is Mishap.DIES_BEFORE:
            raise WorkerDiedError
        if mishap in {Mishap.LANDS_LATE, Mishap.DIES_AND_LANDS_LATE} and name in UNCERTAIN:
            self.under_way.append(request)
            if mishap is Mishap.DIES_AND_LANDS_LATE:
                raise WorkerDiedError
            raise UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "The answer is late.")
        answer = request()
        if mishap is Mishap.DIES_AFTER:
            raise WorkerDiedError
        if mishap is Mishap.STALLS_AFTER:
            self.meanwhile()
        return answer

    def _strike(self) -> Mishap | None:
        if self.mishap is None:
            return None
        if self.calls_before:
            self.calls_before -= 1
            return None
        mishap, self.mishap = self.mishap, None
        return mishap


class Fateful:
    """A provider's adapter, every call of which goes through a fate."""

    def __init__(self, adapter: Any, fate: Fate) -> None:
        self._adapter, self._fate = adapter, fate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        if name == "close":
            return method
        return lambda *args, **kwargs: self._fate.call(name, lambda: method(*args, **kwargs))
