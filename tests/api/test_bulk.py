"""Many numbers in one request: what is accepted, what is refused on arrival, what a client sees, and the report."""

import csv
import io
import json
import re
import uuid
from dataclasses import replace
from typing import Any

import pytest
from apiflask import Schema
from werkzeug.test import TestResponse

from app.access import Scope
from app.bulk.dispatcher import WINDOW
from app.bulk.files import items_from_csv, report_text
from app.bulk.items import AGENT_FIELDS, FIELDS
from app.db.models import BulkItem, Operation
from app.domain.operations import MAX_ITEMS, ItemStatus
from app.views.agent_schemas import AgentIn
from app.views.bulk_schemas import BulkItemIn
from app.web.bodies import MAX_BODY_BYTES
from tests.support.api import NOBODY, Api

URL = "/api/provisionings"


def number(n: int) -> str:
    return f"+1514555{n:04}"


def fresh(count: int, first: int = 1000) -> list[dict[str, Any]]:
    """Items that each make their agent."""
    return [{"agent": {"name": f"desk {n}"}, "phoneNumber": number(n)} for n in range(first, first + count)]


def start(api: Api, items: object, **more: Any) -> TestResponse:
    return api.post(URL, {"items": items}, **more)


def items_of(api: Api, response: TestResponse, query: str = "") -> list[dict[str, Any]]:
    page = api.get(f"{response.json['statusUrl']}/items{query}")
    assert page.status_code == 200, page.text
    return list(page.json["items"])


def advance(api: Api, window: int = WINDOW) -> int:
    """Do what a sweeper does in one pass."""
    return replace(api.wiring.sweeper.dispatcher, window=window).advance()


def test_a_bulk_is_accepted_and_opens_nothing_by_itself(api: Api) -> None:
    response = start(api, fresh(3))

    assert response.status_code == 202
    url = f"{URL}/{response.json['bulkId']}"
    assert (response.headers["Location"], response.headers["Retry-After"]) == (url, "1")
    counts = {"pending": 3, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    expected = {"success": True, "bulkId": response.json["bulkId"], "status": "queued", "total": 3}
    room = response.json["headroom"]
    assert response.json == expected | {"counts": counts, "statusUrl": url, "headroom": room, "failures": []}
    assert (room["trunkLimit"], room["fits"]) == (100, 3)
    assert (api.count("agents"), api.count("operations"), api.publisher.plans) == (3, 0, [])


def test_a_bulk_shows_counts_progress_times_and_links(api: Api) -> None:
    response = start(api, [*fresh(2), {"phoneNumber": "12"}])
    shown = api.get(response.json["statusUrl"]).json

    assert (shown["total"], shown["progress"], shown["createdBy"]) == (3, 0.3333, "tests")
    assert (shown["startedAt"], shown["finishedAt"], shown["cancelledAt"]) == (None, None, None)
    for name, link in shown["links"].items():
        method = "POST" if name in {"cancel", "resume"} else "GET"
        assert api.call(method, link).status_code < 300, name


def test_items_follow_their_operations(api: Api) -> None:
    response = start(api, fresh(3))
    assert advance(api) == 3
    good, bad, running = [item["operationId"] for item in items_of(api, response)]
    api.succeed(good)
    api.fail(bad, "number_not_in_account", "The account has no such number.")
    advance(api)

    first, second, third = items_of(api, response)
    assert (first["status"], first["error"]) == ("succeeded", None)
    error = {"code": "number_not_in_account", "detail": "The account has no such number."}
    assert (second["status"], second["error"]) == ("failed", error)
    assert (third["status"], third["operationId"]) == ("running", running)
    assert api.get(f"/api/operations/{running}").json["agentId"] == third["agentId"]
    shown = api.get(response.json["statusUrl"]).json
    assert (shown["status"], shown["progress"]) == ("running", 0.6666)
    api.succeed(running)
    advance(api)
    shown = api.get(response.json["statusUrl"]).json
    assert (shown["status"], shown["progress"], shown["finishedAt"] is not None) == ("failed", 1.0, True)


def test_a_bulk_of_which_every_item_succeeds_has_succeeded(api: Api) -> None:
    response = start(api, fresh(2))
    advance(api)
    for item in items_of(api, response):
        api.succeed(item["operationId"])
    advance(api)

    assert api.get(response.json["statusUrl"]).json["status"] == "succeeded"


BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "null": (None, "must be an object"),
    "list": ([], "must be an object"),
    "no number": ({"agent": "a"}, "phoneNumber: is missing"),
    "number of a number": ({"agent": "a", "phoneNumber": 15145551234}, "phoneNumber: must be E.164"),
    "short number": ({"agent": "a", "phoneNumber": "+1514"}, "phoneNumber: a +1 number has exactly 10 digits"),
    "nul": ({"agent": "a", "phoneNumber": "+1514\0"}, "phoneNumber: must be E.164"),
    "nobody": ({"phoneNumber": number(1)}, "agentId, agent: exactly one"),
    "both": ({"phoneNumber": number(1), "agent": "a", "agentId": NOBODY}, "agentId, agent: exactly one"),
    "no id": ({"phoneNumber": number(1), "agentId": "7"}, "agentId: is not the id"),
    "takeover": ({"phoneNumber": number(1), "agent": "a", "takeover": "yes"}, "takeover: must be true or false"),
    "unknown": ({"phoneNumber": number(1), "agent": "a", "takeOver": True}, "takeOver: is not known"),
    "agent": ({"phoneNumber": number(1), "agent": 7}, "agent: must be a name or an object"),
    "no name": ({"phoneNumber": number(1), "agent": {}}, "agent.name: is missing"),
    "number as a name": ({"phoneNumber": number(1), "agent": {"name": 7}}, "agent.name: must be text"),
    "misspelt": ({"phonenumber": number(1), "agent": "a"}, "phonenumber: is not known. Did you mean phoneNumber?"),
    "flat, of one that exists": (
        {"phoneNumber": number(1), "agentId": NOBODY, "livekitAgentName": "a"},
        "livekitAgentName: is of an agent to create, and agentId names one that exists",
    ),
    "flat, without a name": ({"phoneNumber": number(1), "trunkMode": "shared"}, "agent: is missing, the name of"),
    "flat and nested": (
        {"phoneNumber": number(1), "agent": {"name": "a", "externalId": "x"}, "externalId": "y"},
        "externalId: is given twice, in agent and beside it",
    ),
    "blank name": ({"phoneNumber": number(1), "agent": " "}, "agent.name: must have 1 to 200"),
    "name with a line end": ({"phoneNumber": number(1), "agent": "a\nb"}, "agent.name: must not contain control"),
    "metadata": ({"phoneNumber": number(1), "agent": {"name": "a", "metadata": {"x": "\0"}}}, "agent.metadata: must"),
    "unknown of agent": ({"phoneNumber": number(1), "agent": {"name": "a", "id": 1}}, "agent.id: is not known"),
}


