"""`workspaces`: the teams of the installation, and which accounts their agents use by default."""

import uuid

import click

from app.cli.agents import limit_option
from app.cli.client import client
from app.cli.context import Row, command_line, json_option, not_found, operator_command
from app.cli.output import confirm, format_time, print_json, print_line, print_table
from app.domain.errors import workspace_not_found

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
@operator_command
def list_workspaces(limit: int, is_json: bool) -> None:
    """List workspaces, newest first."""
    items, last = client().pages("/api/workspaces", limit)
    if is_json:
        print_json({**last, "items": items})
        return
    rows = [(one["slug"], one["name"], format_time(one["createdAt"]), one["id"]) for one in items]
    print_table(("slug", "name", "created (UTC)", "id"), rows)
    if last["nextCursor"]:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


def _named(slug: str) -> Row:
    """Return the workspace that is called so."""
    for one in client().pages("/api/workspaces", None)[0]:
        if one["slug"] == slug:
            return one
    raise not_found(workspace_not_found(slug))


@workspaces.command("show")
@slug_argument
@json_option
@operator_command
def show(slug: str, is_json: bool) -> None:
    """Show one workspace, with the accounts that its agents use by default."""
    _show(_named(slug), is_json=is_json)


@workspaces.command("create")
@slug_argument
@click.option("--name", help="What people call it.  [default: SLUG]")
@account_option
@project_option
@json_option
@operator_command
def create(
    slug: str, name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None, is_json: bool
) -> None:
    """Create a workspace called SLUG in headers and commands."""
    made = client().post("/api/workspaces", {"slug": slug, **_given(name or slug, carrier_account, voice_project)})
    if is_json:
        print_json(made)
        return
    print_line(made["id"])
    print_line(f"Make a key for it: {command_line(f'keys create NAME --workspace {slug}')}", err=True)


@workspaces.command("change")
@slug_argument
@click.option("--name", help="What people call it.")
@account_option
@project_option
@json_option
@operator_command
def change(
    slug: str, name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None, is_json: bool
) -> None:
    """Change the name or the default accounts; agents that exist keep theirs."""
    given = _given(name, carrier_account, voice_project)
    if not given:
        raise click.UsageError("Nothing to change: give --name, --carrier-account or --voice-project.")
    changed = client().request("PATCH", f"/api/workspaces/{_named(slug)['id']}", body=given)
    _show(changed.body, is_json=is_json)


@workspaces.command("delete")
@slug_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@operator_command
def delete(slug: str, yes: bool, is_json: bool) -> None:
    """Delete a workspace that nothing is in any more."""
    found = _named(slug)
    if not yes:
        confirm(f"Delete {found['name']} ({found['slug']})?")
    client().request("DELETE", f"/api/workspaces/{found['id']}")
    if is_json:
        print_json({"id": found["id"], "deleted": True})
    else:
        print_line(f"Deleted {found['name']} ({found['slug']}).")


def _show(workspace: Row, *, is_json: bool) -> None:
    if is_json:
        print_json(workspace)
        return
    print_line(f"{workspace['name']} ({workspace['slug']}, {workspace['id']})")
    print_line(f"carrier account {workspace['carrierAccountId']}, voice project {workspace['voiceProjectId']}")


def _given(name: str | None, carrier_account: uuid.UUID | None, voice_project: uuid.UUID | None) -> dict[str, str]:
    """Return the options that were given, as a body of the API has them."""
    found = {"name": name, "carrierAccountId": carrier_account, "voiceProjectId": voice_project}
    return {field: str(value) for field, value in found.items() if value is not None}
