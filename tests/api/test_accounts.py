"""/api/carrier-accounts and /api/voice-projects: stored sealed, checked, rotated in place, deleted when unused."""

import json
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from app.access import Scope
from app.accounts.credentials import Credential, open_credential, open_old_credential
from app.accounts.service import AccountService
from app.accounts.stored_secrets import StoredSecrets, StoredSecretService
from app.db.models import Agent, CarrierAccount, Operation, OperationStep, Trunk, VoiceProject, Workspace
from app.db.visibility import seeing
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import TrunkState
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, AccountKind, CredentialStatus
from app.sealing import Sealer, is_sealed, new_key, parse_keys
from app.views.account_schemas import CarrierAccountOut
from tests.support.accounts import (
    CARRIER,
    CARRIERS,
    KEY_SID,
    PROJECT,
    PROJECT_KEY,
    PROJECT_SECRET,
    PROJECT_URL,
    PROJECTS,
    PUBLIC_ADDRESS,
    SID,
    TOKEN,
    FakeAccounts,
    accepting,
    with_accounts,
)
from tests.support.api import NOBODY, Api

NEW = "marked-new-token"


@pytest.fixture
def providers() -> FakeAccounts:
    return accepting()


@pytest.fixture
def admin(api: Api, providers: FakeAccounts) -> Iterator[Api]:
    """The application with these providers, and a key that may administer."""
    api.key = api.new_key(Scope.ADMIN)
    with with_accounts(api, providers):
        yield api


@pytest.fixture
def service(admin: Api) -> AccountService:
    found: AccountService = admin.app.extensions["trunkline"].accounts
    return found


def created(api: Api, path: str = CARRIERS, **more: Any) -> dict[str, Any]:
    response = api.post(path, (CARRIER if path == CARRIERS else PROJECT) | more)
    assert response.status_code == 201, response.text
    return dict(response.json)


def row_of(api: Api, account_id: str, model: Any = CarrierAccount) -> Any:
    with api.wiring.sessions() as session:
        return session.get_one(model, uuid.UUID(account_id))


def workspace(api: Api, slug: str = "acme") -> uuid.UUID:
    with api.wiring.sessions.begin() as session:
        made = Workspace(id=uuid.uuid4(), slug=slug, name=slug)
        session.add(made)
        return made.id


