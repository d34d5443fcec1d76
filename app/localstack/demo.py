"""The first number: made with the API that every client uses, while the user watches."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from secrets import token_hex
from typing import Any
from urllib.parse import quote

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from app.localstack.errors import StackError
from app.localstack.http_json import JsonClient
from app.localstack.private_files import read_private, write_private
from app.localstack.stack import Stack
from app.localstack.terminal import Terminal

NUMBER = "+15145551234"
"""The demo number: one of those that the sandbox owns from the start."""

AGENT = {"name": "demo", "livekitAgentName": "demo-agent"}
"""The agent that the demo number rings."""

READY_S = 60.0
"""Seconds for the web process to come up: 2 as a rule, more on the first run, when nothing is compiled yet."""

SETTLED_S = 60.0
"""Seconds that the demo may take: 1 to 2 as a rule; a sweep after a crash adds some."""

POLL_S = 0.1
"""Seconds between two looks at the status."""

SETTLED = frozenset({"PROVISIONED", "FAILED", "NOT_PROVISIONED"})
"""Statuses that nothing is going to change by itself."""

MARKS = {"DONE": "[green]✓[/]", "FAILED": "[red]✗[/]", "UNDONE": "[yellow]↶[/]", "PENDING": "[dim]·[/]"}


class Demo:
    """Shows the demo number's way to PROVISIONED; gives up quietly when `stopping` is set."""

    def __init__(self, stack: Stack, terminal: Terminal, stopping: threading.Event) -> None:
        self._stack = stack
        self._terminal = terminal
        self._stopping = stopping

    def wait_for_web(self) -> None:
        """Return when every part answers; StackError with what /readyz says when they do not in time."""
        api = JsonClient(self._stack.api_url)
        deadline = time.monotonic() + READY_S
        with self._terminal.stage("Processes", "starting") as report:
            while not api.answers("/readyz"):
                if self._stopping.wait(POLL_S):
                    return
                if time.monotonic() > deadline:
                    raise StackError(f"the API is not ready after {READY_S:.0f} s: {self._unready(api)}")
            report("web, worker, bulk, cleanup, sweeper, flower")

    def development_key(self) -> str:
        """Return the kept development key, or make one where it is missing or no longer known to the database."""
        path = self._stack.data_dir / "dev-key"
        known = read_private(path)
        if known and self._client(known).call("GET", "/api/agents")[0] == HTTPStatus.OK:
            return known
        made = self._make_key("dev") or self._make_key(f"dev-{token_hex(2)}")
        if made is None:
            raise StackError("no development key could be made: try .venv/bin/flask --app app keys create dev")
        write_private(path, made + "\n")
        return made

    def provision(self, key: str) -> str | None:
        """Bring the demo number up unless it is, with progress; return the agent's id, None when it did not work."""
        client = self._client(key)
        agent_id = self._agent(client)
        path = f"/api/agents/{agent_id}/phone-status"
        status = client.get(path)
        found = status["phoneProvisioningStatus"]
        self._terminal.heading(f"{'Kept' if found == 'PROVISIONED' else 'Provisioning'}: {NUMBER} for the agent demo")
        if found in {"FAILED", "NOT_PROVISIONED"}:
            code, answer = client.call("POST", f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": NUMBER})
            if code != HTTPStatus.ACCEPTED:
                self._terminal.problem(f"  {code}: {_reason(answer)}")
                return None
        return agent_id if self._watch(client, path) else None

    def show_call(self) -> None:
        """Print the way that a caller of the number takes."""
        if self._stack.sandbox_url is None:
            return
        walk = JsonClient(self._stack.sandbox_url).get(f"/sandbox/call?number={quote(NUMBER)}")
        end = f"reaches {walk['agentName']}" if walk["reaches"] else f"reaches nobody: {walk['reason']}"
        self._terminal.heading(f"A call to {NUMBER} {end}")
        for hop in walk["path"]:
            text = " ".join(str(hop[part]) for part in ("id", "detail") if hop.get(part))
            self._terminal.console.print(f"  {MARKS['DONE' if hop['ok'] else 'FAILED']} {hop['hop']:<16}", end=" ")
            self._terminal.plain(text)

    def _client(self, key: str) -> JsonClient:
        return JsonClient(self._stack.api_url, {"Authorization": f"Bearer {key}"})

    def _unready(self, api: JsonClient) -> str:
        try:
            status, body = api.call("GET", "/readyz")
        except OSError as error:
            return str(error)
        return f"{status} {json.dumps(body)}"

    def _make_key(self, name: str) -> str | None:
        command = [sys.executable, "-m", "flask", "--app", "app", "keys", "create", name, "--scope", "admin", "--json"]
        done = subprocess.run(command, env=self._stack.environ, capture_output=True, text=True, check=False)  # noqa: S603
        try:
            return str(json.loads(done.stdout)["key"])
        except (ValueError, KeyError):
            return None

    def _agent(self, client: JsonClient) -> str:
        """Return the id of the demo agent, made at the first call and whenever the database is a new one."""
        path = self._stack.data_dir / "demo-agent"
        known = read_private(path)
        if known and client.call("GET", f"/api/agents/{known}")[0] == HTTPStatus.OK:
            return known
        code, answer = client.call("POST", "/api/agents", AGENT)
        if code != HTTPStatus.CREATED:
            raise StackError(f"the demo agent could not be made: {code} {_reason(answer)}")
        write_private(path, f"{answer['id']}\n")
        return str(answer["id"])

    def _watch(self, client: JsonClient, path: str) -> bool:
        """Show the steps until the status settles; True when it settles as PROVISIONED."""
        started = time.monotonic()
        view = StepView(self._terminal)
        with view.live:
            while True:
                status = client.get(path)
                view.show((status.get("operation") or {}).get("steps", []))
                took = time.monotonic() - started
                if status["phoneProvisioningStatus"] in SETTLED or took > SETTLED_S or self._stopping.wait(POLL_S):
                    break
        final = status["phoneProvisioningStatus"]
        if final == "PROVISIONED":
            self._terminal.console.print(f"  [bold green]PROVISIONED[/] [dim]{took:.1f} s[/]")
        elif not self._stopping.is_set():
            error = (status.get("operation") or {}).get("error")
            self._terminal.problem(f"  {final} {_reason(error) if error else f'after {took:.0f} s'}")
        return bool(final == "PROVISIONED")


class StepView:
    """A table of steps that changes in place on a terminal, and a line for each change elsewhere."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown: dict[str, str] = {}
        self._spinner = Spinner("dots")
        self.live = Live(console=terminal.console, refresh_per_second=12, transient=False)

    def show(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Take the newest timeline."""
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


def _reason(problem: Any) -> str:
    """Return the sentence of a problem document, or what came instead of one."""
    return str(problem.get("detail") or problem.get("title")) if isinstance(problem, dict) else str(problem)
