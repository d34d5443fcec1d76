"""`call`: a test call to a number, and what became of it."""

import sys
import time
from typing import Any

import click
from rich.text import Text

from app.cli.client import client
from app.cli.context import EXIT_FAILED, EXIT_OK, Row, exactly_one, find_agent, json_option, not_found, user_command
from app.cli.output import BAD, GOOD, WARNING, command_error, print_json, print_line, print_pairs, progress_console
from app.domain.calls import CallVerdict
from app.domain.errors import ErrorCode, RefusedError
from app.domain.numbers import InvalidNumberError, parse_e164

LONGEST_S = 120.0
"""Seconds for which the command waits for a worker to place the call and to hang up."""

POLL_S = 0.5
"""Seconds between two looks at it."""

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
    accepted = client().post(f"/api/agents/{agent['id']}/test-calls")
    place = f"/api/agents/{agent['id']}/test-calls/{accepted['testCallId']}"
    if not wait:
        print_json(client().get(place)) if is_json else print_line(accepted["testCallId"])
        return
    with progress_console().status(f"Calling {agent['phoneNumber']}"):
        ended = _wait_for(place)
    if ended["verdict"] is None:
        raise command_error("No worker has placed the call: check that the worker `cleanup` is running.")
    if is_json:
        print_json(ended)
    else:
        _show(ended)
    sys.exit(EXIT_OK if ended["verdict"] == CallVerdict.ANSWERED else EXIT_FAILED)


def _wait_for(place: str) -> Row:
    """Return the call once it is over, or as it is after `LONGEST_S`."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        call = dict(client().get(place))
        if call["finishedAt"] or time.monotonic() > deadline:
            return call
        time.sleep(POLL_S)


def _find(text: str) -> Row:
    try:
        number = parse_e164(text)
    except InvalidNumberError:
        return find_agent(text)
    missing = not_found(RefusedError(ErrorCode.AGENT_HAS_NO_PHONE, f"No agent has the number {number}."))
    return exactly_one(client().get("/api/agents", phoneNumber=number)["items"], missing, f"agents with {number}")


def _show(ended: Row) -> None:
    verdict = CallVerdict(ended["verdict"])
    room = ended["room"] or {}
    print_pairs(
        (
            ("Verdict", Text(verdict.value, _COLOURS.get(verdict, BAD))),
            ("Ended at", ended["hop"]),
            ("SIP status", str(ended["sipStatus"] or "")),
            ("Rang after", _seconds(ended["ringS"])),
            ("Answered after", _seconds(ended["answerS"])),
            ("Room", room.get("name")),
            ("LiveKit trunk", room.get("trunkId")),
            ("Dispatch rule", room.get("ruleId")),
            ("Agents", ", ".join(room.get("agents") or ())),
        )
    )
    print_line(ended["detail"] or "")


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.2f} s"
