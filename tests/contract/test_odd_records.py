"""One record that is not what the provider documents: it is named, the others are read, and nothing counts as gone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit import api

from app.domain.errors import ErrorCode
from app.path.observed import Unreadable
from app.providers import livekit_connection, twilio_connection
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError
from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier
from app.providers.twilio_records import read_number, read_origination_url, read_trunk, unreadable_record
from tests.support.adapters import inbound_spec
from tests.support.livekit_failures import protobuf
from tests.support.malformed_texts import ANY_JSON, MALFORMED_URIS, id_of
from tests.support.scripted_server import Answer, ScriptedServer, scripted_server
from tests.support.twilio_failures import ACCOUNT, NUMBER, TRUNK, TRUNK_SPEC, URL

E164 = "+15145551234"
RULE = "SDR_" + "b" * 12
INBOUND = "ST_" + "a" * 12

GOOD: dict[str, dict[str, Any]] = {
    "numbers": {"sid": NUMBER, "account_sid": ACCOUNT, "phone_number": E164, "capabilities": {"voice": True}},
    "trunks": {"sid": TRUNK, "friendly_name": "theirs", "secure": False, "date_created": "2026-01-01T00:00:00Z"},
    "urls": {"sid": URL, "trunk_sid": TRUNK, "sip_url": "sip:a.example", "enabled": True, "friendly_name": "theirs"},
}
KEYS = {"numbers": "incoming_phone_numbers", "trunks": "trunks", "urls": "origination_urls"}
KINDS = {"numbers": "PN", "trunks": "TK", "urls": "OU"}
READERS: dict[str, Callable[[Any], Any]] = {
    "numbers": read_number,
    "trunks": read_trunk,
    "urls": read_origination_url,
}
LISTS: dict[str, Callable[..., list[Any]]] = {
    "numbers": lambda carrier, *odd: carrier.list_numbers(*odd),
    "trunks": lambda carrier, *odd: carrier.list_trunks(*odd),
    "urls": lambda carrier, *odd: carrier.list_origination_urls(TRUNK, *odd),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def carrier(server: ScriptedServer) -> Iterator[TwilioCarrier]:
    server.script.clear()
    server.seen.clear()
    carrier = TwilioCarrier(ACCOUNT, ACCOUNT, "token", timeout_s=5, base_url=server.url)
    yield carrier
    carrier.close()


@pytest.fixture
def platform(server: ScriptedServer) -> Iterator[LiveKitPlatform]:
    server.script.clear()
    server.seen.clear()
    platform = LiveKitPlatform(server.url, "key", "secret" * 8, timeout_s=5)
    yield platform
    platform.close()


def page(kind: str, *records: object, **more: object) -> Answer:
    key = KEYS[kind]
    envelope = {**more} if kind == "numbers" else {"meta": {"key": key, **more}}
    return Answer(200, json.dumps({key: records, **envelope}).encode())


@dataclass(frozen=True)
class Odd:
    kind: str
    record: object
    seen_as: Unreadable


def changed(kind: str, **fields: object) -> dict[str, Any]:
    return {**GOOD[kind], **fields}


ODD = {
    "a trunk without a sid": Odd("trunks", changed("trunks", sid=None), Unreadable("", may_be_ours=False)),
    "a trunk of another kind": Odd("trunks", changed("trunks", sid=NUMBER), Unreadable("", may_be_ours=False)),
    "a trunk of ours with a path": Odd(
        "trunks",
        changed("trunks", sid=TRUNK + "/../x", friendly_name="trunkline/a/b"),
        Unreadable("", may_be_ours=True),
    ),
    "a trunk whose name is a list": Odd(
        "trunks", changed("trunks", friendly_name=["x"]), Unreadable(TRUNK, may_be_ours=True)
    ),
    "no trunk at all": Odd("trunks", None, Unreadable("", may_be_ours=True)),
    "a text for a trunk": Odd("trunks", "TK", Unreadable("", may_be_ours=True)),
    "a URL that leads to a number": Odd("urls", changed("urls", sip_url=5), Unreadable(URL, may_be_ours=False)),
    "a URL without its trunk": Odd("urls", changed("urls", trunk_sid=None), Unreadable(URL, may_be_ours=False)),
    "a number without its text": Odd("numbers", changed("numbers", phone_number=None), Unreadable(NUMBER, True)),
    "a number on no trunk's list": Odd("numbers", changed("numbers", trunk_sid=[]), Unreadable(NUMBER, True)),
    "a number of no account": Odd("numbers", changed("numbers", account_sid="AC1"), Unreadable(NUMBER, True)),
}


@pytest.mark.parametrize("case", ODD.values(), ids=list(ODD))
def test_one_odd_record_is_named_and_the_others_are_read(
    case: Odd, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    odd: list[Unreadable] = []
    server.answer(page(case.kind, case.record, GOOD[case.kind]))
    assert LISTS[case.kind](carrier, odd) == [READERS[case.kind](GOOD[case.kind])]
    assert odd == [case.seen_as]


@pytest.mark.parametrize("case", ODD.values(), ids=list(ODD))
def test_a_list_that_may_lack_one_of_ours_says_nothing_and_one_that_lacks_theirs_goes_on(
    case: Odd, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(page(case.kind, case.record, GOOD[case.kind]))
    if case.seen_as.may_be_ours:
        with pytest.raises(TransientError, match="cannot be read"):
            LISTS[case.kind](carrier)
    else:
        assert len(LISTS[case.kind](carrier)) == 1


def test_a_number_that_cannot_be_read_is_not_said_to_be_anothers(
    carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    longer = changed("numbers", phone_number=E164 + "5", trunk_sid=[])
    server.answer(page("numbers", longer), page("numbers", longer, GOOD["numbers"], None))
    with pytest.raises(RejectedError) as caught:
        carrier.find_number(E164)
    assert caught.value.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT
    assert carrier.find_number(E164).sid == NUMBER
    for odd in (None, changed("numbers", trunk_sid=[]), changed("numbers", phone_number=5), changed("numbers", sid=1)):
        server.answer(page("numbers", odd))
        with pytest.raises(TransientError):
            carrier.find_number(E164)


def test_a_trunk_is_not_empty_while_what_is_on_it_cannot_be_read(
    carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(Answer(200, b'{"meta": {"key": "phone_numbers"}, "phone_numbers": [{"sid": "x"}]}'))
    with pytest.raises(TransientError):
        carrier.list_trunk_numbers(TRUNK)


@pytest.mark.parametrize("date", ["Fri, 31 Feb 2026 25:61:61 +0000", 5, [], "\ud800", None])
def test_a_date_decides_nothing(date: object, carrier: TwilioCarrier, server: ScriptedServer) -> None:
    for kind in ("numbers", "trunks", "urls"):
        server.answer(page(kind, changed(kind, date_created=date)))
        assert len(LISTS[kind](carrier)) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b"5", b'{"trunks": null}', b'{"meta": null}', b"[" * 100_000, b"\xff\xfe"],
    ids=["empty", "html", "null", "list", "number", "no list", "no meta", "deep", "no text"],
)
def test_an_answer_that_is_none_is_tried_again_or_of_unknown_outcome(
    body: bytes, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(*[Answer(200, body)] * 3)
    with pytest.raises(TransientError):
        carrier.list_trunks([])
    with pytest.raises(TransientError):
        carrier.get_number(NUMBER)
    with pytest.raises(UnknownOutcomeError):
        carrier.create_trunk(TRUNK_SPEC)


def test_an_error_whose_body_is_nested_too_deep_counts_by_its_status(
    carrier: TwilioCarrier, platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.answer(Answer(400, b"[" * 100_000))
    with pytest.raises(RejectedError):
        carrier.list_trunks()
    server.answer(Answer(400, b'{"a":' * 50_000))
    with pytest.raises(RejectedError):
        platform.list_inbound_trunks()


def test_an_answer_without_end_is_not_read_to_the_end(
    carrier: TwilioCarrier, platform: LiveKitPlatform, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (twilio_connection, livekit_connection):
        monkeypatch.setattr(module, "MAX_BODY_BYTES", 100_000)
        monkeypatch.setattr(module, "MAX_ERROR_BYTES", 1000)
    whole, error, blanks = page("trunks", GOOD["trunks"]).body, b'{"code": 21244}', b" " * 100_000
    server.answer(Answer(200, whole + blanks), Answer(400, error), Answer(400, blanks + error))
    with pytest.raises(TransientError, match="cannot be read"):
        carrier.list_trunks()
    for code in (ErrorCode.TWILIO_TRUNK_LIMIT, ErrorCode.TWILIO_REJECTED):
        with pytest.raises(RejectedError) as caught:
            carrier.list_trunks()
        assert caught.value.code is code
    server.answer(*(trunks(api.SIPInboundTrunkInfo(sip_trunk_id=INBOUND, name="x" * size)) for size in (9, 100_000)))
    assert len(platform.list_inbound_trunks()) == 1
    with pytest.raises(TransientError, match="cannot be read"):
        platform.list_inbound_trunks()


def test_pages_that_lead_in_a_circle_end(carrier: TwilioCarrier, server: ScriptedServer) -> None:
    following = "https://trunking.twilio.com/v1/Trunks?Page=1"
    server.default = page("trunks", GOOD["trunks"], next_page_url=following)
    with pytest.raises(TransientError):
        carrier.list_trunks()
    server.default = None
    assert len(server.seen) == 2


@pytest.mark.parametrize("following", [5, [], {}, "", "/x", "//", "https://", "https://a b/", "http://[::1"])
def test_a_next_page_that_is_no_address_is_an_answer_that_cannot_be_read(
    following: object, carrier: TwilioCarrier, server: ScriptedServer
) -> None:
    server.answer(page("trunks", GOOD["trunks"], next_page_url=following))
    if following != "":
        with pytest.raises(TransientError):
            carrier.list_trunks()
    else:
        assert len(carrier.list_trunks()) == 1
    assert len(server.seen) == 1


def trunks(*items: api.SIPInboundTrunkInfo) -> Answer:
    return protobuf(api.ListSIPInboundTrunkResponse(items=items).SerializeToString())


def rules(*items: api.SIPDispatchRuleInfo) -> Answer:
    return protobuf(api.ListSIPDispatchRuleResponse(items=items).SerializeToString())


def test_livekit_objects_without_a_proper_id_are_named_and_the_others_are_read(
    platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    good = api.SIPInboundTrunkInfo(sip_trunk_id=INBOUND, numbers=[E164])
    theirs = api.SIPInboundTrunkInfo(sip_trunk_id="ST_x/../y", numbers=[E164], name="theirs")
    ours = api.SIPDispatchRuleInfo(sip_dispatch_rule_id="", name="trunkline/a/b")
    odd: list[Unreadable] = []
    server.answer(trunks(api.SIPInboundTrunkInfo(), theirs, good), trunks(theirs, good), rules(ours), rules(ours))
    assert [trunk.id for trunk in platform.list_inbound_trunks(unreadable=odd)] == [INBOUND]
    assert odd == [Unreadable("", may_be_ours=False)]
    assert [trunk.id for trunk in platform.list_inbound_trunks()] == [INBOUND]
    assert platform.list_dispatch_rules(unreadable=odd) == []
    assert odd[1:] == [Unreadable("", may_be_ours=True)]
    with pytest.raises(TransientError, match="cannot be read"):
        platform.list_dispatch_rules()


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\x0a\xff"])
def test_what_does_not_decode_is_tried_again_or_of_unknown_outcome(
    body: bytes, platform: LiveKitPlatform, server: ScriptedServer
) -> None:
    server.answer(protobuf(body), protobuf(body))
    with pytest.raises(TransientError):
        platform.list_inbound_trunks(unreadable=[])
    with pytest.raises(UnknownOutcomeError):
        platform.create_inbound_trunk(inbound_spec())


@pytest.mark.parametrize("uri", MALFORMED_URIS, ids=id_of)
def test_every_text_is_read_as_it_is_but_for_what_no_database_holds(uri: str) -> None:
    url = read_origination_url(changed("urls", sip_url=uri, friendly_name=uri))
    assert url.sip_url == uri.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    routing = read_number(changed("numbers", voice_url=uri, voice_application_sid=uri, trunk_sid=uri)).routing
    assert routing.voice_url == routing.trunk_sid == (url.sip_url or None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_any_json_in_any_field_is_read_or_said_to_be_unreadable(kind: str, data: st.DataObject) -> None:
    fields = (*GOOD[kind], "trunk_sid", "voice_application_sid", "voice_url", "voice_receive_mode", "status")
    record = changed(kind, **data.draw(st.dictionaries(st.sampled_from(fields), ANY_JSON, min_size=1, max_size=3)))
    try:
        json.dumps(repr(READERS[kind](record))).encode()
    except ValueError:
        odd = unreadable_record(record, KINDS[kind])
        assert odd.external_id in {"", GOOD[kind]["sid"]}
