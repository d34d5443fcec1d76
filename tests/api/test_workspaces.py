"""Workspaces, keys and activity over HTTP, for operators; what others see of them is in test_workspace_isolation."""

import uuid
from dataclasses import replace

import pytest

from app.access import Scope
from app.db.models import Agent, CarrierAccount, VoiceProject
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from tests.support.api import NOBODY, Api


@pytest.fixture
def admin(api: Api) -> Api:
    return replace(api, key=api.new_key(Scope.ADMIN, name="root"))


def create(admin: Api, slug: str = "acme", **more: object) -> dict[str, str]:
    response = admin.post("/api/workspaces", {"slug": slug, "name": slug.title(), **more})
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"/api/workspaces/{response.json['id']}"
    return dict(response.json)


def account_of(api: Api, workspace_id: str | None, model: type[CarrierAccount] | type[VoiceProject]) -> str:
    with api.wiring.sessions.begin() as session:
        row = model(name="theirs", workspace_id=uuid.UUID(workspace_id) if workspace_id else None)
        session.add(row)
        session.flush()
        return str(row.id)


def test_a_workspace_is_created_read_listed_and_changed(admin: Api) -> None:
    made = create(admin)
    path = f"/api/workspaces/{made['id']}"

    assert admin.get(path).json == made
    assert made["carrierAccountId"], made["voiceProjectId"] == (str(ENVIRONMENT_ACCOUNT), str(ENVIRONMENT_PROJECT))
    changed = admin.call("PATCH", path, {"name": "Acme Inc."}).json
    assert changed == made | {"name": "Acme Inc."}
    assert [one["slug"] for one in admin.get("/api/workspaces").json["items"]] == ["acme", "default"]


def test_pages_of_workspaces_follow_each_other(admin: Api) -> None:
    create(admin)

    first = admin.get("/api/workspaces?limit=1").json
    last = admin.get(f"/api/workspaces?limit=1&cursor={first['nextCursor']}").json

    assert [one["slug"] for one in (*first["items"], *last["items"])] == ["acme", "default"]
    assert last["nextCursor"] is None


@pytest.mark.parametrize("slug", ["", "a" * 41, "-a", "a-", "A", "a b", "a\n", "é", "a_b", None, 1])
def test_a_slug_that_no_header_could_carry_is_refused(admin: Api, slug: object) -> None:
    response = admin.post("/api/workspaces", {"slug": slug, "name": "Acme"})

    assert (response.status_code, *response.json["errors"]) == (422, "slug")
    assert admin.count("workspaces") == 1


def test_a_slug_is_one_workspace_s_until_that_is_deleted(admin: Api) -> None:
    made = create(admin)

    again = admin.post("/api/workspaces", {"slug": "acme", "name": "Another"})
    gone = admin.delete(f"/api/workspaces/{made['id']}")

    assert (again.status_code, again.json["code"]) == (409, "workspace_exists")
    assert gone.status_code == 204
    assert admin.get(f"/api/workspaces/{made['id']}").json["code"] == "workspace_not_found"
    assert create(admin)["id"] != made["id"]


def test_a_slug_is_never_changed(admin: Api) -> None:
    response = admin.call("PATCH", f"/api/workspaces/{create(admin)['id']}", {"slug": "other"})

    assert (response.status_code, *response.json["errors"]) == (422, "slug")


@pytest.mark.parametrize(("field", "model"), [("carrierAccountId", CarrierAccount), ("voiceProjectId", VoiceProject)])
def test_a_default_is_the_installation_s_or_its_own(
    admin: Api, field: str, model: type[CarrierAccount] | type[VoiceProject]
) -> None:
    made, other = create(admin), create(admin, "other")
    path = f"/api/workspaces/{made['id']}"
    own, shared, foreign = (account_of(admin, one, model) for one in (made["id"], None, other["id"]))

    for allowed in (own, shared):
        assert admin.call("PATCH", path, {field: allowed}).json[field] == allowed
    for wrong in (foreign, NOBODY):
        for response in (
            admin.call("PATCH", path, {field: wrong}),
            admin.post("/api/workspaces", {"slug": "third", "name": "Third", field: wrong}),
        ):
            assert (response.status_code, *response.json["errors"]) == (422, field)
    assert admin.get(path).json[field] == shared


