"""The events of a random day, each drawn by weight from a seed of its own.

Not drawn by Hypothesis: its draws repeat each other so much that a day has one kind of edit and few faults.
"""

import random
from collections.abc import Callable
from typing import Any

from app.domain.operations import STEPS
from tests.maintenance.console_edits import EDITS
from tests.maintenance.random_day import LONGEST_REST, NAMES, NUMBERS, RETRY_BUDGET, Event
from tests.support.fault_plan import WorkerFault

CALLS = (
    "twilio.list_numbers",
    "twilio.fetch_number",
    "twilio.update_number",
    "twilio.create_trunk",
    "twilio.list_trunks",
    "twilio.update_trunk",
    "twilio.delete_trunk",
    "twilio.list_trunk_numbers",
    "twilio.create_origination_url",
    "twilio.list_origination_urls",
    "twilio.update_origination_url",
    "twilio.delete_origination_url",
    "twilio.attach_number",
    "twilio.detach_number",
    "livekit.create_inbound_trunk",
    "livekit.list_inbound_trunks",
    "livekit.update_inbound_trunk",
    "livekit.delete_trunk",
    "livekit.create_dispatch_rule",
    "livekit.list_dispatch_rules",
    "livekit.update_dispatch_rule",
    "livekit.delete_dispatch_rule",
    "twilio.*",
    "livekit.*",
)

FAULTS = ("reject", "429", "500", "503_html", "drop_before", "apply_then_drop", "malformed")
"""Sandbox faults that take no real time; `WorkerFault` simulates hanging and late calls without waiting."""

LOST_RESPONSES = (WorkerFault.DIES_AFTER, WorkerFault.LANDS_LATE, WorkerFault.DIES_AND_LANDS_LATE)
"""The faults after which it is unknown what was created."""

Draw = Callable[[random.Random], Event]
Weighted = tuple[tuple[int, Draw], ...]


def draw_event(seed: int) -> Event:
    """Return one event; the same for the same seed."""
    return _one_of(EVENTS, random.Random(seed))  # noqa: S311 - repeatable on purpose


def draw_lost_response(seed: int) -> Event:
    """Return one event of a day on which every request loses a response."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    fault = ("schedule_worker_fault", dice.choice(LOST_RESPONSES), dice.randrange(6), ("run_messages",))
    return ("with_fault", fault, _one_of(REQUESTS, dice))


def _one_of(kinds: Weighted, dice: random.Random) -> Event:
    (kind,) = dice.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
    return kind(dice)


def _agent(dice: random.Random) -> int:
    return dice.randrange(len(NAMES))


def _one(name: str, *arguments: Callable[[random.Random], Any]) -> Draw:
    return lambda dice: (name, *(argument(dice) for argument in arguments))


def _some(dice: random.Random) -> int:
    return dice.randrange(8)


def _yes_or_no(dice: random.Random) -> bool:
    return dice.random() < 0.5


REQUESTS: Weighted = (
    (6, _one("provision", _agent, lambda dice: dice.choice(NUMBERS), _yes_or_no)),
    (5, _one("deprovision", _agent)),
    (3, _one("repair", _agent, _yes_or_no)),
    (4, _one("move", _agent, _agent)),
    (1, _one("verify", _agent)),
    (3, _one("retry", _some)),
    (2, _one("audit", _yes_or_no)),
)
"""Requests of clients."""

MESSAGE_EVENTS: Weighted = (
    (4, _one("run_messages")),
    (2, _one("run_part_of_message", _some, lambda dice: dice.randint(1, len(STEPS)))),
    (1, _one("run_steps_out_of_order", _some, lambda dice: dice.sample([step.name for step in STEPS], len(STEPS)))),
    (1, _one("lose_message", _some)),
    (1, _one("duplicate_message", _some)),
    (4, _one("pass_time", lambda dice: dice.choice([LONGEST_REST, LONGEST_REST, LONGEST_REST, RETRY_BUDGET]))),
)
"""Events of messages and workers."""

FAULT_EVENTS: Weighted = (
    (
        1,
        _one(
            "fail_provider_call",
            lambda dice: dice.choice(CALLS),
            lambda dice: dice.choice(FAULTS),
            lambda dice: dice.randint(1, 4),
        ),
    ),
    (
        1,
        _one(
            "schedule_worker_fault",
            lambda dice: dice.choice(list(WorkerFault)),
            lambda dice: dice.randrange(12),
            lambda dice: _one_of(REQUESTS, dice),
        ),
    ),
)
"""Faults of the next provider calls."""

EVENTS: Weighted = (
    (4, lambda dice: _one_of(REQUESTS, dice)),
    (4, lambda dice: _one_of(MESSAGE_EVENTS, dice)),
    (2, _one("edit", lambda dice: dice.choice(sorted(EDITS)), _agent)),
    (6, _one("with_fault", lambda dice: _one_of(FAULT_EVENTS, dice), lambda dice: _one_of(REQUESTS, dice))),
)
