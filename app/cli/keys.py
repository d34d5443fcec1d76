"""`keys` and `webhooks`: who may come in, and who is told."""

from datetime import datetime
from typing import Any

import click
from flask.cli import AppGroup
from rich.text import Text

from app.access import KeyService, Scope
from app.cli.context import as_json, for_people, hint, origin, wiring
from app.cli.output import print_json, print_table, short, tell
from app.db.access import ApiKey
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
@as_json
@for_people
def create_key(name: str, scopes: tuple[str, ...], is_json: bool) -> None:
    """Create a key called NAME and print it; it is not shown again."""
    row, text = KeyService(wiring().sessions).create(name, [Scope(scope) for scope in scopes], origin=origin())
    if is_json:
        print_json({"id": str(row.id), "name": row.name, "scopes": row.scopes, "key": text})
        return
    tell(text)
    tell("Save it now: only its hash is stored, and it cannot be shown again.", err=True)


@keys.command("list")
@as_json
@for_people
def list_keys(is_json: bool) -> None:
    """List every key, revoked ones too; never the keys themselves."""
    rows = KeyService(wiring().sessions).all()
    if is_json:
        print_json([_key_as_json(row) for row in rows])
        return
    for row in rows:
        state = f"revoked {_moment(row.revoked_at)}" if row.revoked_at else f"used {_moment(row.last_used_at)}"
        tell(f"{row.id}  {row.name}  {','.join(row.scopes)}  created {_moment(row.created_at)}  {state}")
    if not rows:
        tell(f"No keys: create one with {hint('keys create NAME')}", err=True)


@keys.command("revoke")
@click.argument("id_or_name")
@as_json
@for_people
def revoke_key(id_or_name: str, is_json: bool) -> None:
    """Revoke the key with this id or name; it stops working at once."""
    row = KeyService(wiring().sessions).revoke(id_or_name, origin=origin())
    if is_json:
        print_json(_key_as_json(row))
        return
    tell(f"Revoked {row.name} ({row.id}).")


def _key_as_json(row: ApiKey) -> dict[str, Any]:
    times = {"createdAt": row.created_at, "lastUsedAt": row.last_used_at, "revokedAt": row.revoked_at}
    iso = {name: moment.isoformat() if moment else None for name, moment in times.items()}
    return {"id": str(row.id), "name": row.name, "scopes": row.scopes, **iso}


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


webhooks = AppGroup("webhooks", help="Webhooks: list.")


@webhooks.command("list")
@as_json
@for_people
def list_webhooks(is_json: bool) -> None:
    """List every endpoint, oldest first; never a secret."""
    found = wiring().webhooks.all()
    if is_json:
        print_json({"items": found}, WebhookList())
        return
    if not found:
        tell("No webhooks: create one with POST /api/webhooks (docs/webhooks.md).", err=True)
        return
    rows = [
        (
            one.url,
            ", ".join(one.events or ("all",)),
            Text("disabled", "red") if one.disabled_at else Text("enabled", "green"),
            short(one.id),
        )
        for one in found
    ]
    print_table(("url", "events", "state", "id"), rows)
