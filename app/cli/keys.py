"""`keys`, `credentials` and `webhooks`: API keys, stored secrets and webhook endpoints."""

from datetime import datetime
from typing import Any

import click
from flask.cli import AppGroup
from rich.text import Text

from app.access import KeyService, Scope
from app.cli.context import command_line, json_option, origin, user_command, wiring
from app.cli.output import command_error, print_json, print_line, print_table, short_id
from app.db.access import ApiKey
from app.sealing import SealError
from app.views.webhook_schemas import WebhookList

keys = AppGroup("keys", help="API keys: create, list, revoke.")


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
        print_json({"id": str(row.id), "name": row.name, "scopes": row.scopes, "key": text})
        return
    print_line(text)
    print_line("Save it now: only its hash is stored, and it cannot be shown again.", err=True)


@keys.command("list")
@json_option
@user_command
def list_keys(is_json: bool) -> None:
    """List every key, revoked ones too; never the keys themselves."""
    rows = KeyService(wiring().sessions).all()
    if is_json:
        print_json([_key_as_json(row) for row in rows])
        return
    for row in rows:
        state = (
            f"revoked {_format_minute(row.revoked_at)}"
            if row.revoked_at
            else f"used {_format_minute(row.last_used_at)}"
        )
        print_line(f"{row.id}  {row.name}  {','.join(row.scopes)}  created {_format_minute(row.created_at)}  {state}")
    if not rows:
        print_line(f"No keys: create one with {command_line('keys create NAME')}", err=True)


@keys.command("revoke")
@click.argument("id_or_name")
@json_option
@user_command
def revoke_key(id_or_name: str, is_json: bool) -> None:
    """Revoke the key with this id or name; it stops working at once."""
    row = KeyService(wiring().sessions).revoke(id_or_name, origin=origin())
    if is_json:
        print_json(_key_as_json(row))
        return
    print_line(f"Revoked {row.name} ({row.id}).")


def _key_as_json(row: ApiKey) -> dict[str, Any]:
    times = {"createdAt": row.created_at, "lastUsedAt": row.last_used_at, "revokedAt": row.revoked_at}
    iso = {name: time.isoformat() if time else None for name, time in times.items()}
    return {"id": str(row.id), "name": row.name, "scopes": row.scopes, **iso}


def _format_minute(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "never"


credentials = AppGroup("credentials", help="Stored secrets: seal them, or wrap them by a new key.")


@credentials.command("rewrap")
@json_option
@user_command
def rewrap_credentials(is_json: bool) -> None:
    """Seal every stored secret by the first of CREDENTIAL_KEYS; then the other keys are not needed any more."""
    if not wiring().settings.sealing_keys:
        raise command_error("CREDENTIAL_KEYS is not set. Make a key with: openssl rand -base64 32")
    try:
        count = wiring().webhooks.rewrap_secrets()
    except SealError as error:
        raise command_error(f"{error} Nothing was changed.") from error
    if is_json:
        print_json({"changed": count})
        return
    print_line(f"{count} secrets sealed by the first key." if count else "Every stored secret is sealed by it already.")


webhooks = AppGroup("webhooks", help="Webhooks: list.")


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
