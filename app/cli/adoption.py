"""The command `adopt`: the path that a number rings by already becomes an agent's."""

import sys

import click

from app.cli.context import EXIT_OK, PhoneNumber, find_agent, json_option, origin, user_command, wiring
from app.cli.output import confirm, print_json, print_line, print_table, progress_console
from app.cli.phones import agent_argument, finish_operation, wait_option
from app.domain.options import options_json
from app.numbers.adoption import Adoption
from app.views.adoptions import AdoptionPlanOut, adopted_links, adoption_body, agent_changes


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
    if dry_run or not yes:
        with progress_console().status("Reading from both providers"):
            adoption = wiring().adoption.preview(found.id, number)
        if is_json and dry_run:
            print_json(adoption_body(adoption), AdoptionPlanOut())
        elif not is_json:
            _print_adoption(adoption)
        if dry_run:
            sys.exit(EXIT_OK)
        confirm(f"Adopt the path of {number} for {found.name}?")
    operation = wiring().adoption.adopt(found.id, number, origin=origin())
    finish_operation(operation, wait=wait, is_json=is_json, done=f"The path of {number} is {found.name}'s.")


def _print_adoption(adoption: Adoption) -> None:
    spec = adoption.chain.spec
    print_table(
        ("object", "id", "name", ""),
        [
            (one.label, one.id, one.name, f"shared: {one.shared_with}" if one.shared_with else _mark(one.is_marked))
            for one in adopted_links(adoption)
        ],
    )
    after = {
        "name": adoption.name,
        "livekitAgentName": spec.agent_name,
        "metadata": dict(adoption.chain.metadata),
        "options": options_json(spec.options),
    }
    changes = agent_changes(adoption)
    for name in changes:
        print_line(f"The agent's {name} becomes {after[name]}.")
    if not changes:
        print_line("The agent stays as it is.")


def _mark(is_marked: bool) -> str:
    return "gets Trunkline's mark" if is_marked else ""
