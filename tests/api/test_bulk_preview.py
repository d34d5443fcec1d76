"""The preview of a bulk: what is in the way of each item, how many fit, and that nothing is stored."""

import io
import json
import re
from html import unescape
from typing import Any

from app.access import Scope
from app.bulk.files import COLUMNS
from app.domain.errors import ErrorCode
from app.path.observed import NumberRouting
from app.providers.errors import TransientError
from tests.api.test_bulk import advance, fresh, items_of, number, start
from tests.support.api import NOBODY, Api
from tests.support.console import BrowserClient, signed_in
from tests.support.numbers import APPLICATION, FOREIGN_TRUNK, Account, held

VOICE_URL = "https://flows.example.com/v1/Flows/FW1"


def planned(api: Api, items: list[Any], query: str = "") -> dict[str, Any]:
    response = api.post(f"/api/provisionings?dryRun=true{query}", {"items": items})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    assert (found["success"], found["dryRun"], found["total"]) == (True, True, len(items))
    return found


def codes(found: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    return {one["position"]: (one["code"], one["blocks"]) for one in found["obstacles"]}


def own(account: Account, *numbers: str) -> None:
    for one in numbers:
        account.own(one)


def mixed(api: Api, account: Account) -> list[dict[str, Any]]:
    """Return an item for everything that can be in an item's way, after two with nothing."""
    own(account, *(number(n) for n in range(1, 12)))
    account.own(number(20), NumberRouting(FOREIGN_TRUNK, None, None))
    account.own(number(21), NumberRouting(FOREIGN_TRUNK, None, None))
    account.own(number(22), NumberRouting(None, APPLICATION, None))
    account.own(number(23), NumberRouting(None, None, VOICE_URL))
    account.own(number(24), has_voice=False)
    provisioned, busy = held(api, number(10), "provisioned"), api.agent("busy")
    api.provision(busy, number(11))
    api.agent("known", externalId="crm-1")
    return [
        {"agent": "one", "phoneNumber": number(1)},
        {"agentId": api.agent("free"), "phoneNumber": number(2)},
        {"agent": "three", "phoneNumber": "12"},
        {"agentId": NOBODY, "phoneNumber": number(3)},
        {"agent": {"name": "five", "externalId": "crm-1"}, "phoneNumber": number(4)},
        {"agentId": provisioned, "phoneNumber": number(5)},
        {"agentId": busy, "phoneNumber": number(6)},
        {"agent": "eight", "phoneNumber": number(10)},
        {"agent": "nine", "phoneNumber": number(1)},
        {"agent": "ten", "phoneNumber": number(999)},
        {"agent": "eleven", "phoneNumber": number(20)},
        {"agent": "twelve", "phoneNumber": number(21), "takeover": True},
        {"agent": "thirteen", "phoneNumber": number(22)},
        {"agent": "fourteen", "phoneNumber": number(23)},
        {"agent": "fifteen", "phoneNumber": number(24)},
    ]


def test_each_item_is_told_what_is_in_its_way_and_nothing_is_stored(own_api: Api, account: Account) -> None:
    items = mixed(own_api, account)
    plans = list(own_api.publisher.plans)
    rows = {table: own_api.count(table) for table in ("agents", "bulks", "bulk_items", "operations", "activity")}

    found = planned(own_api, items)

    assert codes(found) == {
        3: ("validation_failed", True),
        4: ("agent_not_found", True),
        5: ("external_id_in_use", True),
        6: ("agent_has_phone", True),
        7: ("operation_in_progress", True),
        8: ("number_in_use", True),
        9: ("validation_failed", True),
        10: ("number_not_in_account", True),
        11: ("number_already_routed", True),
        12: ("number_already_routed", False),
        13: ("number_already_routed", True),
        14: ("number_already_routed", False),
        15: ("number_not_voice", True),
    }
    assert (found["wouldStart"], found["numbersKnown"], found["headroom"]["fits"]) == (4, True, 4)
    told = {one["position"]: one["detail"] for one in found["obstacles"]}
    assert told[11].startswith(f"The number is on trunk {FOREIGN_TRUNK}: only with takeover is it moved here.")
    assert "Callers reach flows.example.com now" in told[14]
    assert {table: own_api.count(table) for table in rows} == rows
    assert own_api.publisher.plans == plans


def test_an_item_that_our_rows_refuse_fails_in_truth_as_the_preview_says(own_api: Api, account: Account) -> None:
    items = mixed(own_api, account)[:9]
    said = {position: code for position, (code, _) in codes(planned(own_api, items)).items()}

    response = start(own_api, items)
    advance(own_api)

    failed = {one["position"]: one["error"]["code"] for one in items_of(own_api, response) if one["error"]}
    assert failed == said


def test_more_items_than_the_account_has_room_for_are_said_to_find_no_place(own_api: Api, account: Account) -> None:
    own_api.carrier.trunks = 99
    wanted = [item | {"agent": {"name": "desk", "trunkMode": "dedicated"}} for item in fresh(3)]
    own(account, *(item["phoneNumber"] for item in wanted))

    room = planned(own_api, wanted)["headroom"]
    real = start(own_api, wanted).json["headroom"]

    assert (room["fits"], room["trunksInUse"]) == (1, 99)
    assert room["reason"].startswith("1 of 3 numbers fit:")
    assert real == room


def test_what_twilio_does_not_tell_is_left_open_and_our_rows_are_still_looked_at(
    own_api: Api, account: Account
) -> None:
    away = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is down.")
    account.error = own_api.carrier.error = away

    found = planned(own_api, [*fresh(1), {"agentId": NOBODY, "phoneNumber": number(1)}])

    assert codes(found) == {2: ("agent_not_found", True)}
    assert (found["wouldStart"], found["numbersKnown"], found["headroom"]) == (1, False, None)


def test_a_number_that_was_bought_just_now_is_found(own_api: Api, account: Account) -> None:
    own(account, number(1))
    assert planned(own_api, [{"agent": "a", "phoneNumber": number(1)}])["wouldStart"] == 1
    assert planned(own_api, [{"agent": "a", "phoneNumber": number(1)}])["wouldStart"] == 1
    assert account.lists == 1
    own(account, number(2))

    assert planned(own_api, [{"agent": "a", "phoneNumber": number(2)}])["wouldStart"] == 1
    account.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is down.")
    assert codes(planned(own_api, [{"agent": "a", "phoneNumber": number(3)}])) == {1: ("number_not_in_account", True)}


def test_a_dry_run_of_adoptions_looks_at_rows_alone(own_api: Api, account: Account) -> None:
    held(own_api, number(1))

    found = planned(own_api, [{"phoneNumber": number(1)}, {"phoneNumber": number(2)}], "&kind=adopt")

    assert codes(found) == {1: ("number_in_use", True)}
    assert (found["kind"], found["headroom"], account.lists) == ("adopt", None, 0)


def test_a_dry_run_takes_csv_and_uses_up_no_idempotency_key(own_api: Api, account: Account) -> None:
    own(account, number(1))
    headers = {"Content-Type": "text/csv", "Idempotency-Key": "once"}
    text = f"phoneNumber;agent\r\n{number(1)};Desk\r\n".encode("utf-16")

    first = own_api.call("POST", "/api/provisionings?dryRun=true", data=text, headers=headers)
    real = own_api.call("POST", "/api/provisionings", data=text, headers=headers)

    assert (first.status_code, first.json["wouldStart"]) == (200, 1)
    assert (real.status_code, real.json["counts"]["pending"]) == (202, 1)


def test_another_workspace_learns_nothing_of_its_neighbours_agents(own_api: Api, account: Account) -> None:
    own(account, number(1))
    agent_id = own_api.agent("theirs", externalId="crm-1")
    acme = own_api.in_workspace("acme")

    found = planned(acme, [{"agentId": agent_id, "phoneNumber": number(1)}, *fresh(1)])

    assert codes(found)[1] == ("agent_not_found", True)


# The console


def check(browser: BrowserClient, text: str, name: str = "Numéros <1>.csv") -> str:
    response = browser.post("/bulks/check", file=(io.BytesIO(text.encode()), name))
    assert response.status_code == 200, response.text
    return response.text


CSV = f"phoneNumber;agent\n{number(1)};Réception\n{number(2)};Desk two\n12;Desk three\n"


def test_the_console_shows_what_a_check_has_found(own_api: Api, account: Account) -> None:
    own(account, number(1))
    page = check(signed_in(own_api, Scope.WRITE), CSV)

    assert "Numéros &lt;1&gt;.csv: 3 rows" in page
    assert "CSV in UTF-8, separated by semicolons, with the columns phoneNumber, agent." in page
    assert "<strong>1</strong> of 3" in page
    assert "<strong>2</strong>, for the reasons below" in page
    assert "1 of 1 numbers fit: 0 places are free" in page
    assert re.search(r"Row </span>2</td>.*?The Twilio account does not own this number\.", page, re.DOTALL)
    assert re.search(r"Row </span>3</td>.*?phoneNumber: must be E\.164", page, re.DOTALL)
    assert "Start 1 number<" in page
    assert own_api.count("bulks") == 0


def test_what_was_checked_is_started_without_choosing_the_file_again(own_api: Api, account: Account) -> None:
    own(account, number(1), number(2))
    browser = signed_in(own_api, Scope.WRITE)
    page = check(browser, CSV)
    [text] = re.findall(r'name="items" value="([^"]*)"', page)
    [name] = re.findall(r'name="fileName" value="([^"]*)"', page)

    response = browser.post("/bulks", items=unescape(text), fileName=unescape(name))

    assert response.status_code == 303
    shown = browser.get(response.headers["Location"]).text
    assert "Numéros &lt;1&gt;.csv is accepted. 1 row is invalid and has failed. 2 of 2 numbers fit" in shown
    assert "Réception" in shown
    assert own_api.count("bulk_items") == 3


def test_a_check_of_a_large_bulk_can_be_started(own_api: Api, account: Account) -> None:
    browser = signed_in(own_api, Scope.WRITE)
    items = json.dumps([{"phoneNumber": number(n), "agent": f"desk {n} {'x' * 60}"} for n in range(5000)])
    assert len(items) > 500_000  # what a form may have by default

    response = browser.post("/bulks", items=items, fileName="all.csv")

    assert response.status_code == 303, response.text[:500]
    assert own_api.count("bulk_items") == 5000


def test_a_file_without_a_row_that_would_start_has_no_start(own_api: Api, account: Account) -> None:
    page = check(signed_in(own_api, Scope.WRITE), f"phoneNumber,agent\n{number(1)},Desk\n")

    assert 'id="start"' not in page
    assert "Would fail" in page


def test_numbers_without_a_place_are_counted_on_the_page(own_api: Api, account: Account) -> None:
    own_api.carrier.trunks = 100
    own(account, number(1))
    page = check(signed_in(own_api, Scope.WRITE), f"phoneNumber,agent\n{number(1)},Desk\n")

    assert "No room</span> <strong>1</strong>" in page


def test_what_a_preview_sends_back_is_checked_like_a_file(own_api: Api) -> None:
    browser = signed_in(own_api, Scope.WRITE)

    for text, words in (
        ("[", "The file is not JSON"),
        ("{}", "must be a list of items"),
        ("[]", "must have 1 to 10000"),
    ):
        response = browser.post("/bulks", items=text)
        assert (response.status_code, words in response.text) == (422, True), text
    assert own_api.count("bulks") == 0


def test_the_template_is_a_file_with_every_column(own_api: Api) -> None:
    response = signed_in(own_api, Scope.READ).get("/bulks/template")

    assert response.headers["Content-Disposition"] == 'attachment; filename="numbers.csv"'
    assert response.data.decode("utf-8-sig").strip() == ",".join(COLUMNS)
