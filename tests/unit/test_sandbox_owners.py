"""Several Twilio accounts and LiveKit projects in one sandbox: what opens which, and that nothing is seen across."""

from typing import Any

import pytest
from livekit import api
from test_sandbox_process import RunningSandbox, emptied_sandbox
from twilio.rest import Client

from app.dev import sandbox as defaults
from app.dev.sandbox import owners
from app.dev.sandbox.application import create_sandbox
from app.dev.sandbox.control import seed_number
from tests.support.twilio_server import TRUNKING, V1_TRUNKS, refused

NUMBER, OTHER_NUMBER = "+15145551234", "+15145554321"
FIRST = defaults.ACCOUNT_SID
KEY = "SK" + "a" * 32
UNKNOWN = "PN" + "0" * 32


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def account(sandbox: RunningSandbox, **fields: Any) -> tuple[str, str]:
    """Make an account; return its sid and token."""
    made = sandbox.control("POST", "accounts", fields)
    return made["accountSid"], made["authTokens"][0]


def numbers_of(client: Client) -> list[str]:
    return [row.phone_number for row in client.incoming_phone_numbers.list()]


def test_an_account_sees_its_own_objects_only(sandbox: RunningSandbox) -> None:
    sid, token = account(sandbox)
    first, second = sandbox.twilio(), sandbox.twilio(sid, token)
    sandbox.add_number(NUMBER)
    mine = sandbox.add_number(OTHER_NUMBER, accountSid=sid)
    trunk = second.trunking.v1.trunks.create(friendly_name="second's")
    trunk.origination_urls.create(weight=1, priority=1, enabled=True, friendly_name="u", sip_url="sip:a.example")
    trunk.phone_numbers.create(mine["sid"])
    assert (numbers_of(first), numbers_of(second)) == ([NUMBER], [OTHER_NUMBER])
    assert (first.trunking.v1.trunks.list(), [row.sid for row in second.trunking.v1.trunks.list()]) == ([], [trunk.sid])
    assert {trunk.account_sid, mine["account_sid"]} == {sid}
    with refused(404, 20404):
        first.trunking.v1.trunks(trunk.sid).fetch()
    with refused(404, 20404):
        first.trunking.v1.trunks(first.trunking.v1.trunks.create().sid).phone_numbers.create(mine["sid"])
    with refused(404, 20404):
        first.incoming_phone_numbers(mine["sid"]).fetch()


def test_no_credential_opens_another_main_account(sandbox: RunningSandbox) -> None:
    sid, token = account(sandbox)
    for username, password, path in ((FIRST, defaults.AUTH_TOKEN, sid), (sid, token, FIRST)):
        with refused(401, 20003):
            sandbox.twilio(username, password, path).incoming_phone_numbers(UNKNOWN).fetch()
    with refused(401, 20003):
        sandbox.twilio(sid, defaults.AUTH_TOKEN).incoming_phone_numbers(UNKNOWN).fetch()


def test_a_main_token_opens_the_2010_api_of_its_subaccounts_and_nothing_else_of_them(sandbox: RunningSandbox) -> None:
    sid, token = account(sandbox, ownerAccountSid=FIRST)
    number = sandbox.add_number(NUMBER, accountSid=sid)
    main = sandbox.twilio(account_sid=sid)
    assert numbers_of(main) == numbers_of(sandbox.twilio(sid, token)) == [NUMBER]
    shown = main.api.v2010.accounts(sid).fetch()
    assert (shown.owner_account_sid, shown.auth_token) == (FIRST, token)
    assert main.trunking.v1.trunks.create().account_sid == FIRST
    with refused(404, 20404):
        main.trunking.v1.trunks(main.trunking.v1.trunks.list()[0].sid).phone_numbers.create(number["sid"])
    with refused(401, 20003):
        sandbox.twilio(defaults.API_KEY_SID, defaults.API_KEY_SECRET, sid).incoming_phone_numbers(number["sid"]).fetch()
    with refused(401, 20003):
        sandbox.twilio(sid, token, FIRST).incoming_phone_numbers(UNKNOWN).fetch()


