"""Whose a resource is, by its name or metadata: strictly ours, or not ours, whatever somebody has written there."""

import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.texts import read_time, shown, storable
from app.path.marks import (
    Mark,
    agent_of,
    instance_in,
    is_damaged,
    mark_in,
    metadata_of,
    pool_tag,
    restored,
    tag_of,
    takes_mark,
    with_mark,
    without_mark,
)
from tests.support.malformed_texts import ANY_JSON, ANY_TEXT, DEEP, MALFORMED_URIS, damaged_marks, id_of

AGENT = uuid.UUID("00000000-0000-4000-8000-0000000000ab")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS = metadata_of("here", AGENT, uuid.uuid4(), NOW)


def test_a_mark_is_read_from_a_name_as_well_as_from_metadata() -> None:
    assert mark_in(tag_of("here", AGENT)) == Mark("here", str(AGENT))
    assert mark_in(OURS) == Mark("here", str(AGENT), NOW)
    assert mark_in("Front desk", OURS) == Mark("here", str(AGENT), NOW)
    assert mark_in(tag_of("here", AGENT), "the user's own") == Mark("here", str(AGENT))


def test_a_mark_of_another_instance_is_no_mark_of_this_one() -> None:
    assert agent_of("here", tag_of("here", AGENT)) == agent_of("here", OURS) == str(AGENT)
    for text in (tag_of("there", AGENT), metadata_of("there", AGENT, AGENT, NOW)):
        assert agent_of("here", text) is None
        assert not is_damaged("here", text)


@pytest.mark.parametrize("metadata", list(damaged_marks("here", str(AGENT))), ids=id_of)
def test_metadata_that_names_no_agent_as_we_do_is_not_ours_and_said_to_be_damaged(metadata: str) -> None:
    assert mark_in(metadata) is None
    assert is_damaged("here", metadata)
    assert is_damaged("here", "front desk", metadata)
    # Beside a proper tag it is the user's affair.
    assert not is_damaged("here", tag_of("here", AGENT), metadata)
    assert without_mark(metadata) == metadata


@pytest.mark.parametrize(
    "tail",
    ["hello", "", str(AGENT).upper(), f"{{{AGENT}}}", f"{AGENT}/x", f"{AGENT}\n", f"{AGENT}\0", AGENT.hex],
    ids=id_of,
)
def test_a_name_that_names_no_agent_as_we_do_is_not_ours(tail: str) -> None:
    assert mark_in(f"trunkline/here/{tail}") is None
    assert is_damaged("here", f"trunkline/here/{tail}")


@pytest.mark.parametrize("text", ["", "theirs", "{}", "[]", "null", '{"managedBy": "others"}', "trunkline", "nan", "1"])
def test_what_says_nothing_of_us_is_somebody_elses_and_whole(text: str) -> None:
    assert mark_in(text) is None
    assert not is_damaged("here", text)
    assert without_mark(text) == text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-01-01T00:00:00+00:00", NOW),
        ("2026-01-01T00:00:00Z", NOW),
        ("2026-01-01T00:00:00", None),
        ("2026-01-01", None),
        ("yesterday", None),
        ("\ud800", None),
        (None, None),
        (7, None),
    ],
)
def test_a_time_without_a_zone_is_no_time(written: object, read: datetime | None) -> None:
    assert read_time(written) == read
    values = {"managedBy": "trunkline", "instance": "here", "agentId": str(AGENT), "createdAt": written}
    assert mark_in(json.dumps(values)) == Mark("here", str(AGENT), read)


def test_only_our_mark_is_taken_out_of_metadata() -> None:
    assert without_mark(OURS) == ""
    assert json.loads(without_mark(json.dumps({**json.loads(OURS), "tier": "gold"}))) == {"tier": "gold"}


FORMER = st.one_of(
    st.just(""),
    ANY_TEXT,
    ANY_JSON.map(json.dumps),
    st.dictionaries(st.text(), ANY_JSON).map(lambda values: json.dumps(values, indent=2, ensure_ascii=False)),
)


@given(FORMER)
def test_a_mark_beside_what_metadata_says_is_taken_off_to_the_letter(former: str) -> None:
    if takes_mark(former):
        marked = with_mark(former, OURS)
        assert (mark_in(marked), restored(marked, former)) == (Mark("here", str(AGENT), NOW), former)
        # Another mark gives its place.
        assert takes_mark(marked)


@pytest.mark.parametrize("metadata", ["call Ann", "[1]", "7", '{"instance": "prod"}', '{"createdAt": "2020"}', " "])
def test_a_mark_has_no_room_where_it_would_cost_what_metadata_says(metadata: str) -> None:
    assert not takes_mark(metadata)


def test_what_somebody_has_written_beside_a_mark_stays() -> None:
    marked = with_mark('{"tier":  "gold"}', OURS)
    changed = json.dumps({**json.loads(marked), "tier": "silver"})
    assert restored(changed, '{"tier":  "gold"}') == '{"tier": "silver"}'


def test_the_instance_of_a_mark_is_known_whoever_shares_it() -> None:
    texts = (tag_of("there", AGENT), metadata_of("there", AGENT, AGENT, NOW), pool_tag("there", AGENT))
    for text in texts:
        assert instance_in("Front desk", text) == "there"
    assert instance_in("Front desk", "trunkline/there", '{"managedBy": "trunkline"}') is None


@given(st.one_of(ANY_TEXT, ANY_JSON.map(json.dumps), st.sampled_from(DEEP)))
def test_no_text_breaks_the_readers(text: str) -> None:
    assert mark_in(text) is None
    is_damaged("here", text)
    assert without_mark(text) == text
    assert instance_in(text) is None
    takes_mark(text)
    read_time(text)


@given(ANY_TEXT)
def test_what_is_stored_or_shown_of_a_providers_text_can_be(text: str) -> None:
    assert "\0" not in storable(text)
    storable(text).encode()
    assert shown(text).isprintable()
    assert len(shown(text)) <= 301 or not text.isprintable()


@pytest.mark.parametrize("uri", MALFORMED_URIS, ids=id_of)
def test_a_text_that_can_be_stored_is_left_as_it_is(uri: str) -> None:
    assert (storable(uri) == uri) is ("\0" not in uri and "\ud800" not in uri)


def test_an_escape_sequence_is_shown_and_not_sent_to_the_terminal() -> None:
    assert shown("sip:\x1bc@evil\n\ud800\0") == r"sip:\x1bc@evil\n\ud800\x00"
