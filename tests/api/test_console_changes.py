"""The console's form for an agent's names, metadata and options; and its deletion."""

import re
import uuid
from typing import Any

import pytest

from app.access import Scope
from app.db.models import Agent
from app.domain.operations import PhoneStatus
from app.domain.options import OPTIONS, Option, options_json, options_of
from app.views.option_schemas import WORDS, path_of
from app.views.option_texts import read_value, show_value
from tests.support.api import NOBODY, NUMBER, Api
from tests.support.console import BrowserClient, signed_in

EVERYTHING: dict[str, Any] = {
    "dispatch": {"kind": "callee", "roomPrefix": "desk", "randomize": True, "pin": "0815"},
    "agents": [{"name": "recorder", "metadata": {"a": [1, None]}}, {"name": "coach", "metadata": {}}],
    "room": {"emptyTimeoutS": 60, "departureTimeoutS": 30, "maxParticipants": 4, "preset": "support"},
    "participant": {
        "metadata": "two\nlines <b>&",
        "attributes": {"a=b": "c", "line": "d"},
        "hidePhoneNumber": False,
    },
    "call": {
        "ringingS": 20,
        "maxDurationS": 600,
        "krisp": True,
        "allowedCallers": ["+15145550100", "+15145550101"],
        "headersToAttributes": {"X-A": "a", "X-B": "b"},
        "includeHeaders": "x",
    },
    "transfer": "sip-only",
    "monitor": {"everyMinutes": 60},
}


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.WRITE)


def form_of(page: str) -> dict[str, str]:
    """Return what a browser would send of the form that changes an agent, untouched."""
    form = page[page.index('<form class="panel stack"') :]
    found = dict(re.findall(r'<input [^>]*name="([^"]+)"[^>]* value="([^"]*)"', form))
    found |= dict(re.findall(r'<textarea [^>]*name="([^"]+)"[^>]*>\n(.*?)</textarea>', form, re.DOTALL))
    for name, inner in re.findall(r'<select [^>]*name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        chosen = re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', inner)
        found[name] = (chosen[1] or chosen[2]) if chosen else ""
    found.pop("csrf_token")
    return {name: unescaped(value).replace("\n", "\r\n") for name, value in found.items()}


def unescaped(text: str) -> str:
    for written, meant in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        text = text.replace(written, meant)
    return text


def edit(browser: BrowserClient, agent_id: str, **fields: str) -> Any:
    """Open the form, change these fields, and send it."""
    path = f"/agents/{agent_id}/edit"
    form = form_of(browser.get(path).text)
    assert fields.keys() <= form.keys()
    return browser.post(path, path, **(form | fields))


def test_the_form_has_every_option_with_its_help_and_default(api: Api, browser: BrowserClient) -> None:
    page = browser.get(f"/agents/{api.agent()}/edit").text

    for path, words in WORDS.items():
        assert f'name="options.{path}"' in page
        assert f'for="options.{path}"' in page
        assert f"Not set: {words.default}" in unescaped(page)


