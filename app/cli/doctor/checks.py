"""What a check is, what it may find, and the order in which all of them run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.wiring import Wiring


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works now, and a person should look."""
    FAILED = "failed"
    """Numbers cannot be connected like this."""
    SKIPPED = "skipped"
    """What it needs is wrong already."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in plain words, and how to mend it."""

    verdict: Verdict
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that must hold. It is skipped where a setting that it needs, or a check before it, is wrong."""

    name: str
    run: Callable[[Wiring], Finding]
    variables: tuple[str, ...] = ()
    """The settings that it needs."""
    after: str = ""
    """The check without which it makes no sense."""


@dataclass(frozen=True)
class Result:
    """A finding under the name of its check."""

    name: str
    finding: Finding


def ok(detail: str) -> Finding:
    """Build the finding that all is well."""
    return Finding(Verdict.OK, detail)


class Examination:
    """One run of the checks, in order; `problems` is setting -> what is wrong with it."""

    def __init__(self, wiring: Wiring, problems: Mapping[str, str]) -> None:
        self._wiring, self._problems = wiring, problems
        self._broken: set[str] = set()

    def run(self, check: Check) -> Result:
        """Run one check, unless what it needs is wrong already."""
        first = [variable for variable in check.variables if variable in self._problems]
        first += [check.after] if check.after in self._broken else []
        if first:
            finding = Finding(Verdict.SKIPPED, f"not checked: {', '.join(first)} first")
        else:
            finding = check.run(self._wiring)
        if finding.verdict in {Verdict.FAILED, Verdict.SKIPPED}:
            self._broken.add(check.name)
        return Result(check.name, finding)