@pytest.mark.parametrize(("names", "schema"), [(FIELDS, BulkItemIn), (AGENT_FIELDS, AgentIn)])
def test_an_item_takes_the_fields_that_the_reference_shows(names: frozenset[str], schema: type[Schema]) -> None:
    assert names == {field.data_key or name for name, field in schema().fields.items()}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_an_item_that_cannot_work_fails_by_itself_and_says_why(api: Api, name: str) -> None:
    bad, detail = BAD_ITEMS[name]
    response = start(api, [*fresh(1), bad])

    assert (response.status_code, response.json["counts"]["pending"], response.json["counts"]["failed"]) == (202, 1, 1)
    good, failed = items_of(api, response)
    assert (good["status"], failed["status"], failed["position"]) == ("pending", "failed", 2)
    assert failed["error"]["code"] == "validation_failed"
    assert detail in failed["error"]["detail"]
    assert api.count("agents") == 1


@pytest.mark.parametrize(
    "agent",
    [
        {"agent": "Desk", "livekitAgentName": "desk", "trunkMode": "dedicated", "externalId": "7"},
        {"agent": {"name": "Desk", "livekitAgentName": "desk", "trunkMode": "dedicated", "externalId": "7"}},
        {"agent": {"name": "Desk", "trunkMode": "dedicated"}, "livekitAgentName": "desk", "externalId": "7"},
    ],
)
def test_the_fields_of_an_agent_stand_in_it_or_beside_it(api: Api, agent: dict[str, Any]) -> None:
    item = items_of(api, start(api, [{"phoneNumber": number(1), **agent}]))[0]

    assert item["status"] == "pending", item
    made = api.get(f"/api/agents/{item['agentId']}").json
    assert (made["name"], made["livekitAgentName"], made["externalId"]) == ("Desk", "desk", "7")
    assert made["trunkMode"] == "dedicated"


def test_the_response_says_what_has_failed_already(api: Api) -> None:
    response = start(api, [*fresh(1), {"phoneNumber": "12"}, {"phoneNumber": number(1), "agentId": NOBODY}])

    told = {one["position"]: one["error"]["code"] for one in response.json["failures"]}
    assert told == {2: "validation_failed", 3: "agent_not_found"}


