"""The account's numbers as one process has last listed them, shared by the steps of its bulks.

To look a number up costs a request, and so does a list of 1,000. The operations of a bulk ask here: how old the
list may be depends on what is asked, and where it is too old, or shows too little, the number is to be read by itself.
So nothing is ever believed absent because it is not in a list, and an account whose list takes longer to read than it
would last is read number by number, as by single operations.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from app.domain.errors import WAITING_CODES
from app.path.observed import CarrierNumber
from app.providers.base import Carrier
from app.providers.errors import ProviderError
from app.providers.twilio_records import PAGE_SIZE

log = structlog.get_logger(__name__)

FOUND_WITHIN_S = 60.0
"""Seconds that a list may be old when a number is looked up. What it says against a number is read once more."""

ROUTED_WITHIN_S = 2.0
"""Seconds for each page that a list may be old when its routing is believed: at ten numbers a second, the list of an
account of one page is read for every twentieth number, and so is each page of a larger one."""

MOST_PAGES = int(FOUND_WITHIN_S / ROUTED_WITHIN_S)
"""Pages above which no list is used: it would be too old for everything by the time it is read."""

ASKED_AFTER_FAILURE = 100
"""Questions after a list that failed until the next: numbers are read by themselves meanwhile, as ever."""


@dataclass(frozen=True)
class _Listed:
    """One list: when its reading began, its pages, and the numbers by text and by sid."""

    began_at: float = -math.inf
    pages: int = 0
    by_text: Mapping[str, CarrierNumber] = field(default_factory=dict)
    by_sid: Mapping[str, CarrierNumber] = field(default_factory=dict)


class NumberPages:
    """The list; safe to share between threads, of which one reads at a time, and those who need it wait.

    A refresh is worth its requests once as many questions were asked since the last one as the list has pages. Where
    the provider takes no more requests for now, that `TransientError` is raised to all who wait; after any other
    failure of a list they read their numbers by themselves. `clock` counts monotonic seconds.
    """

    def __init__(self, carrier: Carrier, clock: Callable[[], float] = time.monotonic) -> None:
        self._carrier = carrier
        self._clock = clock
        self._lock = threading.Lock()
        self._listed = _Listed()
        self._asked = 0
        self._reading: Future[_Listed | None] | None = None

    def find(self, e164: str, give_up_at: float) -> CarrierNumber | None:
        """Return the number with this text as a list of the last minute shows it; None: look it up by itself.

        `give_up_at` is the time on the clock until which another thread's list is waited for.
        """
        listed = self._young(lambda _: FOUND_WITHIN_S, give_up_at)
        return listed.by_text.get(e164) if listed else None

    def get(self, number_sid: str, give_up_at: float) -> CarrierNumber | None:
        """Return the number as a list of a moment ago (`ROUTED_WITHIN_S`) shows it; None: read it by itself."""
        listed = self._young(lambda pages: ROUTED_WITHIN_S * pages, give_up_at)
        return listed.by_sid.get(number_sid) if listed else None

    def _young(self, lasts_s: Callable[[int], float], give_up_at: float) -> _Listed | None:
        """Return a list that is not older than `lasts_s(pages)` seconds, read now if it is worth it; else None."""

        def is_young(listed: _Listed) -> bool:
            return self._clock() - listed.began_at <= lasts_s(listed.pages)

        with self._lock:
            self._asked += 1
            listed, reading = self._listed, self._reading
            if is_young(listed):
                return listed
            is_reader = reading is None and self._asked >= listed.pages and listed.pages <= MOST_PAGES
            if is_reader:
                reading = self._reading = Future()
        if reading is None:
            return None
        if is_reader:
            self._read(reading)
        try:
            found = reading.result(max(give_up_at - self._clock(), 0))
        except TimeoutError:
            return None
        return found if found and is_young(found) else None

    def _read(self, reading: "Future[_Listed | None]") -> None:
        """Read the list for all who wait for it; they get its error too."""
        began_at = self._clock()
        listed, asked, failure = None, 0, None
        try:
            # What cannot be read is left out, and so looked up by itself.
            listed = _as_listed(began_at, self._carrier.list_numbers([]))
        except ProviderError as error:
            if error.code in WAITING_CODES:
                failure = error
            else:
                log.warning("number_list_failed", code=error.code, detail=error.detail)
                asked = -ASKED_AFTER_FAILURE
        finally:
            with self._lock:
                self._reading = None
                self._listed = listed or self._listed
                self._asked = asked
            if failure is None:
                reading.set_result(listed)
            else:
                reading.set_exception(failure)


def _as_listed(began_at: float, numbers: list[CarrierNumber]) -> _Listed:
    texts = Counter(number.phone_number for number in numbers)
    return _Listed(
        began_at,
        max(1, math.ceil(len(numbers) / PAGE_SIZE)),
        # Which of two is meant only a look-up can say.
        {number.phone_number: number for number in numbers if texts[number.phone_number] == 1},
        {number.sid: number for number in numbers},
    )