def test_two_tokens_are_accepted_during_a_rotation_and_one_after_it(sandbox: RunningSandbox) -> None:
    sid, old = account(sandbox)
    for tokens, accepted in (([old, "new"], {old, "new"}), (["new"], {"new"}), ([], set())):
        sandbox.control("PATCH", f"accounts/{sid}", {"authTokens": tokens})
        for token in (old, "new"):
            answer = sandbox.raw_twilio("GET", V1_TRUNKS, TRUNKING, auth=(sid, token))
            assert answer.status_code == (200 if token in accepted else 401), token


def test_a_suspended_account_and_its_subaccounts_refuse_every_credential_until_it_is_active(
    sandbox: RunningSandbox,
) -> None:
    main, token = account(sandbox, apiKeys={KEY: "key-secret"})
    sub, sub_token = account(sandbox, ownerAccountSid=main)
    logins = ((main, token), (KEY, "key-secret"), (sub, sub_token))

    def statuses() -> list[int]:
        return [sandbox.raw_twilio("GET", V1_TRUNKS, TRUNKING, auth=login).status_code for login in logins]

    assert statuses() == [200, 200, 200]
    sandbox.control("PATCH", f"accounts/{sub}", {"status": "suspended"})
    assert statuses() == [200, 200, 401]
    sandbox.control("PATCH", f"accounts/{sub}", {"status": "active"})
    sandbox.control("PATCH", f"accounts/{main}", {"status": "suspended"})
    assert statuses() == [401, 401, 401]
    sandbox.control("PATCH", f"accounts/{main}", {"status": "active"})
    assert statuses() == [200, 200, 200]
    sandbox.twilio().trunking.v1.trunks.list()


def test_a_number_and_a_domain_have_one_owner(sandbox: RunningSandbox) -> None:
    sid, token = account(sandbox)
    first, second = sandbox.twilio(), sandbox.twilio(sid, token)
    sandbox.add_number(NUMBER)
    with refused(400, 21422):
        second.incoming_phone_numbers.create(phone_number=NUMBER)
    assert "error" in sandbox.control("POST", "numbers", {"phoneNumber": NUMBER, "accountSid": sid}, status=400)
    first.trunking.v1.trunks.create(domain_name="ours.pstn.twilio.com")
    with refused(400, 21248):
        second.trunking.v1.trunks.create(domain_name="ours.pstn.twilio.com")


def test_a_rate_limit_and_a_fault_of_one_account_leave_the_others_alone(sandbox: RunningSandbox) -> None:
    slow, slow_token = account(sandbox, requestsPerS=1)
    other, other_token = account(sandbox)

    def statuses(sid: str, token: str) -> list[int]:
        calls = range(4)
        return [sandbox.raw_twilio("GET", V1_TRUNKS, TRUNKING, auth=(sid, token)).status_code for _ in calls]

    assert statuses(slow, slow_token).count(429) >= 2
    assert statuses(other, other_token) == [200] * 4
    sandbox.fault("twilio.*", "reject", status=503, times=None, owner=other)
    assert statuses(other, other_token) == [503] * 4
    assert sandbox.raw_twilio("GET", V1_TRUNKS, TRUNKING).status_code == 200
    owners = {each["owner"] for each in sandbox.control("GET", "requests")["requests"]}
    assert owners == {slow, other, FIRST}


def test_a_project_has_its_own_keys_and_its_own_objects(sandbox: RunningSandbox) -> None:
    made = sandbox.control("POST", "projects", {"name": "staging"})
    (key, secret), *_ = made["keys"].items()
    url = f"{sandbox.url}/projects/staging"

    def list_trunks(service: Any) -> Any:
        return service.list_inbound_trunk(api.ListSIPInboundTrunkRequest())

    def create(service: Any) -> Any:
        trunk = api.SIPInboundTrunkInfo(name="theirs", numbers=[NUMBER])
        return service.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=trunk))

    sandbox.livekit(create, url=url, api_key=key, api_secret=secret)
    assert len(sandbox.livekit(list_trunks, url=url, api_key=key, api_secret=secret).items) == 1
    assert len(sandbox.livekit(list_trunks).items) == 0
    sandbox.livekit(create)  # no conflict with the same number in another project
    for where, credentials in ((url, {}), (sandbox.url, {"api_key": key, "api_secret": secret})):
        with pytest.raises(api.TwirpError) as error:
            sandbox.livekit(list_trunks, url=where, **credentials)
        assert error.value.status == 401
    sandbox.control("PATCH", "projects/staging", {"keys": {}})
    with pytest.raises(api.TwirpError) as error:
        sandbox.livekit(list_trunks, url=url, api_key=key, api_secret=secret)
    assert error.value.status == 401
    assert len(sandbox.control("GET", "state?project=staging")["livekitTrunks"]) == 1
    assert len(sandbox.control("GET", "state")["livekitTrunks"]) == 2
    assert sandbox.twirp("/projects/nobody/twirp/livekit.SIP/ListSIPInboundTrunk", {}).status_code == 404


