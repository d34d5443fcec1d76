"""`call`: a test call to a number, and what became of it."""

import sys
from datetime import timedelta

import click
from rich.text import Text

from app.cli.context import EXIT_FAILED, EXIT_OK, find_agent, json_option, origin, user_command, wiring
from app.cli.output import BAD, GOOD, WARNING, command_error, print_json, print_line, print_pairs, progress_console
from app.db import queries
from app.db.models import Agent, TestCall
from app.domain.calls import CallVerdict
from app.domain.errors import ErrorCode, RefusedError
from app.domain.numbers import InvalidNumberError, parse_e164
from app.views.call_schemas import TestCallOut

LONGEST = timedelta(minutes=2)
"""How long the command waits for a worker to place the call and to hang up."""

_COLOURS = {CallVerdict.ANSWERED: GOOD, CallVerdict.BLOCKED: WARNING}


@click.command("call")
@click.argument("number")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the verdict.")
@json_option
@user_command
def call(number: str, wait: bool, is_json: bool) -> None:
    """Call NUMBER as Twilio would, and say what becomes of the call.

    NUMBER is a number, as +15145551234, or the agent that has it. A worker places the call, and hangs up as soon as it
    is answered. Exit code 0: an agent answered; 1: none did.
    """
    agent = _find(number)
    placed = wiring().calls.request(agent.id, origin=origin())
    if not wait:
        print_json(placed, TestCallOut()) if is_json else print_line(placed.id)
        return
    with progress_console().status(f"Calling {placed.phone_number}"):
        ended = wiring().calls.wait(agent.id, placed.id, LONGEST)
    if ended.verdict is None:
        raise command_error("No worker has placed the call: check that the worker `cleanup` is running.")
    if is_json:
        print_json(ended, TestCallOut())
    else:
        _show(ended)
    sys.exit(EXIT_OK if ended.verdict is CallVerdict.ANSWERED else EXIT_FAILED)


def _find(text: str) -> Agent:
    try:
        number = parse_e164(text)
    except InvalidNumberError:
        return find_agent(text)
    with wiring().sessions() as session:
        found = queries.agent_with_number(session, number)
    if found is None:
        raise RefusedError(ErrorCode.AGENT_HAS_NO_PHONE, f"No agent has the number {number}.")
    return found


def _show(ended: TestCall) -> None:
    verdict = ended.verdict or CallVerdict.FAILED
    room = ended.room or {}
    print_pairs(
        (
            ("Verdict", Text(verdict.value, _COLOURS.get(verdict, BAD))),
            ("Ended at", ended.hop),
            ("SIP status", str(ended.sip_status or "")),
            ("Rang after", _seconds(ended.ring_s)),
            ("Answered after", _seconds(ended.answer_s)),
            ("Room", room.get("name")),
            ("LiveKit trunk", room.get("trunk_id")),
            ("Dispatch rule", room.get("rule_id")),
            ("Agents", ", ".join(room.get("agents") or ())),
        )
    )
    print_line(ended.detail or "")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
