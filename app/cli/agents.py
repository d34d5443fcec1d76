"""`agents`: list, show, create, set, delete."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from app.cli.client import client
from app.cli.context import WholeNumber, command_line, find_agent, json_option, user_command
from app.cli.output import (
    coloured,
    confirm,
    format_time,
    print_json,
    print_line,
    print_table,
    progress_console,
    short_id,
)
from app.cli.phones import finish_operation, wait_option
from app.cli.progress import show_agent
from app.domain.operations import PhoneStatus, TrunkMode
from app.domain.options import Option
from app.domain.texts import InvalidTextError, escaped, read_json
from app.views.option_schemas import GROUPS
from app.views.option_texts import OPTION_AT, put, read_value

ROWS = 50
"""Default number of rows in a list: two screens."""

limit_option = click.option(
    "--limit", type=WholeNumber(1, 10_000), default=ROWS, show_default=True, help="Show the newest N rows."
)
agent_argument = click.argument("agent")

agents = click.Group("agents", help="Agents: list, show, create, set, delete. AGENT is an id or a name.")


@agents.command("list")
@click.option(
    "--status", type=click.Choice([status.value for status in PhoneStatus]), help="Only agents with this status."
)
@limit_option
@json_option
@user_command
def list_agents(status: str | None, limit: int, is_json: bool) -> None:
    """List agents and their numbers, newest first."""
    items, last = client().pages("/api/agents", limit, status=status)
    if is_json:
        print_json({**last, "items": items})
        return
    if not items:
        print_line(f"No agents: create one with {command_line('agents create NAME')}", err=True)
        return
    rows = [
        (
            one["name"],
            one["phoneNumber"] or "",
            coloured(one["phoneProvisioningStatus"]),
            format_time(one["createdAt"]),
            short_id(one["id"]),
        )
        for one in items
    ]
    print_table(("agent", "number", "status", "created (UTC)", "id"), rows)
    if last["nextCursor"]:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


@agents.command("show")
@agent_argument
@json_option
@user_command
def show(agent: str, is_json: bool) -> None:
    """Show one agent; `status` shows its number."""
    found = find_agent(agent)
    if is_json:
        print_json(found)
        return
    has_path = found["phoneProvisioningStatus"] == PhoneStatus.PROVISIONED
    show_agent(found, client().get(f"/api/agents/{found['id']}/phone-status")["health"] if has_path else None)


option_option = click.option(
    "--option",
    "options",
    metavar="PATH=VALUE",
    multiple=True,
    help="An option, as dispatch.pin=4711; may be repeated. @FILE reads the value from a file.",
)


@agents.command("create")
@click.argument("name")
@click.option("--livekit-name", help="The agent name that LiveKit dispatches calls to.  [default: NAME]")
@click.option("--metadata", help="A JSON object, or @FILE with one, passed to the agent with every call.")
@option_option
@click.option(
    "--trunk-mode",
    type=click.Choice([mode.value for mode in TrunkMode]),
    default=TrunkMode.SHARED.value,
    show_default=True,
    help="Whether its number shares a Twilio trunk with others, or has one of its own.",
)
@click.option("--carrier-account", "carrierAccountId", help="Id of a carrier account.  [default: its workspace's]")
@click.option("--voice-project", "voiceProjectId", help="Id of a voice project.  [default: its workspace's]")
@json_option
@user_command
def create(
    name: str,
    livekit_name: str | None,
    metadata: str | None,
    options: tuple[str, ...],
    trunk_mode: str,
    is_json: bool,
    **accounts: str | None,
) -> None:
    """Create an agent called NAME."""
    body: dict[str, Any] = {"name": name, "trunkMode": trunk_mode}
    body |= {field: given for field, given in accounts.items() if given}
    body |= {"livekitAgentName": livekit_name} if livekit_name else {}
    body |= {"metadata": _read_metadata(metadata)} if metadata else {}
    body |= {"options": _read_options(options)} if options else {}
    made = client().post("/api/agents", body)
    if is_json:
        print_json(made)
        return
    provisioning = command_line(f"provision {made['id']} NUMBER")
    print_line(made["id"])
    print_line(f"Provision a number for it: {provisioning}", err=True)


@agents.command("set")
@agent_argument
@click.option("--name", help="What people call it.")
@click.option("--livekit-agent", help="The agent name that LiveKit dispatches calls to.")
@click.option("--metadata", help="A JSON object, or @FILE with one, merged into what is there; null removes a key.")
@option_option
@click.option(
    "--unset",
    metavar="PATH",
    multiple=True,
    help="An option that goes back to its default, as dispatch.pin, or all of a group; or metadata. May be repeated.",
)
@click.option("--if-version", type=WholeNumber(1), help="Only if the agent is at this version; `show` tells it.")
@wait_option
@json_option
@user_command
def change(
    agent: str,
    name: str | None,
    livekit_agent: str | None,
    metadata: str | None,
    options: tuple[str, ...],
    unset: tuple[str, ...],
    if_version: int | None,
    wait: bool,
    is_json: bool,
) -> None:
    """Change AGENT: names, metadata, options. While it has a number, its path is changed too, or all stays as it was.

    Exit code 0: changed, or was queued with --no-wait; 1: refused, or failed and undone; 3: it needs attention.
    """
    given = {"name": name, "livekitAgentName": livekit_agent}
    patch: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    patch |= {"metadata": _read_metadata(metadata)} if metadata else {}
    patch |= {"options": _read_options(options, unset)} if options or set(unset) - {METADATA} else {}
    if METADATA in unset:
        if metadata:
            raise click.UsageError("--metadata and --unset metadata exclude each other.")
        patch[METADATA] = None
    if not patch:
        raise click.UsageError("Nothing to change: see --help.")
    found = find_agent(agent)
    with progress_console().status("Reading from both providers"):
        changed = client().request(
            "PATCH",
            f"/api/agents/{found['id']}",
            body=patch,
            headers={} if if_version is None else {"If-Match": f'"{if_version}"'},
        )
    done = f"{patch.get('name', found['name'])} is changed."
    if "operationId" in changed.body:
        finish_operation(changed.body["operationId"], wait=wait, is_json=is_json, done=done)
    elif is_json:
        print_json(changed.body)
    else:
        print_line(done)


METADATA = "metadata"


def _read_metadata(text: str) -> object:
    try:
        return read_json(_contents(text))
    except InvalidTextError as error:
        raise click.UsageError(f"--metadata {error}") from error


def _contents(text: str) -> str:
    """Return the text, or that of the file which `@` names."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{text[1:]} cannot be read: {error}") from error


