"""`numbers`: the numbers of a Twilio account, and what each is used for."""

from collections import Counter

import click

from app.cli.accounts import find_account
from app.cli.context import WholeNumber, command_line, json_option, user_command, wiring
from app.cli.output import coloured, print_json, print_line, print_table, progress_console, short_id
from app.domain.workspaces import AccountKind
from app.numbers.inventory import FoundNumbers, NumberFilter, NumberUse, OwnedNumber
from app.views.number_schemas import NumberPageOut, number_page

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
    account_id = find_account(AccountKind.CARRIER, account).row.id if account else None
    wanted = NumberFilter(NumberUse(use) if use else None, search.strip())
    with progress_console().status("Reading from Twilio"):
        found = wiring().inventory.of_account(account_id, wanted, limit=limit)
    if is_json:
        print_json(number_page(found), NumberPageOut())
    else:
        _print_numbers(found, wanted)


def _print_numbers(found: FoundNumbers, wanted: NumberFilter) -> None:
    if found.numbers:
        rows = [
            (one.phone_number, coloured(one.use), _use_note(one), short_id(one.trunk_sid), one.sid)
            for one in found.numbers
        ]
        print_table(("number", "use", "", "Twilio trunk", "Twilio sid"), rows)
    elif wanted == NumberFilter():
        print_line("The account has no numbers: buy one in the Twilio console.", err=True)
        return
    if found.unreadable:
        print_line(f"Left out, since they cannot be read: {found.unreadable:,} records.", err=True)
    more = " There are more: use a higher --limit." if found.next_after else ""
    free = Counter(one.use for one in found.numbers)[NumberUse.FREE]
    connect = command_line("provision AGENT NUMBER")
    print_line(f"{len(found.numbers):,} numbers, {free:,} free.{more} Connect one: {connect}", err=True)


def _use_note(one: OwnedNumber) -> str:
    if one.agent_id:
        return f"{one.agent_name} ({short_id(one.agent_id)})"
    return USE_NOTES.get(one.use, "").format(voice_host=one.voice_host, application_sid=one.application_sid)
