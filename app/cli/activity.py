"""`activity`: who asked for what, and from where."""

import uuid
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.agents import limited
from app.cli.context import as_json, for_people, wiring
from app.cli.output import moment, print_json, print_table, short, tell
from app.db.activity import Activity, list_activity


@click.command("activity")
@click.option("--about", type=click.UUID, help="Only what was done to this agent, operation, bulk, webhook or key.")
@limited
@as_json
@with_appcontext
@for_people
def activity(about: uuid.UUID | None, limit: int, is_json: bool) -> None:
    """List who changed what, signed in or was refused, the newest first."""
    with wiring().sessions() as session:
        rows = list_activity(session, subject_id=about, limit=limit)
    if is_json:
        print_json({"items": [_as_json(row) for row in rows]})
        return
    if not rows:
        tell("There is none.", err=True)
        return
    columns = ("time (UTC)", "who", "by", "from", "did", "to", "request")
    print_table(columns, [_as_cells(row) for row in rows])


def _as_json(row: Activity) -> dict[str, Any]:
    ids = {"subjectId": row.subject_id, "keyId": row.key_id}
    return {
        "at": row.at.isoformat(),
        "action": row.action,
        "channel": row.channel,
        "actor": row.actor,
        "address": row.address,
        "requestId": row.request_id,
        **{name: str(found) if found else None for name, found in ids.items()},
        "detail": row.detail,
    }


def _as_cells(row: Activity) -> tuple[str, ...]:
    who = row.actor or "a stranger"
    return (
        moment(row.at),
        who,
        row.channel,
        row.address or "",
        row.action,
        short(row.subject_id) or str(row.detail.get("reason", "")),
        row.request_id or "",
    )
