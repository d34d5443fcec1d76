"""Reads the `Prefer` header (RFC 7240): how long a client would wait for an operation to end."""

from datetime import timedelta

from flask import Request
from werkzeug.http import parse_list_header

from app.api.fields import WHOLE_NUMBER

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait: what proxies commonly allow an answer to take."""


def preferred_wait(request: Request) -> timedelta:
    """Return the wait that the client asked for, at most `LONGEST_WAIT`; zero when it asked for none or for nonsense.

    The first `wait` counts, as the RFC has it; what cannot be read is ignored.
    """
    # One value: WSGI servers join what is sent in several lines.
    given = request.headers.get("Prefer")
    for part in parse_list_header(given) if given else ():
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().removeprefix('"').removesuffix('"')
            seconds = int(text) if WHOLE_NUMBER.fullmatch(text) else 0
            return min(timedelta(seconds=max(seconds, 0)), LONGEST_WAIT)
    return timedelta(0)
