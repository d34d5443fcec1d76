"""Every row of Twilio's error table, over HTTP, for reads, deletes and writes."""

import json
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from app.path.observed import NumberRouting
from app.providers.errors import (
    CallFailedError,
    Outcome,
    ProviderError,
    RejectedError,
    TransientError,
    UnknownOutcomeError,
)
from app.providers.twilio import TwilioCarrier
from app.providers.twilio_errors import TWILIO_TABLE
from tests.support.scripted_server import (
    Answer,
    Drop,
    Hang,
    ScriptedServer,
    Trickle,
    refusing_url,
    scripted_server,
)
from tests.support.twilio_failures import (
    ACCOUNT,
    CALLS,
    CASES,
    DELETE,
    NUMBER,
    SHOWN_WORDS,
    TIMEOUT_S,
    TOKEN,
    TRUNK,
    TRUNK_SPEC,
    UNAVAILABLE,
    UNROUTED,
    URL,
    URL_SPEC,
    WRITE,
    Case,
    failure,
)


def carrier_at(url: str, timeout_s: float = TIMEOUT_S) -> TwilioCarrier:
    return TwilioCarrier(ACCOUNT, ACCOUNT, TOKEN, timeout_s=timeout_s, base_url=url)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def carrier(server: ScriptedServer) -> Iterator[TwilioCarrier]:
    server.script.clear()
    server.seen.clear()
    server.default = None
    carrier = carrier_at(server.url)
    yield carrier
    carrier.close()


def examples() -> Iterator[ParameterSet]:
    for name, case in CASES.items():
        # A slow failure is shown once of each kind, a quick one for every call.
        slow = isinstance(case.answer, Hang | Trickle)
        for operation in case.only or (("get_trunk", "delete_trunk", "create_trunk") if slow else CALLS):
            # No body is expected of a delete, and a read of a list tells nothing by being on a trunk.
            if not (case.row == "unreadable" and operation in DELETE):
                yield pytest.param(case, operation, id=f"{name}-{operation}")


