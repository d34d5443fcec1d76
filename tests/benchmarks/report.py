"""The results of a run: rows of figures beside their lower bounds, tables of detail; as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table

NO_FIGURE = "-"


@dataclass(frozen=True)
class Bar:
    """What must be reached: a limit for the ratio, or for the figure itself."""

    sign: Literal["<=", ">="]
    limit: float
    of: Literal["ratio", "figure"] = "ratio"

    def is_met(self, row: "Row") -> bool | None:
        """Say whether the row reaches it; None where there is nothing to compare."""
        value = row.ratio if self.of == "ratio" else row.figure
        if value is None:
            return None
        return value <= self.limit if self.sign == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}{'' if self.of == 'figure' else ' x'}"


@dataclass(frozen=True)
class Row:
    """One measure: its figure, and the floor that was measured side by side in the same run."""

    measure: str
    figure: float | None
    unit: str
    floor: str = ""
    floor_figure: float | None = None
    bar: Bar | None = None
    note: str = ""
    is_broken: bool = False
    """Whether the measure could not be made; the note says why."""

    @property
    def ratio(self) -> float | None:
        """Figure over floor; None where one of them is missing."""
        return self.figure / self.floor_figure if self.figure is not None and self.floor_figure else None

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is reached; None without a bar or without a figure."""
        return self.bar.is_met(self) if self.bar else None

    def as_json(self) -> dict[str, Any]:
        """Return everything, for machines."""
        return {
            "measure": self.measure,
            "figure": _rounded(self.figure),
            "unit": self.unit,
            "floor": self.floor or None,
            "floorFigure": _rounded(self.floor_figure),
            "ratio": _rounded(self.ratio),
            "bar": str(self.bar) if self.bar else None,
            "met": self.is_met,
            "note": self.note or None,
        }


@dataclass(frozen=True)
class Detail:
    """A table beside the rows: where the time or the CPU of one operation goes."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str | float]]


@dataclass
class Findings:
    """What one measure, or a whole run, has found."""

    rows: list[Row] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Take over what another measure has found."""
        self.rows += other.rows
        self.details += other.details


def as_json(machine: Mapping[str, Any], found: Findings) -> str:
    """Return the whole run as JSON."""
    details = [
        {"title": one.title, "lines": [dict(zip(one.columns, line, strict=True)) for line in one.lines]}
        for one in found.details
    ]
    return json.dumps({"machine": dict(machine), "rows": [row.as_json() for row in found.rows], "details": details})


def show(console: Console, machine: Mapping[str, Any], found: Findings) -> None:
    """Print the whole run as tables."""
    facts = Table.grid(padding=(0, 2))
    for name, value in machine.items():
        facts.add_row(f"[bold]{name}[/]", str(value))
    console.print(Group(facts, "", _rows(found.rows), *(part for one in found.details for part in _detail(one))))


def _rows(rows: Sequence[Row]) -> Table:
    table = Table(title="Benchmarks", title_justify="left")
    for name in ("measure", "figure", "unit", "beside", "its figure", "ratio", "bar", "met", "note"):
        table.add_column(name, justify="right" if name in {"figure", "its figure", "ratio"} else "left")
    for row in rows:
        met = {None: "", True: "[green]yes[/]", False: "[bold red]no[/]"}[row.is_met]
        figures = [_shown(row.figure), row.unit, row.floor, _shown(row.floor_figure) if row.floor else ""]
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        table.add_row(row.measure, *figures, ratio, str(row.bar or ""), met, row.note)
    return table


def _detail(detail: Detail) -> tuple[RenderableType, ...]:
    table = Table()
    for place, name in enumerate(detail.columns):
        table.add_column(name, justify="right" if place else "left")
    for line in detail.lines:
        table.add_row(*(_shown(cell) if isinstance(cell, float) else str(cell) for cell in line))
    # Not the table's own title, which would be folded to its width.
    return "", f"[italic]{detail.title}[/]", table


def _shown(value: float | None) -> str:
    if value is None:
        return NO_FIGURE
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