def test_an_unknown_agent_fails_at_the_door_and_never_begins(api: Api) -> None:
    deleted = api.agent()
    api.delete(f"/api/agents/{deleted}")
    wanted = [{"agentId": NOBODY, "phoneNumber": number(1)}, {"agentId": deleted, "phoneNumber": number(2)}]
    response = start(api, wanted)

    assert (response.json["status"], response.json["counts"]["failed"]) == ("failed", 2)
    assert {item["error"]["code"] for item in items_of(api, response)} == {"agent_not_found"}
    api.post(f"{response.json['statusUrl']}/resume")
    assert api.get(response.json["statusUrl"]).json["status"] == "failed"


def test_a_number_or_agent_that_comes_twice_is_the_later_item_s_problem(api: Api) -> None:
    agent_id = api.agent()
    items = [
        {"agentId": agent_id, "phoneNumber": number(1)},
        {"agent": "b", "phoneNumber": number(1)},
        {"agentId": agent_id, "phoneNumber": number(2)},
    ]
    response = start(api, items)

    first, second, third = items_of(api, response)
    assert first["status"] == "pending"
    assert second["error"]["detail"] == "phoneNumber: is in item 1 already."
    assert third["error"]["detail"] == "agentId: is in item 1 already."


def test_what_a_single_request_would_be_refused_fails_the_item_with_the_same_code(api: Api) -> None:
    taken, provisioned, busy = api.agent("a"), api.agent("b"), api.agent("c")
    api.provision(taken, number(1))
    api.succeed(api.provision(provisioned, number(2)).json["operationId"])
    api.provision(busy, number(3))
    items = [
        {"agent": "d", "phoneNumber": number(1)},
        {"agentId": provisioned, "phoneNumber": number(4)},
        {"agentId": busy, "phoneNumber": number(5)},
    ]
    response = start(api, items)
    advance(api)

    codes = [item["error"]["code"] for item in items_of(api, response)]
    assert codes == ["number_in_use", "agent_has_phone", "operation_in_progress"]
    assert api.get(response.json["statusUrl"]).json["status"] == "failed"


@pytest.mark.parametrize(
    "body",
    [{}, {"items": []}, {"items": {}}, {"items": None}, {"items": [], "x": 1}, {"items": [{}] * (MAX_ITEMS + 1)}],
)
def test_a_bulk_that_is_not_well_formed_is_refused_whole(api: Api, body: object) -> None:
    response = api.post(URL, body)

    assert (response.status_code, response.json["code"]) == (422, "validation_failed")
    assert api.count("bulks") == 0


CSV = "phoneNumber,agentId,agent,livekitAgentName,takeover\r\n"


def post_csv(api: Api, text: str, **more: Any) -> TestResponse:
    headers = {"Content-Type": "text/csv"} | more.pop("headers", {})
    return api.call("POST", URL, data=text.encode(), headers=headers, **more)


def test_csv_is_read_like_json(api: Api) -> None:
    agent_id = api.agent()
    rows = [
        f"{number(1)},{agent_id},,,TRUE",
        f'{number(2)},,"Desk, front",front-desk,',
        "",
        f"{number(3)},,,lonely,",
        f"{number(4)},,x,,maybe",
        f"{number(5)},,x,,,,oops,",
        f"{number(6)},,y,,,,,",
    ]
    response = post_csv(api, "\ufeff" + CSV + "\r\n".join(rows))

    assert response.status_code == 202, response.text
    one, two, three, four, five, six = items_of(api, response)
    assert (one["agentId"], one["status"], two["status"]) == (agent_id, "pending", "pending")
    made = api.get(f"/api/agents/{two['agentId']}").json
    assert (made["name"], made["livekitAgentName"]) == ("Desk, front", "front-desk")
    assert "agent: is missing, the name of the agent to create" in three["error"]["detail"]
    assert "takeover: must be true or false" in four["error"]["detail"]
    assert five["error"]["detail"] == 'cell 7, in no column ("oops"): is not known.'
    assert (five["phoneNumber"], six["status"]) == (number(5), "pending")
    advance(api)
    with api.wiring.sessions() as session:
        assert session.get_one(Operation, items_of(api, response)[0]["operationId"]).takeover is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        CSV,
        "number\n+15145551234\n",
        "phoneNumber,phoneNumber\n1,2\n",
        "agent\na\n",
        'phoneNumber\n"+1514\n',
        "\xff",
    ],
)
def test_a_csv_without_its_header_or_without_rows_is_refused_whole(api: Api, text: str) -> None:
    response = post_csv(api, text)

    assert (response.status_code, response.json["code"]) == (422, "validation_failed")
    assert api.count("bulks") == 0


