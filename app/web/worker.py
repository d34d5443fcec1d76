"""A gunicorn worker that slow clients cannot block: threads get complete requests and return complete responses.

gunicorn's own threads read requests and write responses with blocking sockets, and its event loop waits for clients to
close: a few deliberately slow clients stop it. Here the event loop does all reading and writing, never waits for a
single client, and gives every client a deadline.
"""

import errno
import selectors
import socket
import time
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from app.web.connections import MAX_BUFFERED_BODY_BYTES, BodyTooLongError, Connection, State

SILENCE_S = 10.0
"""Seconds without a byte from a client that sends or receives; also the limit for a whole request head."""

TRANSFER_S = 120.0
"""Seconds that one body or one response may take: 4 MiB at 35 kB/s."""

LINGER_S = 2.0
"""Seconds for a client to close its side after the last response; also until idle ones are closed when the worker
stops. gunicorn uses the same numbers."""

TICK_S = 0.5
"""Seconds between two checks of the deadlines."""

MAX_LARGE = 16
"""Large bodies that may be read at the same time: 80 MiB of a process's memory."""

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Bytes of responses that clients have not received yet; beyond it the slowest client is dropped."""

READ_BYTES = 64 * 1024
"""Bytes read from a client at a time."""


class BufferingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's threaded worker with an event loop that does all reading and writing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Files are buffered like every response: sendfile(2) would block a thread on the client.
        self.cfg.set("sendfile", False)
        self._waiting: set[Connection] = set()
        """The connections that the event loop waits for: all that no thread is handling."""
        self._next_check_at = 0.0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse settings that need blocking sockets."""
        super().check_config(cfg, log)
        if cfg.is_ssl or cfg.http2_cleartext != "off":
            raise RuntimeError("This worker speaks plain HTTP/1.1: TLS and HTTP/2 belong to the proxy in front of it.")

    def run(self) -> None:
        """Serve until stopped; then finish open requests within gunicorn's graceful timeout."""
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        while self.alive and self.is_parent_alive():
            self.set_accept_enabled(self.nr_conns < self.worker_connections or bool(self._waiting))
            self._run_loop_once()
        self.set_accept_enabled(False)
        for conn in [one for one in self._waiting if one.state is State.IDLE]:
            conn.enter(State.IDLE, LINGER_S)
        give_up_at = time.monotonic() + self.cfg.graceful_timeout
        while self.nr_conns and time.monotonic() < give_up_at:
            self._run_loop_once()
        self.tpool.shutdown(wait=False)
        self.poller.close()
        self.method_queue.close()
        for listener in self.sockets:
            listener.close()

    def accept(self, listener: Any) -> None:
        """Accept a client; if there is no room, drop the one that has been idle longest."""
        if self.nr_conns >= self.worker_connections:
            self._drop_idlest(self._waiting)
        try:
            raw, client = listener.accept()
        except OSError as error:
            # The client has gone (man 2 accept: "treat them like EAGAIN"), or the process is out of descriptors.
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                self._drop_idlest(self._waiting)
            return
        raw.setblocking(False)
        self.nr_conns += 1
        conn = Connection(raw, client, listener.getsockname())
        conn.enter(State.IDLE, SILENCE_S)
        self._read(conn)

    def _run_loop_once(self) -> None:
        self.notify()
        self.wait_for_and_dispatch_events(TICK_S)
        now = time.monotonic()
        if now < self._next_check_at:
            return
        self._next_check_at = now + TICK_S
        for conn in [one for one in self._waiting if one.deadline <= now]:
            if conn.state is State.READING:
                self.log.info("A client was silent within a request and was cut off.")
            if conn.state is State.READING and conn.has_head:
                self._advance(conn, at_end=True)
            else:
                self._drop(conn)

    def _wait(self, conn: Connection, events: int) -> None:
        """Let the event loop wait for events of the connection."""
        if conn in self._waiting:
            self.poller.modify(conn.raw, events, partial(self._ready, conn))
        else:
            self._waiting.add(conn)
            self.poller.register(conn.raw, events, partial(self._ready, conn))

    def _release(self, conn: Connection) -> None:
        if conn in self._waiting:
            self._waiting.remove(conn)
            self.poller.unregister(conn.raw)

    def _drop(self, conn: Connection) -> None:
        self._release(conn)
        self.nr_conns -= 1
        util.close(conn.raw)

    def _drop_idlest(self, connections: Collection[Connection]) -> None:
        """Drop the connection that has been inactive longest; the newest client goes last."""
        if connections:
            self._drop(min(connections, key=lambda one: one.since))

    def _ready(self, conn: Connection, _raw: Any) -> None:
        """Continue with a connection that is ready for reading or writing."""
        if conn not in self._waiting:
            # It was dropped earlier in this loop.
            return
        if conn.state is State.SENDING:
            conn.note_progress()
            self._send(conn)
        elif conn.state is State.CLOSING:
            self._drain(conn)
        else:
            self._read(conn)

    def _read(self, conn: Connection) -> None:
        try:
            data = conn.raw.recv(READ_BYTES)
        except BlockingIOError:
            self._wait(conn, selectors.EVENT_READ)
            return
        except OSError:
            data = b""
        if not data:
            # It may have closed only its own side, and wait for a response.
            if conn.has_head:
                self._advance(conn, at_end=True)
            else:
                self._drop(conn)
            return
        conn.received += data
        if conn.state is State.IDLE:
            conn.enter(State.READING, SILENCE_S)
        else:
            conn.note_progress()
        self._advance(conn)

    def _advance(self, conn: Connection, *, at_end: bool = False) -> None:
        """Hand the next request to a thread once it is complete."""
        had_head = conn.has_head
        try:
            request = conn.take(self.cfg, at_end=at_end)
        except BodyTooLongError:
            self._refuse(conn, 413, "Content Too Large", f"The body has more than {MAX_BUFFERED_BODY_BYTES} bytes.")
            return
        except OSError:
            # The client is gone.
            self._drop(conn)
            return
        except Exception as error:  # noqa: BLE001 - gunicorn maps its own errors to responses
            self._release(conn)
            self.handle_error(None, conn.sock, conn.client, error)
            self._finish(conn, keep=False)
            return
        if request is not None:
            self._release(conn)
            future = self.tpool.submit(self._serve, conn, request)
            future.add_done_callback(partial(self.method_queue.defer, self._served, conn))
            return
        self._wait(conn, selectors.EVENT_READ)
        if conn.has_head and not had_head:
            conn.enter(State.READING, TRANSFER_S, SILENCE_S)
        if conn.is_large and sum(one.is_large for one in self._waiting) > MAX_LARGE:
            self._refuse(conn, 503, "Service Unavailable", "Too many large requests at once: try again.")

    def _refuse(self, conn: Connection, status: int, reason: str, message: str) -> None:
        """Respond instead of the application, and close."""
        self._release(conn)
        with suppress(OSError):
            util.write_error(conn.sock, status, reason, message)
        self._finish(conn, keep=False)

    def _serve(self, conn: Connection, request: Any) -> bool:
        """Run the application in a thread; say whether another request may follow."""
        try:
            # In its own context, so that log fields of one request never appear in lines of another.
            keep = Context().run(self.handle_request, request, conn)
            conn.sock.flush()
        except StopIteration:
            # gunicorn raises it for a response that was aborted.
            return False
        except OSError as error:
            self.log.debug("A client went away: %s", error)
            return False
        except Exception as error:  # noqa: BLE001 - the outermost edge; it logs
            self.handle_error(request, conn.sock, conn.client, error)
            return False
        return bool(keep) and not request.body.failed

    def _served(self, conn: Connection, future: "Future[bool]") -> None:
        self._finish(conn, keep=future.exception() is None and future.result())

    def _finish(self, conn: Connection, *, keep: bool) -> None:
        """Send the rest of a response; then keep the connection open or close it."""
        conn.keep = keep
        conn.enter(State.SENDING, TRANSFER_S, SILENCE_S)
        self._send(conn)

    def _send(self, conn: Connection) -> None:
        try:
            is_sent = conn.sock.flush()
        except OSError:
            self._drop(conn)
            return
        if not is_sent:
            self._wait(conn, selectors.EVENT_WRITE)
            slow = [one for one in self._waiting if one.sock.unsent]
            if sum(len(one.sock.unsent) for one in slow) > MAX_UNSENT_BYTES:
                self._drop_idlest(slow)
        elif conn.keep:
            conn.enter(State.READING, SILENCE_S) if conn.received else conn.enter(State.IDLE, self._idle_s())
            self._advance(conn)
        else:
            with suppress(OSError):
                conn.raw.shutdown(socket.SHUT_WR)
            conn.enter(State.CLOSING, LINGER_S)
            self._wait(conn, selectors.EVENT_READ)

    def _idle_s(self) -> float:
        return float(self.cfg.keepalive) if self.alive else LINGER_S

    def _drain(self, conn: Connection) -> None:
        """Read until the client closes: unread bytes would make the kernel reset the connection before the response."""
        try:
            if conn.raw.recv(READ_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(conn)
