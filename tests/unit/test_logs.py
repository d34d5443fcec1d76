import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import structlog

from app.observability import logs

Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Configure the pipeline on a stream of the test's own and put the root logger back afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("json")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_json_with_event_level_and_time(lines: Lines) -> None:
    structlog.stdlib.get_logger("app.test").info("step_done", step="twilio_trunk", took_s=0.41)

    [line] = lines()
    assert (line["event"], line["level"], line["step"], line["took_s"]) == ("step_done", "info", "twilio_trunk", 0.41)
    assert str(line["timestamp"]).endswith("Z")
    assert line["logger"] == "app.test"


def test_a_library_s_line_takes_the_same_form(lines: Lines) -> None:
    logging.getLogger("some.library").warning("lost %s of %d", "one", 3)

    assert [(line["event"], line["level"]) for line in lines()] == [("lost one of 3", "warning")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("call +15145551234 now", "call ********1234 now"),
        ("+15145551234,+442079460958", "********1234,*********0958"),
        ("key tl_abcdefghijklmnopqrstuvwxyz", "key tl_***"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=.", "secret whsec_***."),
        ("1+1234567", "1+1234567"),
        ("2026-11-23T09:15:04+00:00", "2026-11-23T09:15:04+00:00"),
    ],
)
def test_numbers_and_keys_are_hidden_wherever_they_stand(lines: Lines, text: str, shown: str) -> None:
    log = structlog.stdlib.get_logger("app.test")
    log.info("a", where=text)
    log.info("b", deep={"list": [text, (text,)]})
    logging.getLogger("some.library").warning(text)

    first, second, third = lines()
    assert first["where"] == shown
    assert second["deep"] == {"list": [shown, [shown]]}
    assert third["event"] == shown


def test_a_traceback_is_part_of_the_line_and_hides_numbers_too(lines: Lines) -> None:
    try:
        int("+15145551234x")
    except ValueError:
        structlog.stdlib.get_logger("app.test").exception("broke")

    [line] = lines()
    assert "ValueError" in str(line["exception"])
    assert "****1234x" in str(line["exception"])
    assert "+15145551234" not in str(line)


HOSTILE = "\x1b]0;x\x07\x9b31m\u202e\ud800\n"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_holds_what_a_terminal_would_obey(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, form: Literal["json", "console"]
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(form)
    log = structlog.stdlib.get_logger("app.test")

    log.warning("a", where=HOSTILE, deep={HOSTILE: [HOSTILE]}, raw=HOSTILE.encode("utf-8", "surrogatepass"))
    logging.getLogger("some.library").warning(HOSTILE)
    log.warning("broke", exc_info=ValueError(HOSTILE))

    written = stream.getvalue()
    assert written.count("u001b]0;x") + written.count("x1b]0;x") >= 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", written)
