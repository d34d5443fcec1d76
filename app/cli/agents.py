"""`agents`: list, show, create, delete."""

import click
from marshmallow import ValidationError

from app.cli.context import (
    WholeNumber,
    command_line,
    find_agent,
    json_option,
    origin,
    reader,
    usage_error,
    user_command,
    wiring,
)
from app.cli.output import coloured, confirm, format_time, print_json, print_line, print_table, short_id
from app.cli.progress import show_agent
from app.domain.operations import PhoneStatus, TrunkMode
from app.domain.texts import InvalidTextError, read_json
from app.views.agent_schemas import AgentIn, AgentOut, AgentPage

ROWS = 50
"""Default number of rows in a list: two screens."""

limit_option = click.option(
    "--limit", type=WholeNumber(1, 10_000), default=ROWS, show_default=True, help="Show the newest N rows."
)
agent_argument = click.argument("agent")

agents = click.Group("agents", help="Agents: list, show, create, delete. AGENT is an id or a name.")


@agents.command("list")
@click.option(
    "--status", type=click.Choice([status.value for status in PhoneStatus]), help="Only agents with this status."
)
@limit_option
@json_option
@user_command
def list_agents(status: str | None, limit: int, is_json: bool) -> None:
    """List agents and their numbers, newest first."""
    page = reader().agents(limit=limit, status=PhoneStatus(status) if status else None)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, AgentPage())
        return
    if not page.items:
        print_line(f"No agents: create one with {command_line('agents create NAME')}", err=True)
        return
    rows = [
        (
            one.name,
            one.twilio_phone_number or "",
            coloured(one.phone_provisioning_status),
            format_time(one.created_at),
            short_id(one.id),
        )
        for one in page.items
    ]
    print_table(("agent", "number", "status", "created (UTC)", "id"), rows)
    if page.next_cursor:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


@agents.command("show")
@agent_argument
@json_option
@user_command
def show(agent: str, is_json: bool) -> None:
    """Show one agent; `status` shows its number."""
    found = find_agent(agent)
    if is_json:
        print_json(found, AgentOut())
    else:
        show_agent(found)


@agents.command("create")
@click.argument("name")
@click.option("--livekit-name", help="The agent name that LiveKit dispatches calls to.  [default: NAME]")
@click.option("--metadata", help="A JSON object, passed to the agent with every call.")
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
    name: str, livekit_name: str | None, metadata: str | None, trunk_mode: str, is_json: bool, **accounts: str | None
) -> None:
    """Create an agent called NAME."""
    body = {"name": name, "trunkMode": trunk_mode} | {field: given for field, given in accounts.items() if given}
    body |= {"livekitAgentName": livekit_name} if livekit_name else {}
    try:
        read = AgentIn().load(body | ({"metadata": read_json(metadata)} if metadata else {}))
    except ValidationError as error:
        raise usage_error(error) from error
    except InvalidTextError as error:
        raise click.UsageError(f"--metadata {error}") from error
    livekit, given = read.pop("livekit_agent_name", None), read.pop("agent_metadata", {})
    made = wiring().agents.create(read.pop("name"), livekit, given, **read, origin=origin())
    if is_json:
        print_json(made, AgentOut())
        return
    print_line(made.id)
    print_line(f"Provision a number for it: {command_line(f'provision {made.id} NUMBER')}", err=True)


@agents.command("delete")
@agent_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@user_command
def delete(agent: str, yes: bool, is_json: bool) -> None:
    """Delete an agent that has no number."""
    found = find_agent(agent)
    if not yes:
        confirm(f"Delete {found.name} ({found.id})?")
    wiring().agents.delete(found.id, origin=origin())
    if is_json:
        print_json({"id": str(found.id), "deleted": True})
    else:
        print_line(f"Deleted {found.name} ({found.id}).")
