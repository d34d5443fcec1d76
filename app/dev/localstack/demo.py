"""What a start shows: the API becoming ready, the provider check, and the demo number, provisioned over the API."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from app.dev.localstack.host import StackError, describe_error, read_private, write_private
from app.dev.localstack.processes import JsonClient
from app.dev.localstack.stack import Stack
from app.dev.localstack.terminal import LABEL_WIDTH, Terminal

NUMBER = "+15145551234"
"""The demo number: one of those that the sandbox owns from the start."""

AGENT = {"name": "demo", "livekitAgentName": "demo-agent"}
"""The agent that the demo number rings."""

READY_S = 60.0
"""Seconds for the web process to start: 2 as a rule, more on the first run, when nothing is compiled yet."""

PROVISION_S = 60.0
"""Seconds until the demo number must be provisioned: 1 to 2 as a rule; a sweep after a crash adds some."""

POLL_S = 0.1
"""Seconds between two reads of the status."""

FINAL_STATUSES = frozenset({"PROVISIONED", "FAILED", "NOT_PROVISIONED"})
"""Statuses that do not change by themselves."""

PROVIDERS = frozenset({"twilio", "livekit"})
"""Checks of /readyz without which the API works: an outage or a wrong credential is reported, not waited for."""

STARTING = frozenset({"sweeper", "workers", "API keys"})
"""Checks of doctor that are left out: the processes are still starting, and the key is made after them."""

DOCTOR_S = 45.0
"""Seconds for doctor: 2 as a rule; two providers that do not answer take 20, and the start of Python some."""

MARKS = {"DONE": "[green]✓[/]", "FAILED": "[red]✗[/]", "UNDONE": "[yellow]↶[/]", "PENDING": "[dim]·[/]"}


class Demo:
    """Provisions the demo number and shows its steps; returns early when `stopping` is set."""

    def __init__(self, stack: Stack, terminal: Terminal, stopping: threading.Event) -> None:
        self._stack = stack
        self._terminal = terminal
        self._stopping = stopping

    def wait_for_web(self) -> None:
        """Return when the API is ready, providers aside; StackError says what is missing when it is not in time."""
        api = JsonClient(self._stack.api_url)
        deadline = time.monotonic() + READY_S
        with self._terminal.progress("Processes", "starting") as report:
            while missing := _missing(api):
                if self._stopping.wait(POLL_S):
                    return
                if time.monotonic() > deadline:
                    raise StackError(f"the API is not ready after {READY_S:.0f} s: {missing}")
            report("web, worker, bulk, cleanup, sweeper, flower")

    def development_key(self) -> str:
        """Return the stored development key, or make one where it is missing or not in the database."""
        path = self._stack.data_dir / "dev-key"
        known = read_private(path)
        if known and self._client(known).call("GET", "/api/agents")[0] == HTTPStatus.OK:
            return known
        made = self._make_key("dev") or self._make_key(f"dev-{token_hex(2)}")
        if made is None:
            raise StackError("no development key could be made: try .venv/bin/trunkline keys create dev")
        write_private(path, made + "\n")
        return made

    def sign_in_link(self, key: str) -> str:
        """Return a link that signs a browser in once; the console's address where none could be made."""
        status, answer = self._client(key).call("POST", "/api/sign-in-links")
        return str(answer["url"]) if status == HTTPStatus.CREATED else f"{self._stack.api_url}/"

    def provision(self, key: str) -> str | None:
        """Provision the demo number unless it is, and show its steps; return the agent's id, None when that failed."""
        client = self._client(key)
        agent_id = self._agent(client)
        path = f"/api/agents/{agent_id}/phone-status"
        status = client.get(path)
        found = status["phoneProvisioningStatus"]
        self._terminal.heading(f"{'Kept' if found == 'PROVISIONED' else 'Provisioning'}: {NUMBER} for the agent demo")
        if found in {"FAILED", "NOT_PROVISIONED"}:
            code, answer = client.call("POST", f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": NUMBER})
            if code != HTTPStatus.ACCEPTED:
                self._terminal.error_line(f"  {code}: {_reason(answer)}")
                return None
        return agent_id if self._follow(client, path) else None

    def show_call(self) -> None:
        """Print the path of a call to the number."""
        if self._stack.sandbox_url is None:
            return
        call = JsonClient(self._stack.sandbox_url).get(f"/sandbox/call?to={quote(NUMBER)}")
        end = f"reaches {call['agentName']}" if call["reaches"] else f"reaches nobody: {call['reason']}"
        self._terminal.heading(f"A call to {NUMBER} {end}")
        for hop in call["path"]:
            text = " ".join(str(hop[part]) for part in ("id", "detail") if hop.get(part))
            self._terminal.console.print(f"  {MARKS['DONE' if hop['ok'] else 'FAILED']} {hop['hop']:<16}", end=" ")
            self._terminal.plain(text)

    def _client(self, key: str) -> JsonClient:
        return JsonClient(self._stack.api_url, {"Authorization": f"Bearer {key}"})

    def _make_key(self, name: str) -> str | None:
        done = subprocess.run(  # noqa: S603 - our own command
            _flask("keys", "create", name, "--scope", "admin", "--json"),
            env=self._stack.environ,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        try:
            return str(json.loads(done.stdout)["key"])
        except (ValueError, KeyError):
            return None

    def _agent(self, client: JsonClient) -> str:
        """Return the id of the demo agent, created where the database does not have it."""
        path = self._stack.data_dir / "demo-agent"
        known = read_private(path)
        if known and client.call("GET", f"/api/agents/{known}")[0] == HTTPStatus.OK:
            return known
        code, answer = client.call("POST", "/api/agents", AGENT)
        if code != HTTPStatus.CREATED:
            raise StackError(f"the demo agent could not be made: {code} {_reason(answer)}")
        write_private(path, f"{answer['id']}\n")
        return str(answer["id"])

    def _follow(self, client: JsonClient, path: str) -> bool:
        """Show the steps until the status is final; True when it is PROVISIONED."""
        started = time.monotonic()
        view = StepView(self._terminal)
        with view.live:
            while True:
                status = client.get(path)
                view.show((status.get("operation") or {}).get("steps", []))
                took = time.monotonic() - started
                if (
                    status["phoneProvisioningStatus"] in FINAL_STATUSES
                    or took > PROVISION_S
                    or self._stopping.wait(POLL_S)
                ):
                    break
        final = status["phoneProvisioningStatus"]
        if final == "PROVISIONED":
            self._terminal.console.print(f"  [bold green]PROVISIONED[/] [dim]{took:.1f} s[/]")
        elif not self._stopping.is_set():
            error = (status.get("operation") or {}).get("error")
            self._terminal.error_line(f"  {final} {_reason(error) if error else f'after {took:.0f} s'}")
        return bool(final == "PROVISIONED")


class StepView:
    """Shows the steps: on a terminal as a table that changes in place, elsewhere as a line for each change."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown: dict[str, str] = {}
        self._spinner = Spinner("dots")
        self.live = Live(console=terminal.console, refresh_per_second=12, transient=False)

    def show(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Show the steps as they are now."""
        if self._terminal.console.is_terminal:
            self.live.update(self._table(steps))
            return
        for step in steps:
            if step["state"] not in {"PENDING", self._shown.get(step["name"])}:
                self._shown[step["name"]] = step["state"]
                if step["state"] not in {"RUNNING", "UNDOING"}:
                    row = f"  {step['state']:<6} {step['name']:<26} {step.get('resourceId') or ''}"
                    self._terminal.plain(row.rstrip())

    def _table(self, steps: Sequence[Mapping[str, Any]]) -> Table:
        table = Table.grid(padding=(0, 2))
        for step in steps:
            mark = MARKS.get(step["state"], self._spinner)
            table.add_row("", mark, step["name"].replace("_", " "), f"[dim]{step.get('resourceId') or ''}[/]")
        return table


def _reason(error_line: Any) -> str:
    """Return the sentence of a problem document, or the body itself where it is none."""
    return str(error_line.get("detail") or error_line.get("title")) if isinstance(error_line, dict) else str(error_line)


def _flask(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flask", "--app", "app", *arguments]


def _missing(api: JsonClient) -> str:
    """Return what the API is not ready for, in one line, "" when it is ready; by the body, not by the status."""
    try:
        status, body = api.call("GET", "/readyz")
    except OSError as error:
        return describe_error(error)
    checks = body.get("checks") if isinstance(body, dict) else None
    if not isinstance(checks, list):
        return f"/readyz answers {status}"
    failed = [each for each in checks if not each["ok"] and each["name"] not in PROVIDERS]
    return "; ".join(f"{each['name']}: {each['detail']}" for each in failed)


@contextmanager
def provider_check(stack: Stack, terminal: Terminal, stopping: threading.Event) -> Iterator[Callable[[], bool]]:
    """Run doctor on the user's own providers beside the block; yield a function that prints its findings.

    It returns False when a check failed. A wrong credential does not end the start: console, polling and stored data
    work without the providers, as in production, and nothing that is accepted meanwhile is lost.
    """
    if stack.sandbox_url:
        yield lambda: True
        return
    with subprocess.Popen(  # noqa: S603 - our own command
        _flask("doctor", "--json"),
        env=stack.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    ) as doctor:
        try:
            yield lambda: _show_findings(doctor, terminal, stopping)
        finally:
            doctor.kill()


def _show_findings(doctor: "subprocess.Popen[str]", terminal: Terminal, stopping: threading.Event) -> bool:
    """Print the checks that doctor did not pass; True when none of them failed."""
    with terminal.progress("Providers", "asking both") as report:
        deadline = time.monotonic() + DOCTOR_S
        while doctor.poll() is None and time.monotonic() < deadline and not stopping.wait(POLL_S):
            pass
        if doctor.poll() is None:
            report("no answer yet: .venv/bin/trunkline doctor")
            return True
        found = _findings(doctor.communicate()[0])
        report("see below" if found else "let us in")
    for each in found:
        mark = MARKS["FAILED"] if each["verdict"] == "failed" else "[yellow]![/]"
        terminal.console.print(f"  {mark} {each['name']:<{LABEL_WIDTH}}", end=" ")
        terminal.plain(each["detail"])
        if each["mend"]:
            terminal.plain(f"    {'':<{LABEL_WIDTH}}→ {each['mend']}")
    return all(each["verdict"] != "failed" for each in found)


def _findings(output: str) -> list[dict[str, str]]:
    try:
        checks = json.loads(output)["checks"]
    except (ValueError, KeyError):
        detail = "doctor did not finish"
        return [{"name": "doctor", "verdict": "failed", "detail": detail, "mend": "run .venv/bin/trunkline doctor"}]
    return [each for each in checks if each["verdict"] in {"failed", "warning"} and each["name"] not in STARTING]
