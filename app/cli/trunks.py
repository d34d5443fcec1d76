"""`trunks`: which Twilio trunks there are, and how many more numbers fit."""

from pathlib import Path

import click

from app.cli.agents import limit_option
from app.cli.bulk import finish_bulk, report_option, wait_option
from app.cli.client import client
from app.cli.context import Row, json_option, operator_command
from app.cli.output import coloured, format_time, print_json, print_line, print_table
from app.domain.operations import UNKNOWN_ROOM, TrunkMode, TrunkState

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
@operator_command
def list_trunks(mode: str | None, state: str | None, limit: int, is_json: bool) -> None:
    """List the trunks, newest first, and say how many more numbers fit."""
    items, last = client().pages("/api/trunks", limit, mode=mode, state=state)
    if is_json:
        print_json({**last, "items": items})
        return
    rows = [
        (
            one["twilioTrunkSid"] or "-",
            one["mode"],
            coloured(one["state"]),
            f"{one['members']:,} of {one['capacity']:,}",
            coloured(one["health"]["state"]),
            format_time(one["createdAt"]),
            one["agentId"] or "",
        )
        for one in items
    ]
    if rows:
        print_table(("Twilio trunk", "mode", "state", "numbers", "health", "created (UTC)", "agent"), rows)
    if last["nextCursor"]:
        print_line(f"There are more: use --limit {limit * 2}", err=True)
    print_line(last["headroom"]["summary"] if last["headroom"] else UNKNOWN_ROOM)


@trunks.command("consolidate")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; read-only.")
@wait_option
@report_option
@json_option
@operator_command
def consolidate(dry_run: bool, wait: bool, report: Path | None, is_json: bool) -> None:
    """Move every number from a trunk of its own to shared ones; they ring throughout.

    Exit codes as for provision import; 0 as well where nothing is to be done.
    """
    plan = client().post("/api/trunks/consolidate", dryRun=True)
    if dry_run or not plan["agents"]:
        _print_plan(plan, is_json=is_json)
        return
    started = client().post("/api/trunks/consolidate")
    if "bulkId" not in started:
        _print_plan(started, is_json=is_json)
        return
    print_line(plan["message"], err=is_json)
    finish_bulk(started["bulkId"], wait=wait, report=report, is_json=is_json)


def _print_plan(plan: Row, *, is_json: bool) -> None:
    if is_json:
        print_json(plan)
        return
    print_line(plan["message"])
    print_line(
        f"Shared trunks: {plan['poolTrunks']:,}, with room for {plan['freePlaces']:,} numbers; "
        f"{plan['trunksNeeded']:,} to be added. The Twilio account may have {plan['trunkLimit']:,} trunks."
    )
    for left in plan["leftOut"]:
        print_line(f"{left['count']:,} stay where they are: {left['detail']}")
