"""Toolboxes for tests that bring their own providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from app.domain.workspaces import ENVIRONMENT, AccountIds
from app.saga.context import Toolbox, ToolboxSource
from app.saga.machine import Timing


@dataclass(frozen=True)
class GivenToolboxes:
    """Hands out the toolboxes that it was given: `others` by their accounts, and one for everybody else."""

    tools: Toolbox
    others: Mapping[AccountIds, Toolbox] = field(default_factory=dict)

    @property
    def instance(self) -> str:
        return self.tools.instance

    @property
    def timing(self) -> Timing:
        return self.tools.timing

    def of(self, ids: AccountIds) -> Toolbox:
        return self.others.get(ids, self.tools)


class Worker(Protocol):
    """A runner or a service that finds its toolboxes itself."""

    @property
    def toolboxes(self) -> ToolboxSource: ...


def tools_of(worker: Worker) -> Toolbox:
    """Return the toolbox that a worker has for the environment's accounts."""
    return worker.toolboxes.of(ENVIRONMENT)


Given = TypeVar("Given", bound=Worker)


def with_tools(worker: Given, tools: Toolbox) -> Given:
    """Return the same worker with this toolbox for all accounts."""
    return replace(worker, toolboxes=GivenToolboxes(tools))  # type: ignore[type-var]  # all of them are dataclasses
