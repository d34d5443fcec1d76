"""`verify` and `repair`: the path of one agent, read now and made right."""

import sys

import click
from flask.cli import with_appcontext
from rich.text import Text

from app.api.care_answers import verification_body
from app.api.care_schemas import VerifiedOut
from app.cli.context import as_json, for_people, hint, origin, wiring
from app.cli.exits import ATTENTION, DONE
from app.cli.output import print_json, progress_console, say, tell
from app.cli.phones import agent_argument, finish, waits
from app.cli.references import agent_named


@click.command("verify")
@agent_argument
@as_json
@with_appcontext
@for_people
def verify(agent: str, is_json: bool) -> None:
    """Read the path of AGENT at both providers.

    Exit code 0: it is as it was built; 3: it is not; 1: it has no number, or a provider could not be read.
    """
    found = agent_named(agent)
    with progress_console().status("Asking both providers"):
        body = verification_body(wiring().care.verify(found.id))
    if is_json:
        print_json(body, VerifiedOut())
    else:
        for check in body["checks"]:
            mark = Text("✓", "green") if check["ok"] else Text("✗", "red")
            say(mark, f"{check['name']:<22} {check['detail'] or ''}".rstrip())
        if not body["success"]:
            tell(f"Make it right: {hint(f'repair {found.id}')}", err=True)
    sys.exit(DONE if body["success"] else ATTENTION)


@click.command("repair")
@agent_argument
@click.option("--takeover", is_flag=True, help="Take the number back even from somebody else's trunk.")
@waits
@as_json
@with_appcontext
@for_people
def repair(agent: str, takeover: bool, wait: bool, is_json: bool) -> None:
    """Rebuild what is missing or changed for AGENT.

    The rest of its path is left alone.

    Exit code 0: it is as it was built; 1: refused or failed; 3: it needs attention.
    """
    found = agent_named(agent)
    with progress_console().status("Asking both providers"):
        operation = wiring().care.repair(found.id, takeover=takeover, origin=origin())
    if operation is not None:
        finish(operation, wait=wait, is_json=is_json, done="The path was repaired.")
    elif is_json:
        print_json({"success": True, "message": "All is well: nothing to repair."})
    else:
        tell("All is well: nothing to repair.")
