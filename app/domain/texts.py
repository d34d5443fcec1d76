"""Validates and escapes text from outside: single visible lines, strict JSON, and providers' own text."""

import json
import math
import re
import unicodedata
import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Self

MAX_NAME = 200
"""Characters of a name: it fits on one line of a screen."""

EXTERNAL_ID_PATTERN = r"^[!-~]{1,200}$"
"""An id that a client gives, of printable ASCII without blanks: two that look the same are the same. URLs fit."""

MAX_METADATA_BYTES = 16 * 1024
"""Bytes of an agent's metadata as JSON: it is sent with every dispatched call."""

MAX_DEPTH = 32
"""Levels of nesting: far above sensible metadata, far below Python's recursion limit for serialising it."""

LONGEST_PATH = 64
"""Characters of a JSON path that an error message quotes."""

STEERING = r"\u0000-\u001f\u007f-\u009f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Regex ranges: control characters, other line separators, and characters that change the text direction."""

UNSEEN = (
    r"\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\ufff0-\ufffc"
)
"""Regex ranges: characters that are not displayed (Default_Ignorable_Code_Point), and letters and symbols that are
blank by design: the Hangul fillers, the empty Braille cell, the object replacement."""

_TAGS, _SURROGATES, _NONCHARACTERS = r"\U000e0000-\U000e007f", r"\ud800-\udfff", r"\ufdd0-\ufdef\ufffe\uffff"
_UNSEEN_BEYOND_BMP = r"\U000e0000-\U000e0fff\U00013441\U00013442\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"

_EXTERNAL_ID = re.compile(EXTERNAL_ID_PATTERN)
_NOT_ON_A_LINE = re.compile(f"[{STEERING}{_TAGS}{_SURROGATES}{_NONCHARACTERS}]")
_UNSEEN = re.compile(f"[{UNSEEN}{_UNSEEN_BEYOND_BMP}]")
_NOT_ON_A_TERMINAL = re.compile(f"[{STEERING}{_TAGS}{_SURROGATES}]")
_NOT_IN_A_DATABASE = re.compile(rf"[\0{_SURROGATES}]")
"""NUL, which PostgreSQL does not store, and unpaired surrogates, which are not valid Unicode."""

SHOWN_CHARACTERS = 300
"""Characters of a provider's text that are shown: enough for a SIP URI or an id."""


EXCERPT_CHARACTERS = 64
"""Characters of a malformed id or number that a response quotes, so that its sender recognises it."""


class InvalidTextError(ValueError):
    """The text is not accepted; the message says why, for the client."""


class WrittenFloat(float):
    """A JSON number with a fraction or an exponent, together with its original digits."""

    __slots__ = ("digits",)
    digits: str

    def __new__(cls, digits: str) -> Self:
        """Parse the digits; refuse a number that a double cannot hold."""
        number = super().__new__(cls, digits)
        if not math.isfinite(number):
            raise InvalidTextError("has a number out of range")
        number.digits = digits
        return number


def visible_line(text: str) -> str:
    """Strip the text; refuse what is not a single line, or has no visible character."""
    if _NOT_ON_A_LINE.search(text):
        raise InvalidTextError("must not contain control characters, bidirectional formatting or tags")
    line = text.strip()
    if not any(map(_is_seen, line)):
        raise InvalidTextError("must have a character that can be seen")
    return line


def external_id(value: object) -> str:
    """Return an id that a client gives; refuse anything else than 1 to 200 printable characters of ASCII."""
    if not isinstance(value, str) or not _EXTERNAL_ID.fullmatch(value):
        raise InvalidTextError("must have 1 to 200 printable ASCII characters without blanks")
    return value


def _is_seen(character: str) -> bool:
    # Zs: spaces; Cf: format characters; Mn, Me: combining marks, which need a base letter.
    return unicodedata.category(character) not in {"Zs", "Cf", "Mn", "Me"} and not _UNSEEN.match(character)


def escaped(text: str, keep: str = "") -> str:
    r"""Escape every character that could control a terminal, as in `\u001b`, except those in `keep`."""
    return _NOT_ON_A_TERMINAL.sub(lambda found: found[0] if found[0] in keep else json.dumps(found[0])[1:-1], text)