@pytest.mark.parametrize(
    ("path", "model", "secret"), [(CARRIERS, CarrierAccount, TOKEN), (PROJECTS, VoiceProject, PROJECT_SECRET)]
)
def test_an_account_is_stored_sealed_and_checked_and_shows_no_secret(
    admin: Api, providers: FakeAccounts, path: str, model: Any, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = created(admin, path)

    assert (made["name"], made["workspace"], made["status"], made["error"]) == ("Acme", "default", "verified", None)
    assert made["checks"][0]["name"] == "credentials"
    assert all(check["ok"] for check in made["checks"])
    row = row_of(admin, made["id"], model)
    assert is_sealed(row.sealed_secret)
    assert admin.get(f"{path}/{made['id']}").json == made
    assert admin.get(path).json["items"][-1] == made
    shown = [admin.get(path), admin.post(f"{path}/{made['id']}/check"), admin.call("PATCH", f"{path}/{made['id']}", {})]
    assert not [each for each in shown if secret in each.text]
    assert secret not in caplog.text
    with admin.wiring.sessions() as session:
        assert secret not in str(session.execute(text("SELECT * FROM activity")).all())
    assert providers.open_platforms == 0


def test_the_checks_of_a_carrier_account_name_its_server_and_its_room(admin: Api, providers: FakeAccounts) -> None:
    made = created(admin, baseUrl="https://api.dublin.ie1.twilio.com")

    credentials, numbers, trunks = made["checks"]
    assert credentials["detail"] == f"{SID}, through https://api.dublin.ie1.twilio.com, accepts the credentials"
    assert numbers["name"] == "numbers"
    assert (trunks["name"], trunks["detail"]) == ("trunks", "room for 50000 more numbers")
    assert providers.calls == ["https://api.dublin.ie1.twilio.com"]


def test_an_account_whose_credential_is_refused_is_stored_as_invalid(admin: Api) -> None:
    made = created(admin, secret="wrong")

    assert (made["status"], made["error"]["code"]) == ("invalid", "twilio_bad_credentials")
    (check,) = made["checks"]
    assert (check["name"], check["ok"]) == ("credentials", False)
    assert "rotate" in check["fix"]


def test_an_account_that_may_not_read_trunks_is_invalid(admin: Api, providers: FakeAccounts) -> None:
    providers.is_restricted = True
    made = created(admin)

    assert (made["status"], made["error"]["code"]) == ("invalid", "twilio_forbidden")
    assert [check["name"] for check in made["checks"] if not check["ok"]] == ["trunks"]


def test_a_provider_that_does_not_respond_decides_nothing(admin: Api, providers: FakeAccounts) -> None:
    providers.is_down = True
    made = created(admin)
    assert (made["status"], made["error"]) == ("pending", None)

    providers.is_down = False
    assert admin.post(f"{CARRIERS}/{made['id']}/check").json["status"] == "verified"

    providers.is_down = True
    again = admin.post(f"{CARRIERS}/{made['id']}/check").json
    assert (again["status"], again["checks"][0]["ok"]) == ("verified", False)


@pytest.mark.parametrize(
    ("path", "change", "field"),
    [
        (CARRIERS, {"accountSid": "AC12"}, "accountSid"),
        (CARRIERS, {"accountSid": SID + "\n"}, "accountSid"),
        (CARRIERS, {"username": "AC" + "c" * 32}, "username"),
        (CARRIERS, {"secret": "two words"}, "secret"),
        (CARRIERS, {"secret": ""}, "secret"),
        (CARRIERS, {"baseUrl": "http://api.twilio.com"}, "baseUrl"),
        (CARRIERS, {"trunkLimit": 0}, "trunkLimit"),
        (CARRIERS, {"rate": "fast"}, "rate"),
        (CARRIERS, {"inFlight": "7"}, "inFlight"),
        (CARRIERS, {"shared": "yes"}, "shared"),
        (CARRIERS, {"workspace": "No Slug"}, "workspace"),
        (CARRIERS, {"url": "x"}, "url"),
        (PROJECTS, {"url": "ws://livekit.example.com"}, "url"),
        (PROJECTS, {"username": None}, "username"),
        (PROJECTS, {"sipUri": "sips:abc.sip.livekit.cloud"}, "sipUri"),
        (PROJECTS, {"sipUri": "sip:acme-1a2b3c.sip.livekit.cloud"}, "sipUri"),
        (PROJECTS, {"allowedAddresses": ["10.0.0.1/8"]}, "allowedAddresses.0"),
        (PROJECTS, {"roomPresets": [""]}, "roomPresets.0"),
    ],
)
def test_what_cannot_be_right_is_refused_and_quoted_nowhere(
    admin: Api, path: str, change: dict[str, Any], field: str
) -> None:
    response = admin.post(path, (CARRIER if path == CARRIERS else PROJECT) | change)

    assert (response.status_code, list(response.json["errors"])) == (422, [field]), response.text
    assert TOKEN not in response.text
    assert PROJECT_SECRET not in response.text
    assert len(admin.get(path).json["items"]) == 1


def test_without_keys_nothing_is_stored_and_the_sentence_says_why(api: Api, providers: FakeAccounts) -> None:
    api.key = api.new_key(Scope.ADMIN)
    with with_accounts(api, providers, keys=()):
        response = api.post(CARRIERS, CARRIER)

    assert (response.status_code, response.json["code"]) == (409, "credential_keys_missing")
    assert "CREDENTIAL_KEYS" in response.json["detail"]
    assert api.count("carrier_accounts") == 1


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_only_administrators_change_accounts_and_readers_see_them(admin: Api, scope: Scope) -> None:
    made = created(admin)
    admin.key = admin.new_key(scope)
    path = f"{CARRIERS}/{made['id']}"

    assert admin.get(path).status_code == 200
    for response in (
        admin.post(CARRIERS, CARRIER),
        admin.call("PATCH", path, {"name": "New"}),
        admin.post(f"{path}/check"),
        admin.post(f"{path}/rotate", {"secret": NEW}),
        admin.delete(path),
    ):
        assert (response.status_code, response.json["code"]) == (403, "forbidden")


def test_name_limits_and_rates_are_changed_and_clients_are_built_anew(admin: Api) -> None:
    made = created(admin)
    before = row_of(admin, made["id"]).version
    changes = {"name": "Acme Ltd", "trunkLimit": 7, "rate": "12", "inFlight": 3}

    response = admin.call("PATCH", f"{CARRIERS}/{made['id']}", changes)

    assert response.status_code == 200
    assert {name: response.json[name] for name in changes} == changes
    assert row_of(admin, made["id"]).version == before + 1
    assert admin.call("PATCH", f"{CARRIERS}/{made['id']}", {"accountSid": SID}).status_code == 422
    assert admin.call("PATCH", f"{CARRIERS}/{made['id']}", {"inFlight": None}).json["inFlight"] is None


def test_a_projects_addresses_are_changed_and_twilio_stands_for_its_own(admin: Api) -> None:
    made = created(admin, PROJECTS)
    assert made["allowedAddresses"] == []

    changed = admin.call("PATCH", f"{PROJECTS}/{made['id']}", {"allowedAddresses": ["twilio", "10.0.0.0/8"]}).json

    assert "54.172.60.0/30" in changed["allowedAddresses"]
    assert changed["allowedAddresses"][-1] == "10.0.0.0/8"


# Rotation.


def test_a_rotation_uses_the_new_credential_and_keeps_the_old_one_for_a_day(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    made = created(admin)
    version = row_of(admin, made["id"]).version
    providers.accepted.add((SID, KEY_SID, NEW))

    response = admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW, "username": KEY_SID})

    assert (response.status_code, response.json["username"], response.json["status"]) == (200, KEY_SID, "verified")
    row = row_of(admin, made["id"])
    now = datetime.now(UTC)
    assert open_credential(row, service.sealer) == Credential(KEY_SID, NEW)
    assert open_old_credential(row, service.sealer, now) == Credential(SID, TOKEN)
    assert timedelta(hours=23) < row.old_valid_until - now <= timedelta(hours=24)
    assert row.version == version + 1
    assert NEW not in response.text


