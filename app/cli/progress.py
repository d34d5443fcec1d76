"""Watches an operation until it has finished, and prints agents and operations for people."""

import json
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.cli.context import EXIT_ATTENTION, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, command_line, reader
from app.cli.output import (
    BAD,
    GOOD,
    WARNING,
    EscapingConsole,
    coloured,
    format_time,
    print_blocks,
    print_line,
    print_pairs,
    print_result,
    print_table,
    progress_console,
)
from app.db.models import Agent
from app.domain.findings import Finding, Health, Severity, stored_finding, worst_first
from app.domain.operations import STEP_BY_NAME, OperationStatus, PhoneStatus, StepState
from app.views.operations import OperationView, PhoneView, StepView, calls_in_words
from app.views.option_texts import OPTION_AT, show_value, value_at

POLL_S = 0.2
"""Seconds between two polls, each of three small queries: short enough to feel immediate."""

FRAMES_PER_S = 10
"""How often the display is drawn: the spinner and the seconds also move between two polls."""

MARKS = {
    StepState.PENDING: ("·", "dim"),
    StepState.DONE: ("✓", "green"),
    StepState.FAILED: ("✗", "red"),
    StepState.UNDONE: ("↶", "yellow"),
}
"""State -> its mark and colour; a step in progress has a spinner."""

_IN_PROGRESS = frozenset({StepState.RUNNING, StepState.UNDOING})
_CHANGES = frozenset({StepState.DONE, StepState.FAILED, StepState.UNDONE})


NO_ATTEMPTS = -1
"""For `attempts_before`: any attempt counts as new."""


def is_settled(view: OperationView, attempts_before: int = NO_ATTEMPTS) -> bool:
    """Return whether to stop watching: the operation has finished, or needs attention.

    One that needs attention counts once it had more than `attempts_before` attempts and none is running.
    """
    if view.status is not OperationStatus.NEEDS_ATTENTION:
        return view.status.is_final
    return view.attempts > attempts_before and not any(step.is_leased for step in view.steps)


def exit_code(view: OperationView, wanted: OperationStatus = OperationStatus.SUCCEEDED) -> int:
    """Return the exit code of a command that waited for this operation to reach the status `wanted`."""
    if view.status is OperationStatus.NEEDS_ATTENTION:
        return EXIT_ATTENTION
    return EXIT_OK if view.status is wanted or not view.status.is_final else EXIT_FAILED


def watch_operation(operation_id: uuid.UUID, *, is_quiet: bool, attempts_before: int = NO_ATTEMPTS) -> OperationView:
    """Show the operation's progress on stderr until it is settled, then return it; on Ctrl-C exit with 130.

    With `is_quiet` nothing is shown unless stderr is a terminal.
    """
    console = progress_console()
    display = _LiveTable(console) if console.is_terminal else _LineLog(console, is_quiet=is_quiet)
    try:
        with display:
            while True:
                view = reader().operation(operation_id)
                display.show(view)
                if is_settled(view, attempts_before):
                    return view
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print(f"The operation continues: {command_line(f'operations show {operation_id}')}")
        sys.exit(EXIT_INTERRUPTED)


class _LiveTable:
    """Shows the steps as a table that is updated in place, for terminals."""

    def __init__(self, console: EscapingConsole) -> None:
        self._spinner = Spinner("dots")
        self._view: OperationView | None = None
        # Live calls `_draw` in its constructor, so it comes last.
        self._live = Live(console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._draw)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, view: OperationView) -> None:
        """Set the newest state; it is drawn in the next frame."""
        self._view = view

    def _draw(self) -> RenderableType:
        if self._view is None:
            return self._spinner
        view = self._view
        took_s = ((view.finished_at or datetime.now(UTC)) - view.created_at).total_seconds()
        heading = Text.assemble(
            f"{view.kind} ", (view.phone_number, "bold"), f"  {view.status}  ", (f"{took_s:.1f} s", "dim")
        )
        return Group(heading, steps_table(view, self._spinner))


