"""`trunks`: which Twilio trunks there are, and how many more numbers fit."""

import click
from flask.cli import AppGroup

from app.cli.agents import limit_option
from app.cli.context import json_option, user_command, wiring
from app.cli.output import coloured, format_time, print_json, print_line, print_table
from app.domain.operations import TrunkMode, TrunkState
from app.numbers.inventory import UNKNOWN_ROOM
from app.views.trunk_schemas import TrunkPageOut
from app.web.context import web_services

trunks = AppGroup("trunks", help="The Twilio trunks that numbers share, and those of single agents.")


@trunks.command("list")
@click.option("--mode", type=click.Choice([mode.value for mode in TrunkMode]), help="Only trunks of this kind.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in TrunkState]),
    help="Only trunks in this state; without it, all but those that are gone.",
)
@limit_option
@json_option
@user_command
def list_trunks(mode: str | None, state: str | None, limit: int, is_json: bool) -> None:
    """List the trunks, newest first, and say how many more numbers fit."""
    room = wiring().headroom.now()
    page = web_services().trunk_reader.trunks(
        limit=limit, mode=TrunkMode(mode) if mode else None, state=TrunkState(state) if state else None
    )
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor, "headroom": room}, TrunkPageOut())
        return
    rows = [
        (
            one.twilio_trunk_sid or "-",
            one.mode.value,
            coloured(one.state),
            f"{one.members:,} of {one.capacity:,}",
            coloured(one.health.state),
            format_time(one.created_at),
            str(one.agent_id or ""),
        )
        for one in page.items
    ]
    if rows:
        print_table(("Twilio trunk", "mode", "state", "numbers", "health", "created (UTC)", "agent"), rows)
    if page.next_cursor:
        print_line(f"There are more: use --limit {limit * 2}", err=True)
    print_line(room.summary if room else UNKNOWN_ROOM)
