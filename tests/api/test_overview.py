"""The overview: its figures are those of the rows that are seen, and the page shows them with links."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from app.access import Scope
from app.console.charts import CHART_HEIGHT, MIN_HEIGHT, hours_chart
from app.db.models import Agent, Audit, Operation
from app.domain.calls import Reachability
from app.domain.errors import ErrorCode
from app.domain.findings import AuditStatus, Finding, FindingCode, Health, finding_json
from app.providers.errors import TransientError
from app.views.overview import HOURS, HourFigures
from tests.support.api import Api
from tests.support.console import BrowserClient, signed_in

HOUR = timedelta(hours=1)


def figures(api: Api) -> dict[str, Any]:
    response = api.get("/api/overview")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json
    return found


def provisioned(api: Api, number: str, **columns: object) -> str:
    agent_id = api.agent(f"desk {number[-4:]}")
    api.succeed(api.provision(agent_id, number).json["operationId"])
    if columns:
        with api.wiring.sessions.begin() as session:
            session.execute(update(Agent).where(Agent.id == uuid.UUID(agent_id)).values(**columns))
    return agent_id


def ended(api: Api, number: str, at: datetime, code: str | None = None, took: timedelta = timedelta()) -> None:
    operation_id = api.provision(api.agent(f"desk {number[-4:]}"), number).json["operationId"]
    if code:
        api.fail(operation_id, code, "It failed.")
    else:
        api.succeed(operation_id)
    with api.wiring.sessions.begin() as session:
        times = {"created_at": at - took, "finished_at": at}
        session.execute(update(Operation).where(Operation.id == uuid.UUID(operation_id)).values(**times))


def finding(code: FindingCode, **more: Any) -> dict[str, Any]:
    return finding_json(Finding(code, detail="It differs.", **more))


def test_an_empty_installation_has_zeros_and_24_hours(api: Api) -> None:
    found = figures(api)

    assert set(found["agents"]["byStatus"].values()) == {0}
    assert set(found["agents"]["byPath"].values()) == {0}
    assert found["agents"]["unreachable"] == 0
    assert found["operations"]["open"] == {"queued": 0, "running": 0, "rolling_back": 0, "needs_attention": 0}
    assert found["operations"]["queue"] == {"depth": 0, "oldestAt": None, "oldestS": 0}
    assert len(found["operations"]["hours"]) == HOURS
    assert found["bulks"] == {"count": 0, "waiting": 0, "oldest": []}
    assert found["audit"] is None
    assert found["headroom"]["numbersFit"] == 50_000


def test_agents_are_counted_by_status_and_by_what_their_path_was_found_to_be(api: Api) -> None:
    critical, warning = finding(FindingCode.TRUNK_GONE), finding(FindingCode.RULE_CHANGED)
    provisioned(api, "+15145550001", health_state=Health.IN_SYNC)
    provisioned(api, "+15145550002", health_state=Health.DRIFTED, health_findings=[warning, critical])
    provisioned(api, "+15145550003", health_state=Health.DRIFTED, health_findings=[warning])
    provisioned(api, "+15145550004", reachability=Reachability.UNREACHABLE)
    api.agent("without a number")
    gone = api.agent("deleted")
    api.delete(f"/api/agents/{gone}")

    agents = figures(api)["agents"]

    assert agents["byStatus"] == {
        "NOT_PROVISIONED": 1,
        "PENDING": 0,
        "PROVISIONING": 0,
        "PROVISIONED": 4,
        "ROLLING_BACK": 0,
        "FAILED": 0,
        "DEPROVISIONING": 0,
    }
    assert agents["byPath"] == {"IN_SYNC": 1, "CALLS_FAIL": 1, "WARNINGS": 1, "UNKNOWN": 1}
    assert agents["unreachable"] == 1


def test_operations_are_counted_by_the_hour_of_their_end_and_failures_by_code(api: Api) -> None:
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    ended(api, "+15145550001", this_hour)
    ended(api, "+15145550002", this_hour - HOUR, "number_not_in_account")
    ended(api, "+15145550003", this_hour - HOUR, "number_not_in_account")
    ended(api, "+15145550004", this_hour - 23 * HOUR, "twilio_rejected", took=HOUR)
    ended(api, "+15145550005", this_hour - 24 * HOUR, "twilio_rejected")

    operations = figures(api)["operations"]

    hours = {datetime.fromisoformat(one["at"]): one for one in operations["hours"]}
    assert hours[this_hour]["succeeded"] == 1
    assert hours[this_hour - HOUR]["failed"] == 2
    assert hours[this_hour - 23 * HOUR]["failed"] == 1
    assert sum(one["succeeded"] + one["failed"] + one["cancelled"] for one in operations["hours"]) == 4
    assert operations["failures"] == [
        {"code": "number_not_in_account", "count": 2},
        {"code": "twilio_rejected", "count": 1},
    ]


def test_the_queue_has_a_depth_and_an_age(api: Api) -> None:
    operation_id = api.provision(api.agent(), "+15145550001").json["operationId"]
    api.begin(api.provision(api.agent(), "+15145550002").json["operationId"])
    with api.wiring.sessions.begin() as session:
        old = {"created_at": datetime.now(UTC) - timedelta(minutes=5)}
        session.execute(update(Operation).where(Operation.id == uuid.UUID(operation_id)).values(**old))

    operations = figures(api)["operations"]

    assert operations["open"] == {"queued": 1, "running": 1, "rolling_back": 0, "needs_attention": 0}
    assert operations["queue"]["depth"] == 1
    assert 300 <= operations["queue"]["oldestS"] < 360


def test_open_bulks_are_named_the_oldest_first(api: Api) -> None:
    items = [{"phoneNumber": f"+1514555{n}", "agent": f"desk {n}"} for n in range(1000, 1003)]
    first = api.post("/api/provisionings", {"items": items}).json["bulkId"]
    second = api.post("/api/provisionings", {"items": [{"phoneNumber": "+15145552000", "agent": "z"}]}).json["bulkId"]
    over = api.post("/api/provisionings", {"items": [{"phoneNumber": "12"}]}).json

    bulks = figures(api)["bulks"]

    assert over["status"] == "failed"
    assert (bulks["count"], bulks["waiting"]) == (2, 4)
    assert [one["id"] for one in bulks["oldest"]] == [first, second]


def test_the_last_audit_is_counted_by_severity_without_what_it_repaired(api: Api) -> None:
    fixed = finding(FindingCode.TRUNK_GONE, fixed="repaired")
    found = [finding(FindingCode.TRUNK_GONE), finding(FindingCode.RULE_CHANGED), fixed]
    with api.wiring.sessions.begin() as session:
        row = Audit(status=AuditStatus.DONE, findings=found, agents_checked=7, finished_at=datetime.now(UTC))
        session.add(row)

    audit = figures(api)["audit"]

    assert audit["agentsChecked"] == 7
    assert audit["bySeverity"] == {"critical": 1, "warning": 1, "foreign": 0}


def test_the_room_is_unknown_while_twilio_does_not_respond(own_api: Api) -> None:
    own_api.carrier.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is away.")

    assert figures(own_api)["headroom"] is None
    assert "Not known: Twilio did not respond" in signed_in(own_api, Scope.READ).get("/overview").text


def test_a_workspace_counts_its_own_alone_and_learns_no_rates(api: Api) -> None:
    acme = api.in_workspace("acme", Scope.READ)
    provisioned(api, "+15145550001")
    api.post("/api/provisionings", {"items": [{"phoneNumber": "+15145552000", "agent": "z"}]})

    found = figures(acme)

    assert sum(found["agents"]["byStatus"].values()) == 0
    assert sum(one["succeeded"] for one in found["operations"]["hours"]) == 0
    assert found["bulks"]["count"] == 0
    assert found["rates"] == []
    assert sum(figures(api)["agents"]["byStatus"].values()) == 2


def test_it_takes_as_many_statements_however_many_rows_there_are(api: Api) -> None:
    def statements() -> int:
        seen: list[str] = []
        listener = lambda *given: seen.append(given[2])  # noqa: E731  # removed by identity
        event.listen(api.wiring.engine, "before_cursor_execute", listener)
        figures(api)
        event.remove(api.wiring.engine, "before_cursor_execute", listener)
        return sum(one.startswith("SELECT") for one in seen)  # at times the key's last use is written too

    figures(api)  # lists the account's trunks
    few = statements()
    for n in range(1000, 1020):
        api.post("/api/provisionings", {"items": [{"phoneNumber": f"+1514555{n}", "agent": f"desk {n}"}]})
    provisioned(api, "+15145550001")

    assert statements() == few
    assert few <= 16


def test_the_page_shows_each_figure_with_its_list(api: Api) -> None:
    provisioned(api, "+15145550001", health_state=Health.IN_SYNC)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    ended(api, "+15145550002", now, "number_not_in_account")

    page = signed_in(api, Scope.READ).get("/overview").text

    assert re.search(r'href="/\?status=provisioned">Provisioned</a> <strong>1</strong>', page)
    assert re.search(r'href="/\?health=IN_SYNC">In sync</a> <strong>1</strong>', page)
    assert '<a id="failed-1" href="/operations?tab=failed&amp;code=number_not_in_account">' in page
    assert 'href="/codes#number_not_in_account"' in page
    assert "<strong>1</strong> succeeded, <strong>1</strong> failed" in page
    assert f'<th scope="row">{now:%Y-%m-%d %H:%M}</th>' in page
    assert 'role="img" aria-labelledby="hours-title hours-text"' in page


def test_a_failure_leads_to_the_operations_that_ended_with_it(api: Api) -> None:
    now = datetime.now(UTC)
    ended(api, "+15145550001", now, "number_not_in_account")
    ended(api, "+15145550002", now, "twilio_rejected")
    browser = signed_in(api, Scope.READ)

    page = browser.get("/operations?tab=failed&code=number_not_in_account").text

    assert "+15145550001" in page
    assert "+15145550002" not in page
    assert "No such operations" in browser.get("/operations?tab=failed&code=twilio_forbidden").text
    assert browser.get("/operations?code=nonsense").status_code == 422


def test_the_live_part_is_sent_once_until_a_figure_changes(api: Api) -> None:
    browser: BrowserClient = signed_in(api, Scope.READ)
    api.agent()
    first = browser.get("/overview/live")
    known = {"If-None-Match": first.headers["ETag"]}
    assert "<html" not in first.text
    assert browser.get("/overview/live", headers=known).status_code == 304

    api.agent("another")

    assert browser.get("/overview/live", headers=known).status_code == 200


def test_every_error_code_has_its_place_on_the_page_of_codes(api: Api) -> None:
    page = signed_in(api, Scope.READ).get("/codes").text

    assert '<tr id="number_in_use">' in page
    assert "What to do" in page


def hour(at: int, succeeded: int = 0, failed: int = 0) -> HourFigures:
    return HourFigures(datetime(2026, 1, 1, at, tzinfo=UTC), succeeded, failed, 0)


def test_one_failure_among_thousands_is_seen_in_the_chart() -> None:
    chart = hours_chart([hour(0, 3000, 1), hour(1)])

    assert [piece.height for piece in chart.bars[0].pieces][1] == MIN_HEIGHT
    assert chart.bars[1].pieces == []
    assert chart.most == 5000
    assert all(piece.y >= 0 for bar in chart.bars for piece in bar.pieces)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 1000])
def test_a_full_bar_stays_within_the_chart(count: int) -> None:
    pieces = hours_chart([hour(0, count - 1, 1)]).bars[0].pieces

    assert sum(piece.height for piece in pieces) <= CHART_HEIGHT + MIN_HEIGHT
    assert pieces[-1].y >= -MIN_HEIGHT
