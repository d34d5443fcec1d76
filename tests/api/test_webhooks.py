"""/api/webhooks as a client meets it: who may, what is refused, and a secret that is shown once."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from app.access import Scope
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.events import PHONE_EVENTS, DeliveryStatus, WebhookEvent
from app.webhooks.deliveries import previous_secret_field, secret_field
from app.webhooks.endpoints import MAX_ENDPOINTS
from tests.support.api import NOBODY, Api

URL = "https://hooks.example.com/in?token=t0ken"
WEBHOOKS = "/api/webhooks"


@pytest.fixture
def admin(api: Api) -> Api:
    """The same application, with a key that may administer."""
    api.key = api.new_key(Scope.ADMIN)
    return api


def create(api: Api, **more: Any) -> dict[str, Any]:
    response = api.post(WEBHOOKS, {"url": URL, **more})
    assert response.status_code == 201, response.text
    return dict(response.json)


def test_a_webhook_is_created_and_shows_its_secret_once(admin: Api, caplog: pytest.LogCaptureFixture) -> None:
    response = admin.post(WEBHOOKS, {"url": URL, "description": " Pager ", "events": ["phone.failed"]})

    assert response.status_code == 201
    made = response.json
    assert response.headers["Location"] == f"{WEBHOOKS}/{made['id']}"
    assert (made["url"], made["description"], made["events"], made["enabled"]) == (URL, "Pager", ["phone.failed"], True)
    assert made["secret"].startswith("whsec_")
    assert len(made["secret"]) == len("whsec_") + 44
    one, changed = admin.get(f"{WEBHOOKS}/{made['id']}"), admin.call("PATCH", f"{WEBHOOKS}/{made['id']}", {})
    assert one.json == changed.json == {name: value for name, value in made.items() if name != "secret"}
    shown = [one, changed, admin.get(WEBHOOKS), admin.post(f"{WEBHOOKS}/{made['id']}/test")]
    assert not [each.text for each in shown if "whsec_" in each.text]
    assert made["secret"] not in caplog.text


def test_no_events_means_every_event(admin: Api) -> None:
    assert create(admin)["events"] is None
    assert create(admin, events=None)["events"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 7}, "url"),
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://2130706433/"}, "url"),
        ({"url": "https://[::ffff:127.0.0.1]/"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://localhost/"}, "url"),
        ({"url": "https://a:b@example.com/"}, "url"),
        ({"url": "https://example.com/" + "x" * 2000}, "url"),
        ({"url": "https://example.com/\0"}, "url"),
        ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["phone.rang"]}, "events.0"),
        ({"url": URL, "events": ["ping"]}, "events.0"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
        ({"url": URL, "description": "x" * 201}, "description"),
    ],
)
def test_what_makes_no_webhook_is_refused_by_name(admin: Api, body: dict[str, Any], field: str) -> None:
    for response in (admin.post(WEBHOOKS, body), admin.call("PATCH", f"{WEBHOOKS}/{create(admin)['id']}", body)):
        if not (body == {} and response.request.method == "PATCH"):
            assert (response.status_code, list(response.json["errors"])) == (422, [field])


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_only_an_administrator_changes_webhooks_and_every_key_reads_them(admin: Api, scope: Scope) -> None:
    webhook = f"{WEBHOOKS}/{create(admin)['id']}"
    delivery = admin.post(f"{webhook}/test").json["id"]
    admin.key = admin.new_key(scope)

    writes = [
        admin.post(WEBHOOKS, {"url": URL}),
        admin.call("PATCH", webhook, {"enabled": False}),
        admin.delete(webhook),
        admin.post(f"{webhook}/rotate-secret"),
        admin.post(f"{webhook}/test"),
        admin.post(f"{webhook}/deliveries/{delivery}/redeliver"),
    ]

    assert [(each.status_code, each.json["code"]) for each in writes] == [(403, "forbidden")] * len(writes)
    for path in (WEBHOOKS, webhook, f"{webhook}/deliveries"):
        assert admin.get(path).status_code == 200


def test_a_secret_is_rotated_and_the_old_one_kept_for_a_day(admin: Api) -> None:
    made = create(admin)

    rotated = admin.post(f"{WEBHOOKS}/{made['id']}/rotate-secret")

    assert rotated.status_code == 200
    assert rotated.json["secret"] != made["secret"]
    assert rotated.json["previousSecretUntil"] > rotated.json["createdAt"]
    with admin.wiring.sessions() as session:
        row = session.scalars(select(WebhookEndpoint)).one()
    sealer = admin.wiring.webhooks.sealer
    assert sealer.open(row.sealed_secret, secret_field(row.id)) == rotated.json["secret"]
    assert sealer.open(row.sealed_previous_secret or "", previous_secret_field(row.id)) == made["secret"]


def test_a_webhook_is_disabled_enabled_and_deleted(admin: Api) -> None:
    webhook = f"{WEBHOOKS}/{create(admin)['id']}"

    disabled = admin.call("PATCH", webhook, {"enabled": False}).json
    assert (disabled["enabled"], disabled["disabledReason"]) == (False, "requested")
    assert admin.post(f"{webhook}/test").json["code"] == "webhook_disabled"
    enabled = admin.call("PATCH", webhook, {"enabled": True, "events": None, "url": "https://new.example.com/"}).json
    assert (enabled["enabled"], enabled["disabledReason"], enabled["url"]) == (True, None, "https://new.example.com/")
    assert admin.post(f"{webhook}/test").status_code == 202
    assert admin.delete(webhook).status_code == 204
    assert admin.get(webhook).json["code"] == "webhook_not_found"
    assert (admin.count("webhook_endpoints"), admin.count("webhook_deliveries")) == (0, 0)


def test_a_test_is_queued_and_stands_in_the_log(admin: Api) -> None:
    made = create(admin)
    webhook = f"{WEBHOOKS}/{made['id']}"

    queued = admin.post(f"{webhook}/test")

    assert (queued.status_code, queued.json["event"], queued.json["status"]) == (202, WebhookEvent.PING, "pending")
    assert queued.json["webhookId"] == "msg_" + queued.json["id"].replace("-", "")
    assert queued.json["payload"]["data"] == {"webhookId": made["id"]}
    assert [str(each) for each in admin.publisher.webhooks] == [made["id"]]
    assert admin.get(f"{webhook}/deliveries").json == {"items": [queued.json], "nextCursor": None}


def test_an_example_of_any_event_is_sent_on_request_and_says_that_it_is_one(admin: Api) -> None:
    webhook = f"{WEBHOOKS}/{create(admin)['id']}"

    sent = [admin.post(f"{webhook}/test?event={event}").json for event in PHONE_EVENTS]

    assert [one["event"] for one in sent] == [one["payload"]["type"] for one in sent] == list(PHONE_EVENTS)
    assert all(one["payload"]["data"]["isTest"] for one in sent)
    assert [one["event"] for one in sent if "error" in one["payload"]["data"]] == [WebhookEvent.FAILED]
    assert admin.post(f"{webhook}/test?event=nonsense").json["errors"].keys() == {"event"}


def test_the_log_comes_in_pages_and_by_status(admin: Api) -> None:
    webhook = f"{WEBHOOKS}/{create(admin)['id']}"
    made = [admin.post(f"{webhook}/test").json["id"] for _ in range(3)]
    with admin.wiring.sessions.begin() as session:
        session.get_one(WebhookDelivery, made[0]).status = DeliveryStatus.FAILED

    first = admin.get(f"{webhook}/deliveries?limit=2").json
    second = admin.get(f"{webhook}/deliveries?limit=2&cursor={first['nextCursor']}").json

    assert [each["id"] for each in first["items"] + second["items"]] == made[::-1]
    assert second["nextCursor"] is None
    assert [each["id"] for each in admin.get(f"{webhook}/deliveries?status=failed").json["items"]] == made[:1]
    assert admin.get(f"{webhook}/deliveries?status=lost").status_code == 422


def test_a_delivery_is_queued_again_under_the_same_id(admin: Api) -> None:
    webhook = f"{WEBHOOKS}/{create(admin)['id']}"
    delivery = admin.post(f"{webhook}/test").json
    with admin.wiring.sessions.begin() as session:
        row = session.get_one(WebhookDelivery, delivery["id"])
        row.status, row.attempts, row.next_at, row.finished_at = DeliveryStatus.FAILED, 8, None, row.created_at

    again = admin.post(f"{webhook}/deliveries/{delivery['id']}/redeliver")

    assert again.status_code == 202
    same = ("id", "webhookId", "payload", "createdAt")
    assert [again.json[name] for name in same] == [delivery[name] for name in same]
    assert (again.json["status"], again.json["attempts"], again.json["finishedAt"]) == ("pending", 0, None)
    assert len(admin.publisher.webhooks) == 2


def test_a_delivery_belongs_to_its_webhook(admin: Api) -> None:
    one, other = create(admin)["id"], create(admin)["id"]
    delivery = admin.post(f"{WEBHOOKS}/{one}/test").json["id"]

    assert _code(admin.post(f"{WEBHOOKS}/{other}/deliveries/{delivery}/redeliver")) == "webhook_delivery_not_found"
    assert _code(admin.post(f"{WEBHOOKS}/{one}/deliveries/{NOBODY}/redeliver")) == "webhook_delivery_not_found"
    assert _code(admin.post(f"{WEBHOOKS}/{one}/deliveries/nonsense/redeliver")) == "webhook_delivery_not_found"
    assert _code(admin.post(f"{WEBHOOKS}/nonsense/deliveries/nonsense/redeliver")) == "webhook_not_found"
    assert _code(admin.post(f"{WEBHOOKS}/{NOBODY}/deliveries/{delivery}/redeliver")) == "webhook_not_found"
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test")):
        body = {} if method == "PATCH" else None
        assert _code(admin.call(method, f"{WEBHOOKS}/{NOBODY}{path}", body)) == "webhook_not_found"


def test_there_is_room_for_so_many_webhooks_and_no_more(admin: Api) -> None:
    with admin.wiring.sessions.begin() as session:
        session.add_all(WebhookEndpoint(url=URL, sealed_secret="whsec_AAAA") for _ in range(MAX_ENDPOINTS))

    response = admin.post(WEBHOOKS, {"url": URL})

    assert (response.status_code, response.json["code"]) == (409, "webhook_limit")


def test_the_reference_describes_what_is_posted(admin: Api) -> None:
    document = json.loads(admin.client.get("/openapi.json").text)

    assert sorted(document["webhooks"]) == sorted(event for event in WebhookEvent if event != WebhookEvent.PING)


def _code(response: TestResponse) -> str:
    return str(response.json["code"])