@pytest.mark.parametrize(("case", "operation"), list(examples()))
def test_each_failure_becomes_the_error_of_its_row(
    case: Case, operation: str, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.default = case.answer

    with pytest.raises(ProviderError) as caught:
        CALLS[operation](carrier)

    expected = (case.on_write or case.error) if operation in WRITE else case.error
    assert (type(caught.value), caught.value.code) == (expected, case.code)
    assert operation in caught.value.detail
    assert case.says in caught.value.detail
    assert TOKEN not in caught.value.detail
    assert (SHOWN_WORDS in caught.value.detail) is case.is_quoted
    assert caught.value.__cause__ is None
    # Never twice, and never to where a redirect points. After a refused attachment the number is looked at, and after a
    # 404 below a trunk the trunk.
    is_looked_at = case.row == "trunk_gone" or (case.row == "rejected" and operation == "attach_number")
    assert len(server.seen) == 1 + is_looked_at


@pytest.mark.parametrize("operation", CALLS)
def test_a_refused_connection_was_not_sent(operation: str) -> None:
    carrier = carrier_at(refusing_url())
    with pytest.raises(TransientError, match="nothing was sent") as caught:
        CALLS[operation](carrier)
    assert caught.value.code is UNAVAILABLE
    carrier.close()


def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    carrier = carrier_at("http://does-not-exist.invalid")
    with pytest.raises(TransientError, match="nothing was sent"):
        carrier.create_trunk(TRUNK_SPEC)


def test_every_row_of_the_table_has_a_case() -> None:
    assert {row.name for row in TWILIO_TABLE} == {case.row for case in CASES.values()} | {"not_sent", "held_back"}


@pytest.mark.parametrize("name", list(CASES))
def test_each_case_is_decided_by_the_row_that_it_names(name: str) -> None:
    case = CASES[name]
    answer = case.answer
    if case.row in {"lost", "unreadable"}:
        wire = CallFailedError(Outcome(case.row))
    else:
        code = json.loads(answer.body).get("code") if answer.body.startswith(b"{") else None
        code = str(code) if str(code).isdecimal() else None
        wire = CallFailedError(Outcome.STATUS, status=answer.status, code=code)
    operation = (case.only or ("list_trunks",))[0]
    assert next(row for row in TWILIO_TABLE if row.matches(operation, wire)).name == case.row


@pytest.mark.parametrize(
    "operation", ["delete_trunk", "delete_origination_url", "update_trunk", "update_origination_url"]
)
def test_a_write_to_what_is_gone_says_so(operation: str, carrier: TwilioCarrier, server: ScriptedServer) -> None:
    server.answer(failure(404, 20404))
    assert not CALLS[operation](carrier)
    assert len(server.seen) == 1


def test_a_404_may_come_without_a_code(carrier: TwilioCarrier, server: ScriptedServer) -> None:
    server.answer(failure(404))
    carrier.delete_trunk(TRUNK)


def test_a_trunk_that_is_gone_is_none_and_has_nothing(carrier: TwilioCarrier, server: ScriptedServer) -> None:
    server.default = failure(404, 20404)
    assert carrier.get_trunk(TRUNK) is None
    assert carrier.list_trunk_numbers(TRUNK) == []
    assert carrier.list_origination_urls(TRUNK) == []


@pytest.mark.parametrize("sid", [None, "", "TK123", "PN" + "c" * 32])
def test_a_created_trunk_without_a_proper_sid_is_an_unknown_outcome(
    sid: str | None, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(Answer(201, json.dumps({"sid": sid, "friendly_name": "x"}).encode()))
    with pytest.raises(UnknownOutcomeError):
        carrier.create_trunk(TRUNK_SPEC)


@pytest.mark.parametrize(
    ("header", "expected"), [("7", 7.0), ("0", 0.0), ("86400", 300.0), ("-3", None), ("soon", None), ("nan", None)]
)
def test_the_wish_of_a_429_reaches_the_caller(
    header: str, expected: float | None, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(failure(429, 20429, Retry_After=header))
    with pytest.raises(TransientError) as caught:
        carrier.create_trunk(TRUNK_SPEC)
    assert caught.value.retry_after_s == expected


def test_nothing_is_sent_twice(carrier: TwilioCarrier, server: ScriptedServer) -> None:
    for broken in (failure(429, 20429, Retry_After="1"), failure(503), Drop()):
        server.seen.clear()
        server.answer(broken)
        with pytest.raises(ProviderError):
            carrier.list_trunks()
        assert len(server.seen) == 1


def test_a_refused_move_to_a_former_trunk_that_exists_is_an_error(
    carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(failure(400, 21608))
    server.answer(Answer(200, json.dumps({"sid": TRUNK, "friendly_name": "theirs"}).encode()))
    with pytest.raises(RejectedError, match=r"update_number: HTTP 400, code 21608\."):
        carrier.restore_routing(NUMBER, NumberRouting(TRUNK, None, None), NumberRouting(None, None, None))


BAD_SIDS = ["", "TK", "TK" + "B" * 32, TRUNK + "/../x", TRUNK + "\n", ACCOUNT]


@pytest.mark.parametrize("sid", BAD_SIDS)
def test_a_malformed_sid_never_reaches_a_path(sid: str | None, carrier: TwilioCarrier, server: ScriptedServer) -> None:
    for call in (
        carrier.get_number,
        carrier.get_trunk,
        carrier.delete_trunk,
        carrier.list_trunk_numbers,
        carrier.list_origination_urls,
        lambda sid: carrier.create_origination_url(sid, URL_SPEC),
        lambda sid: carrier.delete_origination_url(TRUNK, sid),
        lambda sid: carrier.delete_origination_url(sid, URL),
        lambda sid: carrier.attach_number(sid, NUMBER, UNROUTED),
        lambda sid: carrier.attach_number(TRUNK, sid, UNROUTED),
        lambda sid: carrier.detach_number(sid, NUMBER),
        lambda sid: carrier.detach_number(TRUNK, sid),
        lambda sid: carrier.restore_routing(sid, *[NumberRouting(None, None, None)] * 2),
    ):
        with pytest.raises(ValueError, match=r"not a .. sid"):
            call(sid)
    assert server.seen == []


@pytest.mark.parametrize("text", ["", "5145551234", "+1514555*", "+1 514 555 1234", "+15145551234\n"])
def test_a_pattern_is_never_looked_up(text: str, carrier: TwilioCarrier, server: ScriptedServer) -> None:
    with pytest.raises(ValueError, match="an E"):
        carrier.find_number(text)
    assert server.seen == []
