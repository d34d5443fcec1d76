"""Small charts, drawn as SVG by the templates: what they show is laid out here, in percent of their width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.console.presentation import Tone
from app.views.overview import HourFigures

CHART_HEIGHT = 120
"""Height in pixels of the bars of a chart."""

MIN_HEIGHT = 2.0
"""Least height in pixels of a part that is not zero: one failure among thousands must be seen."""

BAR_SHARE = 0.72
"""Part of an hour's width that its bar takes."""

LABEL_EVERY = 6
"""Hours between two labels below the bars."""


@dataclass(frozen=True, slots=True)
class Share:
    """One part of a whole, linked to the list that has it; `x` and `width` in percent."""

    label: str
    count: int
    tone: Tone
    endpoint: str
    query: Mapping[str, str]
    x: float = 0
    width: float = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """One colour of a bar; `y` and `height` in pixels."""

    tone: Tone
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class HourBar:
    """The operations of one hour; `x` and `width` in percent."""

    hour: HourFigures
    x: float
    width: float
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class HourLabel:
    """An hour's name below the bars, at `x` percent."""

    x: float
    at: datetime


@dataclass(frozen=True, slots=True)
class HoursChart:
    """Operations by hour, as stacked bars."""

    bars: Sequence[HourBar]
    labels: Sequence[HourLabel]
    most: int
    """What the full height stands for."""
    succeeded: int
    failed: int
    cancelled: int
    height: int = CHART_HEIGHT

    @property
    def is_empty(self) -> bool:
        """Whether no operation ended."""
        return not (self.succeeded or self.failed or self.cancelled)


def lay_out(shares: Sequence[Share]) -> Sequence[Share]:
    """Place the parts beside each other; of nothing, none has a width."""
    total, x, placed = sum(one.count for one in shares), 0.0, []
    for one in shares:
        width = 100 * one.count / total if total else 0.0
        placed.append(Share(one.label, one.count, one.tone, one.endpoint, one.query, round(x, 3), round(width, 3)))
        x += width
    return placed


def hours_chart(hours: Sequence[HourFigures]) -> HoursChart:
    """Lay out the operations of these hours, the first at the left."""
    most, width = _round_up(max(hour.total for hour in hours)), 100 / len(hours)
    bars = [
        HourBar(hour, round((place + (1 - BAR_SHARE) / 2) * width, 3), round(BAR_SHARE * width, 3), _pieces(hour, most))
        for place, hour in enumerate(hours)
    ]
    labels = [
        HourLabel(round((place + 0.5) * width, 3), hour.at)
        for place, hour in enumerate(hours)
        if hour.at.hour % LABEL_EVERY == 0
    ]
    return HoursChart(
        bars,
        labels,
        most,
        sum(hour.succeeded for hour in hours),
        sum(hour.failed for hour in hours),
        sum(hour.cancelled for hour in hours),
    )


def _pieces(hour: HourFigures, most: int) -> Sequence[Piece]:
    """Stack what failed on top of what succeeded."""
    pieces, y = [], float(CHART_HEIGHT)
    for tone, count in ((Tone.GOOD, hour.succeeded), (Tone.QUIET, hour.cancelled), (Tone.BAD, hour.failed)):
        if count:
            height = max(CHART_HEIGHT * count / most, MIN_HEIGHT)
            y -= height
            pieces.append(Piece(tone, round(y, 2), round(height, 2)))
    return pieces


def _round_up(count: int) -> int:
    """Return the next number of 1, 2 or 5 and zeros: what a scale may end with."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= count:
                return factor * step
        step *= 10
