"""`numbers`: what the Twilio account owns, and which of it is free."""

from typing import Any

import click
from flask.cli import AppGroup

from app.cli.context import as_json, for_people, hint, wiring
from app.cli.output import coloured, print_json, print_table, progress_console, short, tell
from app.provisioning.inventory import NumberUse, OwnedNumber

HELP = {
    NumberUse.TRUNK: "on another trunk: --takeover moves it",
    NumberUse.APPLICATION: "on an application: --takeover moves it",
    NumberUse.NO_VOICE: "takes no voice calls",
}
"""What a use means for whoever looks for a number."""

numbers = AppGroup("numbers", help="The numbers of the Twilio account.")


@numbers.command("list")
@click.option("--free", "only_free", is_flag=True, help="Only those that can be had as they are.")
@as_json
@for_people
def list_numbers(only_free: bool, is_json: bool) -> None:
    """List what the Twilio account owns, and what each number is used for."""
    with progress_console().status("Asking Twilio"):
        owned = wiring().inventory.numbers()
    shown = [one for one in owned if not only_free or one.use is NumberUse.FREE]
    if is_json:
        print_json([_as_json(one) for one in shown])
        return
    if not owned:
        tell("The account owns no number: buy one in the Twilio console.", err=True)
        return
    print_table(
        ("number", "use", "", "Twilio sid"),
        [(one.phone_number, coloured(one.use), _told(one), one.sid) for one in shown],
    )
    free = sum(one.use is NumberUse.FREE for one in owned)
    tell(f"{len(owned)} numbers, {free} free. Connect one: {hint('provision AGENT NUMBER')}", err=True)


def _told(one: OwnedNumber) -> str:
    return f"{one.agent_name} ({short(one.agent_id)})" if one.agent_id else HELP.get(one.use, "")


def _as_json(one: OwnedNumber) -> dict[str, Any]:
    agent = {"agentId": str(one.agent_id) if one.agent_id else None, "agentName": one.agent_name}
    return {"phoneNumber": one.phone_number, "sid": one.sid, "use": one.use.value, **agent}
