"""Every row of LiveKit's error table, over HTTP, for reads, deletes and writes."""

import json
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet
from livekit import api

from app.providers.errors import CallFailedError, Outcome, ProviderError, TransientError, UnknownOutcomeError
from app.providers.livekit import LiveKitPlatform
from app.providers.livekit_errors import LIVEKIT_TABLE
from tests.support.adapters import inbound_spec, rule_spec
from tests.support.livekit_failures import (
    CALLS,
    CASES,
    DELETE,
    RULE,
    SECRET,
    SHOWN_WORDS,
    TIMEOUT_S,
    TRUNK,
    UNAVAILABLE,
    WRITE,
    Case,
    failure,
    protobuf,
    text,
)
from tests.support.scripted_server import (
    Answer,
    Hang,
    ScriptedServer,
    Trickle,
    refusing_url,
    scripted_server,
)


def platform_at(url: str) -> LiveKitPlatform:
    return LiveKitPlatform(url, "devkey", SECRET, timeout_s=TIMEOUT_S)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def platform(server: ScriptedServer) -> Iterator[LiveKitPlatform]:
    server.script.clear()
    server.seen.clear()
    server.default = None
    platform = platform_at(server.url)
    yield platform
    platform.close()


def examples() -> Iterator[ParameterSet]:
    for name, case in CASES.items():
        # A slow failure is shown once of each kind, a quick one for every call.
        slow = isinstance(case.answer, Hang | Trickle)
        for operation in case.only or (("ping", "delete_trunk", "create_inbound_trunk") if slow else CALLS):
            yield pytest.param(case, operation, id=f"{name}-{operation}")


@pytest.mark.parametrize(("case", "operation"), list(examples()))
def test_each_failure_becomes_the_error_of_its_row(
    case: Case, operation: str, platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.default = case.answer

    with pytest.raises(ProviderError) as caught:
        CALLS[operation](platform)

    expected = (case.on_write or case.error) if operation in WRITE else case.error
    assert (type(caught.value), caught.value.code) == (expected, case.code)
    assert operation in caught.value.detail
    assert case.says in caught.value.detail
    assert SECRET not in caught.value.detail
    assert (SHOWN_WORDS in caught.value.detail) is case.is_quoted
    assert caught.value.__cause__ is None
    assert len(server.seen) == 1


@pytest.mark.parametrize("answer", [text(401, b"invalid token: secret"), failure(401, "unauthenticated")])
def test_what_a_401_says_is_not_even_kept(answer: Answer, platform: LiveKitPlatform, server: ScriptedServer) -> None:
    server.answer(answer)
    with pytest.raises(CallFailedError) as caught:
        platform._livekit.call(
            "list_inbound_trunks", lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())
        )
    assert caught.value.text == ""


@pytest.mark.parametrize("operation", CALLS)
def test_a_refused_connection_was_not_sent(operation: str) -> None:
    platform = platform_at(refusing_url())
    with pytest.raises(TransientError, match="nothing was sent") as caught:
        CALLS[operation](platform)
    assert caught.value.code is UNAVAILABLE
    platform.close()


def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    platform = platform_at("wss://does-not-exist.invalid")
    with pytest.raises(TransientError, match="nothing was sent"):
        platform.create_inbound_trunk(inbound_spec("+15145551234"))
    platform.close()


def test_every_row_of_the_table_has_a_case() -> None:
    assert {row.name for row in LIVEKIT_TABLE} == {case.row for case in CASES.values()} | {"not_sent", "held_back"}


@pytest.mark.parametrize("name", list(CASES))
def test_each_case_is_decided_by_the_row_that_it_names(name: str) -> None:
    case = CASES[name]
    if isinstance(case.answer, Answer) and case.row != "unreadable":
        try:
            code = json.loads(case.answer.body)["code"]
        except (ValueError, TypeError):
            code = "unknown"
        wire = CallFailedError(Outcome.STATUS, status=case.answer.status, code=code, text=case.begins)
    else:
        wire = CallFailedError(Outcome(case.row))
    operation = (case.only or ("ping",))[0]
    assert next(row for row in LIVEKIT_TABLE if row.matches(operation, wire)).name == case.row


@pytest.mark.parametrize("operation", DELETE)
def test_a_delete_of_what_is_gone_says_so(operation: str, platform: LiveKitPlatform, server: ScriptedServer) -> None:
    server.answer(failure(404, "not_found"))
    assert not CALLS[operation](platform)
    assert len(server.seen) == 1


def test_what_is_not_listed_is_not_there_and_what_is_gone_is_not_updated(
    platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.answer(protobuf(b""), protobuf(b""), failure(404, "not_found"), failure(404, "not_found"))
    assert platform.get_inbound_trunk(TRUNK) is None
    assert platform.get_dispatch_rule(RULE) is None
    assert WRITE["update_inbound_trunk"](platform) is False
    assert WRITE["update_dispatch_rule"](platform) is False


@pytest.mark.parametrize("made_id", ["", "SDR", "XX_aaaaaaaaaaaa"])
def test_a_create_that_answers_without_a_proper_id_is_an_unknown_outcome(
    made_id: str, platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.answer(protobuf(api.SIPInboundTrunkInfo(sip_trunk_id=made_id, name="x").SerializeToString()))
    with pytest.raises(UnknownOutcomeError):
        platform.create_inbound_trunk(inbound_spec("+15145551234"))
    server.answer(protobuf(api.SIPDispatchRuleInfo(sip_dispatch_rule_id=made_id, name="x").SerializeToString()))
    with pytest.raises(UnknownOutcomeError):
        platform.create_dispatch_rule(rule_spec(TRUNK))


@pytest.mark.parametrize(
    ("header", "expected"), [("7", 7.0), ("0", 0.0), ("86400", 300.0), ("-3", None), ("soon", None), ("nan", None)]
)
def test_the_wish_of_a_429_reaches_the_caller(
    header: str, expected: float | None, platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.answer(failure(429, "resource_exhausted", headers={"Retry-After": header}))
    with pytest.raises(TransientError) as caught:
        platform.create_inbound_trunk(inbound_spec("+15145551234"))
    assert caught.value.retry_after_s == expected


@pytest.mark.parametrize("bad_id", ["", "ST_", "ST", RULE + "!", "ST_../../x"])
def test_a_malformed_id_is_never_sent(bad_id: str, platform: LiveKitPlatform, server: ScriptedServer) -> None:
    for call in (
        platform.get_inbound_trunk,
        platform.get_dispatch_rule,
        platform.delete_trunk,
        platform.delete_dispatch_rule,
        lambda bad_id: platform.create_dispatch_rule(rule_spec(bad_id)),
    ):
        with pytest.raises(ValueError, match="not a"):
            call(bad_id)
    assert server.seen == []
