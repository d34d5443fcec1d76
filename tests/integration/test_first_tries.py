"""The common case in one statement writes what the transactions behind it would have written, row for row."""

import re
import uuid
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import inspect

from app.domain.statuses import OperationStatus
from app.saga.first_tries import FirstTries
from app.saga.steps import STEPS
from tests.support.saga import VOICE_URL, Saga

OTHER_NUMBER = "+14155550199"

_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


def plain(value: Any) -> Any:
    """Leave out what two runs never share: moments, ids and numbers."""
    return "a moment" if isinstance(value, datetime) else _IDS.sub("#", str(value))


def columns(row: Any) -> dict[str, Any]:
    return {column.key: plain(getattr(row, column.key)) for column in inspect(row).mapper.column_attrs}


def written(saga: Saga, operation_id: uuid.UUID) -> list[Any]:
    found = saga.look(operation_id)
    rows = [found.operation, found.agent, *found.rows.values(), *found.events]
    return [columns(row) for row in rows] + sorted(map(str, map(columns, found.ledger.values())))


@pytest.fixture
def by_transactions(monkeypatch: pytest.MonkeyPatch, saga: Saga) -> Saga:
    """The same saga, with every claim and result left to the transactions."""
    slow = replace(saga, runner=replace(saga.runner))
    slow.runner.__dict__["_first_tries"] = Undecided(saga.sessions, slow.runner.tools)
    return slow


class Undecided(FirstTries):
    """Decides nothing."""

    def claim(self, *_: object) -> None:
        return None

    def keep(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("step", [step.name for step in STEPS])
def test_each_step_leaves_the_same_rows_either_way(
    saga: Saga, by_transactions: Saga, number_sid: str, step: str
) -> None:
    saga.world.carrier.own_number(OTHER_NUMBER, voice_url=VOICE_URL)
    fast, slow = saga.provision(), by_transactions.provision(e164=OTHER_NUMBER)
    saga.advance(fast, until=step)
    by_transactions.advance(slow, until=step)
    assert written(saga, fast) == written(saga, slow)
    is_last = step == STEPS[-1].name
    assert (saga.look(fast).operation.status is OperationStatus.SUCCEEDED) is is_last
