"""The files of a bulk: reads CSV and JSON as people and spreadsheets save them, writes the report as CSV."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.numbers import E164
from app.domain.operations import MAX_ITEMS
from app.domain.texts import MAX_NAME, InvalidTextError, read_json, shown

if TYPE_CHECKING:
    from app.db.models import BulkItem

FLAT_AGENT_FIELDS = ("externalId", "livekitAgentName", "trunkMode", "carrierAccountId", "voiceProjectId")
"""Fields of an agent to create that may stand beside the number, where `agent` is its name."""

COLUMNS = ("phoneNumber", "agentId", "agent", *FLAT_AGENT_FIELDS, "takeover")
"""The columns of a CSV file, the fields of a flat item; `phoneNumber` is required. `agent` names an agent to create."""

_NAMED_OTHERWISE = {"name": "agent", "number": "phoneNumber", "phone": "phoneNumber", "tel": "phoneNumber"}
"""What people call a field, where no likeness of letters leads to it."""

REPORT_COLUMNS = ("position", "phoneNumber", "agentId", "status", "operationId", "errorCode", "errorDetail")

SEPARATORS: Mapping[str, str] = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may stand between two cells: a spreadsheet writes what its locale has, or tabs in "Unicode text"."""

_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)
"""A first line by which spreadsheets tell each other the separator."""

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
"""What a file begins with that says how it is encoded, and that encoding."""

_ENCODING_NAMES = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}

MAX_NAMES_TOLD, MAX_NAME_TOLD = 20, 60
"""Columns of a file that are named when it is refused, and the characters of each."""

_SIGNS = "=+@\\-\uff1d\uff0b\uff0d\uff20"
"""Characters that begin a formula in a spreadsheet, with their full-width forms, for a regex character class."""

_FORMULA = re.compile(rf"^(?=[\t\r\n])|(?:^|(?<=[;,|\t\r\n\"]))(?=[\s\"]*[{_SIGNS}])")
"""Where a formula would begin: at the start of a cell, after a quote, or after a cell separator of any locale."""

_TEXT_MARK = re.compile(rf"'(?=[\s\"]*[{_SIGNS}])")
"""The apostrophe that marks a cell as text, not a formula: written by spreadsheets and by our report."""

_FLAGS = {"true": True, "false": False}


class InvalidFileError(ValueError):
    """The whole file is invalid; the message says why, for the client."""


@dataclass(frozen=True, slots=True)
class FileItems:
    """The items of a file, not validated, and what kind of file it was found to be: a sentence for a person."""

    items: list[object]
    found: str


def read_file(name: str, raw: bytes) -> FileItems:
    """Read a file: JSON if its name or its text says so, else CSV; `InvalidFileError`."""
    text, encoding = decode(raw)
    if name.lower().endswith(".json") or text.lstrip()[:1] in {"{", "["}:
        try:
            document = read_json(text)
        except InvalidTextError as error:
            raise InvalidFileError(str(error)) from error
        return FileItems(items_from_document(document), f"JSON in {encoding}.")
    return _read_csv(text, encoding)


def items_from_csv(raw: bytes) -> list[object]:
    """Return the rows of a CSV file as items in their flat form; an empty cell is an absent field.

    A row with a cell that is in no column becomes an invalid item; the others go on.
    """
    return _read_csv(*decode(raw)).items


def items_from_file(path: Path) -> list[object]:
    """Return the items of a `.json` file (`{"items": […]}` or the list alone), or of a CSV file."""
    try:
        return read_file(path.name, path.read_bytes()).items
    except OSError as error:
        raise InvalidFileError(f"cannot be read: {error.strerror}") from error


def decode(raw: bytes) -> tuple[str, str]:
    """Return the text of a file and the name of its encoding: UTF-8, or UTF-16 as "Unicode text" is saved."""
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if raw.startswith(mark)), (b"", _guessed(raw)))
    try:
        return raw.removeprefix(mark).decode(codec), _ENCODING_NAMES[codec]
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"line {line} has the byte 0x{error.object[error.start]:02X}"
        raise InvalidFileError(f"is not {_ENCODING_NAMES[codec]} ({found}): save it as CSV UTF-8") from error


def _guessed(raw: bytes) -> str:
    """Tell the encoding of a file without a mark: of the first letter of a header, UTF-16 has a byte that is zero."""
    return "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be" if raw[:1] == b"\0" else "utf-8"


