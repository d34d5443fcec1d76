from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from werkzeug.test import TestResponse

from app.access import Scope
from app.db.access import IdempotencyKey
from app.db.queries import PURGE_BATCH
from app.idempotency import KEPT_FOR, LOCKED_FOR, IdempotencyStore
from tests.support.api import NUMBER, OTHER_NUMBER, Api

KEY = {"Idempotency-Key": "order-7"}


def _same(first: TestResponse, second: TestResponse) -> None:
    assert (second.status_code, second.data) == (first.status_code, first.data)
    for name in ("Content-Type", "Location", "Retry-After", "Preference-Applied"):
        assert second.headers.get(name) == first.headers.get(name)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers


def test_the_same_post_gives_the_first_answer_again(api: Api) -> None:
    agent_id = api.agent()
    first = api.provision(agent_id, headers=KEY)
    api.succeed(first.json["operationId"])

    _same(first, api.provision(agent_id, headers=KEY))
    assert api.count("operations") == 1
    assert len(api.publisher.plans) == 1


def test_the_same_delete_gives_the_first_answer_again(api: Api) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])
    first = api.deprovision(agent_id, headers=KEY)
    api.succeed(first.json["operationId"])

    _same(first, api.deprovision(agent_id, headers=KEY))
    assert api.count("operations") == 2


def test_the_same_agent_is_created_once(api: Api) -> None:
    first = api.post("/api/agents", {"name": "desk"}, headers=KEY)

    _same(first, api.post("/api/agents", {"name": "desk"}, headers=KEY))
    assert api.count("agents") == 1


@pytest.mark.parametrize(
    "refused",
    [
        lambda api, agent_id: api.provision(agent_id, "nonsense", headers=KEY),
        lambda api, agent_id: api.provision(agent_id, OTHER_NUMBER, headers=KEY),
        lambda api, _: api.provision("7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11", headers=KEY),
    ],
    ids=["invalid", "conflict", "missing"],
)
def test_a_refusal_is_given_again_too(api: Api, refused: Callable[[Api, str], TestResponse]) -> None:
    agent_id = api.agent()
    api.provision(agent_id)

    first = refused(api, agent_id)

    assert first.status_code >= 400
    _same(first, refused(api, agent_id))


def test_the_same_key_for_another_request_is_422(api: Api) -> None:
    agent_id, other = api.agent(), api.agent("other")
    api.provision(agent_id, headers=KEY)

    for response in (
        api.provision(agent_id, OTHER_NUMBER, headers=KEY),
        api.provision(other, headers=KEY),
        api.deprovision(agent_id, headers=KEY),
        api.post("/api/agents", {"name": "desk"}, headers=KEY),
    ):
        assert (response.status_code, response.json["code"]) == (422, "idempotency_key_reused")
    assert api.count("operations") == 1


def test_another_caller_has_keys_of_its_own(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id, headers=KEY)
    theirs = {"Authorization": f"Bearer {api.new_key(Scope.WRITE)}"}

    assert api.provision(agent_id, headers=KEY | theirs).json["code"] == "operation_in_progress"


def test_while_the_first_request_runs_the_second_is_409(api: Api) -> None:
    agent_id, running, go_on = api.agent(), Event(), Event()

    def hold(_plan: object) -> None:
        running.set()
        go_on.wait(10)

    api.publisher.on_publish = hold
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(api.provision, agent_id, headers=KEY)
        running.wait(10)
        second = api.provision(agent_id, headers=KEY)
        go_on.set()
        assert first.result().status_code == 202
    assert (second.status_code, second.json["code"]) == (409, "idempotency_key_in_progress")
    assert second.headers["Retry-After"] == "1"
    _same(first.result(), api.provision(agent_id, headers=KEY))


def test_of_many_requests_with_one_key_one_runs(api: Api) -> None:
    agent_id, start = api.agent(), Barrier(12)

    def post(_: int) -> TestResponse:
        start.wait()
        return api.provision(agent_id, headers=KEY)

    with ThreadPoolExecutor(12) as threads:
        responses = list(threads.map(post, range(12)))

    ran = [each for each in responses if each.status_code == 202 and "Idempotency-Replayed" not in each.headers]
    others = {(each.status_code, each.json.get("code")) for each in responses if each is not ran[0]}
    assert len(ran) == 1
    assert others <= {(409, "idempotency_key_in_progress"), (202, None)}
    assert (api.count("operations"), len(api.publisher.plans)) == (1, 1)


def test_an_answer_that_was_our_fault_is_not_kept(api: Api) -> None:
    agent_id = api.agent()
    api.publisher.on_publish = lambda _plan: 1 / 0

    assert api.provision(agent_id, headers=KEY).status_code == 500
    assert api.count("idempotency_keys") == 0
    assert api.provision(agent_id, headers=KEY).json["code"] == "operation_in_progress"


