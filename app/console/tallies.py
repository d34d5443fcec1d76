"""The figures at the head of Numbers, Operations and a bulk: what stands, what moves, what is broken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.console.forms import STANDING_WORDS, STATUSES, Standing
from app.console.reads import TAB_STATUSES, Tab
from app.console.words import Tone, badge, figure
from app.db.bulks import Bulk
from app.db.console_queries import COUNTED_TO
from app.domain.bulks import ItemStatus
from app.domain.findings import Health

_TONES: Mapping[Standing, Tone] = {
    Standing.PROVISIONED: Tone.GOOD,
    Standing.MOVING: Tone.BUSY,
    Standing.FAILED: Tone.BAD,
    Standing.EMPTY: Tone.QUIET,
}

TAB_WORDS: Mapping[Tab, str] = {
    Tab.RUNNING: "Running",
    Tab.ATTENTION: "Needs attention",
    Tab.FAILED: "Failed",
    Tab.DONE: "Ended well or cancelled",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and what a press on it shows: `where` is the query of the page that it leads to."""

    words: str
    count: str
    tone: Tone
    endpoint: str
    where: Mapping[str, str]


def tally(counts: Mapping[str, int]) -> Sequence[Figure]:
    """Return the figures of Numbers; one that counts trouble is loud only where there is some."""
    found = [
        _figure(STANDING_WORDS[one], [counts[each] for each in STATUSES[one]], _TONES[one], status=one.value)
        for one in Standing
    ]
    found.append(_figure("Drifted", [counts[Health.DRIFTED]], Tone.BAD, health=Health.DRIFTED.value))
    stuck = _total([counts[each] for each in TAB_STATUSES[Tab.ATTENTION]])
    tone = Tone.BAD if stuck else Tone.QUIET
    found.append(Figure("Needs attention", figure(stuck, COUNTED_TO), tone, "console.operations", {"tab": "attention"}))
    return found


def tab_figures(counts: Mapping[str, int]) -> Mapping[Tab, str]:
    """Return how many operations a tab holds, of those tabs that should be short."""
    tabs = (Tab.RUNNING, Tab.ATTENTION, Tab.FAILED)
    return {tab: figure(_total([counts[each] for each in TAB_STATUSES[tab]]), COUNTED_TO) for tab in tabs}


def bulk_tally(bulk: Bulk) -> Sequence[Figure]:
    """Return the figures of a bulk: all of its items, and those of each state."""
    whole = Figure("In all", f"{bulk.total:,}", Tone.QUIET, "console.bulk", {"bulk_id": str(bulk.id)})
    return [whole, *(_state_figure(bulk, status) for status in ItemStatus)]


def _state_figure(bulk: Bulk, status: ItemStatus) -> Figure:
    count, shown = getattr(bulk, status.value), badge(status)
    where = {"bulk_id": str(bulk.id), "status": status.value}
    return Figure(shown.words, f"{count:,}", shown.tone if count else Tone.QUIET, "console.bulk", where)


def _figure(words: str, counts: Sequence[int], tone: Tone, **where: str) -> Figure:
    count = _total(counts)
    return Figure(words, figure(count, COUNTED_TO), tone if count else Tone.QUIET, "console.numbers", where)


def _total(counts: Sequence[int]) -> int:
    """Add up counts none of which went beyond `COUNTED_TO` + 1."""
    return sum(counts)