def read_json(text: str) -> object:
    """Parse JSON strictly: refuse what another parser might read differently.

    The error's message continues a sentence that begins with "The body" or "The file".
    """
    try:
        document: object = _decoder.decode(text)
    except json.JSONDecodeError as error:
        where = f"is not JSON (line {error.lineno}, column {error.colno})" if text.strip() else "is empty"
        raise InvalidTextError(where) from error
    except InvalidTextError:
        raise
    except ValueError as error:
        # An integer with more digits than Python parses.
        raise InvalidTextError("has a number out of range") from error
    except RecursionError as error:
        raise InvalidTextError("is nested too deeply") from error
    _check_depth(document)
    return document


def _no_constant(name: str) -> float:
    raise InvalidTextError(f"has {name}, which is not JSON")


def _unique_names(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidTextError("is refused: a name appears twice in one object")
    return members


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=WrittenFloat, object_pairs_hook=_unique_names)


def _check_depth(value: object, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise InvalidTextError("is nested too deeply")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, depth + 1)


def check_metadata(value: object) -> None:
    """Refuse JSON that would change when stored, or that is too large to store or to send."""
    expansion = _check_values(value, "")
    stored = len(json.dumps(value, ensure_ascii=False).encode()) + expansion
    sent = len(json.dumps(value))
    if max(stored, sent) > MAX_METADATA_BYTES:
        raise InvalidTextError(f"must be at most {MAX_METADATA_BYTES} bytes as JSON, numbers and escapes written out")


def _check_values(value: object, path: str) -> int:
    """Refuse text that PostgreSQL cannot store, at any depth; return by how many bytes its numbers grow when stored."""
    if isinstance(value, str) and _NOT_IN_A_DATABASE.search(value):
        raise InvalidTextError("must not contain NUL bytes or unpaired surrogates")
    if isinstance(value, dict):
        return sum(_check_values(name, path) + _check_values(inner, f"{path}.{name}") for name, inner in value.items())
    if isinstance(value, list):
        return sum(_check_values(inner, f"{path}[{index}]") for index, inner in enumerate(value))
    return _check_float(value, path) if isinstance(value, float) else 0


def _check_float(number: float, path: str) -> int:
    """Refuse a number that would change when stored: jsonb writes all digits and no exponent."""
    shortest = repr(float(number))
    kept = format(Decimal(shortest), "f") if math.isfinite(number) else "null"
    try:
        is_exact = Decimal(getattr(number, "digits", shortest)) == Decimal(shortest)
    except ArithmeticError:
        # An exponent out of the range of a Decimal.
        is_exact = False
    if not is_exact or json.loads(kept) != number:
        where = path.removeprefix(".")[:LONGEST_PATH]
        raise InvalidTextError(f"has a number that would be rounded ({where}): send it as text")
    return len(kept) - len(shortest)


def storable(text: str) -> str:
    """Replace what a database or a log cannot hold with U+FFFD, so that the text never equals another one."""
    return _NOT_IN_A_DATABASE.sub("\N{REPLACEMENT CHARACTER}", text)


def shown(text: str) -> str:
    r"""Return the text as one printable line of at most 300 characters, other characters escaped as in `\x1b`."""
    line = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:SHOWN_CHARACTERS]
    )
    return line if len(text) <= SHOWN_CHARACTERS else f"{line}\N{HORIZONTAL ELLIPSIS}"


def excerpt(text: str) -> str:
    """Return the first 64 characters of a client's text in printable ASCII; `?` stands for every other character."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:EXCERPT_CHARACTERS])


def read_uuid(value: object) -> uuid.UUID | None:
    """Parse a UUID in its canonical form; None for anything else, so that one row has one name.

    Python's own parser also takes braces, `urn:uuid:`, missing dashes and the digits of every script.
    """
    try:
        found = uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and str(found) == str(value).lower() else None


def read_time(value: object) -> datetime | None:
    """Parse an ISO 8601 time; None for anything else, a time without a zone included."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time and time.tzinfo else None