def test_a_rotation_without_overlap_erases_the_old_credential_at_once(admin: Api, providers: FakeAccounts) -> None:
    made = created(admin)
    providers.accepted.add((SID, SID, NEW))

    response = admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW, "oldValidForS": 0})

    assert response.json["oldValidUntil"] is None
    assert row_of(admin, made["id"]).sealed_old_secret is None


def test_a_new_credential_that_is_refused_changes_nothing(admin: Api) -> None:
    made = created(admin)
    before = row_of(admin, made["id"])

    response = admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})

    assert (response.status_code, response.json["code"]) == (409, "credentials_refused")
    assert NEW not in response.text
    after = row_of(admin, made["id"])
    assert (after.sealed_secret, after.version, after.status) == (before.sealed_secret, before.version, before.status)


def test_a_rotation_while_the_provider_is_down_changes_nothing(admin: Api, providers: FakeAccounts) -> None:
    made = created(admin)
    providers.is_down = True

    response = admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})

    assert (response.status_code, response.json["code"]) == (503, "provider_unavailable")
    assert row_of(admin, made["id"]).version == 1


def test_the_user_name_of_another_account_is_refused(admin: Api) -> None:
    made = created(admin)

    response = admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW, "username": "AC" + "d" * 32})

    assert (response.status_code, list(response.json["errors"])) == (422, ["username"])


def test_an_invalid_credential_is_not_kept_and_its_account_is_valid_after_the_rotation(
    admin: Api, providers: FakeAccounts
) -> None:
    made = created(admin, PROJECTS, secret="wrong")
    providers.accepted.add((PROJECT_URL, "APInew", NEW))

    rotated = admin.post(f"{PROJECTS}/{made['id']}/rotate", {"secret": NEW, "username": "APInew"}).json

    assert (rotated["status"], rotated["error"], rotated["oldValidUntil"]) == ("verified", None, None)
    assert row_of(admin, made["id"], VoiceProject).username == "APInew"


def test_a_refusal_while_the_credential_before_is_valid_leaves_the_account_valid(
    admin: Api, providers: FakeAccounts
) -> None:
    made = created(admin)
    providers.accepted.add((SID, SID, NEW))
    admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})
    providers.accepted.remove((SID, SID, NEW))

    checked = admin.post(f"{CARRIERS}/{made['id']}/check").json

    assert (checked["status"], checked["checks"][0]["ok"]) == ("verified", False)


