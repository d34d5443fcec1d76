"""How a person names things: an agent by id or name, an operation by id, a number in E.164."""

import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from app.api.fields import WHOLE_NUMBER
from app.cli.context import wiring
from app.cli.output import failure
from app.db import queries
from app.db.models import Agent, Operation
from app.domain.errors import agent_not_found, operation_not_found
from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import InvalidTextError, visible_line

_BEGINNING = re.compile(r"[0-9a-f]{8,31}", re.IGNORECASE)
"""The beginning of an id, without its dashes."""

SHOWN = 5
"""Rows named where a name is ambiguous."""

Row = TypeVar("Row", Agent, Operation)


class PhoneNumber(click.ParamType[str]):
    """A number in E.164, refused at the command line like any wrong argument."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the number unchanged."""
        try:
            return parse_e164(value)
        except InvalidNumberError as error:
            self.fail(f"{value!r} {error}.", param, ctx)


class WholeNumber(click.IntRange):
    """An integer in plain digits; click's own also takes blanks, `_`, `+` and the digits of every script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            self.fail(f"{value!r} is not a whole number.", param, ctx)
        return int(super().convert(value, param, ctx))


def agent_named(text: str) -> Agent:
    """Return the agent with this id, name, or unambiguous beginning of an id."""
    if row_id := _id(text):
        return wiring().agents.get(row_id)
    try:
        visible_line(text)
    except InvalidTextError as error:
        raise agent_not_found(text) from error
    with wiring().sessions() as session:
        found = queries.agents_named(session, text, SHOWN + 1)
        found = found or _beginning(text, lambda low, high: queries.agents_between(session, low, high, SHOWN + 1))
    return _only(found, agent_not_found(text), f"agents called {text!r}")


def operation_named(text: str) -> uuid.UUID:
    """Return the id of the operation with this id, or unambiguous beginning of one."""
    if row_id := _id(text):
        return row_id
    with wiring().sessions() as session:
        found = _beginning(text, lambda low, high: queries.operations_between(session, low, high, SHOWN + 1))
    return _only(found, operation_not_found(text), f"operations {text}…").id


def _id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _beginning(text: str, look: Callable[[uuid.UUID, uuid.UUID], Sequence[Row]]) -> Sequence[Row]:
    digits = text.replace("-", "")
    if not _BEGINNING.fullmatch(digits):
        return ()
    return look(uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f")))


def _only(found: Sequence[Row], missing: Exception, what: str) -> Row:
    if not found:
        raise missing
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise failure(f"There are several {what}: give the id ({ids}).")
    return found[0]