def test_a_form_that_nobody_touched_changes_nothing(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent(metadata={"a": 1.5, "b": [None, "\u00e9"]}, options=EVERYTHING)
    before = api.get(f"/api/agents/{agent_id}").json

    response = edit(browser, agent_id)

    assert response.status_code == 303
    assert api.get(f"/api/agents/{agent_id}").json == before


def test_every_field_of_the_form_is_read(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    options = options_json(options_of(EVERYTHING))
    texts = {
        f"options.{path_of(one)}": show_value(one, value)
        for one in OPTIONS
        if (value := _at(options, one.path)) is not None
    }

    response = edit(
        browser, agent_id, name="Night", livekitAgentName="night", metadata='{"a": 1}', trunkMode="dedicated", **texts
    )

    assert response.status_code == 303, response.text
    found = api.get(f"/api/agents/{agent_id}").json
    assert (found["name"], found["livekitAgentName"], found["metadata"]) == ("Night", "night", {"a": 1})
    assert (found["trunkMode"], found["options"], found["version"]) == ("dedicated", EVERYTHING, 2)


def _at(options: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = options
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def test_an_empty_field_is_not_set(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent(metadata={"a": 1}, options=EVERYTHING)
    empty = {f"options.{path}": "" for path in WORDS}

    assert edit(browser, agent_id, metadata="", **empty).status_code == 303

    found = api.get(f"/api/agents/{agent_id}").json
    assert (found["metadata"], found["options"]) == ({}, {})


WRONG = [
    ("name", " ", "name"),
    ("livekitAgentName", "", "livekitAgentName"),
    ("metadata", "{", "metadata"),
    ("metadata", "[]", "metadata"),
    ("options.dispatch.pin", "12x", "options.dispatch.pin"),
    ("options.dispatch.kind", "direct", "options.dispatch.roomName"),
    ("options.room.maxParticipants", "many", "options.room.maxParticipants"),
    ("options.call.allowedCallers", "+15145550100\nnobody", "options.call.allowedCallers"),
    ("options.call.headersToAttributes", "X-A", "options.call.headersToAttributes"),
    ("options.agents", "[{]", "options.agents"),
    ("options.agents", '[{"metadata": {}}]', "options.agents"),
    ("options.participant.attributes", '{"a": 1}', "options.participant.attributes"),
]


@pytest.mark.parametrize(("field", "value", "shown_at"), WRONG)
def test_what_is_wrong_stands_beside_its_field_and_nothing_is_lost(
    api: Api, browser: BrowserClient, field: str, value: str, shown_at: str
) -> None:
    agent_id = api.agent()
    path = f"/agents/{agent_id}/edit"
    form = form_of(browser.get(path).text) | {"options.dispatch.roomPrefix": "kept", field: value}

    response = browser.post(path, path, **form)

    assert response.status_code == 422
    assert f'id="{shown_at}-wrong"' in response.text
    assert f'href="#{shown_at}"' in response.text
    again = {name: text.replace("\r\n", "\n") for name, text in form_of(response.text).items()}
    assert (again[field], again["options.dispatch.roomPrefix"]) == (value, "kept")
    assert api.get(f"/api/agents/{agent_id}").json["version"] == 1


def test_a_change_by_somebody_else_shows_the_form_again_with_both(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent(metadata={"a": 1}, options={"dispatch": {"pin": "1"}, "room": {"maxParticipants": 2}})
    path = f"/agents/{agent_id}/edit"
    form = form_of(browser.get(path).text) | {"name": "mine", "options.dispatch.pin": "22"}
    theirs = {"livekitAgentName": "theirs", "options": {"room": {"maxParticipants": None}}}
    api.call("PATCH", f"/api/agents/{agent_id}", theirs)

    response = browser.post(path, path, **form)

    assert (response.status_code, "version_mismatch" in response.text) == (412, True)
    again = form_of(response.text)
    assert (again["name"], again["options.dispatch.pin"], again["version"]) == ("mine", "22", "2")
    shown = re.findall(r'<p class="now small">Now: ([^<]*)</p>', response.text)
    assert shown == ["theirs", "desk", "1", "not set"]
    # Who saves it now has seen what it does to the other change.
    assert browser.post(path, path, **again).status_code == 303
    found = api.get(f"/api/agents/{agent_id}").json
    assert (found["name"], found["livekitAgentName"], found["version"]) == ("mine", "desk", 3)
    assert found["options"] == {"dispatch": {"pin": "22"}, "room": {"maxParticipants": 2}}


def test_a_form_without_its_version_is_nobody_s(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()

    for version in ("", "0", "x", "1_0", "\u0661"):
        assert edit(browser, agent_id, version=version, name="B").status_code == 412


def test_the_change_of_a_path_leads_to_its_progress(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])
    page = browser.get(f"/agents/{agent_id}").text
    # One click from the name.
    assert f'href="/agents/{agent_id}/edit#livekitAgentName"' in page

    response = edit(browser, agent_id, livekitAgentName="night")

    assert response.status_code == 303
    after = browser.get(response.headers["Location"]).text
    assert "The change is queued." in after
    assert "Update" in after
    assert 'data-open="yes"' in after
    assert "/edit" not in after
    busy = browser.post(f"/agents/{agent_id}/edit", "/", name="B", livekitAgentName="b", version="1")
    assert (busy.status_code, "operation_in_progress" in busy.text) == (409, True)


def test_the_page_shows_what_is_set_and_what_it_makes_of_the_path(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent(options=EVERYTHING)
    api.succeed(api.provision(agent_id, NUMBER).json["operationId"])

    page = unescaped(browser.get(f"/agents/{agent_id}").text)

    for path, words in WORDS.items():
        is_set = _at(EVERYTHING, tuple(path.split("."))) is not None
        assert (f'<code class="muted small">{path}</code>' in page, words.label in page or not is_set) == (is_set, True)
    facts = re.findall(r'<span class="small fact">([^<]*)</span>', page)
    assert facts == [
        "transfer: sip-only",
        "2 allowed callers",
        "ends calls after 10 min",
        "rings for 20 s",
        "asks for a PIN",
        "all callers in one room",
        "and 2 other agents",
    ]
    assert "0815" not in "".join(facts)


def test_an_agent_is_created_with_options(api: Api, browser: BrowserClient) -> None:
    fields = {"options.dispatch.pin": "4711", "options.call.allowedCallers": "+15145550100"}

    response = browser.post("/", "/", name="desk", **fields)

    found = api.get(f"/api{response.headers['Location']}").json
    assert found["options"] == {"dispatch": {"pin": "4711"}, "call": {"allowedCallers": ["+15145550100"]}}


def test_a_wrong_option_of_a_new_agent_is_shown_in_the_open_form(browser: BrowserClient) -> None:
    response = browser.post("/", "/", name="desk", **{"options.dispatch.pin": "x"})

    assert response.status_code == 422
    assert '<details class="pop" id="new" open>' in response.text
    assert '<details class="more" open>' in response.text
    assert 'id="options.dispatch.pin-wrong"' in response.text


def test_who_may_not_write_sees_no_way_to_change_or_delete(api: Api) -> None:
    reader, agent_id = signed_in(api, Scope.READ), api.agent()

    assert not re.search("/edit|/delete", reader.get(f"/agents/{agent_id}").text)
    assert reader.post(f"/agents/{agent_id}/edit", "/", name="B").status_code == 403


def test_an_agent_is_deleted_after_a_question(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent("Fax")
    assert f"/agents/{agent_id}/delete" in browser.get(f"/agents/{agent_id}").text
    path = f"/agents/{agent_id}/delete"
    assert "Delete Fax?" in browser.get(path).text

    response = browser.post(path, path)

    assert (response.status_code, response.headers["Location"]) == (303, "/")
    assert "Fax was deleted." in browser.get("/").text
    assert browser.get(path).status_code == 404


def test_an_agent_with_a_number_is_not_deleted(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])
    path = f"/agents/{agent_id}/delete"

    assert "cannot be deleted now" in browser.get(path).text
    assert path not in browser.get(f"/agents/{agent_id}").text
    assert browser.post(path, "/").status_code == 409
    with api.wiring.sessions() as session:
        row = session.get_one(Agent, uuid.UUID(agent_id))
        assert (row.deleted_at, row.phone_provisioning_status) == (None, PhoneStatus.PROVISIONED)


@pytest.mark.parametrize("path", ["edit", "delete"])
def test_an_agent_that_there_is_not_is_a_page_of_404(browser: BrowserClient, path: str) -> None:
    assert browser.get(f"/agents/{NOBODY}/{path}").status_code == 404
    assert browser.post(f"/agents/{NOBODY}/{path}", "/", name="B", livekitAgentName="b").status_code == 404


MORE_VALUES: dict[str, list[Any]] = {
    "agents": [[{"name": "a", "metadata": {}}, {"name": "b", "metadata": {}}], [{"name": "[a", "metadata": {}}], []],
    "participant_attributes": [{}, {"a": "b\nc"}, {" a": "b"}, {"a": "=b"}, {"{": "x"}],
}


@pytest.mark.parametrize("option", OPTIONS, ids=path_of)
def test_a_value_is_read_as_it_is_shown(option: Option) -> None:
    values = [_at(EVERYTHING, option.path), WORDS[path_of(option)].example, *MORE_VALUES.get(option.field, ())]

    for value in values:
        if value is not None:
            assert _whole(read_value(option, show_value(option, value))) == _whole(value)


def _whole(value: Any) -> Any:
    """Return agents with the metadata that they have if none is said."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{"metadata": {}, **one} for one in value]
    return value
