"""Faults of a worker at a provider call: it dies, its request lands late, or it stalls while others go on."""

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
"""The calls whose outcome is unknown when their response is lost; the adapters repeat all others freely."""


class WorkerFault(Enum):
    """What happens to the worker or its request."""

    DIES_BEFORE = auto()
    DIES_AFTER = auto()
    LANDS_LATE = auto()
    """The call times out, and takes effect later."""
    DIES_AND_LANDS_LATE = auto()
    STALLS_BEFORE = auto()
    """Other things happen before the request is sent."""
    STALLS_AFTER = auto()
    """Other things happen between the response and its storing."""


@dataclass
class FaultPlan:
    """The fault scheduled for one of the next provider calls, and the requests that have not landed yet."""

    fault: WorkerFault | None = None
    calls_before: int = 0
    meanwhile: Callable[[], object] = lambda: None
    late_requests: list[Callable[[], object]] = field(default_factory=list)
    at: str = ""
    """The call at which the fault happened."""

    def schedule(self, fault: WorkerFault, calls_before: int, meanwhile: Callable[[], object]) -> None:
        """Schedule a fault once, after `calls_before` calls; `meanwhile` runs during a stall."""
        self.fault, self.calls_before, self.meanwhile = fault, calls_before, meanwhile

    def clear(self) -> None:
        """Remove the scheduled fault."""
        self.fault = None

    def deliver_late_requests(self) -> None:
        """Let every request take effect that is under way; nobody reads the answers."""
        while self.late_requests:
            with suppress(ProviderError):
                self.late_requests.pop(0)()

    def call(self, name: str, request: Callable[[], Any]) -> Any:
        """Make a provider call, with the scheduled fault if it is due."""
        fault = self._due_fault()
        self.at = name if fault else self.at
        if fault is WorkerFault.STALLS_BEFORE:
            self.meanwhile()
        if fault is WorkerFault.DIES_BEFORE:
            raise WorkerDiedError
        if fault in {WorkerFault.LANDS_LATE, WorkerFault.DIES_AND_LANDS_LATE} and name in UNCERTAIN:
            self.late_requests.append(request)
            if fault is WorkerFault.DIES_AND_LANDS_LATE:
                raise WorkerDiedError
            raise UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "The response is late.")
        response = request()
        if fault is WorkerFault.DIES_AFTER:
            raise WorkerDiedError
        if fault is WorkerFault.STALLS_AFTER:
            self.meanwhile()
        return response

    def _due_fault(self) -> WorkerFault | None:
        if self.fault is None:
            return None
        if self.calls_before:
            self.calls_before -= 1
            return None
        fault, self.fault = self.fault, None
        return fault


class FaultyAdapter:
    """A provider's adapter, every call of which goes through a fault plan."""

    def __init__(self, adapter: Any, fault_plan: FaultPlan) -> None:
        self._adapter, self._fault_plan = adapter, fault_plan

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        if name == "close":
            return method
        return lambda *args, **kwargs: self._fault_plan.call(name, lambda: method(*args, **kwargs))