def test_old_credentials_are_erased_when_their_time_is_over(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    made = created(admin)
    providers.accepted.add((SID, SID, NEW))
    admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})
    assert service.purge_old() == 0
    with admin.wiring.sessions.begin() as session:
        row = session.get_one(CarrierAccount, uuid.UUID(made["id"]))
        row.old_valid_until = datetime.now(UTC) - timedelta(seconds=1)

    assert service.purge_old() == 1

    row = row_of(admin, made["id"])
    assert (row.old_username, row.sealed_old_secret, row.old_valid_until) == (None, None, None)


# The environment's.


def test_the_environments_account_is_listed_checked_and_never_changed(admin: Api) -> None:
    path = f"{CARRIERS}/{ENVIRONMENT_ACCOUNT}"
    (shown,) = admin.get(CARRIERS).json["items"]
    assert (shown["name"], shown["workspace"], shown["isDefault"], shown["status"]) == (
        "environment",
        None,
        True,
        "pending",
    )

    checked = admin.post(f"{path}/check").json
    assert (checked["status"], checked["checks"][0]["ok"]) == ("pending", True)
    for response in (
        admin.call("PATCH", path, {"name": "mine"}),
        admin.post(f"{path}/rotate", {"secret": NEW}),
        admin.delete(path),
    ):
        assert (response.status_code, response.json["code"]) == (403, "forbidden")
        assert "TWILIO_*" in response.json["detail"]


# Deleting.


def test_an_account_that_nothing_uses_is_deleted_and_its_credential_erased(admin: Api) -> None:
    made = created(admin)

    assert admin.delete(f"{CARRIERS}/{made['id']}").status_code == 204

    row = row_of(admin, made["id"])
    assert (row.sealed_secret, row.sealed_old_secret) == (None, None)
    for response in (
        admin.get(f"{CARRIERS}/{made['id']}"),
        admin.delete(f"{CARRIERS}/{made['id']}"),
        admin.get(f"{CARRIERS}/{NOBODY}"),
        admin.get(f"{PROJECTS}/{made['id']}"),
    ):
        assert (response.status_code, response.json["code"]) == (404, "account_not_found")
    assert len(admin.get(CARRIERS).json["items"]) == 1


def test_an_account_that_agents_use_is_kept(admin: Api) -> None:
    made = created(admin)
    agent_id = admin.agent(carrierAccountId=made["id"])

    refused = admin.delete(f"{CARRIERS}/{made['id']}")

    assert (refused.status_code, refused.json["code"]) == (409, "account_in_use")
    assert "1 agents" in refused.json["detail"]
    admin.delete(f"/api/agents/{agent_id}")
    assert admin.delete(f"{CARRIERS}/{made['id']}").status_code == 204


def test_an_account_with_a_shared_trunk_or_as_a_default_is_kept(admin: Api) -> None:
    made = created(admin)
    account_id = uuid.UUID(made["id"])
    with admin.wiring.sessions.begin() as session:
        session.add(
            Trunk(carrier_account_id=account_id, profile={}, profile_hash="x", shard=1, state=TrunkState.CREATING)
        )
        session.get_one(Workspace, DEFAULT_WORKSPACE).carrier_account_id = account_id

    detail = admin.delete(f"{CARRIERS}/{made['id']}").json["detail"]

    assert "the workspace default as its default and 1 shared trunks" in detail


# Workspaces.


def test_a_workspace_sees_its_own_accounts_and_its_default_and_of_that_only_the_name(
    admin: Api, service: AccountService
) -> None:
    acme, other = workspace(admin), workspace(admin, "other")
    mine = created(admin, workspace="acme")
    theirs = created(admin, workspace="other")
    assert (mine["workspace"], theirs["workspace"]) == ("acme", "other")

    with seeing(acme):
        seen = {account.row.name: account for account in service.all(AccountKind.CARRIER)}
        assert {str(account.row.id) for account in seen.values()} == {mine["id"], str(ENVIRONMENT_ACCOUNT)}
        assert seen["Acme"].is_changeable
        assert not seen["environment"].is_changeable
        with pytest.raises(RefusedError) as refused:
            service.get(AccountKind.CARRIER, uuid.UUID(theirs["id"]))
        assert refused.value.code is ErrorCode.ACCOUNT_NOT_FOUND
        with pytest.raises(RefusedError) as refused:
            service.check(AccountKind.CARRIER, ENVIRONMENT_ACCOUNT)
        assert refused.value.code is ErrorCode.FORBIDDEN
    with seeing(other):
        assert [str(one.row.id) for one in service.all(AccountKind.CARRIER)] == [str(ENVIRONMENT_ACCOUNT), theirs["id"]]


