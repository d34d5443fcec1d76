"""Watches an operation until it has finished, and prints agents and operations for people."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from app.cli.client import client
from app.cli.context import EXIT_ATTENTION, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Row, command_line
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
from app.domain.findings import Finding, Health, Severity, calls_in_words, stored_finding, worst_first
from app.domain.operations import STEP_BY_NAME, OperationStatus, PhoneStatus, StepState

POLL_S = 0.5
"""Seconds between two polls, each a request over HTTP: often enough to feel immediate, and no load for a server."""

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


def is_final(operation: Row) -> bool:
    """Return whether an operation has ended."""
    return OperationStatus(operation["status"]).is_final


def is_settled(operation: Row, attempts_before: int = NO_ATTEMPTS) -> bool:
    """Return whether to stop watching: the operation has finished, or needs attention.

    One that needs attention counts once it had more than `attempts_before` attempts and none is running: a step that
    waits for its next attempt says when that is.
    """
    if operation["status"] != OperationStatus.NEEDS_ATTENTION:
        return is_final(operation)
    is_running = any(step["state"] in _IN_PROGRESS and not step["nextAttemptAt"] for step in operation["steps"])
    return operation["attempts"] > attempts_before and not is_running


def exit_code(operation: Row, wanted: OperationStatus = OperationStatus.SUCCEEDED) -> int:
    """Return the exit code of a command that waited for this operation to reach the status `wanted`."""
    if operation["status"] == OperationStatus.NEEDS_ATTENTION:
        return EXIT_ATTENTION
    return EXIT_OK if operation["status"] == wanted or not is_final(operation) else EXIT_FAILED


def read_operation(operation_id: str) -> Row:
    """Return an operation with its steps and events."""
    return dict(client().get(f"/api/operations/{operation_id}"))


def watch_operation(operation_id: str, *, is_quiet: bool, attempts_before: int = NO_ATTEMPTS) -> Row:
    """Show the operation's progress on stderr until it is settled, then return it; on Ctrl-C exit with 130.

    With `is_quiet` nothing is shown unless stderr is a terminal.
    """
    console = progress_console()
    display = _LiveTable(console) if console.is_terminal else _LineLog(console, is_quiet=is_quiet)
    try:
        with display:
            while True:
                operation = read_operation(operation_id)
                display.show(operation)
                if is_settled(operation, attempts_before):
                    return operation
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print(f"The operation continues: {command_line(f'operations show {operation_id}')}")
        sys.exit(EXIT_INTERRUPTED)


class _LiveTable:
    """Shows the steps as a table that is updated in place, for terminals."""

    def __init__(self, console: EscapingConsole) -> None:
        self._spinner = Spinner("dots")
        self._operation: Row | None = None
        # Live calls `_draw` in its constructor, so it comes last.
        self._live = Live(console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._draw)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, operation: Row) -> None:
        """Set the newest state; it is drawn in the next frame."""
        self._operation = operation

    def _draw(self) -> RenderableType:
        if self._operation is None:
            return self._spinner
        one = self._operation
        heading = Text.assemble(
            f"{one['kind']} ",
            (one["phoneNumber"], "bold"),
            f"  {one['status']}  ",
            (f"{_took_s(one['createdAt'], one['finishedAt']):.1f} s", "dim"),
        )
        return Group(heading, steps_table(one, self._spinner))


class _LineLog:
    """Prints a line for each step that was done, failed or undone, for logs and pipes."""

    def __init__(self, console: EscapingConsole, *, is_quiet: bool) -> None:
        self._console, self._is_quiet = console, is_quiet
        self._shown: dict[str, str] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        pass

    def show(self, operation: Row) -> None:
        """Print the steps that changed since the last call."""
        for step in operation["steps"]:
            state, name = step["state"], step["name"]
            if self._is_quiet or state not in _CHANGES or not step["startedAt"] or self._shown.get(name) == state:
                continue
            self._shown[name] = state
            resource = step["resourceId"] or "" if state == StepState.DONE else ""
            line = f"{state:<6}  {name:<24}  {resource}  {step_note(step)}"
            self._console.print(line.rstrip())


def steps_table(operation: Row, spinner: RenderableType = "…") -> Table:
    """Return the steps as a table: mark, name, duration, and the resource id or note."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for step in operation["steps"]:
        mark = spinner if step["state"] in _IN_PROGRESS else _mark(step)
        name = Text(step["name"].replace("_", " "), "" if step["startedAt"] else "dim")
        resource = Text(step["resourceId"] or "" if step["state"] == StepState.DONE else "", "dim")
        note = Text(step_note(step), "yellow")
        table.add_row(mark, name, _duration(step), Text("  ").join(part for part in (resource, note) if part))
    return table


