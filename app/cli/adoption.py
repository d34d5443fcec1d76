"""The command `adopt`: the path that a number rings by already becomes an agent's."""

import sys

import click

from app.cli.client import client
from app.cli.context import EXIT_OK, PhoneNumber, Row, find_agent, json_option, user_command
from app.cli.output import confirm, print_json, print_line, print_table, progress_console
from app.cli.phones import agent_argument, finish_operation, wait_option
from app.domain.operations import STEP_BY_NAME


@click.command("adopt")
@agent_argument
@click.argument("number", type=PhoneNumber())
@click.option("--dry-run", is_flag=True, help="Only show the path, what would be marked, and what changes; read-only.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@wait_option
@json_option
@user_command
def adopt(agent: str, number: str, dry_run: bool, yes: bool, wait: bool, is_json: bool) -> None:
    """Make the path that NUMBER rings by already AGENT's; callers get what they got before.

    Only marks are written. Shows what it would do, and asks, before it does.

    Exit code 0: the path was adopted, or was queued with --no-wait; 1: refused, or failed and given back; 3: it needs
    attention; 130: interrupted.
    """
    found = find_agent(agent)
    path, body = f"/api/agents/{found['id']}/adopt-phone", {"phoneNumber": number}
    if dry_run or not yes:
        with progress_console().status("Reading from both providers"):
            plan = client().post(path, body, dryRun=True)
        if is_json and dry_run:
            print_json(plan)
        elif not is_json:
            _print_plan(plan)
        if dry_run:
            sys.exit(EXIT_OK)
        confirm(f"Adopt the path of {number} for {found['name']}?")
    accepted = client().post(path, body)
    done = f"The path of {number} is {found['name']}'s."
    finish_operation(accepted["operationId"], wait=wait, is_json=is_json, done=done)


def _print_plan(plan: Row) -> None:
    print_table(
        ("object", "id", "name", ""),
        [
            (
                STEP_BY_NAME[one["step"]].label,
                one["id"],
                one["name"],
                f"shared: {one['sharedWith']}" if one["sharedWith"] else _mark(one["marked"]),
            )
            for one in plan["path"]
        ],
    )
    after = plan["agent"]
    for name in after["changes"]:
        print_line(f"The agent's {name} becomes {after[name]}.")
    if not after["changes"]:
        print_line("The agent stays as it is.")


def _mark(is_marked: bool) -> str:
    return "gets Trunkline's mark" if is_marked else ""
