"""Text and JSON from outside: what is taken comes back as it was, and what a terminal would obey is never shown raw."""

import io
import json
import re
import time
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from app.cli.output import EscapingConsole
from app.domain.texts import (
    MAX_METADATA_BYTES,
    InvalidTextError,
    check_metadata,
    escaped,
    read_json,
    visible_line,
)
from app.views.fields import VISIBLE_LINE

NOTHING_TO_SEE = {
    "blank": " \u3000",
    "zero width": "\u200b\u200c\u200d\ufeff",
    "soft hyphen": "\u00ad",
    "Hangul fillers": "\u3164\u115f\u1160\uffa0",
    "empty Braille cell": "\u2800",
    "variation selectors": "\ufe0f\ufe00",
    "variation selectors beyond the BMP": "\U000e0100",
    "word joiner": "\u2060\u2061",
    "grapheme joiner": "\u034f",
    "Mongolian": "\u180e\u180b",
    "Khmer vowels": "\u17b4\u17b5",
    "musical": "\U0001d159\U0001d173",
    "mark on nothing": "\u0301",
    "object replacement": "\ufffc",
}
NOWHERE = {
    "NUL": "\0",
    "line end": "\n",
    "tab": "\t",
    "C1": "\x9b",
    "DEL": "\x7f",
    "line separator": "\u2028",
    "right to left": "\u202e",
    "left to right mark": "\u200e",
    "isolate": "\u2066",
    "Arabic letter mark": "\u061c",
    "tag": "\U000e0041",
    "language tag": "\U000e0001",
    "half of a pair": "\ud800",
    "noncharacter": "\ufffe",
}
NAMES = ["a", "7", "Café", "日本", "한글", "🏳️‍🌈", "می‌خواهم", "\U0001fae9", "don't", "+1", "⠁", "x\u00ady", "क्षि"]


@pytest.mark.parametrize("name", NOTHING_TO_SEE)
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidTextError, match="can be seen"):
        visible_line(NOTHING_TO_SEE[name])
    assert visible_line(f"a{NOTHING_TO_SEE[name].strip()}")


@pytest.mark.parametrize("name", NOWHERE)
def test_what_steers_the_text_is_refused_wherever_it_stands(name: str) -> None:
    for text in (NOWHERE[name], f"a{NOWHERE[name]}b", f"{NOWHERE[name]}a", f"a{NOWHERE[name]}"):
        with pytest.raises(InvalidTextError):
            visible_line(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_script_is_taken(name: str) -> None:
    assert visible_line(f" {name} ") == name


@pytest.mark.parametrize("text", [*NOTHING_TO_SEE.values(), *NOWHERE.values(), *NAMES])
def test_the_documented_pattern_takes_whatever_is_taken(text: str) -> None:
    try:
        visible_line(text)
    except InvalidTextError:
        return
    assert re.search(VISIBLE_LINE, text)


EXACT = [
    "0",
    "-0",
    "1",
    "12345678901234567890",
    "9" * 4300,
    "0.1",
    "-0.5",
    "1.5e10",
    "1e22",
    "5e-324",
    "2.50",
    "0e999999999",
]
EXACT += ["0.30000000000000004", "9007199254740993", "1E2", "1.7976931348623157e-5"]
ROUNDED = [
    "1e308",
    "1e-400",
    "123456789012345678901234567890.5",
    "1e23",
    "0.10000000000000000001",
    "9007199254740993.0",
]
ROUNDED += ["1e-99999999999999999999", "1.0000000000000000000000001"]


@pytest.mark.parametrize("digits", EXACT, ids=lambda digits: digits[:30])
def test_a_number_that_comes_back_is_taken(digits: str) -> None:
    value: Any = read_json(f'{{"a": [{digits}]}}')

    check_metadata(value)

    assert json.loads(json.dumps(value)) == json.loads(f'{{"a": [{digits}]}}')


@pytest.mark.parametrize("digits", ROUNDED, ids=lambda digits: digits[:30])
def test_a_number_that_would_be_rounded_is_refused_with_its_place(digits: str) -> None:
    with pytest.raises(InvalidTextError, match=re.escape("(a.b[1])")):
        check_metadata(read_json(f'{{"a": {{"b": [1, {digits}]}}}}'))


def test_metadata_is_measured_in_the_forms_that_are_stored_and_sent() -> None:
    room = MAX_METADATA_BYTES - len('{"a": ""}')
    check_metadata({"a": "x" * room})
    # As it is sent, a letter of two bytes takes six; as it is stored, the least number takes 326.
    for value in ({"a": "x" * (room + 1)}, {"a": "é" * (room // 6 + 1)}, read_json(f'{{"a": [{"5e-324, " * 60}0]}}')):
        with pytest.raises(InvalidTextError, match="at most 16384 bytes"):
            check_metadata(value)
    check_metadata({"a": "é" * (room // 6)})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("[1e999]", "out of range"),
        ("[" + "1" * 4301 + "]", "out of range"),
        ('{"a": 1, "a": 2}', "appears twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 33 + "1" + "}" * 33, "nested too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_json_that_others_read_otherwise_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidTextError, match=reason):
        read_json(text)


def test_what_a_terminal_would_obey_is_written_out() -> None:
    hostile = "\x1b]0;x\x07 \x9b31m \x7f \u202e \u2028 \r\n \ud800 \U000e0041"

    assert escaped(hostile) == (r"\u001b]0;x\u0007 \u009b31m \u007f \u202e \u2028 \r\n \ud800 \udb40\udc41")
    assert json.loads(escaped(json.dumps(hostile, ensure_ascii=False))) == hostile
    assert escaped("a\nb\x1b", keep="\n") == "a\nb\\u001b"
    assert escaped("Zoë 日本 🏳️‍🌈") == "Zoë 日本 🏳️‍🌈"


def test_a_terminal_gets_rich_s_own_codes_and_no_others() -> None:
    screen = io.StringIO()
    console = EscapingConsole(file=screen, force_terminal=True, color_system="standard", width=200)
    table = Table("agent")
    table.add_row("[red]\x1bc")

    console.print(table, Text("\x1b]0;x\x07\x9b", "red"), "[bold]\x1b[2J")
    with console.status("\x1bc"):
        time.time()

    shown = screen.getvalue()
    assert r"[red]\u001bc" in shown
    assert r"[bold]\u001b[2J" in shown
    assert "\x1b[31m" in shown
    assert not re.search(r"\x1bc|\x1b\]|\x1b\[2J|\x9b|\x07", shown)
