"""`webhooks`: who is told; they are made and changed by the API and the console."""

from flask.cli import AppGroup
from rich.text import Text

from app.api.webhook_schemas import WebhookList
from app.cli.context import as_json, for_people, wiring
from app.cli.output import print_json, print_table, short, tell

webhooks = AppGroup("webhooks", help="Webhooks: list.")


@webhooks.command("list")
@as_json
@for_people
def list_webhooks(is_json: bool) -> None:
    """List every endpoint, the oldest first; never a secret."""
    found = wiring().webhooks.all()
    if is_json:
        print_json({"items": found}, WebhookList())
        return
    if not found:
        tell("There are none: POST /api/webhooks makes one (docs/webhooks.md).", err=True)
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