def test_what_an_installations_account_has_is_not_shown_to_a_workspace(admin: Api, service: AccountService) -> None:
    acme = workspace(admin)
    shared = created(admin, shared=True)
    assert shared["workspace"] is None
    with admin.wiring.sessions.begin() as session:
        session.get_one(Workspace, acme).carrier_account_id = uuid.UUID(shared["id"])

    with seeing(acme):
        (account,) = service.all(AccountKind.CARRIER)
        shown = CarrierAccountOut().dump(account)

    assert (shown["name"], shown["isDefault"], shown["status"], shown["checks"]) == ("Acme", True, "verified", [])
    assert SID not in json.dumps(shown)
    assert "numbers" not in json.dumps(shown)


def test_a_workspace_stores_no_account_for_others(admin: Api, service: AccountService) -> None:
    acme = workspace(admin)
    workspace(admin, "other")
    values = {
        "name": "Acme",
        "account_sid": SID,
        "base_url": None,
        "trunk_limit": 100,
        "rate": "auto",
        "in_flight": None,
    }
    credential = Credential(SID, TOKEN)
    with seeing(acme):
        for more, code in (
            ({"is_shared": True}, ErrorCode.FORBIDDEN),
            ({"workspace": "other"}, ErrorCode.WORKSPACE_NOT_FOUND),
            ({"workspace": "nobody"}, ErrorCode.WORKSPACE_NOT_FOUND),
        ):
            with pytest.raises(RefusedError) as refused:
                service.create(AccountKind.CARRIER, values, credential, **more)
            assert refused.value.code is code
        assert service.create(AccountKind.CARRIER, values, credential, workspace="acme").workspace == "acme"
        assert service.create(AccountKind.CARRIER, values, credential).workspace == "acme"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://10.0.0.7", "https://169.254.169.254"])
def test_a_workspace_has_us_call_no_private_server_and_an_operator_may(
    admin: Api, service: AccountService, url: str
) -> None:
    acme = workspace(admin)
    values = {"name": "Acme", "account_sid": SID, "base_url": url}
    with seeing(acme), pytest.raises(RefusedError) as refused:
        service.create(AccountKind.CARRIER, values, Credential(SID, TOKEN))
    assert (refused.value.code, list(refused.value.errors)) == (ErrorCode.VALIDATION_FAILED, ["baseUrl"])

    assert service.create(AccountKind.CARRIER, values, Credential(SID, TOKEN)).row.status is CredentialStatus.VERIFIED