def test_only_a_workspace_that_nothing_is_in_is_deleted(admin: Api) -> None:
    made = create(admin)
    path = f"/api/workspaces/{made['id']}"
    key = admin.post("/api/keys", {"name": "theirs", "workspace": "acme"}).json["id"]
    with admin.wiring.sessions.begin() as session:
        agent = Agent(name="desk", livekit_agent_name="desk", workspace_id=uuid.UUID(made["id"]))
        session.add(agent)

    refused = admin.delete(path)
    admin.delete(f"/api/agents/{agent.id}")
    still = admin.delete(path)
    admin.delete(f"/api/keys/{key}")

    assert (refused.status_code, refused.json["code"]) == (409, "workspace_not_empty")
    assert refused.json["detail"].endswith("It has: 1 agents, 1 valid keys.")
    assert still.json["detail"].endswith("It has: 1 valid keys.")
    assert admin.delete(path).status_code == 204


def test_the_default_workspace_stays(admin: Api) -> None:
    response = admin.delete(f"/api/workspaces/{DEFAULT_WORKSPACE}")

    assert (response.status_code, response.json["code"]) == (409, "workspace_not_empty")


def test_a_key_is_made_shown_once_and_revoked(admin: Api) -> None:
    create(admin)
    made = admin.post("/api/keys", {"name": "ci", "scopes": ["read"], "workspace": "acme"})
    theirs = replace(admin, key=made.json["key"])

    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    assert theirs.get("/api/agents").status_code == 200
    listed = admin.get("/api/keys")
    assert made.json["key"] not in listed.text
    newest = listed.json["items"][0]
    assert (newest["name"], newest["workspace"], newest["scopes"]) == ("ci", "acme", ["read"])
    assert newest["lastUsedAt"] is not None
    path = f"/api/keys/{made.json['id']}"
    assert admin.delete(path).status_code == 204
    assert (admin.delete(path).status_code, admin.delete(path).json["code"]) == (404, "key_not_found")
    assert admin.get("/api/keys").json["items"][0]["revokedAt"] is not None


def test_pages_of_keys_follow_each_other(admin: Api) -> None:
    first = admin.get("/api/keys?limit=1").json
    last = admin.get(f"/api/keys?limit=1&cursor={first['nextCursor']}").json

    assert [one["name"] for one in (*first["items"], *last["items"])] == ["root", "tests"]
    assert last["nextCursor"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "workspace": "No Slug"}, "workspace"),
    ],
)
def test_a_key_that_cannot_be_is_refused(admin: Api, body: dict[str, object], field: str) -> None:
    response = admin.post("/api/keys", body)

    assert (response.status_code, *response.json["errors"]) == (422, field)


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_keys_and_activity_need_the_scope_admin(api: Api, scope: Scope) -> None:
    other = replace(api, key=api.new_key(scope))

    assert other.get("/api/keys").status_code == 403
    assert other.get("/api/activity").status_code == 403
    assert other.post("/api/keys", {"name": "more", "scopes": ["admin"]}).status_code == 403
    assert other.post("/api/workspaces", {"slug": "acme", "name": "Acme"}).status_code == 403
    assert other.get("/api/workspaces").status_code == 200


def test_activity_says_who_did_what_and_in_which_workspace(admin: Api) -> None:
    made = create(admin)
    key = admin.post("/api/keys", {"name": "theirs", "workspace": "acme"}).json["id"]

    rows = admin.get("/api/activity").json["items"]
    about = admin.get(f"/api/activity?subjectId={key}").json["items"]
    of_root = admin.get(f"/api/activity?keyId={rows[0]['keyId']}").json["items"]

    assert [(one["action"], one["actor"], one["workspace"]) for one in rows] == [
        ("key.create", "root", "acme"),
        ("workspace.create", "root", "acme"),
    ]
    assert [one["subjectId"] for one in rows] == [key, made["id"]]
    assert about == rows[:1]
    assert of_root == rows
    assert admin.get(f"/api/activity?keyId={NOBODY}").json["items"] == []


