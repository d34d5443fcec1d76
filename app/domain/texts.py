"""What text from outside may be: one visible line, or JSON that a database can hold."""

import json
import unicodedata

MAX_NAME = 200
"""Characters of a name: a line on a screen."""

MAX_METADATA_BYTES = 16 * 1024
"""Bytes of an agent's metadata as JSON: it travels with every dispatched call."""


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