def _mark(step: Row) -> Text:
    """Return the mark of a step that is not running; one that never started is pending, whatever its state says."""
    if step["startedAt"] is None:
        return Text(*MARKS[StepState.PENDING])
    is_failed = step["error"] and step["state"] == StepState.UNDONE
    return Text(*MARKS[StepState.FAILED if is_failed else StepState(step["state"])])


def step_note(step: Row) -> str:
    """Return a step's error, its number of attempts and the time until the next one, where there are any."""
    parts = []
    if step["error"] and step["error"]["detail"] and step["state"] != StepState.DONE:
        parts.append(step["error"]["detail"])
    if step["attempts"] > 1:
        parts.append(f"attempt {step['attempts']}")
    retry_at = step["nextAttemptAt"]
    if retry_at and (left_s := (datetime.fromisoformat(retry_at) - datetime.now(UTC)).total_seconds()) > 0:
        parts.append(f"retry in {left_s:.0f} s")
    return "; ".join(part.rstrip(".") for part in parts)


def _duration(step: Row) -> Text:
    if step["startedAt"] is None:
        return Text()
    if step["finishedAt"] is None and step["state"] not in _IN_PROGRESS:
        return Text()
    return Text(f"{max(_took_s(step['startedAt'], step['finishedAt']), 0):.1f} s", "dim")


def _took_s(began: str, ended: str | None) -> float:
    """Return the seconds between two times, up to now for what has not ended."""
    until = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    return (until - datetime.fromisoformat(began)).total_seconds()


_NOT_SHOWN = frozenset({OperationStatus.SUCCEEDED, OperationStatus.CANCELLED})
"""Statuses of a last operation that `status` does not show: the agent's own status says it all."""


def show_agent(agent: Row, health: Row | None) -> None:
    """Print an agent, with the health of its path if it has one; `status` also shows what is wrong with it."""
    # Imported here: `status` and the others that watch a number need no schemas.
    from app.views.option_texts import OPTION_AT, show_value, value_at  # noqa: PLC0415

    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent["name"]),
        ("id", agent["id"]),
        ("LiveKit agent", agent["livekitAgentName"]),
        ("status", coloured(agent["phoneProvisioningStatus"])),
        ("number", agent["phoneNumber"]),
        ("health", _health(health) if health else None),
        ("created", format_time(agent["createdAt"])),
        ("version", str(agent["version"])),
        ("metadata", json.dumps(agent["metadata"], ensure_ascii=False) if agent["metadata"] else None),
    ]
    for path, option in OPTION_AT.items():
        value = value_at(agent["options"], option)
        pairs.append((path, None if value is None else show_value(option, value) or "(empty)"))
    print_pairs(pairs)


def show_phone(agent: Row, phone: Row) -> None:
    """Print the status of an agent's number, its resources, its findings, and the operation unless it succeeded."""
    pairs: list[tuple[str, str | Text | None]] = [
        ("agent", agent["name"]),
        ("id", agent["id"]),
        ("status", coloured(phone["phoneProvisioningStatus"])),
        ("number", phone["phoneNumber"]),
        ("health", _health(phone["health"]) if phone["hasPhone"] else None),
        ("Twilio number", phone["twilioPhoneNumberSid"]),
        ("Twilio trunk", phone["twilioTrunkSid"]),
        ("origination URL", phone["twilioOriginationUrlSid"]),
        ("LiveKit trunk", phone["livekitInboundTrunkId"]),
        ("dispatch rule", phone["livekitDispatchRuleId"]),
    ]
    print_pairs(pairs)
    if phone["adopted"]:
        shared = [STEP_BY_NAME[one["step"]].label for one in phone["adopted"] if one["shared"]]
        print_result(
            "adopted: " + (f"shared with other numbers: {', '.join(shared)}" if shared else "nothing is shared")
        )
    print_warnings(phone)
    if phone["hasPhone"]:
        print_findings(findings_of(phone["health"]))
    operation = phone["operation"]
    if operation is None:
        if phone["phoneProvisioningStatus"] == PhoneStatus.NOT_PROVISIONED:
            print_line(f"No number yet: {command_line('provision AGENT NUMBER')}", err=True)
    elif operation["status"] not in _NOT_SHOWN:
        print_result("")
        show_operation(operation)


