"""The soak's verdict can fail: each wrong that it counts is caused here and seen."""

from typing import Any

import psycopg
import pytest

from tests.soak.verdict import Foreign, Verdict, judge
from tests.support.stage import FOREIGN_NUMBER, NUMBER, Stage


class _Database:
    """What the verdict needs of the soak's PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("postgresql+psycopg", "postgresql")

    def dsn(self, _database: str = "") -> str:
        return self._url


class _Soaked:
    """The stage, as the verdict sees a soak's stack."""

    def __init__(self, stage: Stage, database_url: str) -> None:
        self.postgres = _Database(database_url)
        self._sandbox = stage.sandbox

    def order(self, method: str, path: str, body: object = None) -> Any:
        return self._sandbox._call(method, path, body)


@pytest.fixture
def soaked(stage: Stage, database_url: str) -> Any:
    return _Soaked(stage, database_url)


@pytest.fixture
def original(stage: Stage) -> dict[str, dict[str, Any]]:
    """Each number's record before anybody touched it."""
    untouched = {"trunk_sid": None, "voice_application_sid": None, "voice_url": "https://example.com/voice"}
    records = {item["phone_number"]: item for item in stage.sandbox.state()["numbers"]}
    return records | {NUMBER: {**records[NUMBER], **untouched}}


@pytest.fixture
def foreign(stage: Stage, soaked: Any) -> Foreign:
    """Somebody else's number, trunk, LiveKit trunk and rule: what is there and not the stage's agent's."""
    theirs = Foreign.remember(soaked, {FOREIGN_NUMBER})
    own = {value for value in vars(stage.agent).values() if isinstance(value, str)}
    kept = tuple(text for text in theirs.before if not any(one in text for one in own if len(one) > 12))
    return Foreign(theirs.ids - own, kept, theirs.since)


def _wrong(verdict: Verdict) -> set[str]:
    return {name for name, count in verdict.counts().items() if count}


def test_a_path_that_stands_is_clean(soaked: Any, foreign: Foreign, original: Any) -> None:
    assert _wrong(judge(soaked, foreign, original)) == set()


def test_a_second_trunk_of_the_agent_is_a_twin(stage: Stage, soaked: Any, foreign: Foreign, original: Any) -> None:
    stage.console.twilio("POST", "/v1/Trunks", FriendlyName=f"trunkline/stage/{stage.agent_id}")
    assert _wrong(judge(soaked, foreign, original)) == {"twins"}


def test_a_trunk_that_no_agent_has_is_a_leftover(stage: Stage, soaked: Any, foreign: Foreign, original: Any) -> None:
    stage.console.twilio("POST", "/v1/Trunks", FriendlyName="trunkline/stage/nobody")
    assert _wrong(judge(soaked, foreign, original)) == {"leftovers"}


def test_a_path_that_was_cut_is_broken(stage: Stage, soaked: Any, foreign: Foreign, original: Any) -> None:
    stage.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=stage.agent.livekit_dispatch_rule_id)
    assert "broken" in _wrong(judge(soaked, foreign, original))


def test_a_change_to_somebody_elses_trunk_is_seen(stage: Stage, soaked: Any, foreign: Foreign, original: Any) -> None:
    theirs = next(one for one in stage.sandbox.state()["trunks"] if one["friendly_name"] == "theirs")
    stage.console.twilio("POST", f"/v1/Trunks/{theirs['sid']}", FriendlyName="ours now")
    assert "touched" in _wrong(judge(soaked, foreign, original))


def test_an_operation_that_never_ends_is_stuck(
    stage: Stage, soaked: Any, foreign: Foreign, original: Any, database_url: str
) -> None:
    with psycopg.connect(database_url.replace("postgresql+psycopg", "postgresql")) as connection:
        connection.execute("UPDATE operations SET finished_at = NULL, status = 'running'")
    assert "stuck" in _wrong(judge(soaked, foreign, original))
