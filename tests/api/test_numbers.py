"""What the numbers of an account are used for: each use, filters, pages, workspaces, and a provider that fails."""

import base64
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, update

from app import create_app
from app.access import Scope
from app.db.models import Agent, Operation
from app.dev.localstack.processes import poll_until
from app.domain.errors import ErrorCode
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.numbers.account_lists import PAUSE_AFTER_FAILURE_S
from app.numbers.inventory import FREED_SEEN_S
from app.path.observed import NumberRouting
from app.providers.errors import ProviderError, RejectedError, TransientError
from app.views.number_schemas import NUMBER_CURSOR
from app.web import limits
from app.web.limits import MAX_CALLING_REQUESTS
from tests.support.api import IDS, NOBODY, NUMBER, Api
from tests.support.numbers import APPLICATION, FOREIGN_TRUNK, Account, held


def encoded(cursor: str) -> str:
    return base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")


def listed(api: Api, query: str = "") -> list[str]:
    return [one["phoneNumber"] for one in page(api, query)["items"]]


def page(api: Api, query: str = "") -> dict[str, Any]:
    answer = api.get(f"/api/numbers{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def walked(api: Api, query: str, between: Callable[[], None] = lambda: None) -> list[list[str]]:
    """Return all pages, and do something after each."""
    pages, cursor = [], ""
    while True:
        found = page(api, query + cursor)
        pages.append([one["phoneNumber"] for one in found["items"]])
        if found["nextCursor"] is None:
            return pages
        cursor = f"&cursor={found['nextCursor']}"
        between()


def test_each_use_is_told_with_what_belongs_to_it(own_api: Api, account: Account) -> None:
    account.own("+15145550006", has_voice=False)
    account.own("+15145550005", NumberRouting(None, None, "https://flows.example.com/v1/Flows/FW1"))
    account.own("+15145550004", NumberRouting(None, APPLICATION, "https://flows.example.com/"))
    account.own("+15145550003", NumberRouting(FOREIGN_TRUNK, None, "https://flows.example.com/"))
    account.own("+15145550002", NumberRouting(None, None, "https://demo.twilio.com/welcome/voice/"))
    free = account.own("+15145550001")
    account.own(NUMBER)
    before = datetime.now(UTC)
    agent_id = held(own_api, NUMBER, "front desk")
    found = page(own_api)

    nothing = {"agentId": None, "agentName": None, "trunkSid": None, "applicationSid": None, "voiceHost": None}
    can, cannot = {"canProvision": True, "needsTakeover": False}, {"canProvision": False, "needsTakeover": False}
    assert found["items"][0] == {"phoneNumber": "+15145550001", "sid": free, "use": "free", **nothing, **can}
    told = [{name: one[name] for name in ("use", *nothing, *can)} for one in found["items"]]
    assert told == [
        {"use": "free", **nothing, **can},
        {"use": "free", **nothing, **can},
        {"use": "trunk", **nothing, **can, "trunkSid": FOREIGN_TRUNK, "needsTakeover": True},
        {"use": "application", **nothing, **can, "applicationSid": APPLICATION, "needsTakeover": True},
        {"use": "voice_url", **nothing, **can, "voiceHost": "flows.example.com"},
        {"use": "no_voice", **nothing, **cannot},
        {
            **nothing,
            **cannot,
            "use": "agent",
            "agentId": agent_id,
            "agentName": "front desk",
            "trunkSid": IDS["twilio_trunk_sid"],
        },
    ]
    assert found["nextCursor"] is None
    assert found["unreadable"] == 0
    assert abs(datetime.fromisoformat(found["asOf"]) - before) < timedelta(minutes=1)
    for one in found["items"]:
        assert listed(own_api, f"?use={one['use']}").count(one["phoneNumber"]) == 1
    assert listed(own_api, "?use=free") == ["+15145550001", "+15145550002"]


def test_a_number_on_its_way_to_an_agent_is_the_agents(own_api: Api, account: Account) -> None:
    account.own(NUMBER, NumberRouting(None, None, "https://flows.example.com/"))
    assert page(own_api)["items"][0]["use"] == "voice_url"
    own_api.provision(own_api.agent("desk"), NUMBER)
    assert page(own_api)["items"][0]["agentName"] == "desk"
    assert account.lists == 1


def test_a_search_narrows_a_use(own_api: Api, account: Account) -> None:
    for number in ("+15145550001", "+14385550001", "+15145550002"):
        account.own(number)
    held(own_api, "+15145550002", "Night line")

    assert listed(own_api, "?search=0001") == ["+14385550001", "+15145550001"]
    assert (
        listed(own_api, "?search=%2B1514")
        == listed(own_api, "?search=(514)+555")
        == [
            "+15145550001",
            "+15145550002",
        ]
    )
    assert listed(own_api, "?search=night") == ["+15145550002"]
    assert listed(own_api, "?search=514&use=free") == ["+15145550001"]
    assert listed(own_api, "?search=night&use=free") == listed(own_api, "?search=9999") == []


@pytest.mark.parametrize(
    ("query", "field_name"),
    [
        ("?use=FREE", "use"),
        ("?use=free&use=agent", "use"),
        ("?use=free,agent", "use"),
        ("?search=", "search"),
        (f"?search={'5' * 201}", "search"),
        ("?search=%00", "search"),
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
        ("?limit=1_0", "limit"),
        ("?fresh=yes", "fresh"),
        ("?carrierAccountId=1", "carrierAccountId"),
        ("?other=1", "other"),
        ("?cursor=x", "cursor"),
        (f"?cursor={NUMBER_CURSOR}=", "cursor"),
        ("?cursor=WyIyMDI2LTExLTIzVDA5OjE1OjA0LjEyMDAwMCswMDowMCIsICI3YzFmNWE1MiJd", "cursor"),
        ("?cursor=YWN0aXZpdHk6MQ", "cursor"),
        (f"?cursor={encoded('number:+15145551234:PN1')}", "cursor"),
        (f"?cursor={encoded('other:+15145551234:PN1:')}", "cursor"),
        (f"?cursor={encoded('number:+15145551234:PN1:01')}", "cursor"),
        (f"?cursor={encoded('number:+15145551234:PN1:' + '9' * 30)}", "cursor"),
        (f"?cursor={encoded('number:+15145551234:PN1:x')}", "cursor"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(own_api: Api, account: Account, query: str, field_name: str) -> None:
    answer = own_api.get(f"/api/numbers{query}")
    assert (answer.status_code, list(answer.json["errors"])) == (422, [field_name])
    assert account.lists == 0


def test_pages_are_cut_from_one_list(own_api: Api, account: Account) -> None:
    numbers = [f"+1514555{n:04}" for n in range(7)]
    for number in reversed(numbers):
        account.own(number)

    assert walked(own_api, "?limit=3") == [numbers[:3], numbers[3:6], numbers[6:]]
    assert walked(own_api, "?limit=7") == [numbers]
    assert account.lists == 1


def test_a_number_that_comes_or_goes_between_pages_shifts_none(own_api: Api, account: Account) -> None:
    numbers = [f"+1514555{n:04}" for n in range(0, 8, 2)]
    for number in numbers:
        account.own(number)

    def change() -> None:
        if account.lists == 1:
            del account.numbers[1]  # on the page before: its last, after which the next begins
            account.own("+15145550001")  # before the page before's end: no later page has it
            account.own("+15145550005")
        account.clock.now += 120

    assert walked(own_api, "?limit=2", change) == [numbers[:2], ["+15145550004", "+15145550005"], ["+15145550006"]]


def test_two_records_with_one_number_are_on_two_pages(own_api: Api, account: Account) -> None:
    for _ in range(3):
        account.own(NUMBER)
    first = page(own_api, "?limit=2")
    rest = page(own_api, f"?limit=2&cursor={first['nextCursor']}")
    assert [one["sid"][-1] for one in first["items"] + rest["items"]] == ["0", "1", "2"]


def test_what_a_use_leaves_out_is_no_end_of_the_list(own_api: Api, account: Account) -> None:
    for n in range(6):
        account.own(f"+1514555{n:04}", has_voice=bool(n % 2))
    assert walked(own_api, "?limit=1&use=free") == [["+15145550001"], ["+15145550003"], ["+15145550005"]]


def test_numbers_of_another_workspaces_agents_are_in_no_page(own_api: Api, account: Account) -> None:
    for number in ("+15145550001", "+15145550002", "+15145550003"):
        account.own(number)
    acme, globex = own_api.in_workspace("acme"), own_api.in_workspace("globex")
    held(acme, "+15145550002", "acme's secret desk")
    own_api.provision(own_api.agent("ours"), "+15145550003")

    assert listed(globex) == ["+15145550001"]
    assert listed(acme) == ["+15145550001", "+15145550002"]
    assert listed(own_api) == ["+15145550001", "+15145550002", "+15145550003"]
    # Nor does a search tell of them.
    assert listed(globex, "?search=secret") == listed(globex, "?search=0002") == listed(globex, "?use=agent") == []
    assert walked(globex, "?limit=1") == [["+15145550001"]]


def test_an_account_of_another_workspace_is_not_found(own_api: Api, account: Account) -> None:
    account.own(NUMBER)
    acme = own_api.in_workspace("acme")
    assert listed(acme, f"?carrierAccountId={ENVIRONMENT_ACCOUNT}") == [NUMBER]
    answer = acme.get(f"/api/numbers?carrierAccountId={NOBODY}")
    assert (answer.status_code, answer.json["code"]) == (404, "account_not_found")


def test_a_key_that_may_read_may_list(own_api: Api, account: Account) -> None:
    reading = replace(own_api, key=own_api.new_key(Scope.READ))
    assert listed(reading) == []
    assert own_api.client.get("/api/numbers").status_code == 401


def test_records_that_cannot_be_read_are_counted_and_left_out(own_api: Api, account: Account) -> None:
    account.own(NUMBER)
    for odd in ("", "front desk", "+1 514 555 0001", "+" + "1" * 40):
        account.own(odd)
    account.unreadable = 2
    found = page(own_api)
    assert ([one["phoneNumber"] for one in found["items"]], found["unreadable"]) == ([NUMBER], 6)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down."), 503),
        (TransientError(ErrorCode.PROVIDER_BUSY, "Busy."), 503),
        (RejectedError(ErrorCode.TWILIO_FORBIDDEN, "Forbidden."), 502),
        (RejectedError(ErrorCode.TWILIO_BAD_CREDENTIALS, "Refused."), 502),
    ],
)
def test_a_provider_that_fails_is_told_and_asked_again_a_while_later(
    own_api: Api, account: Account, error: ProviderError, status: int
) -> None:
    account.own(NUMBER)
    account.error = error
    answers = [own_api.get("/api/numbers") for _ in range(2)]
    assert {(one.status_code, one.json["code"]) for one in answers} == {(status, error.code.value)}
    assert {one.headers.get("Retry-After") for one in answers} == {"5" if status == 503 else None}
    assert account.lists == 1
    account.error = None
    account.clock.now += PAUSE_AFTER_FAILURE_S
    assert listed(own_api) == [NUMBER]


def test_fresh_asks_twilio_again(own_api: Api, account: Account) -> None:
    assert listed(own_api) == []
    account.own(NUMBER)
    assert listed(own_api, "?fresh=false") == []
    assert listed(own_api, "?fresh=true") == listed(own_api) == [NUMBER]
    assert account.lists == 2


@pytest.fixture
def other_process(own_api: Api, account: Account) -> Api:
    """The same installation, as another process of it answers."""
    wiring = copy(own_api.wiring)
    wiring.inventory = replace(wiring.inventory, _lists={})
    return replace(own_api, app=create_app(wiring), wiring=wiring)


def test_pages_after_a_fresh_one_are_not_older_whichever_process_answers(
    own_api: Api, other_process: Api, account: Account
) -> None:
    for number in ("+15145550001", "+15145550002"):
        account.own(number)
    assert listed(other_process) == listed(own_api) == ["+15145550001", "+15145550002"]
    account.own("+15145550003")
    old = page(own_api, "?limit=1")
    new = page(own_api, "?limit=1&fresh=true")
    assert account.lists == 3

    assert listed(other_process, f"?cursor={old['nextCursor']}") == ["+15145550002"]
    second = page(other_process, f"?limit=1&cursor={new['nextCursor']}")
    third = page(own_api, f"?limit=1&cursor={second['nextCursor']}")
    assert [one["items"][0]["phoneNumber"] for one in (second, third)] == ["+15145550002", "+15145550003"]
    # No page has the process read again whose list is of that time.
    assert [one["items"][0]["phoneNumber"] for one in (page(own_api, "?limit=1"), second)] == [
        "+15145550001",
        "+15145550002",
    ]
    assert account.lists == 4


def test_a_list_that_takes_long_is_waited_for_and_kept_for_the_next_request(
    own_api: Api, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEADLINE_S", 0.05)
    go_on = threading.Event()
    account.own(NUMBER)
    account.meanwhile = lambda: assert_set(go_on)
    late = [own_api.get("/api/numbers") for _ in range(2)]
    assert {(one.status_code, one.json["code"], one.headers["Retry-After"]) for one in late} == {
        (503, "provider_unavailable", "5")
    }
    (reader,) = [one for one in threading.enumerate() if one.name == "numbers"]
    go_on.set()
    reader.join(30)
    assert listed(own_api) == [NUMBER]
    assert account.lists == 1


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)


def test_only_so_many_requests_wait_for_a_list_and_one_that_is_there_is_shown_meanwhile(
    own_api: Api, account: Account
) -> None:
    account.own(NUMBER)
    assert listed(own_api) == [NUMBER]
    go_on = threading.Event()
    account.meanwhile = lambda: assert_set(go_on)
    with ThreadPoolExecutor(MAX_CALLING_REQUESTS) as threads:
        waiting = [threads.submit(own_api.get, "/api/numbers?fresh=true") for _ in range(MAX_CALLING_REQUESTS)]
        assert poll_until(lambda: limits._slots._value == 0, 30)
        beyond = own_api.get("/api/numbers?fresh=true")
        assert (beyond.status_code, beyond.json["code"], beyond.headers["Retry-After"]) == (503, "provider_busy", "5")
        assert listed(own_api) == [NUMBER]
        go_on.set()
        assert [one.result().status_code for one in waiting] == [200] * MAX_CALLING_REQUESTS
    assert account.lists <= 1 + MAX_CALLING_REQUESTS


def test_a_defect_of_ours_is_an_internal_error(own_api: Api, account: Account) -> None:
    def break_down() -> None:
        raise ValueError("a defect")

    account.meanwhile = break_down
    assert own_api.get("/api/numbers").json["code"] == "internal_error"


def free_again(api: Api, agent_id: str) -> None:
    """Write what a worker writes at the end of a deprovisioning."""
    operation_id = api.deprovision(agent_id).json["operationId"]
    with api.wiring.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == agent_id).values(twilio_phone_number=None))
        done = update(Operation).where(Operation.id == operation_id)
        session.execute(done.values(status="succeeded", finished_at=func.clock_timestamp(), wake_at=None))


