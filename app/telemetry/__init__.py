"""What processes tell of themselves while they work: counts that outlive them, and traces."""

from dataclasses import dataclass

from app.telemetry.tally import Tally
from app.telemetry.tracing import NO_TRACING, Tracing


@dataclass(frozen=True)
class Telemetry:
    """The two ways in which a process tells; safe to use from many threads."""

    tally: Tally
    tracing: Tracing = NO_TRACING

    def close(self) -> None:
        """Send what was not sent yet, within seconds."""
        self.tally.close()
        self.tracing.close()


SILENT = Telemetry(Tally(None))
"""Tells nobody: for commands and tests that have no broker."""
