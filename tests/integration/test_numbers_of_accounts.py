"""How many lists of numbers a process keeps."""

import uuid

import pytest

from app.accounts.clients import Toolboxes
from app.numbers import inventory
from app.numbers.account_lists import FRESH_S
from app.numbers.inventory import InventoryService
from tests.support.saga import Saga
from tests.support.toolboxes import add_accounts

LIST = "carrier.list_numbers"


@pytest.fixture
def accounts(saga: Saga) -> list[uuid.UUID]:
    """Four accounts with three numbers each."""
    made = []
    for count in range(4):
        ids, world = add_accounts(saga.sessions, saga.worlds, f"team-{count}")
        for n in range(3):
            world.carrier.own_number(f"+1438555{count}00{n}")
        made.append(ids.carrier_account_id)
    return made


class Lists:
    """Asks for lists, each a second later, and says which had to be read."""

    def __init__(self, saga: Saga, toolboxes: Toolboxes) -> None:
        self.saga = saga
        self.service = InventoryService(saga.sessions, toolboxes, saga.clock)

    def was_read(self, account_id: uuid.UUID) -> bool:
        self.saga.clock.now += 1
        before = self.service._lists[account_id].held if account_id in self.service._lists else None
        assert len(self.service.of_account(account_id).numbers) == 3
        return self.service._lists[account_id].held is not before

    def held(self) -> int:
        return sum(one.held is not None for one in self.service._lists.values())


def test_the_oldest_lists_go_where_too_many_numbers_are_kept(
    saga: Saga, accounts: list[uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MAX_HELD", 6)
    lists = Lists(saga, saga.toolboxes)
    assert [lists.was_read(one) for one in accounts[:3]] == [True] * 3
    assert lists.held() == 3
    assert lists.was_read(accounts[3])
    assert lists.held() == 3
    assert [lists.was_read(one) for one in (accounts[1], accounts[2], accounts[3])] == [False] * 3
    assert lists.was_read(accounts[0])


def test_a_list_larger_than_that_is_used_all_the_same(
    saga: Saga, accounts: list[uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MAX_HELD", 2)
    lists = Lists(saga, saga.toolboxes)
    assert [lists.was_read(accounts[0]) for _ in range(3)] == [True, False, False]
    assert lists.was_read(accounts[1])
    assert lists.held() == 1


def test_a_list_that_is_too_old_is_kept_no_longer(saga: Saga, accounts: list[uuid.UUID]) -> None:
    lists = Lists(saga, saga.toolboxes)
    lists.was_read(accounts[0])
    saga.clock.now += FRESH_S
    lists.was_read(accounts[1])
    assert lists.held() == 1
