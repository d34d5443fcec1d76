"""`workspaces`: the teams of the installation, and which accounts their agents use by default."""

import uuid

import click
from marshmallow import ValidationError

from app.cli.agents import limit_option
from app.cli.context import command_line, installation_command, json_option, origin, usage_error, wiring
from app.cli.output import confirm, format_time, print_json, print_line, print_table
from app.db.models import Workspace
from app.views.reader import cut
from app.views.team_schemas import WorkspaceChangeIn, WorkspaceIn, WorkspaceOut, WorkspacePage

workspaces = click.Group("workspaces", help="Workspaces: list, show, create, change, delete.")

slug_argument = click.argument("slug")
account_option = click.option(
    "--carrier-account", type=click.UUID, help="Id of the carrier account of agents that name no other."
)
project_option = click.option(
    "--voice-project", type=click.UUID, help="Id of the voice project of agents that name no other."
)


@workspaces.command("list")
@limit_option
@json_option
@installation_command
def list_workspaces(limit: int, is_json: bool) -> None:
    """List workspaces, newest first."""
    page = cut(wiring().workspaces.page(limit=limit + 1), limit)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, WorkspacePage())
        return
    rows = [(one.slug, one.name, format_time(one.created_at), str(one.id)) for one in page.items]
    print_table(("slug", "name", "created (UTC)", "id"), rows)
    if page.next_cursor:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


@workspaces.command("show")
@slug_argument
@json_option
@installation_command
def show(slug: str, is_json: bool) -> None:
    """Show one workspace, with the accounts that its agents use by default."""
    _show(wiring().workspaces.named(slug), is_json=is_json)


@workspaces.command("create")
@slug_argument
@click.option("--name", help="What people call it.  [default: SLUG]")
@account_option
@project_option
@json_option
@installation_command
def create(
    slug: str, name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None, is_json: bool
) -> None:
    """Create a workspace called SLUG in headers and commands."""
    given = _given(name or slug, carrier_account, voice_project)
    try:
        read = WorkspaceIn().load({"slug": slug, **given})
    except ValidationError as error:
        raise usage_error(error) from error
    made = wiring().workspaces.create(**read, origin=origin())
    if is_json:
        print_json(made, WorkspaceOut())
        return
    print_line(made.id)
    print_line(f"Make a key for it: {command_line(f'keys create NAME --workspace {slug}')}", err=True)


@workspaces.command("change")
@slug_argument
@click.option("--name", help="What people call it.")
@account_option
@project_option
@json_option
@installation_command
def change(
    slug: str, name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None, is_json: bool
) -> None:
    """Change the name or the default accounts; agents that exist keep theirs."""
    given = _given(name, carrier_account, voice_project)
    if not given:
        raise click.UsageError("Nothing to change: give --name, --carrier-account or --voice-project.")
    try:
        read = WorkspaceChangeIn().load(given)
    except ValidationError as error:
        raise usage_error(error) from error
    found = wiring().workspaces.named(slug)
    _show(wiring().workspaces.change(found.id, read, origin=origin()), is_json=is_json)


@workspaces.command("delete")
@slug_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@installation_command
def delete(slug: str, yes: bool, is_json: bool) -> None:
    """Delete a workspace that nothing is in any more."""
    found = wiring().workspaces.named(slug)
    if not yes:
        confirm(f"Delete {found.name} ({found.slug})?")
    wiring().workspaces.delete(found.id, origin=origin())
    if is_json:
        print_json({"id": str(found.id), "deleted": True})
    else:
        print_line(f"Deleted {found.name} ({found.slug}).")


def _show(workspace: Workspace, *, is_json: bool) -> None:
    if is_json:
        print_json(workspace, WorkspaceOut())
        return
    print_line(f"{workspace.name} ({workspace.slug}, {workspace.id})")
    print_line(f"carrier account {workspace.carrier_account_id}, voice project {workspace.voice_project_id}")


def _given(name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None) -> dict[str, str]:
    """Return the options that were given, as a body of the API has them."""
    found = {"name": name, "carrierAccountId": carrier_account, "voiceProjectId": voice_project}
    return {field: str(value) for field, value in found.items() if value is not None}
