"""Two workspaces and an operator: nobody sees, changes or learns of what is another workspace's."""

import uuid
from collections.abc import Mapping

import pytest
from sqlalchemy import select

from app.access import KeyService, Scope
from app.db.access import Activity, ApiKey
from app.db.models import Agent
from app.db.visibility import NOBODY, seeing, seen_workspace
from app.domain.workspaces import DEFAULT_WORKSPACE, WORKSPACE_HEADER
from tests.support.api import NUMBER, Api
from tests.support.console import BrowserClient, signed_in


def _header(slug: str) -> Mapping[str, str]:
    return {WORKSPACE_HEADER: slug}


def _names(api: Api, **more: object) -> set[str]:
    return {one["name"] for one in api.get("/api/agents", **more).json["items"]}


def test_a_workspaces_key_sees_only_its_own_agents(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    acme.agent("from acme")
    globex.agent("from globex")
    api.agent("from default")
    assert _names(acme) == {"from acme"}
    assert _names(globex) == {"from globex"}
    assert _names(api) == {"from acme", "from globex", "from default"}


def test_an_operator_that_names_a_workspace_works_in_it_alone(api: Api) -> None:
    api.in_workspace("acme").agent("from acme")
    api.agent("from default")
    assert _names(api, headers=_header("acme")) == {"from acme"}
    made = api.post("/api/agents", {"name": "by an operator"}, headers=_header("acme"))
    assert _names(api, headers=_header("acme")) == {"from acme", "by an operator"}
    assert _names(api, headers=_header("default")) == {"from default"}
    assert api.get("/api/trunks", headers=_header("acme")).status_code == 403
    with api.wiring.sessions() as session:
        trail = session.scalars(select(Activity).where(Activity.subject_id == uuid.UUID(made.json["id"]))).one()
    assert trail.workspace_id not in {None, DEFAULT_WORKSPACE}


def test_what_an_operator_makes_without_a_name_is_the_default_workspaces(api: Api) -> None:
    agent_id = uuid.UUID(api.agent())
    with api.wiring.sessions() as session:
        assert session.get_one(Agent, agent_id).workspace_id == DEFAULT_WORKSPACE
        trail = session.scalars(select(Activity).where(Activity.subject_id == agent_id)).one()
        assert trail.workspace_id == DEFAULT_WORKSPACE


@pytest.mark.parametrize("slug", ["globex", "nowhere", "", "ACME", "x" * 300, "acme'--"])
def test_another_workspace_is_as_unknown_as_one_that_is_not_there(api: Api, slug: str) -> None:
    acme = api.in_workspace("acme")
    api.in_workspace("globex")
    assert acme.get("/api/agents", headers=_header("acme")).status_code == 200
    refused = acme.get("/api/agents", headers=_header(slug))
    assert (refused.status_code, refused.json["code"]) == (404, "workspace_not_found")
    if slug != "globex":
        assert api.get("/api/agents", headers=_header(slug)).json["code"] == "workspace_not_found"


def test_a_request_sees_nothing_before_its_key_is_checked(own_api: Api) -> None:
    seen = []
    own_api.app.before_request_funcs[None].insert(0, lambda: seen.append(seen_workspace()))
    own_api.get("/api/agents")
    own_api.client.get("/healthz")
    assert seen == [NOBODY, NOBODY]
    assert seen_workspace() is None


def test_nobody_sees_nothing(api: Api) -> None:
    agent_id = uuid.UUID(api.agent())
    with seeing(NOBODY), api.wiring.sessions() as session:
        assert session.get(Agent, agent_id) is None
        assert not session.scalars(select(ApiKey)).all()


def test_a_console_session_sees_what_its_key_sees(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    agent_id, other = acme.agent("from acme"), globex.agent("from globex")
    browser = BrowserClient(acme)
    browser.sign_in()
    page = browser.get("/").text
    assert "from acme" in page
    assert "from globex" not in page
    assert "/trunks" not in page
    assert browser.get(f"/agents/{agent_id}").status_code == 200
    assert browser.get(f"/agents/{other}").status_code == 404
    assert browser.get("/trunks").status_code == 403
    assert "/trunks" in signed_in(api, Scope.READ).get("/").text
    with api.wiring.sessions() as session:
        signed_in_at = session.scalars(select(Activity).where(Activity.action == "session.start")).first()
        assert signed_in_at is not None
        key = session.scalars(select(ApiKey).where(ApiKey.workspace_id == signed_in_at.workspace_id)).one()
        assert key.last_used_at is not None


def test_a_number_of_another_workspace_is_in_use_without_a_name(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    holder, other = acme.agent("the holder"), globex.agent()
    assert acme.provision(holder, NUMBER).status_code == 202
    refused = globex.provision(other, NUMBER)
    assert (refused.status_code, refused.json["code"]) == (409, "number_in_use")
    assert holder not in refused.text
    assert "the holder" not in refused.text


def test_the_use_of_a_workspaces_key_is_recorded(api: Api) -> None:
    acme = api.in_workspace("acme", Scope.READ)
    assert acme.get("/api/agents").status_code == 200
    with api.wiring.sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.workspace_id.is_not(None))).one()
    assert row.last_used_at is not None


def test_a_key_knows_its_workspace(api: Api) -> None:
    keys = KeyService(api.wiring.sessions)
    of_acme, of_operator = keys.authenticate(api.in_workspace("acme").key), keys.authenticate(api.key)
    assert of_acme is not None
    assert of_operator is not None
    assert (of_acme.workspace, of_acme.is_operator) == ("acme", False)
    assert (of_operator.workspace, of_operator.is_operator) == (None, True)