def test_csv_is_for_this_call_only(api: Api) -> None:
    response = api.call("POST", "/api/agents", data=b"name\na\n", headers={"Content-Type": "text/csv"})

    assert response.status_code == 415


def test_the_larger_body_is_for_this_call_only(api: Api) -> None:
    agent = {"name": "a", "metadata": {"x": "y" * 10_000}}
    padded = {"items": [{"agent": agent, "phoneNumber": number(n)} for n in range(9)]}
    assert len(json.dumps(padded)) > MAX_BODY_BYTES
    assert api.post(URL, padded).status_code == 202
    assert api.post("/api/agents", padded).status_code == 413
    huge = api.call("POST", URL, data=b"x" * (4 * 1024 * 1024 + 1), headers={"Content-Type": "text/csv"})
    assert (huge.status_code, "4194304" in huge.json["detail"]) == (413, True)


def test_the_same_key_makes_one_bulk(api: Api) -> None:
    key = {"Idempotency-Key": "import-7"}
    first, second = start(api, fresh(2), headers=key), start(api, fresh(2), headers=key)

    assert (second.status_code, second.data) == (202, first.data)
    assert (api.count("bulks"), api.count("agents")) == (1, 2)
    assert start(api, fresh(3), headers=key).status_code == 422


def test_a_key_that_may_only_read_may_look_and_not_start(api: Api) -> None:
    response = start(api, fresh(1))
    reader = {"Authorization": f"Bearer {api.new_key(Scope.READ)}"}

    assert api.get(response.json["statusUrl"], headers=reader).status_code == 200
    for path in (URL, f"{response.json['statusUrl']}/cancel", f"{response.json['statusUrl']}/resume"):
        assert api.post(path, headers=reader).status_code == 403


@pytest.mark.parametrize("path", ["", "/items", "/report", "/cancel", "/resume"])
@pytest.mark.parametrize("bulk_id", [NOBODY, "7"])
def test_a_bulk_that_there_is_not_is_404(api: Api, path: str, bulk_id: str) -> None:
    method = "POST" if path in {"/cancel", "/resume"} else "GET"
    response = api.call(method, f"{URL}/{bulk_id}{path}")

    assert (response.status_code, response.json["code"]) == (404, "bulk_not_found")


def test_bulks_and_items_come_in_pages(api: Api) -> None:
    made = [start(api, fresh(3, first)).json["bulkId"] for first in (1000, 2000, 3000)]
    page = api.get(f"{URL}?limit=2").json
    rest = api.get(f"{URL}?limit=2&cursor={page['nextCursor']}").json
    assert [bulk["id"] for bulk in page["items"] + rest["items"]] == made[::-1]
    assert rest["nextCursor"] is None
    assert api.get(f"{URL}?status=failed").json["items"] == []

    items = f"{URL}/{made[0]}/items"
    page = api.get(f"{items}?limit=2&status=pending").json
    rest = api.get(f"{items}?limit=2&cursor={page['nextCursor']}").json
    assert [item["position"] for item in page["items"] + rest["items"]] == [1, 2, 3]
    assert rest["nextCursor"] is None
    for query in ("cursor=nonsense", "cursor=aXRlbTo5OTk5OTk=", "limit=0", "status=lost", "x=1"):
        assert api.get(f"{items}?{query}").status_code == 422, query


def test_cancel_takes_back_what_has_not_begun_and_lets_the_rest_end(api: Api) -> None:
    response = start(api, fresh(3))
    url = response.json["statusUrl"]
    assert advance(api, window=2) == 2
    begun = items_of(api, response)[0]["operationId"]
    api.begin(begun)

    cancelled = api.post(f"{url}/cancel")

    assert (cancelled.status_code, cancelled.headers["Location"]) == (202, url)
    assert (cancelled.json["status"], cancelled.json["counts"]["cancelled"]) == ("cancelling", 2)
    assert cancelled.json["cancellation"] == {"cancelledNow": 2, "stillRunning": 1, "alreadyDone": 0}
    assert advance(api) == 0
    _, queued, pending = items_of(api, response)
    assert (queued["status"], queued["error"]["code"]) == ("cancelled", "cancelled")
    assert (pending["status"], pending["operationId"]) == ("cancelled", None)
    operation = api.get(f"/api/operations/{queued['operationId']}").json
    assert (operation["status"], operation["startedAt"]) == ("cancelled", None)
    assert api.status(queued["agentId"]).json["phoneProvisioningStatus"] == "NOT_PROVISIONED"
    api.succeed(begun)
    advance(api)
    shown = api.get(url).json
    assert (shown["status"], shown["counts"]["succeeded"]) == ("cancelled", 1)
    nothing = {"cancelledNow": 0, "stillRunning": 0, "alreadyDone": 3}
    assert api.post(f"{url}/cancel").json == shown | {"cancellation": nothing}


