"""What text from outside may be: one visible line, JSON that a database can hold, or whatever a provider has."""

import json
import re
import unicodedata
from datetime import datetime

MAX_NAME = 200
"""Characters of a name: a line on a screen."""

MAX_METADATA_BYTES = 16 * 1024
"""Bytes of an agent's metadata as JSON: it travels with every dispatched call."""

SHOWN_CHARACTERS = 300
"""Characters of a provider's text that are shown: enough for a SIP URI or an id, and the rest explains nothing."""

_NOT_STORABLE = re.compile("[\\0\ud800-\udfff]")
"""A NUL, which PostgreSQL does not take, and half of a surrogate pair, which is no Unicode."""


class InvalidTextError(ValueError):
    """The text is not accepted; the message says why, for the client."""


def visible_line(text: str) -> str:
    """Return the text without the blanks around it; refuse what does not fit on one line of a screen."""
    line = text.strip()
    # Cc: control characters, NUL among them; Cs: half of a surrogate pair; Zl, Zp: line ends of other kinds.
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in line):
        raise InvalidTextError("must not contain control characters")
    return line


def check_metadata(value: object) -> None:
    """Refuse JSON that is too large, or that holds what PostgreSQL or Unicode does not know."""
    _check_text(value)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
        raise InvalidTextError(f"must be at most {MAX_METADATA_BYTES} bytes as JSON")


def _check_text(value: object) -> None:
    """Refuse a NUL, which PostgreSQL does, or half of a surrogate pair, which is no Unicode, anywhere inside."""
    if isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise InvalidTextError("must not contain NUL bytes or unpaired surrogates")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name)
            _check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner)


def storable(text: str) -> str:
    """Return the text with U+FFFD for what no database and no log can hold, so that it never reads as another one."""
    return _NOT_STORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def shown(text: str) -> str:
    r"""Return the text on one printable line, cut at 300 characters: an escape sequence reads `\x1b`."""
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:SHOWN_CHARACTERS]
    )
    return line if len(text) <= SHOWN_CHARACTERS else f"{line}\N{HORIZONTAL ELLIPSIS}"


def read_time(value: object) -> datetime | None:
    """Return the time in an ISO 8601 text; None for anything else, a time without a zone among it."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time and time.tzinfo else None
