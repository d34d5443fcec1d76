"""An operation watched to its end, and agents and operations as a person reads them."""

import sys
import time
import uuid
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.cli.context import ATTENTION, DONE, FAILED, INTERRUPTED, hint, reader
from app.cli.output import PlainConsole, coloured, moment, print_pairs, print_table, progress_console, say, tell
from app.db.models import Agent
from app.domain.findings import Health
from app.domain.statuses import OperationStatus, PhoneStatus, StepState
from app.views.operations import OperationView, PhoneView, StepView

POLL_S = 0.2
"""Seconds between two looks: what a person takes for at once; three small reads each."""

FRAMES_PER_S = 10
"""How often the display is drawn: the spinner and the seconds move between two looks."""

MARKS = {
    StepState.PENDING: ("·", "dim"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
    StepState.UNDONE: ("↶", "yellow"),
}
"""State -> its mark and colour; a step under way has a spinner."""

_MOVING = frozenset({StepState.RUNNING, StepState.UNDOING})
_CHANGES = frozenset({StepState.DONE, StepState.FAILED, StepState.UNDONE})


NEVER = -1
"""For `tried`: the first that is seen counts."""


def is_over(view: OperationView, tried: int = NEVER) -> bool:
    """Say whether nothing more happens to the operation without a person, or for a while.

    One that needs attention is over once it was tried more than `tried` times, and no try is under way.
    """
    if view.status is not OperationStatus.NEEDS_ATTENTION:
        return view.status.is_final
    return view.attempts > tried and not any(step.is_leased for step in view.steps)


def exit_code(view: OperationView, wanted: OperationStatus = OperationStatus.SUCCEEDED) -> int:
    """Return what a command exits with that waited for this operation to become `wanted`."""
    if view.status is OperationStatus.NEEDS_ATTENTION:
        return ATTENTION
    return DONE if view.status is wanted or not view.status.is_final else FAILED


def watch(operation_id: uuid.UUID, *, is_quiet: bool, tried: int = NEVER) -> OperationView:
    """Return the operation once it is over, drawn on stderr until then; Ctrl-C ends the looking, exit code 130.

    With `is_quiet` nothing is drawn unless stderr is a terminal.
    """
    console = progress_console()
    display = _Display(console) if console.is_terminal else _Lines(console, is_quiet=is_quiet)
    try:
        with display:
            while True:
                view = reader().operation(operation_id)
                display.show(view)
                if is_over(view, tried):
                    return view
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print(f"The operation continues: {hint(f'operations show {operation_id}')}")
        sys.exit(INTERRUPTED)


class _Display:
    """The steps as a table that changes in place."""

    def __init__(self, console: PlainConsole) -> None:
        self._spinner = Spinner("dots")
        self._view: OperationView | None = None
        # Draws at once, within its constructor.
        self._live = Live(console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._draw)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, view: OperationView) -> None:
        """Take the newest state; it is drawn at the next frame."""
        self._view = view

    def _draw(self) -> RenderableType:
        if self._view is None:
            return self._spinner
        view = self._view
        took_s = ((view.finished_at or datetime.now(UTC)) - view.created_at).total_seconds()
        told = Text.assemble(
            f"{view.kind} ", (view.phone_number, "bold"), f"  {view.status}  ", (f"{took_s:.1f} s", "dim")
        )
        return Group(told, steps_table(view, self._spinner))


class _Lines:
    """A line for each step that was done, failed or undone: what a log or a pipe can keep."""

    def __init__(self, console: PlainConsole, *, is_quiet: bool) -> None:
        self._console, self._is_quiet = console, is_quiet
        self._shown: dict[str, StepState] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass

    def show(self, view: OperationView) -> None:
        """Print what is new."""
        for step in view.steps:
            state = step.state
            if self._is_quiet or state not in _CHANGES or not step.started_at or self._shown.get(step.name) is state:
                continue
            self._shown[step.name] = state
            made = step.resource_id or "" if state is StepState.DONE else ""
            line = f"{state:<6}  {step.name:<24}  {made}  {told_of(step)}"
            self._console.print(line.rstrip())


