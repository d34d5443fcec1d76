"""`numbers`: the numbers of a Twilio account, and what each is used for."""

from collections import Counter

import click

from app.cli.accounts import find_account
from app.cli.client import client
from app.cli.context import Row, WholeNumber, command_line, json_option, user_command
from app.cli.output import coloured, print_json, print_line, print_table, progress_console, short_id
from app.domain.numbers import NumberUse
from app.domain.workspaces import AccountKind

USE_NOTES = {
    NumberUse.TRUNK: "on another trunk: adopt its path, or use --takeover",
    NumberUse.APPLICATION: "on application {application_sid}: use --takeover",
    NumberUse.NO_VOICE: "no voice capability",
    NumberUse.VOICE_URL: "callers reach {voice_host}",
}
"""Use -> what it means for connecting the number."""

numbers = click.Group("numbers", help="The numbers of a Twilio account.")


@numbers.command("list")
@click.option("--use", type=click.Choice([use.value for use in NumberUse]), help="Only numbers of this use.")
@click.option("--free", "use", flag_value=NumberUse.FREE.value, help="Only free numbers: --use free.")
@click.option(
    "--search",
    default="",
    metavar="TEXT",
    help="Only numbers with these digits, or whose agent's name has these words.",
)
@click.option("--limit", type=WholeNumber(1), help="Show the first N numbers; without it, all.")
@click.option("--account", help="Name or id of the carrier account; without it, the workspace's own.")
@json_option
@user_command
def list_numbers(use: str | None, search: str, limit: int | None, account: str | None, is_json: bool) -> None:
    """List the numbers of a Twilio account, and what each is used for."""
    account_id = find_account(AccountKind.CARRIER, account)["id"] if account else None
    wanted = {"use": use, "search": search.strip() or None}
    with progress_console().status("Reading from Twilio"):
        found, last = client().pages("/api/numbers", limit, **wanted, carrierAccountId=account_id)
    if is_json:
        print_json({**last, "items": found})
    else:
        _print_numbers(found, last, is_narrowed=any(wanted.values()))


def _print_numbers(found: list[Row], last: Row, *, is_narrowed: bool) -> None:
    if found:
        rows = [
            (one["phoneNumber"], coloured(one["use"]), _use_note(one), short_id(one["trunkSid"]), one["sid"])
            for one in found
        ]
        print_table(("number", "use", "", "Twilio trunk", "Twilio sid"), rows)
    elif not is_narrowed:
        print_line("The account has no numbers: buy one in the Twilio console.", err=True)
        return
    if last["unreadable"]:
        print_line(f"Left out, since they cannot be read: {last['unreadable']:,} records.", err=True)
    more = " There are more: use a higher --limit." if last["nextCursor"] else ""
    free = Counter(one["use"] for one in found)[NumberUse.FREE]
    connect = command_line("provision AGENT NUMBER")
    print_line(f"{len(found):,} numbers, {free:,} free.{more} Connect one: {connect}", err=True)


def _use_note(one: Row) -> str:
    if one["agentId"]:
        return f"{one['agentName']} ({short_id(one['agentId'])})"
    return USE_NOTES.get(one["use"], "").format(voice_host=one["voiceHost"], application_sid=one["applicationSid"])
