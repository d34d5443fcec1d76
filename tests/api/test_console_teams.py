"""The console's pages of keys, activity and workspaces."""

import re
from typing import Any

import pytest

from app.access import KeyService, Scope
from app.db.access import ApiKey
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from tests.support.api import NOBODY, Api
from tests.support.console import BrowserClient, signed_in

KEY = re.compile(r"<code>(tl_[\w-]{43})</code>")
SCRIPT, ESCAPED = "<script>alert(1)</script>", "&lt;script&gt;"


@pytest.fixture
def operator(api: Api) -> BrowserClient:
    return signed_in(api, Scope.ADMIN)


@pytest.fixture
def acme(api: Api) -> BrowserClient:
    """A browser of an admin of the workspace acme."""
    browser = BrowserClient(api)
    browser.sign_in(api.in_workspace("acme").key)
    return browser


def keys_of(api: Api) -> dict[str, ApiKey]:
    return {row.name: row for row in KeyService(api.wiring.sessions).all()}


def test_a_key_is_made_and_its_text_is_on_one_page_only(api: Api, operator: BrowserClient) -> None:
    api.in_workspace("acme")

    made = operator.post("/keys", "/keys", name=SCRIPT, scope="read", workspace="acme")

    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    text = KEY.findall(made.text)[0]
    caller = KeyService(api.wiring.sessions).authenticate(text)
    assert caller is not None
    assert (caller.workspace, caller.scopes) == ("acme", ("read",))
    for path in ("/keys", "/activity"):
        page = operator.get(path).text
        assert text not in page, path
        assert ESCAPED in page, path
        assert SCRIPT not in page, path


def test_an_operator_says_whose_a_key_is_and_the_default_workspace_is_proposed(
    api: Api, operator: BrowserClient
) -> None:
    assert re.search(r'value="default" selected', operator.get("/keys").text)
    operator.post("/keys", "/keys", name="all", scope="write", workspace="")
    operator.post("/keys", "/keys", name="one", scope="write", workspace="default")

    assert (keys_of(api)["all"].workspace_id, keys_of(api)["one"].workspace_id) == (None, DEFAULT_WORKSPACE)


def test_a_workspace_s_admin_sees_and_makes_its_keys_only(api: Api, acme: BrowserClient) -> None:
    page = acme.get("/keys").text
    made = acme.post("/keys", "/keys", name="more", scope="admin")
    wrong = acme.post("/keys", "/keys", name="wrong", scope="read", workspace="default")

    assert "tests" not in page
    assert "operator&#39;s key" not in page
    assert keys_of(api)["more"].workspace is not None
    assert "in acme" in page
    assert (made.status_code, wrong.status_code) == (201, 404)
    theirs = acme.post(f"/keys/{keys_of(api)['tests'].id}/revoke", "/keys")
    assert (theirs.status_code, keys_of(api)["tests"].revoked_at) == (404, None)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\x00b"])
def test_a_wrong_name_is_shown_beside_its_field(api: Api, operator: BrowserClient, name: str) -> None:
    response = operator.post("/keys", "/keys", name=name, scope="admin", workspace="default")

    assert response.status_code == 422
    assert 'aria-describedby="name-wrong"' in response.text
    assert 'value="admin" selected' in response.text


def test_a_key_is_revoked_after_a_question(api: Api, operator: BrowserClient) -> None:
    key = keys_of(api)["tests"]
    path = f"/keys/{key.id}/revoke"

    assert "Revoke the key tests?" in operator.get(path).text
    operator.post(path, path)

    page = operator.get("/keys").text
    assert "The key tests is revoked." in page
    assert "Revoked" in page
    assert path not in page
    assert operator.get(path).status_code == 404


def test_revoking_one_s_own_key_signs_out(api: Api, operator: BrowserClient) -> None:
    path = f"/keys/{keys_of(api)['admin-person'].id}/revoke"
    assert "You are signed in with it." in operator.get(path).text

    operator.post(path, path)

    assert operator.get("/keys").headers["Location"].startswith("/sign-in")


@pytest.mark.parametrize("path", ["/keys", "/activity", f"/keys/{NOBODY}/revoke"])
def test_keys_and_activity_need_the_scope_admin(api: Api, path: str) -> None:
    browser = signed_in(api, Scope.WRITE)

    assert browser.get(path).status_code == 403
    assert f'href="{path}"' not in browser.get("/").text
    assert signed_in(api, Scope.ADMIN).get(path).status_code in {200, 404}


