import time

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from app.api.responses import preferred_wait


def _wait(*headers: str) -> float:
    request = Request(EnvironBuilder(headers=[("Prefer", header) for header in headers]).get_environ())
    return preferred_wait(request).total_seconds()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("Wait=10", 10),
        ("wait = 10", 10),
        ('wait="10"', 10),
        ("respond-async, wait=10", 10),
        ("wait=10, wait=20", 10),
        ("wait=10; foo=bar, x", 10),
        ('foo="a, wait=5", wait=7', 7),
        ("handling=lenient,wait=3,respond-async", 3),
        ("wait=0", 0),
        ("wait=61", 60),
        ("wait=999999999", 60),
        ("wait", 0),
        ("wait=", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=soon", 0),
        ("wait=\u0661\u0660", 0),
        ("wait=99999999999999999999", 0),
        ("wait=1_0", 0),
        ("wait=+5", 0),
        ("waiting=10", 0),
        ("", 0),
        (",,;=,", 0),
        ('"', 0),
    ],
)
def test_the_wish_to_wait_is_read_or_ignored(header: str, seconds: float) -> None:
    assert _wait(header) == seconds


def test_the_wish_may_stand_in_any_of_several_headers() -> None:
    assert _wait("respond-async", "wait=4") == 4


def test_a_header_of_blanks_is_read_at_once() -> None:
    began = time.process_time()

    assert _wait(f'wait={" " * 8000}x"x') == 0
    assert time.process_time() - began < 1