def test_a_number_that_was_freed_since_is_read_anew(own_api: Api, account: Account) -> None:
    account.own(NUMBER, NumberRouting(FOREIGN_TRUNK, None, None))
    agent_id = held(own_api, NUMBER)
    assert page(own_api)["items"][0]["use"] == "agent"
    account.numbers[0] = replace(account.numbers[0], routing=NumberRouting(None, None, None))
    free_again(own_api, agent_id)
    # So often at most: the list was read a moment ago.
    assert page(own_api)["items"][0]["use"] == "trunk"
    account.clock.now += FREED_SEEN_S
    assert page(own_api)["items"][0]["use"] == "free"
    account.clock.now += FREED_SEEN_S
    assert page(own_api)["items"][0]["use"] == "free"
    assert account.lists == 2


def test_what_was_freed_is_no_reason_to_fail(own_api: Api, account: Account) -> None:
    account.own(NUMBER)
    agent_id = held(own_api, NUMBER)
    assert page(own_api)["items"][0]["use"] == "agent"
    free_again(own_api, agent_id)
    account.clock.now += FREED_SEEN_S
    account.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down.")
    assert page(own_api)["items"][0]["use"] == "free"
    assert account.lists == 2


def test_a_list_that_takes_long_is_not_read_again_for_a_number_that_was_freed(own_api: Api, account: Account) -> None:
    account.own(NUMBER, NumberRouting(FOREIGN_TRUNK, None, None))
    agent_id = held(own_api, NUMBER)

    def take_long() -> None:
        account.clock.now += FREED_SEEN_S + 0.1

    account.meanwhile = take_long
    assert page(own_api)["items"][0]["use"] == "agent"
    free_again(own_api, agent_id)
    account.clock.now += FREED_SEEN_S
    assert page(own_api)["items"][0]["use"] == "trunk"
    assert account.lists == 1


def test_the_cursor_in_the_document_is_one_of_ours(own_api: Api, account: Account) -> None:
    account.own("+15145559999")
    assert listed(own_api, f"?cursor={NUMBER_CURSOR}") == ["+15145559999"]
