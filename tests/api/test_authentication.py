from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select, update

from app.access import CACHE_TTL_S, KeyService, Scope
from app.db.access import ApiKey
from tests.support.api import Api
from tests.support.saga import ManualClock

CALLS = [
    ("GET", "/api/agents"),
    ("POST", "/api/agents"),
    ("GET", "/api/agents/nonsense"),
    ("GET", "/api/agents/7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11/phone-status"),
    ("POST", "/api/agents/7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11/provision-phone"),
    ("DELETE", "/api/agents/7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11/deprovision-phone"),
    ("GET", "/api/operations"),
    ("POST", "/api/operations/7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11/retry"),
    ("GET", "/api/no-such-page"),
    ("PATCH", "/api/agents"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_key_everything_under_api_is_401(api: Api, method: str, path: str) -> None:
    response = api.client.open(path, method=method)

    assert (response.status_code, response.json["code"]) == (401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="trunkline"'


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic eDp5",
        "Bearer tl_" + "A" * 43,
        "Bearer tl_" + "A" * 5000,
        "Bearer \xe9",
    ],
)
def test_a_wrong_key_is_401(api: Api, header: str) -> None:
    response = api.client.get("/api/agents", headers={"Authorization": header})

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_scheme_is_read_in_any_case(api: Api) -> None:
    assert api.client.get("/api/agents", headers={"Authorization": f"bearer  {api.key} "}).status_code == 200


def test_a_revoked_key_is_401(api: Api) -> None:
    api.revoke_key("tests")

    assert api.get("/api/agents").status_code == 401


@pytest.mark.parametrize(
    ("scopes", "may_read", "may_write"),
    [
        ([], False, False),
        ([Scope.READ], True, False),
        ([Scope.WRITE], True, True),
        ([Scope.ADMIN], True, True),
        ([Scope.READ, Scope.WRITE], True, True),
    ],
)
def test_a_key_does_what_its_scope_covers(api: Api, scopes: list[Scope], may_read: bool, may_write: bool) -> None:
    headers = {"Authorization": f"Bearer {api.new_key(*scopes)}"}

    read, write = api.get("/api/agents", headers=headers), api.post("/api/agents", {"name": "a"}, headers=headers)

    assert read.status_code == (200 if may_read else 403)
    assert write.status_code == (201 if may_write else 403)
    if not may_write:
        assert (write.json["code"], api.count("agents")) == ("forbidden", 0)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/docs"])
def test_health_and_reference_need_no_key(api: Api, path: str) -> None:
    assert api.client.get(path).status_code == 200


def test_only_the_hash_of_a_key_is_kept(api: Api) -> None:
    with api.wiring.sessions() as session:
        row = session.scalars(select(ApiKey)).one()

    assert api.key.startswith("tl_")
    assert len(api.key) == 46
    assert api.key not in str(vars(row))
    assert len(row.key_hash) == 64


def test_the_last_use_is_noted_at_most_once_a_minute(api: Api) -> None:
    clock = ManualClock()
    keys = KeyService(api.wiring.sessions, clock)

    def last_used() -> datetime | None:
        clock.now += CACHE_TTL_S
        keys.authenticate(api.key)
        with api.wiring.sessions() as session:
            return session.scalar(select(ApiKey.last_used_at))

    first = last_used()
    assert first is not None
    assert last_used() == first
    with api.wiring.sessions.begin() as session:
        session.execute(update(ApiKey).values(last_used_at=datetime.now(UTC) - timedelta(minutes=2)))
    assert last_used() >= first


def test_a_key_is_looked_up_once_a_second_and_a_revoked_one_ends_with_that_second(api: Api) -> None:
    clock = ManualClock()
    keys = KeyService(api.wiring.sessions, clock)
    statements: list[str] = []
    keys.authenticate(api.key)
    event.listen(api.wiring.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    assert keys.authenticate(api.key) is not None
    assert statements == []

    api.revoke_key("tests")
    clock.now += CACHE_TTL_S
    assert keys.authenticate(api.key) is None
    assert keys.authenticate(api.key) is None
