"""What may happen on a hostile day, drawn by weight from one seed each.

Drawn by us, not by Hypothesis: its own draws repeat one another so much that a day has one kind of edit and few faults.
"""

import random
from collections.abc import Callable
from typing import Any

from app.domain.steps import STEPS
from tests.maintenance.hostile_day import A_WHILE, NAMES, NUMBERS, THE_BUDGET, Event
from tests.maintenance.outsider import EDITS
from tests.support.mishaps import Mishap

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
"""Those that take no real time; what a hanging or late call does, `Mishap` plays without waiting."""

LOSSES = (Mishap.DIES_AFTER, Mishap.LANDS_LATE, Mishap.DIES_AND_LANDS_LATE)
"""The mishaps after which nobody knows what has been made."""

Draw = Callable[[random.Random], Event]
Weighted = tuple[tuple[int, Draw], ...]


def draw(seed: int) -> Event:
    """Return one event; the same for the same seed."""
    return _one_of(HAPPENS, random.Random(seed))  # noqa: S311 - repeatable on purpose


def draw_loss(seed: int) -> Event:
    """Return one event of a day on which every request loses an answer."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    loss = ("strike_a_worker", dice.choice(LOSSES), dice.randrange(6), ("work",))
    return ("in_trouble", loss, _one_of(ASKED, dice))


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


ASKED: Weighted = (
    (6, _one("provision", _agent, lambda dice: dice.choice(NUMBERS), _yes_or_no)),
    (5, _one("deprovision", _agent)),
    (3, _one("repair", _agent, _yes_or_no)),
    (4, _one("move", _agent, _agent)),
    (1, _one("verify", _agent)),
    (3, _one("retry", _some)),
    (2, _one("audit", _yes_or_no)),
)
"""What clients ask for."""

DELIVERED: Weighted = (
    (4, _one("work")),
    (2, _one("work_a_little", _some, lambda dice: dice.randint(1, len(STEPS)))),
    (1, _one("work_out_of_order", _some, lambda dice: dice.sample([step.name for step in STEPS], len(STEPS)))),
    (1, _one("lose", _some)),
    (1, _one("deliver_twice", _some)),
    (4, _one("pass_time", lambda dice: dice.choice([A_WHILE, A_WHILE, A_WHILE, THE_BUDGET]))),
)
"""What becomes of messages."""

TROUBLE: Weighted = (
    (
        1,
        _one(
            "break_a_call",
            lambda dice: dice.choice(CALLS),
            lambda dice: dice.choice(FAULTS),
            lambda dice: dice.randint(1, 4),
        ),
    ),
    (
        1,
        _one(
            "strike_a_worker",
            lambda dice: dice.choice(list(Mishap)),
            lambda dice: dice.randrange(12),
            lambda dice: _one_of(ASKED, dice),
        ),
    ),
)
"""What goes wrong at the next provider calls."""

HAPPENS: Weighted = (
    (4, lambda dice: _one_of(ASKED, dice)),
    (4, lambda dice: _one_of(DELIVERED, dice)),
    (2, _one("edit", lambda dice: dice.choice(sorted(EDITS)), _agent)),
    (6, _one("in_trouble", lambda dice: _one_of(TROUBLE, dice), lambda dice: _one_of(ASKED, dice))),
)
