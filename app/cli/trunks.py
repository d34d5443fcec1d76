"""`trunks`: which Twilio trunks there are, and how many more numbers fit."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.agents import limit_option
from app.cli.bulk import finish_bulk, report_option, wait_option
from app.cli.context import installation_command, json_option, origin, wiring
from app.cli.output import coloured, format_time, print_json, print_line, print_table
from app.domain.operations import TrunkMode, TrunkState
from app.numbers.headroom import UNKNOWN_ROOM
from app.views.trunk_schemas import ConsolidationOut, TrunkPageOut
from app.views.trunks import TrunkReader
from app.wiring import profile_of

if TYPE_CHECKING:
    from app.bulk.consolidation import ConsolidationPlan

trunks = click.Group("trunks", help="The Twilio trunks that numbers share, and those of single agents.")


@trunks.command("list")
@click.option("--mode", type=click.Choice([mode.value for mode in TrunkMode]), help="Only trunks of this kind.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in TrunkState]),
    help="Only trunks in this state; without it, all but those that are gone.",
)
@limit_option
@json_option
@installation_command
def list_trunks(mode: str | None, state: str | None, limit: int, is_json: bool) -> None:
    """List the trunks, newest first, and say how many more numbers fit."""
    room = wiring().headroom.of()
    settings = wiring().settings
    trunk_reader = TrunkReader(
        wiring().sessions, settings.instance_name, profile_of(settings), settings.trunk_max_numbers
    )
    page = trunk_reader.trunks(
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


@trunks.command("consolidate")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; read-only.")
@wait_option
@report_option
@json_option
@installation_command
def consolidate(dry_run: bool, wait: bool, report: Path | None, is_json: bool) -> None:
    """Move every number from a trunk of its own to shared ones; they ring throughout.

    Exit codes as for provision import; 0 as well where nothing is to be done.
    """
    if dry_run:
        _print_plan(wiring().consolidation.plan(), is_json=is_json)
        return
    plan, bulk = wiring().consolidation.start(origin=origin())
    if bulk is None:
        _print_plan(plan, is_json=is_json)
        return
    print_line(plan.message, err=is_json)
    finish_bulk(bulk, wait=wait, report=report, is_json=is_json)


def _print_plan(plan: "ConsolidationPlan", *, is_json: bool) -> None:
    if is_json:
        print_json(ConsolidationOut().dump(plan))
        return
    print_line(plan.message)
    print_line(
        f"Shared trunks: {plan.pool_trunks:,}, with room for {plan.free_places:,} numbers; {plan.trunks_needed:,} to "
        f"be added. The Twilio account may have {plan.trunk_limit:,} trunks."
    )
    for left in plan.left_out:
        print_line(f"{left.count:,} stay where they are: {left.detail}")