def test_a_number_that_waits_in_its_queue_is_disconnected_at_once(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id)

    response = api.deprovision(agent_id)

    assert (response.status_code, response.json["success"]) == (200, True)
    assert api.status(agent_id).json["phoneProvisioningStatus"] == "NOT_PROVISIONED"


def test_resume_begins_again_what_failed_or_was_cancelled_with_the_same_agents(api: Api) -> None:
    response = start(api, [*fresh(3), {"phoneNumber": "12"}])
    url = response.json["statusUrl"]
    advance(api, window=2)
    before = items_of(api, response)
    api.succeed(before[0]["operationId"])
    api.fail(before[1]["operationId"], "number_not_in_account", "No.")
    api.post(f"{url}/cancel")
    advance(api)
    assert [item["status"] for item in items_of(api, response)] == ["succeeded", "failed", "cancelled", "failed"]

    resumed = api.post(f"{url}/resume")

    assert (resumed.status_code, resumed.json["status"], resumed.json["finishedAt"]) == (202, "running", None)
    assert resumed.json["counts"] == {"pending": 2, "running": 0, "succeeded": 1, "failed": 1, "cancelled": 0}
    assert advance(api) == 2
    after = items_of(api, response)
    assert [item["agentId"] for item in after] == [item["agentId"] for item in before]
    assert [item["status"] for item in after] == ["succeeded", "running", "running", "failed"]
    assert after[1]["operationId"] != before[1]["operationId"]
    assert api.count("agents") == 3


def test_the_report_has_a_line_for_every_item_and_no_formula(api: Api) -> None:
    response = start(api, [*fresh(1), {"phoneNumber": "=1+1"}, {"phoneNumber": "+cmd|x", "agent": "a"}])
    report = api.get(f"{response.json['statusUrl']}/report")

    assert report.content_type.startswith("text/csv")
    assert "attachment" in report.headers["Content-Disposition"]
    head, *rows = csv.reader(io.StringIO(report.text))
    assert head == ["position", "phoneNumber", "agentId", "status", "operationId", "errorCode", "errorDetail"]
    assert [row[1] for row in rows] == [number(1000), "'=1+1", "'+cmd|x"]
    assert (rows[0][3], rows[1][3], rows[1][5]) == ("pending", "failed", "validation_failed")
    assert uuid.UUID(rows[0][2])


FORMULAS = [
    "=1+1",
    "+1514555123;=1",
    "@SUM(1)",
    '=HYPERLINK("http://e","x")',
    "-1+1",
    "\t=1",
    "\r=1",
    ' "=1',
    "a;=cmd|' /C calc'!A0;b",
    "a\t@x",
    "\uff1d1+1",
    "a,=1",
    "+1514555123x",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_any_column_begins_a_formula_however_its_line_is_parted(text: str) -> None:
    item = BulkItem(
        position=1, phone_number=text, status=ItemStatus.FAILED, error_code=text, error_detail=f"{text}: is not known."
    )
    line = report_text([item])

    cells = [cell for row in csv.reader(io.StringIO(line, newline="")) for cell in row]
    for part in (*cells, *re.split(r"[;\t,|\r\n]", line)):
        assert not re.match(r"[\s\"]*[=+\-@\uff1d\uff0b\uff0d\uff20]", part), part
    assert not any(cell.startswith(("\t", "\r", "\n")) for cell in cells)


def test_the_reason_of_an_item_is_no_formula_either(api: Api) -> None:
    response = start(api, [{"phoneNumber": number(1), "agent": "a", "=1+1": 1}])

    [row] = csv.DictReader(io.StringIO(api.get(f"{response.json['statusUrl']}/report").text))

    assert (row["phoneNumber"], row["errorDetail"]) == (number(1), "'=1+1: is not known.")


def test_what_the_report_or_a_spreadsheet_disarmed_is_read_as_it_was() -> None:
    items = items_from_csv(b"phoneNumber,agent\n'+15145550001,'=1\n+15145550002,'t Hof\n' =1,\"'\"\n")

    assert items == [
        {"phoneNumber": "+15145550001", "agent": "=1"},
        {"phoneNumber": "+15145550002", "agent": "'t Hof"},
        {"phoneNumber": " =1", "agent": "'"},
    ]