class _LineLog:
    """Prints a line for each step that was done, failed or undone, for logs and pipes."""

    def __init__(self, console: EscapingConsole, *, is_quiet: bool) -> None:
        self._console, self._is_quiet = console, is_quiet
        self._shown: dict[str, StepState] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass

    def show(self, view: OperationView) -> None:
        """Print the steps that changed since the last call."""
        for step in view.steps:
            state = step.state
            if self._is_quiet or state not in _CHANGES or not step.started_at or self._shown.get(step.name) is state:
                continue
            self._shown[step.name] = state
            resource = step.resource_id or "" if state is StepState.DONE else ""
            line = f"{state:<6}  {step.name:<24}  {resource}  {step_note(step)}"
            self._console.print(line.rstrip())


def steps_table(view: OperationView, spinner: RenderableType = "…") -> Table:
    """Return the steps as a table: mark, name, duration, and the resource id or note."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for step in view.steps:
        mark = spinner if step.state in _IN_PROGRESS else _mark(step)
        name = Text(step.name.replace("_", " "), "" if step.started_at else "dim")
        resource = Text(step.resource_id or "" if step.state is StepState.DONE else "", "dim")
        note = Text(step_note(step), "yellow")
        table.add_row(mark, name, _duration(step), Text("  ").join(part for part in (resource, note) if part))
    return table


def _mark(step: StepView) -> Text:
    """Return the mark of a step that is not running; one that never started is pending, whatever its state says."""
    if step.started_at is None:
        return Text(*MARKS[StepState.PENDING])
    return Text(*MARKS[StepState.FAILED if step.error and step.state is StepState.UNDONE else step.state])


def step_note(step: StepView) -> str:
    """Return a step's error, its number of attempts and the time until the next one, where there are any."""
    parts = []
    if step.error and step.error.detail and step.state is not StepState.DONE:
        parts.append(step.error.detail)
    if step.attempts > 1:
        parts.append(f"attempt {step.attempts}")
    retry_at = step.next_attempt_at
    if retry_at and (left_s := (retry_at - datetime.now(UTC)).total_seconds()) > 0:
        parts.append(f"retry in {left_s:.0f} s")
    return "; ".join(part.rstrip(".") for part in parts)


def _duration(step: StepView) -> Text:
    if step.started_at is None:
        return Text()
    if step.finished_at is None and step.state not in _IN_PROGRESS:
        return Text()
    took_s = ((step.finished_at or datetime.now(UTC)) - step.started_at).total_seconds()
    return Text(f"{max(took_s, 0):.1f} s", "dim")


_NOT_SHOWN = frozenset({OperationStatus.SUCCEEDED, OperationStatus.CANCELLED})
"""Statuses of a last operation that `status` does not show: the agent's own status says it all."""


def show_agent(agent: Agent) -> None:
    """Print an agent; `status` also shows what is wrong with its path."""
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent.name),
        ("id", str(agent.id)),
        ("LiveKit agent", agent.livekit_agent_name),
        ("status", coloured(agent.phone_provisioning_status)),
        ("number", agent.twilio_phone_number),
        ("health", _health(agent) if agent.phone_provisioning_status is PhoneStatus.PROVISIONED else None),
        ("created", format_time(agent.created_at)),
        ("version", str(agent.version)),
        ("metadata", json.dumps(agent.agent_metadata, ensure_ascii=False) if agent.agent_metadata else None),
    ]
    for path, option in OPTION_AT.items():
        value = value_at(agent.options, option)
        pairs.append((path, None if value is None else show_value(option, value) or "(empty)"))
    print_pairs(pairs)


def show_phone(view: PhoneView) -> None:
    """Print the status of an agent's number, its resources, its findings, and the operation unless it succeeded."""
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
    if view.adopted:
        shared = [STEP_BY_NAME[one.step].label for one in view.adopted if one.is_shared]
        print_result(
            "adopted: " + (f"shared with other numbers: {', '.join(shared)}" if shared else "nothing is shared")
        )
    print_warnings(view)
    if view.has_phone:
        print_findings(stored_finding(one) for one in agent.health_findings or ())
    operation = view.operation
    if operation is None:
        if agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED:
            print_line(f"No number yet: {command_line('provision AGENT NUMBER')}", err=True)
    elif operation.status not in _NOT_SHOWN:
        print_result("")
        show_operation(operation)


