"""The commands of `flask --app app …` and `trunkline …`: names and first sentences; each is imported when it is called.

Help and completion of the whole list import none of them, and so neither the database nor a provider.
"""

from pkgutil import resolve_name
from typing import Any, cast

import click


class LazyCommand(click.Command):
    """Stands in a group for the command or group at `where`, `module:attribute`."""

    def __init__(self, name: str, where: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._where = where

    def load(self) -> click.Command:
        """Import the command itself."""
        return cast("click.Command", resolve_name(self._where))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Become the command itself: what is called, completed or helped with is the context's command."""
        return self.load().make_context(info_name, args, parent, **extra)


COMMANDS = (
    LazyCommand("doctor", "app.cli.doctor:doctor", "Check this installation, and say how to fix what is wrong."),
    LazyCommand("agents", "app.cli.agents:agents", "Agents: list, show, create, set, delete."),
    LazyCommand("numbers", "app.cli.numbers:numbers", "The numbers of a Twilio account."),
    LazyCommand("trunks", "app.cli.trunks:trunks", "The Twilio trunks that numbers share, and those of single agents."),
    LazyCommand("provision", "app.cli.bulk:provision", "Connect a number, or many from a file."),
    LazyCommand(
        "import", "app.cli.bulk:import_file", "Connect the numbers of FILE, CSV or JSON, or adopt their paths."
    ),
    LazyCommand(
        "adopt",
        "app.cli.adoption:adopt",
        "Make the path that NUMBER rings by already AGENT's; callers get what they got before.",
    ),
    LazyCommand("status", "app.cli.phones:status", "Show the number of AGENT: path, health and operation."),
    LazyCommand("deprovision", "app.cli.phones:deprovision", "Disconnect the number of AGENT."),
    LazyCommand("move", "app.cli.phones:move", "Move the number of AGENT to TO_AGENT."),
    LazyCommand(
        "verify",
        "app.cli.phones:verify",
        "Compare the path of AGENT with both providers: whether calls fail, and what is not as it was made.",
    ),
    LazyCommand("repair", "app.cli.phones:repair", "Repair what is missing or changed in the path of AGENT."),
    LazyCommand("call", "app.cli.calls:call", "Call NUMBER as Twilio would, and say what becomes of the call."),
    LazyCommand("plan", "app.cli.declared:plan", "Show what apply would change, and change nothing."),
    LazyCommand("apply", "app.cli.declared:apply", "Make agents and numbers what the file says."),
    LazyCommand("export", "app.cli.declared:export", "Write what is there as a file that apply takes."),
    LazyCommand("operations", "app.cli.operations:operations", "Operations: list, show, retry."),
    LazyCommand("audit", "app.cli.operations:audit", "Compare every row with both providers now."),
    LazyCommand(
        "activity",
        "app.cli.operations:activity",
        "List changes, sign-ins and refusals, and who made them, newest first.",
    ),
    LazyCommand("webhooks", "app.cli.webhooks:webhooks", "Webhooks: list, listen, trigger."),
    LazyCommand("workspaces", "app.cli.workspaces:workspaces", "Workspaces: list, show, create, change, delete."),
    LazyCommand(
        "accounts",
        "app.cli.accounts:accounts",
        "Carrier accounts (Twilio): list, show, add, change, check, rotate, delete.",
    ),
    LazyCommand(
        "projects",
        "app.cli.accounts:projects",
        "Voice projects (LiveKit): list, show, add, change, check, rotate, delete.",
    ),
    LazyCommand("keys", "app.cli.keys:keys", "API keys: create, list, revoke."),
    LazyCommand("credentials", "app.cli.upkeep:credentials", "Stored secrets: seal them, or wrap them by a new key."),
    LazyCommand("sweep", "app.cli.upkeep:sweep", "Publish operations whose message was lost, until stopped."),
)
"""The command line: one module for each command or group of commands; docs/cli.md lists them all."""
