"""What happens to one request between its arrival and its answer: rate limit, faults, latency, the provider itself."""

import select
import time
from socket import MSG_DONTWAIT, MSG_PEEK, socket
from typing import Protocol

from app.sandbox import faults, livekit, twilio
from app.sandbox.exchange import LIVEKIT, TWILIO, Answer, Exchange
from app.sandbox.failures import failure, malformed, too_many
from app.sandbox.faults import Strike, Turn
from app.sandbox.request_log import Entry
from app.sandbox.state import Sandbox

GONE_POLL_S = 0.1
"""Seconds between two looks whether the client of a hung request is still there."""

BLOCKING = faults.REFUSALS | {faults.HANG, faults.SLOW, faults.HOLD_BEFORE}
"""Kinds that take their time before anything is done: in a burst the next request does not wait for them."""


class Provider(Protocol):
    """One side of the sandbox."""

    def answer(self, exchange: Exchange) -> Answer:
        """Apply and answer a request."""
        ...


class Pipeline:
    """Serves both providers' sides; `None` as an answer means: close the connection without a word."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._providers: dict[str, Provider] = {
            TWILIO: twilio.Twilio(sandbox),
            LIVEKIT: livekit.LiveKit(sandbox),
        }

    def serve(self, exchange: Exchange) -> Answer | None:
        """Serve a request that one of the providers recognised.

        A paused provider has not read it yet: rate limits and other faults meet it when the pause is over. It is
        carried out then, whether its client still waits or not; only a reset in between lets it drop.
        """
        entry, generation = self._sandbox.requests.arrive(exchange), self._sandbox.generation
        turn = self._sandbox.faults.stand_still(exchange)
        if turn:
            entry.fault = faults.PAUSE
        seats = self._sandbox.seats[exchange.provider]
        try:
            if not seats.take():
                answer: Answer | None = too_many(exchange.provider)
            else:
                try:
                    answer = self._admitted(exchange, entry, generation, turn)
                finally:
                    seats.leave()
        finally:
            if turn:
                turn.pass_on()
        entry.status = answer.status if answer else None
        exchange.socket = None
        return answer

    def _admitted(self, exchange: Exchange, entry: Entry, generation: int, turn: Turn | None) -> Answer | None:
        if not self._sandbox.buckets[exchange.provider].take():
            return too_many(exchange.provider)
        strike = self._sandbox.faults.strike(exchange)
        if strike is None:
            return self._apply(exchange, generation, turn)
        entry.fault = strike.kind
        exchange.hidden = strike.hidden(self._sandbox.store.written_at)
        if turn and strike.kind in BLOCKING:
            turn.pass_on()
        return self._struck(exchange, strike, generation, turn)

    def _struck(self, exchange: Exchange, strike: Strike, generation: int, turn: Turn | None) -> Answer | None:
        if strike.kind in faults.REFUSALS:
            time.sleep(self._sandbox.latency.seconds(exchange.provider))
            return failure(exchange.provider, strike)
        if strike.kind == faults.DROP_BEFORE:
            return None
        if strike.kind == faults.HANG:
            self._hang(exchange.socket, strike)
            return None
        if strike.kind == faults.SLOW:
            self._sandbox.faults.wait(strike.fault, strike.seconds)
        elif strike.kind == faults.HOLD_BEFORE:
            self._sandbox.faults.wait(strike.fault)
        answer = self._apply(exchange, generation, turn)
        if strike.kind == faults.HOLD_AFTER:
            self._sandbox.faults.wait(strike.fault)
        if strike.kind == faults.APPLY_THEN_DROP or answer is None:
            return None
        return malformed(exchange.provider, answer) if strike.kind == faults.MALFORMED else answer

    def _apply(self, exchange: Exchange, generation: int, turn: Turn | None) -> Answer | None:
        """Carry a request out; half of the latency passes before, unless the request lands with a burst."""
        pause_s = self._sandbox.latency.seconds(exchange.provider) / 2
        if pause_s and not turn:
            time.sleep(pause_s)
        with self._sandbox.store.transaction():
            if generation != self._sandbox.generation:
                return None
            answer = self._providers[exchange.provider].answer(exchange)
        if turn:
            turn.pass_on()
        if pause_s:
            time.sleep(pause_s)
        return answer

    def _hang(self, client: socket | None, strike: Strike) -> None:
        """Stay silent until the time is up, the fault is withdrawn or the client is gone."""
        ends_at = time.monotonic() + strike.seconds
        event = self._sandbox.faults.enter(strike.fault)
        while time.monotonic() < ends_at and not event.wait(GONE_POLL_S) and not _is_gone(client):
            pass
        self._sandbox.faults.leave(strike.fault, event)


def _is_gone(client: socket | None) -> bool:
    if client is None:
        return False
    try:
        readable, _, _ = select.select([client], [], [], 0)
        return bool(readable) and client.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
    except (OSError, ValueError):
        return True
