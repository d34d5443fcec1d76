"""How the adapter reaches Twilio: one SDK client per process, and a context that lets only our errors out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twilio.base.exceptions import TwilioException
from twilio.rest import Client

from app.providers.calls import CallWatch
from app.providers.failures import MALFORMED, CallFailedError, Outcome, translate
from app.providers.twilio_errors import TWILIO_TABLE
from app.providers.twilio_http import OPERATION, TwilioHttp
from app.providers.twilio_records import Json, checked_sid

_GONE = 404

MAX_PAGES = 1000
"""Pages of one list: a million records. What goes on for longer never ends."""


class TwilioConnection:
    """The SDK's resources for one account; safe to share between threads.

    The sockets belong to the process: after a fork the child opens its own.
    """

    def __init__(
        self,
        account_sid: str,
        username: str,
        password: str,
        timeout_s: float,
        base_url: str | None,
        watch: CallWatch | None = None,
    ) -> None:
        self.account_sid = checked_sid(account_sid, "AC")
        self._username = checked_sid(username, "SK" if username.startswith("SK") else "AC")
        self._password = password
        self._timeout_s = timeout_s
        self._base_url = base_url
        self._watch = watch
        # By process id. A child keeps its parent's entry and never uses it: closing it would disturb shared sockets.
        self._clients: dict[int, Any] = {}

    def numbers(self) -> Any:
        """Return the SDK's IncomingPhoneNumbers."""
        return self._client().api.v2010.account.incoming_phone_numbers

    def trunks(self) -> Any:
        """Return the SDK's Trunks."""
        return self._client().trunking.v1.trunks

    @contextmanager
    def call(self, operation: str, *, is_write: bool = False) -> Iterator[None]:
        """Let nothing but our three errors out of the block, whose requests count as `operation`."""
        token = OPERATION.set(operation)
        try:
            yield
        except CallFailedError as failure:
            raise translate(TWILIO_TABLE, "Twilio", operation, failure, is_write=is_write) from None
        except (TwilioException, *MALFORMED):
            unreadable = CallFailedError(Outcome.UNREADABLE)
            raise translate(TWILIO_TABLE, "Twilio", operation, unreadable, is_write=is_write) from None
        finally:
            OPERATION.reset(token)

    def close(self) -> None:
        """Close this process's connections."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.http_client.close()

    def _client(self) -> Any:
        """Return this process's client; `setdefault` keeps one where two threads come first at once."""
        client = self._clients.get(os.getpid())
        if client is None:
            fresh = Client(
                self._username,
                self._password,
                self.account_sid,
                http_client=TwilioHttp(self._timeout_s, self._base_url, self._watch),
                # An empty mapping would make the SDK read TWILIO_REGION and TWILIO_EDGE of the process.
                environment={"_": ""},
            )
            client = self._clients.setdefault(os.getpid(), fresh)
        return client


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """Leave the block quietly on 404; stands inside `call`."""
    try:
        yield
    except CallFailedError as failure:
        if failure.status != _GONE:
            raise


def records_of(page: Any) -> Iterator[Json]:
    """Yield every record from this page of the SDK's on, as JSON has it; stands inside `call`."""
    seen: set[str] = set()
    while page is not None:
        page.get_instance = _as_it_came
        yield from page
        following = page.next_page_url
        if following in seen or len(seen) == MAX_PAGES:
            raise CallFailedError(Outcome.UNREADABLE)  # pages that lead in a circle, or nowhere
        seen.add(following)
        page = page.next_page()


def _as_it_came(record: Json) -> Json:
    return record