def show_operation(view: OperationView, *, with_events: bool = False) -> None:
    """Print an operation with its steps, its error, and what is still at the providers; on request its event log."""
    error = f"{view.error.detail} ({view.error.code})".strip() if view.error else None
    pairs: list[tuple[str, str | Text | None]] = [
        ("operation", str(view.id)),
        ("kind", view.kind.value),
        ("status", coloured(view.status)),
        ("number", view.phone_number),
        ("error", Text(error, "red") if error else None),
        ("requested", f"{format_time(view.created_at)} by {view.requested_by or 'unknown'}"),
        ("finished", format_time(view.finished_at)),
    ]
    print_pairs(pairs)
    print_result(steps_table(view))
    print_warnings(view)
    for leftover in view.leftovers:
        line = f"still at the provider: {leftover.provider} {leftover.kind} {leftover.external_id}"
        print_result(Text(line, "yellow"))
    if view.status is OperationStatus.NEEDS_ATTENTION:
        print_line(
            f"It is retried about once a minute; retry now with: {command_line(f'operations retry {view.id}')}",
            err=True,
        )
    if with_events:
        print_result("")
        print_table(
            ("time (UTC)", "event", "step", "detail"),
            [
                (f"{event.at:%H:%M:%S.%f}"[:-3], event.event, event.step or "", _detail(event.detail))
                for event in view.timeline
            ],
        )


def print_warnings(view: PhoneView | OperationView) -> None:
    """Print what was found on the way and stopped nothing."""
    for warning in view.warnings:
        print_result(Text(f"warning: {warning.detail}", "yellow"))


def _health(agent: Agent) -> Text:
    findings = [stored_finding(one) for one in agent.health_findings or ()]
    state = agent.health_state or Health.UNKNOWN
    seen = f", checked {format_time(agent.health_checked_at)}" if agent.health_checked_at else ", not checked yet"
    verdict = verdict_line(findings) if state is Health.DRIFTED and findings else Text()
    return Text.assemble(coloured(state), (seen, "dim"), ". " if verdict else "", verdict)


def verdict_line(findings: Iterable[Finding]) -> Text:
    """Return what findings about one path say of its calls, in the colour of the worst."""
    found = worst_first(findings)
    return Text(calls_in_words(found), SEVERITY_COLOURS[found[0].severity] if found else GOOD)


SEVERITY_COLOURS = {Severity.CRITICAL: BAD, Severity.WARNING: WARNING, Severity.FOREIGN: "dim"}


def print_findings(findings: Iterable[Finding], names: Mapping[uuid.UUID, str] | None = None) -> None:
    """Print findings, the worst first: what each means, what is wrong, with what, and what to do or was done.

    With `names`, by agent, also whose path it is.
    """
    blocks = []
    for finding in worst_first(findings):
        whose = ""
        if names is not None and finding.agent_id:
            more = f"and {len(finding.concerned) - 1:,} more" if len(finding.concerned) > 1 else ""
            whose = " ".join(filter(None, ("agent", names.get(uuid.UUID(finding.agent_id)), finding.agent_id, more)))
        ids = ", ".join(part for part in (finding.code, finding.about, whose) if part)
        outcome = f"{finding.fixed.capitalize()}." if finding.fixed else ""
        to_do = "" if finding.is_fixed else finding.advice
        blocks.append(
            (
                Text(finding.label, SEVERITY_COLOURS[finding.severity]),
                (finding.text, ids, " ".join(part for part in (outcome, to_do) if part)),
            )
        )
    if blocks:
        print_blocks(blocks)


def _detail(detail: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in detail.items() if value not in (None, "", [], {}))
