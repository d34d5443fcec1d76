"""Reads the `Prefer` header (RFC 7240): how long a client would wait for an operation to end."""

import re
from datetime import timedelta

from flask import Request
from werkzeug.http import parse_list_header

LONGEST_WAIT = timedelta(seconds=60)
"""The longest wait: what proxies commonly allow an answer to take."""

_PREFERENCE = re.compile(r"""\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*"?(?P<value>[^";]*?)"?\s*)?(?:;.*)?""")
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def preferred_wait(request: Request) -> timedelta:
    """Return the wait that the client asked for, at most `LONGEST_WAIT`; zero when it asked for none or for nonsense.

    The first `wait` counts, as the RFC has it; what cannot be read is ignored.
    """
    # One value: WSGI servers join what is sent in several lines.
    given = request.headers.get("Prefer")
    for part in parse_list_header(given) if given else ():
        match = _PREFERENCE.fullmatch(part)
        if match and match["name"].lower() == "wait":
            text = match["value"] or ""
            return min(timedelta(seconds=int(text)), LONGEST_WAIT) if _SECONDS.fullmatch(text) else timedelta(0)
    return timedelta(0)