def test_a_call_goes_by_its_own_account_to_the_project_that_the_url_names(sandbox: RunningSandbox) -> None:
    sid, token = account(sandbox)
    made = sandbox.control("POST", "projects", {"name": "staging"})
    (key, secret), *_ = made["keys"].items()
    number = sandbox.add_number(NUMBER, accountSid=sid)
    trunk = sandbox.twilio(sid, token).trunking.v1.trunks.create()
    sip_url = f"sip:{made['sipHost']};transport=tcp"
    trunk.origination_urls.create(weight=1, priority=1, enabled=True, friendly_name="u", sip_url=sip_url)
    trunk.phone_numbers.create(number["sid"])

    def call() -> Any:
        return sandbox.control("GET", f"call?to=%2B{NUMBER[1:]}")

    def create(service: Any) -> Any:
        info = api.SIPInboundTrunkInfo(name="theirs", numbers=[NUMBER])
        return service.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=info))

    def rule(service: Any) -> Any:
        kind = api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix="call"))
        room = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="front-desk")])
        return service.create_dispatch_rule(api.CreateSIPDispatchRuleRequest(rule=kind, room_config=room))

    sandbox.livekit(create)
    sandbox.livekit(rule)
    assert (call()["reaches"], call()["callEndedBy"]) == (False, "livekit")
    project = {"url": f"{sandbox.url}/projects/staging", "api_key": key, "api_secret": secret}
    sandbox.livekit(create, **project)
    sandbox.livekit(rule, **project)
    assert (call()["reaches"], call()["agentName"]) == (True, "front-desk")


def test_a_restart_keeps_the_accounts_the_projects_and_their_objects(tmp_path: Any) -> None:
    journal, sid = tmp_path / "sandbox.jsonl", "AC" + "b" * 32
    first = create_sandbox(state=journal)
    with first.sandbox.store.transaction():
        owners.create_account(first.sandbox, {"accountSid": sid, "authTokens": ["t"]})
        owners.create_project(first.sandbox, {"name": "staging"})
        owners.change_account(first.sandbox, FIRST, {"authTokens": ["rotated"]})
        seed_number(first.sandbox, {"phoneNumber": NUMBER, "accountSid": sid})
    before = owners.shown_accounts(first.sandbox), owners.shown_projects(first.sandbox)
    first.close()
    for _ in range(2):  # the second time from the compacted journal
        again = create_sandbox(state=journal)
        accounts, projects = owners.shown_accounts(again.sandbox), owners.shown_projects(again.sandbox)
        assert sorted(accounts, key=str) == sorted(before[0], key=str)
        assert sorted(projects, key=str) == sorted(before[1], key=str)
        assert len(again.sandbox.of_account(sid).store.numbers) == 1
        assert len(again.sandbox.store.numbers) == 0
        again.close()


@pytest.mark.parametrize(
    ("method", "path", "wrong"),
    [
        ("POST", "accounts", {"accountSid": "AC1"}),
        ("POST", "accounts", {"accountSid": FIRST}),
        ("POST", "accounts", {"ownerAccountSid": "AC" + "9" * 32}),
        ("POST", "accounts", {"authTokens": "one"}),
        ("POST", "accounts", {"apiKeys": {defaults.API_KEY_SID: "taken"}}),
        ("PATCH", f"accounts/{FIRST}", {"status": "gone"}),
        ("PATCH", f"accounts/{FIRST}", {"accountSid": FIRST}),
        ("PATCH", "accounts/AC1", {}),
        ("POST", "projects", {}),
        ("POST", "projects", {"name": "sandbox"}),
        ("PATCH", "projects/sandbox", {"nonsense": 1}),
        ("GET", "state?account=AC1", None),
    ],
)
def test_what_cannot_be_is_refused(sandbox: RunningSandbox, method: str, path: str, wrong: Any) -> None:
    assert "error" in sandbox.control(method, path, wrong, status=400)
