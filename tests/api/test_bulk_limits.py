"""What a bulk is told of the account's room, and what it counts for against the rate of its key."""

import re
from dataclasses import replace

import pytest
from limits import parse
from werkzeug.test import TestResponse

from app.domain.errors import ErrorCode
from app.providers.errors import TransientError
from app.web.context import WEB_SERVICES
from app.web.limits import Allowance, RateLimit
from tests.api.test_bulk import fresh, start
from tests.support.api import NOBODY, Api


def test_the_answer_says_how_many_the_account_has_room_for_and_why(own_api: Api) -> None:
    own_api.carrier.trunks = 95
    own_api.provision(own_api.agent())
    items = [*fresh(2), {"phoneNumber": "12"}, {"phoneNumber": "+15145559999", "agentId": NOBODY}]
    first = start(own_api, items).json["headroom"]
    desk = {"name": "own", "trunkMode": "dedicated"}
    own = [item | {"agent": desk} for item in fresh(7, 2000)]
    second = start(own_api, [*fresh(600, 3000), *own]).json["headroom"]
    third = start(own_api, fresh(1, 6000)).json["headroom"]

    # A number without a place needs a trunk, which has room for 499 more.
    figures = {"trunkLimit": 100, "trunksInUse": 95, "trunksPromised": 1, "placesFree": 499, "trunkMaxNumbers": 500}
    assert first == figures | {
        "fits": 2,
        "reason": "2 of 2 numbers fit: 499 places are free on shared trunks, which take 500 each, and of the 100 "
        "trunks that the Twilio account may have 95 are in use, 1 reserved for numbers in progress.",
    }
    assert (second["trunksPromised"], second["placesFree"], second["fits"]) == (1, 497, 600 + 3)
    assert second["reason"].startswith("603 of 607 numbers fit: 497 places are free")
    assert second["reason"].endswith(" 7 of them would have a trunk of their own.")
    assert (third["trunksPromised"], third["fits"]) == (9, 0)
    assert own_api.carrier.pings == 1


def test_room_that_twilio_does_not_tell_of_is_unknown_and_refuses_nothing(own_api: Api) -> None:
    own_api.carrier.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is down.")
    response = start(own_api, fresh(1))

    assert (response.status_code, response.json["headroom"]) == (202, None)


def limited(api: Api, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Give the keys a rate of their own."""
    rate = RateLimit(parse(limit), api.wiring.settings.redis_url)
    monkeypatch.setitem(api.app.extensions, WEB_SERVICES, replace(api.app.extensions[WEB_SERVICES], rate_limit=rate))


def test_a_bulk_counts_as_many_calls_as_it_has_items(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, monkeypatch, "20/hour")
    responses = [start(api, fresh(8, first)).status_code for first in (1000, 2000, 3000, 4000)]

    assert responses == [202, 202, 202, 429]
    assert api.post("/api/agents", {"name": "one call"}).status_code == 429
    assert api.count("bulks") == 3


def told(response: TestResponse) -> tuple[str | None, str | None]:
    """Return what a response says of the key's rate."""
    return response.headers.get("RateLimit-Policy"), response.headers.get("RateLimit")


def test_every_writing_call_is_told_what_its_key_may_still_send(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, monkeypatch, "20/hour")
    first, bad = api.post("/api/agents", {"name": "one"}), api.post("/api/agents", {})
    bulk = start(api, fresh(8, 1000))
    last = [api.post("/api/agents", {"name": "more"}) for _ in range(11)][-1]

    found = [told(response) for response in (first, bad, bulk)]
    assert [policy for policy, _ in found] == ['"writes";q=20;w=3600'] * 3
    left = [re.fullmatch(r'"writes";r=(\d+);t=(\d+)', text or "") for _, text in found]
    assert [int(one[1]) for one in left if one] == [19, 18, 10]
    assert all(3500 < int(one[2]) <= 3600 for one in left if one)
    assert (last.status_code, told(last)[1]) == (429, f'"writes";r=0;t={last.headers["Retry-After"]}')


def test_nobody_is_told_of_a_rate_that_does_not_count_the_call(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, monkeypatch, "20/hour")
    uncounted = [api.get("/api/agents"), api.client.post("/api/agents", json={"name": "one"}), api.get("/healthz")]
    monkeypatch.setitem(api.app.extensions, WEB_SERVICES, replace(api.app.extensions[WEB_SERVICES], rate_limit=None))
    uncounted.append(api.post("/api/agents", {"name": "one"}))

    assert [response.status_code for response in uncounted] == [200, 401, 200, 201]
    assert {told(response) for response in uncounted} == {(None, None)}


def test_the_largest_bulk_passes_a_small_limit_and_uses_it_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(api, monkeypatch, "5/hour")

    assert [start(api, fresh(50, first)).status_code for first in (1000, 2000)] == [202, 429]


def test_a_bulk_that_came_too_soon_is_not_what_its_idempotency_key_answers(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"Idempotency-Key": "import-8"}
    limited(api, monkeypatch, "5/hour")
    monkeypatch.setattr(RateLimit, "charge", lambda *_: Allowance(0, 7, may_pass=False))
    refused = start(api, fresh(2), headers=key)
    monkeypatch.undo()
    accepted = start(api, fresh(2), headers=key)

    assert (refused.status_code, refused.headers["Retry-After"], accepted.status_code) == (429, "7", 202)


def test_a_resume_counts_as_many_calls_as_it_has_items(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    url = start(api, fresh(8)).json["statusUrl"]
    limited(api, monkeypatch, "10/hour")
    changes = [api.post(f"{url}/{verb}").status_code for verb in ("cancel", "resume", "cancel", "resume")]

    assert changes == [202, 202, 202, 429]