def _read_csv(text: str, encoding: str) -> FileItems:
    told = _SEPARATOR_LINE.match(text)
    separator = told[1] if told else max(SEPARATORS, key=lambda one: _known_names(text, one))
    rows = _filled_rows(text[told.end() :] if told else text, separator)
    header = [cell.strip() for cell in rows[0]] if rows else []
    _check_header(header, separator)
    named = ", ".join(name for name in header if name)
    found = f"CSV in {encoding}, separated by {SEPARATORS[separator]}, with the columns {named}."
    return FileItems(checked_count([_item(header, row) for row in rows[1:]]), found)


def _known_names(text: str, separator: str) -> tuple[int, int]:
    """Return how many names that we know, and how many cells, the header has by this separator."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = next((row for row in lines if any(cell.strip() for cell in row)), [])
    except csv.Error:
        return 0, 0
    return sum(cell.strip() in COLUMNS for cell in header), len(header)


def _filled_rows(text: str, separator: str) -> list[list[str]]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidFileError(f"is not CSV (line {rows.line_num}: {error})") from error


def _check_header(header: Sequence[str], separator: str) -> None:
    """Refuse a header that we cannot read, and say what was found; a column without a name is one more separator."""
    named = [name for name in header if name]
    problems = [_unknown(name) for name in dict.fromkeys(named) if name not in COLUMNS][:MAX_NAMES_TOLD]
    problems += [f"{name} is there twice" for name in COLUMNS if named.count(name) > 1]
    if "phoneNumber" not in named:
        problems.append("phoneNumber is missing")
    if problems:
        found = ", ".join(_quoted(name) for name in named[:MAX_NAMES_TOLD]) or "nothing"
        raise InvalidFileError(
            f"must begin with a header row of {', '.join(COLUMNS)}, each at most once. Its first row, separated by "
            f"{SEPARATORS[separator]}, is {found}: {'; '.join(problems)}"
        )


def _unknown(name: str) -> str:
    nearest = nearest_of(name, COLUMNS)
    return f"{_quoted(name)} is not known" + (f" (did you mean {nearest}?)" if nearest else "")


def _quoted(name: str) -> str:
    return f'"{shown(name[:MAX_NAME_TOLD])}"'


def items_from_document(document: object) -> list[object]:
    """Return the items of parsed JSON: `{"items": […]}` or the list alone."""
    items = document.get("items") if isinstance(document, dict) else document
    if not isinstance(items, list):
        names = [_quoted(name) for name in document][:MAX_NAMES_TOLD] if isinstance(document, dict) else []
        found = f"; it is an object with {', '.join(names)}" if names else ""
        raise InvalidFileError(f'must be a list of items, or {{"items": […]}}{found}')
    return checked_count(items)


def nearest_of(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is meant by one that is not known; None where none is near."""
    by_letters = {_letters(one): one for one in sorted(known)}
    other = _NAMED_OTHERWISE.get(_letters(name))
    if other in known:
        return other
    return next((by_letters[one] for one in get_close_matches(_letters(name), by_letters, n=1)), None)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name[:MAX_NAME])).lower()


def template_text() -> str:
    """Return an empty CSV file: the header row, with the mark by which spreadsheets know UTF-8."""
    return f"\ufeff{','.join(COLUMNS)}\r\n"


def checked_count(items: list[object]) -> list[object]:
    """Return the items; `InvalidFileError` when there are none or too many."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidFileError(f"must have 1 to {MAX_ITEMS} items, not {len(items)}")
    return items


def report_text(items: Iterable["BulkItem"]) -> str:
    """Return the report as CSV, a header row and a row for every item."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(REPORT_COLUMNS)
    for item in items:
        known = (item.agent_id, item.status.value, item.operation_id, item.error_code, item.error_detail)
        rows.writerow([without_formula(cell) for cell in (item.position, item.phone_number, *known)])
    return text.getvalue()


def without_formula(cell: object) -> str:
    """Return the cell's text so that no spreadsheet reads a formula in it; a phone number stays as it is."""
    text = "" if cell is None else str(cell)
    return text if E164.fullmatch(text) else _FORMULA.sub("'", text)


def _item(header: Sequence[str], row: Sequence[str]) -> object:
    cells: dict[str, object] = {}
    for place, text in enumerate(row):
        cell, name = text.strip(), header[place] if place < len(header) else ""
        if cell and name:
            cells[name] = _TEXT_MARK.sub("", cell, 1)
        elif cell:
            # No field of an item has such a name: the row fails alone, and says why.
            cells[f"cell {place + 1}, in no column ({_quoted(cell)})"] = cell
    if "takeover" in cells:
        cells["takeover"] = _FLAGS.get(str(cells["takeover"]).lower(), cells["takeover"])
    return cells
