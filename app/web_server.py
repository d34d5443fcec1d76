"""What gunicorn is told beyond the Procfile's options: how long a client may be silent within a request.

A worker's thread reads a request to its end before it does anything else, and gunicorn sets no limit: as many clients
as there are threads, each sending half a request, would stop the API for as long as they like.
"""

import logging
import socket
import struct
from typing import Any

READ_TIMEOUT_S = 10
"""Seconds between two pieces of one request: an honest client sends all of it at once."""


def on_starting(server: Any) -> None:
    """Tell of a client that was cut off in a line, not in a traceback for each."""
    server.log.error_log.addFilter(_shorten)


def when_ready(server: Any) -> None:
    """Set the limit on the listening sockets: connections inherit it (Linux, net/core/sock.c sk_clone_lock)."""
    for listener in server.LISTENERS:
        seconds, rest = divmod(READ_TIMEOUT_S, 1)
        limit = struct.pack("ll", int(seconds), int(rest * 1_000_000))
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _shorten(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
        record.msg, record.args, record.exc_info = "A client was silent within a request and was cut off.", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True