def show_operation(operation: Row, *, with_events: bool = False) -> None:
    """Print an operation with its steps, its error, and what is still at the providers; on request its event log."""
    failure = operation["error"]
    error = f"{failure['detail']} ({failure['code']})".strip() if failure else None
    pairs: list[tuple[str, str | Text | None]] = [
        ("operation", operation["id"]),
        ("kind", operation["kind"]),
        ("status", coloured(operation["status"])),
        ("number", operation["phoneNumber"]),
        ("error", Text(error, "red") if error else None),
        ("requested", f"{format_time(operation['createdAt'])} by {operation['requestedBy'] or 'unknown'}"),
        ("finished", format_time(operation["finishedAt"])),
    ]
    print_pairs(pairs)
    print_result(steps_table(operation))
    print_warnings(operation)
    for leftover in operation["leftovers"]:
        line = f"still at the provider: {leftover['provider']} {leftover['kind']} {leftover['id']}"
        print_result(Text(line, "yellow"))
    if operation["status"] == OperationStatus.NEEDS_ATTENTION:
        retry = command_line(f"operations retry {operation['id']}")
        print_line(f"It is retried about twice a minute; retry now with: {retry}", err=True)
    if with_events:
        print_result("")
        print_table(("time (UTC)", "event", "step", "detail"), [_as_cells(event) for event in operation["timeline"]])


def _as_cells(event: Row) -> tuple[str, ...]:
    at = datetime.fromisoformat(event["at"])
    return (f"{at:%H:%M:%S.%f}"[:-3], event["event"], event["step"] or "", _detail(event["detail"]))


def print_warnings(shown: Row) -> None:
    """Print what was found on the way and stopped nothing."""
    for warning in shown["warnings"]:
        print_result(Text(f"warning: {warning['detail']}", "yellow"))


def findings_of(shown: Mapping[str, Any]) -> Sequence[Finding]:
    """Return the findings of a path's health, or of an audit."""
    return [stored_finding(one) for one in shown["findings"]]


def _health(health: Row) -> Text:
    findings, state = findings_of(health), health["state"]
    seen = f", checked {format_time(health['checkedAt'])}" if health["checkedAt"] else ", not checked yet"
    verdict = verdict_line(findings) if state == Health.DRIFTED and findings else Text()
    return Text.assemble(coloured(state), (seen, "dim"), ". " if verdict else "", verdict)


def verdict_line(findings: Iterable[Finding]) -> Text:
    """Return what findings about one path say of its calls, in the colour of the worst."""
    found = worst_first(findings)
    return Text(calls_in_words(found), SEVERITY_COLOURS[found[0].severity] if found else GOOD)


SEVERITY_COLOURS = {Severity.CRITICAL: BAD, Severity.WARNING: WARNING, Severity.FOREIGN: "dim"}


def print_findings(findings: Iterable[Finding], names: Mapping[str, str] | None = None) -> None:
    """Print findings, the worst first: what each means, what is wrong, with what, and what to do or was done.

    With `names`, by agent, also whose path it is.
    """
    blocks = []
    for finding in worst_first(findings):
        whose = ""
        if names is not None and finding.agent_id:
            more = f"and {len(finding.concerned) - 1:,} more" if len(finding.concerned) > 1 else ""
            whose = " ".join(filter(None, ("agent", names.get(finding.agent_id), finding.agent_id, more)))
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