def test_pages_of_activity_follow_each_other(admin: Api) -> None:
    for name in ("a", "b", "c"):
        admin.agent(name)

    first = admin.get("/api/activity?limit=2").json
    last = admin.get(f"/api/activity?limit=2&cursor={first['nextCursor']}").json

    assert [len(page["items"]) for page in (first, last)] == [2, 1]
    assert len({one["subjectId"] for one in (*first["items"], *last["items"])}) == 3
    assert last["nextCursor"] is None


@pytest.mark.parametrize("cursor", ["", "a", "YWN0aXZpdHk6MA==", "YWN0aXZpdHk6OTk5OTk5OTk5OTk5OTk5OTk5OTk="])
def test_a_cursor_that_is_not_ours_is_refused(admin: Api, cursor: str) -> None:
    response = admin.get("/api/activity", query_string={"cursor": cursor})

    assert (response.status_code, *response.json["errors"]) == (422, "cursor")


@pytest.fixture
def acme(admin: Api) -> Api:
    """The application with an admin's key of the workspace acme, beside others."""
    create(admin)
    create(admin, "other")
    admin.post("/api/keys", {"name": "of other", "workspace": "other"})
    return replace(
        admin, key=admin.post("/api/keys", {"name": "of acme", "scopes": ["admin"], "workspace": "acme"}).json["key"]
    )


def test_a_workspace_s_key_sees_its_own_workspace_keys_and_activity(admin: Api, acme: Api) -> None:
    ids = {one["slug"]: one["id"] for one in admin.get("/api/workspaces").json["items"]}
    acme.agent("theirs")

    assert [one["slug"] for one in acme.get("/api/workspaces").json["items"]] == ["acme"]
    assert acme.get(f"/api/workspaces/{ids['acme']}").json["slug"] == "acme"
    assert acme.get(f"/api/workspaces/{ids['other']}").json["code"] == "workspace_not_found"
    assert [one["name"] for one in acme.get("/api/keys").json["items"]] == ["of acme"]
    rows = acme.get("/api/activity").json["items"]
    assert [(one["action"], one["actor"]) for one in rows] == [
        ("agent.create", "of acme"),
        ("key.create", "root"),
        ("workspace.create", "root"),
    ]
    assert {one["workspace"] for one in rows} == {"acme"}


def test_a_workspace_s_key_makes_keys_of_its_own_workspace_only(admin: Api, acme: Api) -> None:
    more = acme.post("/api/keys", {"name": "more"})
    same = acme.post("/api/keys", {"name": "same", "workspace": "acme"})
    other = acme.post("/api/keys", {"name": "wrong", "workspace": "other"})
    of_other = next(one["id"] for one in admin.get("/api/keys").json["items"] if one["name"] == "of other")

    assert (more.json["workspace"], same.json["workspace"]) == ("acme", "acme")
    assert (other.status_code, other.json["code"]) == (404, "workspace_not_found")
    assert acme.delete(f"/api/keys/{of_other}").json["code"] == "key_not_found"
    assert acme.delete(f"/api/keys/{more.json['id']}").status_code == 204


def test_workspaces_are_changed_by_operators_only(admin: Api, acme: Api) -> None:
    path = f"/api/workspaces/{acme.get('/api/workspaces').json['items'][0]['id']}"
    as_acme = {"headers": {"Trunkline-Workspace": "acme"}}

    for response in (
        acme.call("PATCH", path, {"name": "Mine"}),
        acme.delete(path),
        acme.post("/api/workspaces", {"slug": "more", "name": "More"}),
        admin.call("PATCH", path, {"name": "Mine"}, **as_acme),
    ):
        assert (response.status_code, response.json["code"]) == (403, "forbidden")
    assert admin.post("/api/keys", {"name": "by header"}, **as_acme).json["workspace"] == "acme"


def test_the_header_names_no_deleted_workspace(admin: Api) -> None:
    admin.delete(f"/api/workspaces/{create(admin)['id']}")

    response = admin.get("/api/agents", headers={"Trunkline-Workspace": "acme"})

    assert (response.status_code, response.json["code"]) == (404, "workspace_not_found")
