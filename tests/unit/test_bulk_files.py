"""Files of a bulk as people and spreadsheets save them; what cannot be read is said with what was found."""

import csv
import io
import json
from pathlib import Path

import pytest

from app.bulk.files import (
    COLUMNS,
    InvalidFileError,
    items_from_csv,
    items_from_file,
    nearest_of,
    read_file,
    template_text,
)
from app.bulk.items import FIELDS, read_items
from app.domain.options import NO_OPTIONS

ITEMS = [{"phoneNumber": "+15145551001", "agent": "Réception"}, {"phoneNumber": "+15145551002", "agent": "Desk, two"}]

COMMAS = 'phoneNumber,agent\r\n+15145551001,Réception\r\n+15145551002,"Desk, two"\r\n'
SEMICOLONS = "phoneNumber;agent\r\n+15145551001;Réception\r\n+15145551002;Desk, two\r\n"
TABS = "phoneNumber\tagent\r\n+15145551001\tRéception\r\n+15145551002\tDesk, two\r\n"
TRAILING = 'phoneNumber,agent,\n+15145551001,Réception,\n+15145551002,"Desk, two",\n'
MORE_TRAILING = "phoneNumber;agent\n+15145551001;Réception;;\n;;;\n+15145551002;Desk, two;\n"

SAVED = {
    "commas": (COMMAS.encode(), "CSV in UTF-8, separated by commas"),
    "with a mark": (COMMAS.encode("utf-8-sig"), "CSV in UTF-8, separated by commas"),
    "semicolons": (SEMICOLONS.encode(), "CSV in UTF-8, separated by semicolons"),
    "semicolons, with a mark": (SEMICOLONS.encode("utf-8-sig"), "CSV in UTF-8, separated by semicolons"),
    "tabs": (TABS.encode(), "CSV in UTF-8, separated by tabs"),
    "Unicode text": (TABS.encode("utf-16"), "CSV in UTF-16, separated by tabs"),
    "big-endian": (b"\xfe\xff" + TABS.encode("utf-16-be"), "CSV in UTF-16, separated by tabs"),
    "without a mark": (SEMICOLONS.encode("utf-16-le"), "CSV in UTF-16, separated by semicolons"),
    "big-endian, without a mark": (COMMAS.encode("utf-16-be"), "CSV in UTF-16, separated by commas"),
    "a line that names the separator": (b"sep=;\r\n" + SEMICOLONS.encode(), "CSV in UTF-8, separated by semicolons"),
    "a trailing comma": (TRAILING.encode(), "CSV in UTF-8, separated by commas"),
    "trailing semicolons": (MORE_TRAILING.encode(), "CSV in UTF-8, separated by semicolons"),
    "lines of old": (COMMAS.replace("\r\n", "\r").encode(), "CSV in UTF-8, separated by commas"),
    "JSON by its text": (json.dumps({"items": ITEMS}).encode(), "JSON in UTF-8"),
    "JSON in UTF-16": (json.dumps(ITEMS).encode("utf-16"), "JSON in UTF-16"),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_file_is_read_as_it_was_saved_and_what_was_found_is_said(name: str) -> None:
    raw, found = SAVED[name]

    read = read_file("numbers.csv", raw)

    assert read.items == ITEMS
    assert read.found.startswith(found)


def test_the_columns_that_were_found_are_named() -> None:
    assert read_file("a.csv", TRAILING.encode()).found.endswith("with the columns phoneNumber, agent.")


REFUSED = {
    "unknown": (b"phoneNumber;agent name\n1;2\n", ['separated by semicolons, is "phoneNumber", "agent name"']),
    "near": (b"phone_number,agent\n1,2\n", ['"phone_number" is not known (did you mean phoneNumber?)']),
    "another word": (b"phoneNumber,name\n1,2\n", ['"name" is not known (did you mean agent?)']),
    "case": (b"phoneNumber,AGENT\n1,2\n", ['"AGENT" is not known (did you mean agent?)']),
    "far": (b"phoneNumber,colour\n1,2\n", ['"colour" is not known']),
    "no header": (b"+15145551001,Desk\n", ['Its first row, separated by commas, is "+15145551001", "Desk"']),
    "missing": (b"agent\nDesk\n", ["phoneNumber is missing"]),
    "twice": (b"phoneNumber,agent,agent\n1,2,3\n", ["agent is there twice"]),
    "pipes": (b"phoneNumber|agent\n1|2\n", ['is "phoneNumber|agent"']),
    "nothing": (b"", ["is nothing", "phoneNumber is missing"]),
    "accents": ("phoneNumber,téléphone\n1,2\n".encode(), ['"téléphone" is not known']),
    "an escape": (b"phoneNumber,\x1b[2J\n1,2\n", [r'"\x1b[2J" is not known']),
    "Latin": ("phoneNumber,agent\n1,é\n".encode("latin-1"), ["is not UTF-8 (line 2 has the byte 0xE9)"]),
    "half of UTF-16": (b"\xff\xfep\x00h", ["is not UTF-16 (line 1 has the byte 0x68)"]),
    "cut UTF-16": (b"\xff\xfep\x00h\x00\x00\xd8", ["is not UTF-16"]),
    "an object": (b'{"numbers": []}', ['must be a list of items, or {"items": […]}; it is an object with "numbers"']),
    "broken JSON": (b'[{"phoneNumber": ]', ["is not JSON (line 1, column 18)"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_what_was_found(name: str) -> None:
    raw, words = REFUSED[name]

    with pytest.raises(InvalidFileError) as refused:
        read_file("numbers.csv", raw)

    for one in words:
        assert one in str(refused.value)


def test_a_file_of_many_odd_columns_is_refused_in_few_words() -> None:
    with pytest.raises(InvalidFileError) as refused:
        items_from_csv(",".join(f"{'x' * 900}{n}" for n in range(1000)).encode() + b"\n")

    assert len(str(refused.value)) < 5000


def test_a_cell_that_is_in_no_column_fails_its_row_alone() -> None:
    rows = items_from_csv(b"phoneNumber,agent,\n+15145551001,Desk,x\n+15145551002,Desk\n")
    bad, good = read_items(rows, lambda _: NO_OPTIONS)

    assert bad.problem == 'cell 3, in no column ("x"): is not known.'
    assert (bad.phone_number, good.problem) == ("+15145551001", None)


def test_the_template_has_every_column_and_is_read_once_it_has_a_row() -> None:
    text = template_text()

    header = next(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    assert tuple(header) == COLUMNS
    assert set(header) == FIELDS
    assert items_from_csv((text + "+15145551001,,Desk\r\n").encode()) == [
        {"phoneNumber": "+15145551001", "agent": "Desk"}
    ]


def test_a_path_of_any_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Numéros.txt"
    path.write_bytes(TABS.encode("utf-16"))

    assert items_from_file(path) == ITEMS


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Phone Number", "phoneNumber"), ("takeOver", "takeover"), ("livekit_agent", "livekitAgentName"), ("x", None)],
)
def test_the_nearest_name_is_by_its_letters(name: str, meant: str | None) -> None:
    assert nearest_of(name, COLUMNS) == meant