def _read_options(given: Iterable[str], unset: Iterable[str] = ()) -> dict[str, Any]:
    """Build the JSON of options from PATH=VALUE; null for those that are unset."""
    found: dict[str, Any] = {}
    given = list(given)
    for path in unset:
        if path in GROUPS:
            if any(one.startswith(f"{path}.") for one in given):
                raise click.UsageError(f"--unset {path} and an --option of it exclude each other.")
            found[path] = None
        elif path != METADATA:
            put(found, _option_at(path), None)
    for one in given:
        path, sign, value = one.partition("=")
        option = _option_at(path)
        if not sign:
            raise click.UsageError(f"--option {path} has no value: write {path}=VALUE, or --unset {path}.")
        try:
            put(found, option, read_value(option, _contents(value)))
        except InvalidTextError as error:
            raise click.UsageError(f"--option {path} {error}.") from error
    return found


def _option_at(path: str) -> Option:
    if option := OPTION_AT.get(path):
        return option
    close = get_close_matches(path, OPTION_AT, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTION_AT)}."
    raise click.UsageError(escaped(f"There is no option {path!r}: {hint}"))


@agents.command("delete")
@agent_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@user_command
def delete(agent: str, yes: bool, is_json: bool) -> None:
    """Delete an agent that has no number."""
    found = find_agent(agent)
    if not yes:
        confirm(f"Delete {found['name']} ({found['id']})?")
    client().request("DELETE", f"/api/agents/{found['id']}")
    if is_json:
        print_json({"id": found["id"], "deleted": True})
    else:
        print_line(f"Deleted {found['name']} ({found['id']}).")
