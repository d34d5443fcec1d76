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
        counts = compare(live.sandbox, dsn, foreign, original, instance="stage", most=1).counts()
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


def shared_trunk(live: SandboxApp) -> dict[str, Any]:
    """Return the shared trunk's record."""
    return next(one for one in live.sandbox.state()["trunks"] if one["sid"] == live.agent.twilio_trunk_sid)


def test_a_second_trunk_with_the_mark_of_a_shared_one_is_found(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.twilio("POST", "/v1/Trunks", FriendlyName=shared_trunk(live)["friendly_name"])
    assert found() == {"pool"}


def test_a_shared_trunk_of_which_nobody_knows_is_found(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline-pool/stage/0123456789ab")
    assert found() == {"pool"}


def test_a_shared_trunk_that_is_gone_is_found(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    live.console.twilio("DELETE", f"/v1/Trunks/{live.agent.twilio_trunk_sid}")
    assert "pool" in found()


def test_more_numbers_than_a_trunk_takes_are_found(live: SandboxApp, found: Callable[[], set[str]]) -> None:
    sid = next(one["sid"] for one in live.sandbox.state()["numbers"] if one["phone_number"] == FOREIGN_NUMBER)
    live.console.twilio("POST", f"/v1/Trunks/{live.agent.twilio_trunk_sid}/PhoneNumbers", PhoneNumberSid=sid)
    assert "pool" in found()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE agents SET twilio_phone_number = NULL",
        "UPDATE agents SET twilio_trunk_sid = 'TKelse'",
        "UPDATE agents SET trunk_id = NULL, twilio_trunk_sid = NULL, phone_provisioning_status = 'FAILED'",
    ],
)
def test_a_place_that_does_not_fit_is_found(found: Callable[[], set[str]], dsn: str, change: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(change)
    assert "pool" in found()


def test_more_members_than_a_trunk_takes_are_found(live: SandboxApp, found: Callable[[], set[str]], dsn: str) -> None:
    other = live.wiring.agents.create("other", "other", {}).id
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "UPDATE agents SET trunk_id = (SELECT id FROM trunks), twilio_phone_number = '+15145550012' WHERE id = %s",
            [other],
        )
    assert "pool" in found()
