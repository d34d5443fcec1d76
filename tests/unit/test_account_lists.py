"""The list that the requests of a process share: how old, who reads it, who waits for how long, and what failed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.domain.errors import ErrorCode
from app.numbers.account_lists import FRESH_S, PAUSE_AFTER_FAILURE_S, AccountList
from app.providers.errors import TransientError
from tests.support.providers import WorkerDiedError
from tests.support.saga import ManualClock

PATIENCE_S = 30.0
"""Seconds that a test waits for what takes milliseconds."""


class Source:
    """What is listed: counts its readings, and does in them what a test plans."""

    def __init__(self) -> None:
        self.readings = 0
        self.at_once = 0
        self.most_at_once = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def read(self) -> int:
        with self._lock:
            self.readings += 1
            number = self.readings
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.meanwhile()
        finally:
            with self._lock:
                self.at_once -= 1
        return number


class Gate:
    """Holds a reading until the test opens it."""

    def __init__(self, source: Source) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        source.meanwhile = self._hold

    def _hold(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def listed(source: Source, clock: ManualClock) -> AccountList[int]:
    return AccountList("test", source.read, clock=clock)


def patient() -> float:
    return PATIENCE_S


def nobody() -> float:
    raise AssertionError("there is nothing to wait for")


def test_a_list_serves_for_a_minute_after_its_reading(listed: AccountList[int], clock: ManualClock) -> None:
    assert listed.get(patient) == 1
    clock.now += FRESH_S - 0.1
    assert listed.get(nobody) == 1
    clock.now += 0.1
    assert listed.get(patient) == 2


def test_who_asks_for_a_new_one_gets_one(listed: AccountList[int]) -> None:
    assert listed.get(patient) == 1
    assert listed.get(patient, is_new=True) == 2
    assert listed.get(nobody) == 2


def test_a_reading_that_began_before_is_not_new(listed: AccountList[int], source: Source) -> None:
    gate = Gate(source)
    with ThreadPoolExecutor(2) as threads:
        early = threads.submit(listed.get, patient)
        assert gate.reached.wait(PATIENCE_S)
        waits = threading.Event()

        def takes_its_time() -> float:
            waits.set()
            return PATIENCE_S

        new = threads.submit(listed.get, takes_its_time, is_new=True)
        assert waits.wait(PATIENCE_S)
        gate.opened.set()
        assert (early.result(), new.result()) == (1, 2)


def test_one_thread_reads_for_all(listed: AccountList[int], source: Source) -> None:
    gate, began = Gate(source), threading.Barrier(51)

    def ask() -> int:
        began.wait(PATIENCE_S)
        return listed.get(patient)

    with ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(ask) for _ in range(50)]
        began.wait(PATIENCE_S)
        assert gate.reached.wait(PATIENCE_S)
        gate.opened.set()
        assert {one.result() for one in asked} == {1}
    assert (source.readings, source.most_at_once) == (1, 1)


def test_many_who_want_a_new_one_share_readings_one_after_the_other(source: Source) -> None:
    listed = AccountList("test", source.read)
    source.meanwhile = lambda: time.sleep(0.01)
    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(lambda _: listed.get(patient, is_new=True), range(100)))
    assert source.most_at_once == 1
    assert source.readings <= len(found) / 2


def test_who_waits_too_long_leaves_and_the_next_gets_what_comes(listed: AccountList[int], source: Source) -> None:
    gate = Gate(source)
    with pytest.raises(TimeoutError):
        listed.get(lambda: 0.01)
    (reader,) = [one for one in threading.enumerate() if one.name == "test"]
    gate.opened.set()
    reader.join(PATIENCE_S)
    assert (listed.get(nobody), source.readings) == (1, 1)


def test_nobody_waits_longer_than_the_list_allows_from_its_beginning(source: Source, clock: ManualClock) -> None:
    listed, gate = AccountList("test", source.read, waits_s=0.01, clock=clock), Gate(source)
    with pytest.raises(TimeoutError):
        listed.get(patient)
    clock.now += 1
    with pytest.raises(TimeoutError):
        listed.get(patient)
    gate.opened.set()


@pytest.mark.parametrize(
    "error", [TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down."), ValueError("a defect"), WorkerDiedError()]
)
def test_a_failure_is_told_to_all_and_the_provider_left_alone_for_a_while(
    listed: AccountList[int], source: Source, clock: ManualClock, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    source.meanwhile = fail
    with pytest.raises(type(error)):
        listed.get(patient)
    source.meanwhile = lambda: None
    with pytest.raises(type(error)):
        listed.get(nobody)
    clock.now += PAUSE_AFTER_FAILURE_S
    assert (listed.get(patient), source.readings) == (2, 2)


def test_a_failure_takes_nothing_from_who_has_a_fresh_list(listed: AccountList[int], source: Source) -> None:
    def fail() -> None:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down.")

    assert listed.get(patient) == 1
    source.meanwhile = fail
    with pytest.raises(TransientError):
        listed.get(patient, is_new=True)
    assert listed.get(nobody) == 1


def test_who_may_not_wait_begins_nothing(listed: AccountList[int], source: Source) -> None:
    def refuse() -> float:
        raise TransientError(ErrorCode.PROVIDER_BUSY, "No room.")

    with pytest.raises(TransientError):
        listed.get(refuse)
    assert source.readings == 0


def test_what_is_forgotten_is_read_again(listed: AccountList[int]) -> None:
    assert listed.get(patient) == 1
    assert listed.held is not None
    listed.forget()
    assert listed.held is None
    assert listed.get(patient) == 2
