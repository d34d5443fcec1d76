"""The soak's comparison can fail: each difference that it counts is caused here and found."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.soak.comparison import ForeignObjects, compare
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp


@pytest.fixture
def dsn(database_url: str) -> str:
    return database_url.replace("postgresql+psycopg", "postgresql")


@pytest.fixture
def found(live: SandboxApp, dsn: str) -> Callable[[], set[str]]:
    """Return what compares now with the state before the test, and names the kinds of differences."""
    foreign, original = foreign_objects(live), original_records(live)

    def compared() -> set[str]:
        counts = compare(live.sandbox, dsn, foreign, original).counts()
        return {name for name, count in counts.items() if count}

    return compared


def original_records(live: SandboxApp) -> dict[str, dict[str, Any]]:
    """Return each number's record before it was provisioned."""
    untouched = {"trunk_sid": None, "voice_application_sid": None, "voice_url": "https://example.com/voice"}
    records = {item["phone_number"]: item for item in live.sandbox.state()["numbers"]}
    return records | {NUMBER: {**records[NUMBER], **untouched}}


def foreign_objects(live: SandboxApp) -> ForeignObjects:
    """Return somebody else's number, trunk, LiveKit trunk and rule: everything but the agent's own."""
    everything = ForeignObjects.remember(live.sandbox, {FOREIGN_NUMBER})
    own = {value for value in vars(live.agent).values() if isinstance(value, str)}
    before = tuple(text for text in everything.before if not any(one in text for one in own if len(one) > 12))
    return ForeignObjects(everything.ids - own, before, everything.since)


def test_a_whole_path_has_no_differences(found: Callable[[], set[str]]) -> None:
    assert found() == set()


def test_a_second_trunk_of_the_agent_is_a_duplicate(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.twilio("POST", "/v1/Trunks", FriendlyName=f"trunkline/stage/{live.agent_id}")
    assert found() == {"duplicates"}


def test_a_trunk_that_no_agent_has_is_a_leftover(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/nobody")
    assert found() == {"leftovers"}


def test_a_path_without_its_rule_is_broken(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=live.agent.livekit_dispatch_rule_id)
    assert "broken" in found()


def test_a_change_to_somebody_elses_trunk_is_found(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    theirs = next(one for one in live.sandbox.state()["trunks"] if one["friendly_name"] == "theirs")
    live.console.twilio("POST", f"/v1/Trunks/{theirs['sid']}", FriendlyName="ours now")
    assert "foreign" in found()


def test_an_operation_that_never_ends_is_stuck(found: Callable[[], set[str]], dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE operations SET finished_at = NULL, status = 'running'")
    assert "stuck" in found()
