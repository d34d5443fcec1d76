"""The files of a bulk: reads CSV and JSON, writes the report as CSV."""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from app.db.models import BulkItem
from app.domain.numbers import E164
from app.domain.operations import MAX_ITEMS
from app.domain.texts import InvalidTextError, read_json

_OF_NEW_AGENT = {
    "agent": "name",
    "externalId": "externalId",
    "livekitAgentName": "livekitAgentName",
    "trunkMode": "trunkMode",
    "carrierAccountId": "carrierAccountId",
    "voiceProjectId": "voiceProjectId",
}
"""Column -> the field of the agent to create."""

COLUMNS = ("phoneNumber", "agentId", *_OF_NEW_AGENT, "takeover")
"""The columns of a CSV file; `phoneNumber` is required. `agent` is the name of an agent to create."""

REPORT_COLUMNS = ("position", "phoneNumber", "agentId", "status", "operationId", "errorCode", "errorDetail")

_SIGNS = "=+@\\-\uff1d\uff0b\uff0d\uff20"
"""Characters that begin a formula in a spreadsheet, with their full-width forms, for a regex character class."""

_FORMULA = re.compile(rf"^(?=[\t\r\n])|(?:^|(?<=[;,|\t\r\n\"]))(?=[\s\"]*[{_SIGNS}])")
"""Where a formula would begin: at the start of a cell, after a quote, or after a cell separator of any locale."""

_TEXT_MARK = re.compile(rf"'(?=[\s\"]*[{_SIGNS}])")
"""The apostrophe that marks a cell as text, not a formula: written by spreadsheets and by our report."""

_FLAGS = {"true": True, "false": False}


class InvalidFileError(ValueError):
    """The whole file is invalid; the message says why, for the client."""


def items_from_csv(text: str) -> list[object]:
    """Return the rows as items in their JSON form; an empty cell is an absent field.

    A row with more cells than the header becomes an invalid item; the others go on.
    """
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        filled = [row for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InvalidFileError(f"is not CSV (line {rows.line_num}: {error})") from error
    header = [cell.strip() for cell in filled[0]] if filled else []
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "phoneNumber" not in header or len(set(header)) != len(header):
        raise InvalidFileError(f"must begin with a header row of {', '.join(COLUMNS)}, each at most once")
    return checked_count([_item(header, row) for row in filled[1:]])


def items_from_file(path: Path) -> list[object]:
    """Return the items of a `.json` file (`{"items": […]}` or the list alone), or of a CSV file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = read_json(text) if path.suffix.lower() == ".json" else None
    except OSError as error:
        raise InvalidFileError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidFileError("is not UTF-8") from error
    except InvalidTextError as error:
        raise InvalidFileError(str(error)) from error
    if document is None and path.suffix.lower() != ".json":
        return items_from_csv(text)
    return items_from_document(document)


def items_from_document(document: object) -> list[object]:
    """Return the items of parsed JSON: `{"items": […]}` or the list alone."""
    items = document.get("items") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise InvalidFileError('must be a list of items, or {"items": […]}')
    return checked_count(items)


def checked_count(items: list[object]) -> list[object]:
    """Return the items; `InvalidFileError` when there are none or too many."""
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidFileError(f"must have 1 to {MAX_ITEMS} items, not {len(items)}")
    return items


def report_text(items: Iterable[BulkItem]) -> str:
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


def _item(header: list[str], row: list[str]) -> object:
    if len(row) > len(header):
        return None
    stripped = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
    cells: dict[str, object] = {name: _TEXT_MARK.sub("", cell, 1) for name, cell in stripped.items() if cell}
    if "takeover" in cells:
        cells["takeover"] = _FLAGS.get(str(cells["takeover"]).lower(), cells["takeover"])
    agent = {name: cells.pop(column) for column, name in _OF_NEW_AGENT.items() if column in cells}
    if agent:
        cells["agent"] = agent
    return cells
