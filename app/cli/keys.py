"""`keys`, `credentials` and `webhooks`: API keys, stored secrets and webhook endpoints."""

import click
from rich.text import Text

from app.access import KeyService, Scope
from app.cli.context import command_line, installation_command, json_option, origin, user_command, wiring
from app.cli.output import GOOD, command_error, format_time, print_json, print_line, print_table, short_id
from app.sealing import SealError
from app.views.team_schemas import KeyOut, KeySecretOut, workspace_slug
from app.views.webhook_schemas import WebhookList

keys = click.Group("keys", help="API keys: create, list, revoke.")


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=[Scope.READ.value, Scope.WRITE.value],
    show_default=True,
    help="What the key may do; repeatable. admin includes write, write includes read.",
)
@json_option
@user_command
def create_key(name: str, scopes: tuple[str, ...], is_json: bool) -> None:
    """Create a key called NAME and print it; it is not shown again."""
    row, text = KeyService(wiring().sessions).create(name, [Scope(scope) for scope in scopes], origin=origin())
    if is_json:
        print_json((row, text), KeySecretOut())
        return
    print_line(text)
    whose = (
        f"It sees the workspace {row.workspace.slug}"
        if row.workspace
        else "It is an operator's: it sees all workspaces"
    )
    print_line(f"Save it now: only its hash is stored, and it cannot be shown again. {whose}.", err=True)


@keys.command("list")
@json_option
@user_command
def list_keys(is_json: bool) -> None:
    """List every key, revoked ones too, with its workspace and last use; never the keys themselves."""
    rows = KeyService(wiring().sessions).all()
    if is_json:
        print_json(KeyOut(many=True).dump(rows))
        return
    if not rows:
        print_line(f"No keys: create one with {command_line('keys create NAME')}", err=True)
        return
    print_table(
        ("name", "workspace", "scopes", "created (UTC)", "last used (UTC)", "state", "id"),
        [
            (
                row.name,
                workspace_slug(row) or "all",
                ", ".join(row.scopes),
                format_time(row.created_at),
                format_time(row.last_used_at) or "never",
                Text(f"revoked {format_time(row.revoked_at)}", "dim") if row.revoked_at else Text("valid", GOOD),
                str(row.id),
            )
            for row in rows
        ],
    )


@keys.command("revoke")
@click.argument("id_or_name")
@json_option
@user_command
def revoke_key(id_or_name: str, is_json: bool) -> None:
    """Revoke the key with this id or name; it stops working at once."""
    service = KeyService(wiring().sessions)
    live = [row for row in service.all() if row.revoked_at is None and id_or_name in {str(row.id), row.name}]
    if not live:
        raise command_error(f"There is no valid key {id_or_name!r}; see `keys list`.")
    if len(live) > 1:
        ids = ", ".join(str(row.id) for row in live)
        raise command_error(f"{len(live)} valid keys are named {id_or_name!r}: revoke by id ({ids}).")
    row = service.revoke(live[0].id, origin=origin())
    if is_json:
        print_json(row, KeyOut())
        return
    print_line(f"Revoked {row.name} ({row.id}).")


credentials = click.Group("credentials", help="Stored secrets: seal them, or wrap them by a new key.")


@credentials.command("rewrap")
@json_option
@installation_command
def rewrap_credentials(is_json: bool) -> None:
    """Seal every stored secret by the first of CREDENTIAL_KEYS; then the other keys are not needed any more."""
    if not wiring().settings.sealing_keys:
        raise command_error("CREDENTIAL_KEYS is not set. Make a key with: openssl rand -base64 32")
    try:
        count = wiring().stored_secrets.rewrap()
    except SealError as error:
        raise command_error(f"{error} Nothing was changed.") from error
    if is_json:
        print_json({"changed": count})
        return
    print_line(f"{count} secrets sealed by the first key." if count else "Every stored secret is sealed by it already.")


webhooks = click.Group("webhooks", help="Webhooks: list.")


@webhooks.command("list")
@json_option
@user_command
def list_webhooks(is_json: bool) -> None:
    """List every endpoint, oldest first; never a secret."""
    found = wiring().webhooks.all()
    if is_json:
        print_json({"items": found}, WebhookList())
        return
    if not found:
        print_line("No webhooks: create one with POST /api/webhooks (docs/webhooks.md).", err=True)
        return
    rows = [
        (
            one.url,
            ", ".join(one.events or ("all",)),
            Text("disabled", "red") if one.disabled_at else Text("enabled", "green"),
            short_id(one.id),
        )
        for one in found
    ]
    print_table(("url", "events", "state", "id"), rows)