def test_a_request_whose_process_died_is_taken_over(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id, headers=KEY)
    with api.wiring.sessions.begin() as session:
        session.execute(text("DELETE FROM events; DELETE FROM operation_steps; DELETE FROM operations"))
        session.execute(text("UPDATE agents SET phone_provisioning_status='NOT_PROVISIONED', twilio_phone_number=NULL"))
        session.execute(update(IdempotencyKey).values(status=None, body=None, locked_until=func.now()))

    response = api.provision(agent_id, headers=KEY)

    assert response.status_code == 202
    _same(response, api.provision(agent_id, headers=KEY))


def test_a_request_that_was_taken_over_does_not_overwrite_the_answer(api: Api) -> None:
    store, key_id = IdempotencyStore(api.wiring.sessions), _only_key(api)
    slow = store.claim(key_id, "k", "hash", extra=-LOCKED_FOR)
    taken_over = store.claim(key_id, "k", "hash", extra=LOCKED_FOR)

    store.release(slow)
    assert api.count("idempotency_keys") == 1
    assert taken_over.until > slow.until


def test_after_a_day_the_key_is_new_again(api: Api) -> None:
    agent_id = api.agent()
    first = api.provision(agent_id, headers=KEY)
    api.fail(first.json["operationId"], "number_not_voice", "No voice.")
    with api.wiring.sessions.begin() as session:
        session.execute(update(IdempotencyKey).values(created_at=func.now() - KEPT_FOR))

    response = api.provision(agent_id, OTHER_NUMBER, headers=KEY)

    assert (response.status_code, response.json["phoneNumber"]) == (202, OTHER_NUMBER)


def test_old_keys_are_purged_and_others_stay(api: Api) -> None:
    api.post("/api/agents", {"name": "a"}, headers=KEY)
    api.post("/api/agents", {"name": "b"}, headers={"Idempotency-Key": "young"})
    with api.wiring.sessions.begin() as session:
        old = update(IdempotencyKey).where(IdempotencyKey.key == KEY["Idempotency-Key"])
        session.execute(old.values(created_at=func.now() - KEPT_FOR - LOCKED_FOR))

    assert sum(purge() for purge in api.wiring.sweeper.purges) == 1
    with api.wiring.sessions() as session:
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


def test_a_backlog_of_old_keys_is_purged_in_batches_past_what_is_locked(api: Api) -> None:
    api.post("/api/agents", {"name": "a"}, headers=KEY)
    with api.wiring.sessions.begin() as session:
        session.execute(
            text(
                "INSERT INTO idempotency_keys (api_key_id, key, request_hash, locked_until, created_at)"
                " SELECT api_key_id, 'old-' || n, '', now(), now() - interval '2 days'"
                " FROM idempotency_keys, generate_series(0, :last) n"
            ),
            {"last": PURGE_BATCH},
        )
    with api.wiring.sessions.begin() as session:
        held = select(IdempotencyKey).where(IdempotencyKey.key == "old-7").with_for_update()
        assert session.scalar(held)
        assert IdempotencyStore(api.wiring.sessions).purge() == PURGE_BATCH
    assert IdempotencyStore(api.wiring.sessions).purge() == 1
    assert api.count("idempotency_keys") == 1


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "tab\t"], ids=repr)
def test_a_key_that_is_no_key_is_422(api: Api, key: str) -> None:
    response = api.provision(api.agent(), NUMBER, headers={"Idempotency-Key": key})

    assert (response.status_code, list(response.json["errors"])) == (422, ["Idempotency-Key"])


def test_a_dry_run_does_not_take_a_key_that_is_no_key(api: Api) -> None:
    response = api.post(
        f"/api/agents/{api.agent()}/provision-phone?dryRun=true",
        {"phoneNumber": NUMBER},
        headers={"Idempotency-Key": "a b"},
    )

    assert (response.status_code, list(response.json["errors"])) == (422, ["Idempotency-Key"])


@pytest.mark.parametrize("key", ["!", "~" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
def test_any_visible_ascii_is_a_key(api: Api, key: str) -> None:
    assert api.provision(api.agent(), headers={"Idempotency-Key": key}).status_code == 202


def test_nobody_without_an_api_key_gets_a_kept_answer(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id, headers=KEY)

    response = api.client.post(f"/api/agents/{agent_id}/provision-phone", json={"phoneNumber": NUMBER}, headers=KEY)

    assert response.status_code == 401


def _only_key(api: Api) -> UUID:
    with api.wiring.sessions() as session:
        return session.scalar(text("SELECT id FROM api_keys"))