def test_activity_links_what_was_changed_and_by_whom(api: Api, operator: BrowserClient) -> None:
    agent, key = api.agent("desk"), keys_of(api)["tests"].id
    operator.sign_in("nonsense")

    page = operator.get("/activity").text
    about = operator.get(f"/activity?about={agent}").text
    of_key = operator.get(f"/activity?key={key}").text

    assert f'href="/agents/{agent}"' in page
    assert f'href="/activity?key={key}"' in page
    assert "Sign-in refused" in page
    assert "Unauthenticated" in page
    for found in (about, of_key):
        assert "Create agent" in found
        assert "Sign-in refused" not in found
    assert "No such activity" in operator.get(f"/activity?about={NOBODY}").text
    assert operator.get("/activity?about=nonsense").status_code == 422


def test_a_workspace_s_admin_sees_its_own_activity(api: Api, acme: BrowserClient) -> None:
    api.agent("hidden")
    theirs = api.in_workspace("acme").agent("shown")

    page = acme.get("/activity").text

    assert theirs in page
    assert page.count("Create agent") == 1
    assert "tests" not in page


def test_activity_goes_on_on_a_next_page(api: Api, operator: BrowserClient) -> None:
    for number in range(51):
        api.agent(f"agent {number}")

    first = operator.get("/activity").text
    following = re.findall(r'rel="next" href="([^"]+)"', first)

    assert first.count("Create agent") == 50
    assert operator.get(following[0]).text.count("Create agent") == 1


def create(operator: BrowserClient, **fields: Any) -> str:
    response = operator.post("/workspaces", "/workspaces", **({"slug": "acme", "name": "Acme"} | fields))
    assert response.status_code == 303, response.text
    return response.headers["Location"]


def test_a_workspace_is_created_changed_and_deleted(operator: BrowserClient) -> None:
    page = create(operator)
    assert "Acme was created." in operator.get(page).text
    accounts = {"carrierAccountId": str(ENVIRONMENT_ACCOUNT), "voiceProjectId": str(ENVIRONMENT_PROJECT)}

    operator.post(page, page, name=SCRIPT, **accounts)

    for path in (page, "/workspaces", f"{page}/delete"):
        text = operator.get(path).text
        assert ESCAPED in text, path
        assert SCRIPT not in text, path
    operator.post(f"{page}/delete", f"{page}/delete")
    assert "The workspace is deleted." in operator.get("/workspaces").text
    assert operator.get(page).status_code == 404


def test_a_workspace_that_is_not_empty_says_what_is_left(api: Api, operator: BrowserClient) -> None:
    page = create(operator)
    api.in_workspace("acme")

    response = operator.post(f"{page}/delete", f"{page}/delete")

    assert response.status_code == 409
    assert "1 valid keys" in response.text


@pytest.mark.parametrize(
    ("fields", "wrong"), [({"slug": "A b"}, "slug"), ({"name": ""}, "name"), ({"slug": "default"}, None)]
)
def test_a_wrong_field_of_a_workspace_is_shown_with_what_was_typed(
    operator: BrowserClient, fields: dict[str, str], wrong: str | None
) -> None:
    given = {"slug": "acme", "name": "Acme"} | fields

    response = operator.post("/workspaces", "/workspaces", **given)

    assert response.status_code == (422 if wrong else 409)
    assert (f'aria-describedby="{wrong}-wrong"' if wrong else "There is a workspace default already.") in response.text
    assert f'value="{given["slug"]}"' in response.text


def test_activity_links_a_workspace_for_operators_only(api: Api, operator: BrowserClient) -> None:
    page = create(operator)
    theirs = BrowserClient(api)
    theirs.sign_in(api.in_workspace("acme").key)

    assert f'href="{page}"' in operator.get("/activity").text
    shown = theirs.get("/activity").text
    assert "Create workspace" in shown
    assert f'href="{page}"' not in shown


def test_an_account_that_it_may_not_use_is_refused_on_the_page(operator: BrowserClient) -> None:
    page = create(operator)
    accounts = {"carrierAccountId": NOBODY, "voiceProjectId": str(ENVIRONMENT_PROJECT)}

    response = operator.post(page, page, name="Acme", **accounts)

    assert response.status_code == 422
    assert 'aria-describedby="carrierAccountId-wrong"' in response.text


def test_workspaces_are_for_operators(api: Api, acme: BrowserClient, operator: BrowserClient) -> None:
    page = f"/workspaces/{DEFAULT_WORKSPACE}"

    assert acme.get("/workspaces").status_code == 403
    assert acme.get(page).status_code == 403
    assert 'href="/workspaces"' not in acme.get("/").text
    assert 'href="/workspaces"' in operator.get("/").text
    reader = signed_in(api, Scope.READ)
    assert reader.get(page).status_code == 200
    assert reader.post(page, page, name="Mine").status_code == 403