def steps_table(view: OperationView, moving: RenderableType = "…") -> Table:
    """Return the steps in the order of the table: mark, name, time taken, and what it made or waits for."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for step in view.steps:
        mark = moving if step.state in _MOVING else _mark(step)
        name = Text(step.name.replace("_", " "), "" if step.started_at else "dim")
        made = Text(step.resource_id or "" if step.state is StepState.DONE else "", "dim")
        told = Text(told_of(step), "yellow")
        table.add_row(mark, name, _took(step), Text("  ").join(part for part in (made, told) if part))
    return table


def _mark(step: StepView) -> Text:
    """Return the mark of a step that rests: one that never began was neither done nor undone."""
    if step.started_at is None:
        return Text(*MARKS[StepState.PENDING])
    return Text(*MARKS[StepState.FAILED if step.error and step.state is StepState.UNDONE else step.state])


def told_of(step: StepView) -> str:
    """Return what is worth saying of a step: its error, how often it was tried, when it is tried again."""
    parts = []
    if step.error and step.error.detail and step.state is not StepState.DONE:
        parts.append(step.error.detail)
    if step.attempts > 1:
        parts.append(f"attempt {step.attempts}")
    rest = step.next_attempt_at
    if rest and (left_s := (rest - datetime.now(UTC)).total_seconds()) > 0:
        parts.append(f"again in {left_s:.0f} s")
    return "; ".join(part.rstrip(".") for part in parts)


def _took(step: StepView) -> Text:
    if step.started_at is None:
        return Text()
    if step.finished_at is None and step.state not in _MOVING:
        return Text()
    took_s = ((step.finished_at or datetime.now(UTC)) - step.started_at).total_seconds()
    return Text(f"{max(took_s, 0):.1f} s", "dim")


_ENDS_WELL = frozenset({OperationStatus.SUCCEEDED, OperationStatus.CANCELLED})


def show_agent(agent: Agent) -> None:
    """Print what an agent is."""
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent.name),
        ("id", str(agent.id)),
        ("LiveKit agent", agent.livekit_agent_name),
        ("status", coloured(agent.phone_provisioning_status)),
        ("number", agent.twilio_phone_number),
        ("created", moment(agent.created_at)),
    ]
    print_pairs(pairs)


def show_phone(view: PhoneView) -> None:
    """Print where an agent's number stands, what was built for it, and the operation if it is of interest."""
    agent = view.agent
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent.name),
        ("id", str(agent.id)),
        ("status", coloured(agent.phone_provisioning_status)),
        ("number", agent.twilio_phone_number),
        ("health", _health(agent) if view.has_phone else None),
        ("Twilio number", agent.twilio_phone_number_sid),
        ("Twilio trunk", agent.twilio_trunk_sid),
        ("origination URL", agent.twilio_origination_url_sid),
        ("LiveKit trunk", agent.livekit_inbound_trunk_id),
        ("dispatch rule", agent.livekit_dispatch_rule_id),
    ]
    print_pairs(pairs)
    for finding in agent.health_findings if view.has_phone else ():
        say(Text(f"{finding['code']}: {finding['sentence']} {finding['detail']}".rstrip(), "red"))
    operation = view.operation
    if operation is None:
        if agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED:
            tell(f"No number yet: {hint('provision AGENT NUMBER')}", err=True)
    elif operation.status not in _ENDS_WELL:
        say("")
        show_operation(operation)


def show_operation(view: OperationView, *, with_timeline: bool = False) -> None:
    """Print an operation with its steps, what it failed on, and what still stands at the providers."""
    error = f"{view.error.detail} ({view.error.code})".strip() if view.error else None
    pairs: list[tuple[str, str | Text | None]] = [
        ("operation", str(view.id)),
        ("kind", view.kind.value),
        ("status", coloured(view.status)),
        ("number", view.phone_number),
        ("error", Text(error, "red") if error else None),
        ("requested", f"{moment(view.created_at)} by {view.requested_by or 'unknown'}"),
        ("finished", moment(view.finished_at)),
    ]
    print_pairs(pairs)
    say(steps_table(view))
    for leftover in view.leftovers:
        line = f"still at the provider: {leftover.provider} {leftover.kind} {leftover.external_id}"
        say(Text(line, "yellow"))
    if view.status is OperationStatus.NEEDS_ATTENTION:
        tell(f"It is retried about once a minute; retry now with: {hint(f'operations retry {view.id}')}", err=True)
    if with_timeline:
        say("")
        print_table(
            ("time (UTC)", "event", "step", "detail"),
            [
                (f"{event.at:%H:%M:%S.%f}"[:-3], event.event, event.step or "", _detail(event.detail))
                for event in view.timeline
            ],
        )


def _health(agent: Agent) -> Text:
    state = agent.health_state or Health.UNKNOWN
    seen = f", checked {moment(agent.health_checked_at)}" if agent.health_checked_at else ", not checked yet"
    return Text.assemble(coloured(state), (seen, "dim"))


def _detail(detail: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in detail.items() if value not in (None, "", [], {}))