def test_a_name_of_a_private_address_is_no_server_for_a_workspace(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    acme = workspace(admin)
    values = {"name": "Acme", "account_sid": SID, "base_url": "https://metadata.example.com"}
    for address, word in (("10.0.0.7", "private"), ("", "no address"), (PUBLIC_ADDRESS, "")):
        providers.addresses["metadata.example.com"] = address
        with seeing(acme), pytest.raises(RefusedError, match=word) if word else nullcontext():
            service.create(AccountKind.CARRIER, values, Credential(SID, TOKEN))


def test_outside_of_tests_names_are_resolved_as_those_of_webhooks(api: Api) -> None:
    accounts, webhooks = api.wiring.accounts, api.wiring.webhooks
    assert accounts.check_server == webhooks.sender.check_server


# Agents.


def test_agents_use_the_accounts_that_they_name_or_those_of_their_workspace(admin: Api) -> None:
    account, project = created(admin), created(admin, PROJECTS)
    named = admin.post(
        "/api/agents", {"name": "desk", "carrierAccountId": account["id"], "voiceProjectId": project["id"]}
    ).json
    assert (named["carrierAccountId"], named["voiceProjectId"]) == (account["id"], project["id"])
    plain = admin.post("/api/agents", {"name": "desk"}).json
    assert plain["carrierAccountId"] == str(ENVIRONMENT_ACCOUNT)

    with admin.wiring.sessions.begin() as session:
        session.get_one(Workspace, DEFAULT_WORKSPACE).carrier_account_id = uuid.UUID(account["id"])

    assert admin.post("/api/agents", {"name": "desk"}).json["carrierAccountId"] == account["id"]


def test_an_account_of_another_workspace_or_of_nobody_is_not_for_an_agent(admin: Api) -> None:
    workspace(admin)
    theirs, shared = created(admin, workspace="acme"), created(admin, shared=True)
    deleted = created(admin)
    admin.delete(f"{CARRIERS}/{deleted['id']}")
    for account_id in (theirs["id"], shared["id"], deleted["id"], NOBODY):
        response = admin.post("/api/agents", {"name": "desk", "carrierAccountId": account_id})

        assert (response.status_code, list(response.json["errors"])) == (422, ["carrierAccountId"])
    assert admin.count("agents") == 0


def test_items_of_a_bulk_name_accounts_and_a_wrong_one_fails_alone(admin: Api) -> None:
    account, project = created(admin), created(admin, PROJECTS)
    header = "phoneNumber,agent,carrierAccountId,voiceProjectId"
    rows = [
        f"+15145551241,one,{account['id']},{project['id']}",
        "+15145551242,two,,",
        f"+15145551243,three,{NOBODY},",
        "+15145551244,four,,no-id",
    ]
    response = admin.call(
        "POST", "/api/provisionings", data="\n".join([header, *rows]), headers={"Content-Type": "text/csv"}
    )

    assert response.status_code == 202, response.text
    items = admin.get(f"{response.json['statusUrl']}/items").json["items"]
    assert [item["status"] for item in items] == ["pending", "pending", "failed", "failed"]
    assert items[2]["error"]["detail"] == "agent.carrierAccountId: There is no such carrier account for this workspace."
    assert items[3]["error"]["detail"] == "agent.voiceProjectId: is not the id of a voice project."
    with admin.wiring.sessions() as session:
        agents = session.scalars(select(Agent).order_by(Agent.name)).all()
    assert [(one.name, str(one.carrier_account_id)) for one in agents] == [
        ("one", account["id"]),
        ("two", str(ENVIRONMENT_ACCOUNT)),
    ]
    assert str(agents[0].voice_project_id) == project["id"]


# Invalid accounts.


def test_an_invalid_account_is_tried_again_each_minute_and_valid_once_it_is_accepted(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    made = created(admin, secret=NEW)
    assert service.recheck() == 0
    providers.accepted.add((SID, SID, NEW))
    assert service.recheck() == 0  # it was tried less than a minute ago
    make_due(admin)

    assert service.recheck() == 1

    shown = admin.get(f"{CARRIERS}/{made['id']}").json
    assert (shown["status"], shown["error"]) == ("verified", None)
    assert service.recheck() == 0


def make_due(api: Api) -> None:
    """Let a minute pass since the accounts were tried."""
    with api.wiring.sessions.begin() as session:
        session.execute(update(CarrierAccount).values(checked_at=datetime.now(UTC) - timedelta(seconds=61)))


def test_an_account_whose_provider_was_away_when_it_was_saved_is_verified_later(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    providers.is_down = True
    made = created(admin)
    assert made["status"] == "pending"
    make_due(admin)
    assert service.recheck() == 0
    providers.is_down = False
    make_due(admin)
    assert service.recheck() == 1
    assert admin.get(f"{CARRIERS}/{made['id']}").json["status"] == "verified"
    assert admin.get(f"{CARRIERS}/{ENVIRONMENT_ACCOUNT}").json["status"] == "pending"


def test_an_account_that_may_sign_in_and_do_nothing_else_is_not_verified_by_being_tried_again(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    providers.hides_numbers = True
    made = created(admin)
    assert made["status"] == "invalid"
    make_due(admin)
    assert service.recheck() == 0
    assert admin.get(f"{CARRIERS}/{made['id']}").json["status"] == "invalid"


@pytest.mark.parametrize("how", ["sweeper", "check", "rotation"])
def test_what_waits_for_a_credential_goes_on_once_it_is_accepted(
    admin: Api, providers: FakeAccounts, service: AccountService, how: str
) -> None:
    made = created(admin, secret=NEW)
    agents = {admin.agent(carrierAccountId=made["id"]): 1, admin.agent(): 0}
    later = datetime.now(UTC) + timedelta(minutes=5)
    for agent_id, last in agents.items():
        operation_id = admin.provision(agent_id, f"+1514555124{last}").json["operationId"]
        admin.begin(operation_id)
    with admin.wiring.sessions.begin() as session:
        session.execute(update(Operation).values(wake_at=later))
        waits = {"lease_until": later, "error_code": ErrorCode.CREDENTIALS_REFUSED}
        session.execute(update(OperationStep).where(OperationStep.name == "twilio_trunk").values(waits))
        session.execute(update(CarrierAccount).values(checked_at=None))
    providers.accepted.add((SID, SID, NEW))

    match how:
        case "sweeper":
            assert service.recheck() == 1
        case "check":
            admin.post(f"{CARRIERS}/{made['id']}/check")
        case "rotation":
            admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})

    with admin.wiring.sessions() as session:
        rows = {str(row.agent_id): row for row in session.scalars(select(Operation))}
        waiting = select(OperationStep.operation_id).where(OperationStep.lease_until == later)
        assert set(session.scalars(waiting)) == {row.id for agent, row in rows.items() if not agents[agent]}
    assert {agent: row.wake_at < later for agent, row in rows.items()} == {
        agent: bool(n) for agent, n in agents.items()
    }


def test_a_check_that_finds_a_verified_account_refused_announces_it_once(admin: Api, providers: FakeAccounts) -> None:
    made = created(admin)
    admin.agent(carrierAccountId=made["id"])
    admin.post("/api/webhooks", {"url": "https://hooks.example.com/in"})
    providers.accepted.clear()

    for _ in range(2):
        assert admin.post(f"{CARRIERS}/{made['id']}/check").json["status"] == "invalid"

    with admin.wiring.sessions() as session:
        ((event, payload),) = session.execute(text("SELECT event, payload FROM webhook_deliveries")).all()
    assert event == "phone.needs_attention"
    told = json.loads(payload)["data"]
    assert (told["agentId"], told["account"]["id"], told["account"]["kind"]) == (None, made["id"], "carrier_account")


def test_stored_credentials_are_counted_and_wrapped_by_a_new_key_and_open_then(
    admin: Api, providers: FakeAccounts, service: AccountService
) -> None:
    made, project = created(admin), created(admin, PROJECTS)
    providers.accepted.add((SID, SID, NEW))
    admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})
    newer = parse_keys(new_key())
    stored = StoredSecretService(admin.wiring.sessions, Sealer((*newer, b"k" * 32)))
    assert stored.count() == StoredSecrets(3, in_clear=0, outdated=3, unreadable=0)

    assert stored.rewrap() == 3

    only_new = Sealer(newer)
    row = row_of(admin, made["id"])
    assert open_credential(row, only_new) == Credential(SID, NEW)
    assert open_old_credential(row, only_new, datetime.now(UTC)) == Credential(SID, TOKEN)
    assert open_credential(row_of(admin, project["id"], VoiceProject), only_new) == Credential(
        PROJECT_KEY, PROJECT_SECRET
    )
    checked = admin.post(f"{CARRIERS}/{made['id']}/check").json
    assert (checked["status"], checked["checks"][0]["ok"]) == ("verified", False)  # the service has the old key only
    assert "CREDENTIAL_KEYS" in checked["checks"][0]["fix"]


def test_the_trail_says_who_did_what_to_an_account(admin: Api, providers: FakeAccounts) -> None:
    made = created(admin)
    providers.accepted.add((SID, SID, NEW))
    admin.call("PATCH", f"{CARRIERS}/{made['id']}", {"name": "New"})
    admin.post(f"{CARRIERS}/{made['id']}/rotate", {"secret": NEW})
    admin.delete(f"{CARRIERS}/{made['id']}")

    with admin.wiring.sessions() as session:
        rows = session.execute(
            text("SELECT action, actor FROM activity WHERE subject_id = :id ORDER BY id"), {"id": made["id"]}
        ).all()
    assert [tuple(row) for row in rows] == [
        (f"account.{verb}", "other") for verb in ("create", "change", "rotate", "delete")
    ]
