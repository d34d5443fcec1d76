"""The run against other servers than the sandbox: what runs, what is left alone, and why a server cannot be asked."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from livekit import api

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from tests.support import livekit_server, twilio_server
from tests.support.adapters import made_by_hand
from tests.support.conformance import pytest_collection_modifyitems, pytest_configure
from tests.support.livekit_server import LiveKitServer, livekit_in
from tests.support.provider_probe import UnusableError
from tests.support.sandbox import Sandbox
from tests.support.scripted_server import Answer, refusing_url, scripted_server
from tests.support.twilio_server import TwilioServer, twilio_in

ROOT = Path(__file__).resolve().parents[2]


def livekit_login(url: str) -> list[str]:
    return [url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET]


def test_a_run_leaves_both_servers_as_they_were(sandbox: Sandbox) -> None:
    trunk = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"allowed_addresses": ["192.0.2.0/24"]}})
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": [trunk["sip_trunk_id"]]}
    made_by_hand(sandbox, "CreateSIPDispatchRule", {"dispatch_rule": rule})
    sandbox.number("+15145550100", voiceUrl="https://demo.twilio.com/welcome/voice/")
    sandbox.number("+15145550101", voiceUrl="https://example.com/theirs")
    before = undated(sandbox)
    servers = [livekit_server.OPTION, *livekit_login(sandbox.base_url), twilio_server.OPTION, sandbox.base_url]
    arguments = ["-k", "conflict or attached", "tests/contract/test_livekit_paths.py"]
    arguments += ["tests/contract/test_twilio_numbers.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "run.py", "test", *arguments, *servers],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "2 trunks and rules of others, each as it was before; nothing of ours is left" in done.stdout
    assert "2 numbers, trunks, URLs and lists of others, each as it was before; nothing of ours is left" in done.stdout
    assert " passed" in done.stdout
    assert undated(sandbox) == before


def undated(sandbox: Sandbox) -> dict[str, list[dict[str, Any]]]:
    """Return all objects; when a number was last changed is the one trace of having been borrowed."""
    state = sandbox.state()
    for number in state["numbers"]:
        del number["date_updated"]
    return state


def test_a_server_that_cannot_be_asked_ends_the_run_with_exit_code_2() -> None:
    options = {livekit_server.OPTION: ["http://127.0.0.1:99999", "k", "s"], twilio_server.OPTION: None}
    config = SimpleNamespace(stash={}, getoption=options.get, addinivalue_line=lambda *_: None)
    with pytest.raises(pytest.exit.Exception, match=r"^--livekit: 'http://127.0.0.1:99999' is no URL") as caught:
        pytest_configure(config)
    assert caught.value.returncode == 2


NO_URL = "is no URL of a server"

UNUSABLE: dict[str, tuple[Callable[[str], list[str]], str]] = {
    "livekit: no scheme": (lambda _: ["127.0.0.1:7880", "k", "s"], NO_URL),
    "livekit: no such port": (lambda _: ["http://127.0.0.1:99999", "k", "s"], NO_URL),
    "livekit: nobody listens": (lambda _: [refusing_url(), "k", "s"], "cannot be reached: Connection refused"),
    "livekit: no TLS": (lambda url: [url.replace("http", "https"), "k", "s"], "no TLS connection"),
    "livekit: no secret": (lambda url: [url, LIVEKIT_API_KEY, ""], "the secret is empty"),
    "livekit: a wrong key": (lambda url: [url, "nobody", LIVEKIT_API_SECRET], "the server has no key 'nobody'"),
    "livekit: a wrong secret": (lambda url: [url, LIVEKIT_API_KEY, "x" * 40], "refuses the secret of the key 'devkey'"),
    "livekit: another path": (
        lambda url: livekit_login(f"{url}/x"),
        "no LiveKit server: HTTP 404",
    ),
    "twilio: two values": (lambda url: [url, ACCOUNT_SID], "takes URL, or URL ACCOUNT_SID AUTH_TOKEN"),
    "twilio: itself": (lambda _: ["https://api.twilio.com"], "is Twilio itself"),
    "twilio: no sid": (lambda url: [url, "AC1", "t"], "'AC1' is no account sid"),
    "twilio: nobody listens": (lambda _: [refusing_url()], "cannot be reached: Connection refused"),
    "twilio: a wrong token": (lambda url: [url, ACCOUNT_SID, "wrong"], "is refused to these credentials"),
    "twilio: another path": (lambda url: [f"{url}/x", ACCOUNT_SID, AUTH_TOKEN], "answers HTTP 404"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_why_a_server_cannot_be_asked_is_said_in_one_line(case: str, sandbox: Sandbox) -> None:
    given, reason = UNUSABLE[case]
    check = livekit_server.check if case.startswith("livekit") else twilio_server.check
    with pytest.raises(UnusableError, match=reason) as caught:
        check(given(sandbox.base_url))
    assert "\n" not in str(caught.value)


def test_a_livekit_project_that_takes_no_rules_is_told_apart(sandbox: Sandbox) -> None:
    given = livekit_login(sandbox.base_url)
    sandbox.switch(livekitRedis=False)
    with pytest.raises(UnusableError, match="runs without Redis"):
        livekit_server.check(given)
    sandbox.switch(livekitRedis=True)
    rules = [{"trunk_ids": [trunk], "rule": {"dispatch_rule_individual": {}}} for trunk in ("ST_a", "ST_b")]
    made = [made_by_hand(sandbox, "CreateSIPDispatchRule", {"dispatch_rule": rule}) for rule in rules]
    change = {"sip_dispatch_rule_id": made[0]["sip_dispatch_rule_id"], "update": {"trunk_ids": {"set": ["ST_b"]}}}
    made_by_hand(sandbox, "UpdateSIPDispatchRule", change)
    with pytest.raises(UnusableError, match=r"takes no new dispatch rule: .*already exists in dispatch rule"):
        livekit_server.check(given)


def test_only_tests_that_ask_the_named_provider_and_control_nothing_are_kept() -> None:
    fixtures = {
        "behaviour": ["livekit", "livekit_project"],
        "adapter": ["livekit_platform", "livekit", "livekit_project"],
        "switches": ["livekit", "livekit_project", "sandbox"],
        "both": ["livekit_project", "twilio_account"],
        "twilio": ["twilio", "twilio_account"],
        "neither": [],
    }
    for options, expected in (
        ({"--livekit"}, ["behaviour", "adapter"]),
        ({"--twilio-emulator"}, ["twilio"]),
        ({"--livekit", "--twilio-emulator"}, ["behaviour", "adapter", "both", "twilio"]),
        (set(), list(fixtures)),
    ):
        dropped: list[Any] = []
        hook = SimpleNamespace(pytest_deselected=lambda items, dropped=dropped: dropped.extend(items))
        config = SimpleNamespace(getoption=lambda name, options=options: name in options, hook=hook)
        items = [Named(name, names) for name, names in fixtures.items()]
        every = list(items)
        pytest_collection_modifyitems(config, items)
        assert [item.name for item in items] == expected
        assert dropped == [item for item in every if item not in items]


class Named:
    """A test, as far as its name and its fixtures go."""

    def __init__(self, name: str, fixturenames: list[str]) -> None:
        self.name, self.fixturenames = name, fixturenames


def test_what_is_somebody_elses_cannot_be_changed(sandbox: Sandbox) -> None:
    livekit, twilio = livekit_in(sandbox), twilio_in(sandbox)
    livekit.foreign, twilio.foreign = livekit.objects(), twilio.objects()
    trunk_id = next(one for one in livekit.foreign if one.startswith("ST_"))
    platform, carrier = livekit.platform(), twilio.carrier()
    by_twilio = {sid[:2]: sid for sid in twilio.foreign}
    for call in (
        lambda: livekit.sip(lambda sip: sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=trunk_id))),
        lambda: livekit.sip(lambda sip: sip.update_inbound_trunk_fields(trunk_id, name="ours")),
        lambda: platform.delete_trunk(trunk_id),
        lambda: carrier.delete_trunk(by_twilio["TK"]),
        lambda: twilio.client().incoming_phone_numbers(by_twilio["PN"]).update(friendly_name="ours"),
        lambda: twilio.raw("DELETE", f"{twilio.numbers_path}/{by_twilio['PN']}.json"),
    ):
        with pytest.raises(AssertionError, match="which is somebody else's"):
            call()
    platform.close()
    carrier.close()


def test_a_test_that_a_version_cannot_pass_is_skipped_with_the_reason() -> None:
    with scripted_server() as server:
        server.default = Answer(404, b'{"code": "bad_route", "msg": "no handler"}', "application/json")
        old = LiveKitServer(server.url, "key", "secret" * 6)
        for _ in range(2):
            with pytest.raises(pytest.skip.Exception, match=f"{server.url}: this version has no updates"):
                old.requires("updates")
        assert len(server.seen) == 1


def test_a_change_of_somebody_elses_is_seen(sandbox: Sandbox) -> None:
    made = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": ["+15145550100"]}})
    number = sandbox.number("+15145550100")
    livekit = LiveKitServer(*livekit_login(sandbox.base_url))
    twilio = TwilioServer(sandbox.base_url, ACCOUNT_SID, AUTH_TOKEN)
    livekit.foreign, twilio.foreign = livekit.objects(), twilio.objects()
    assert (livekit.changed_for_others(), twilio.changed_for_others()) == ([], [])

    change = {"sip_trunk_id": made["sip_trunk_id"], "update": {"name": "new"}}
    made_by_hand(sandbox, "UpdateSIPInboundTrunk", change)
    path = f"{sandbox.base_url}{twilio.numbers_path}/{number['sid']}.json"
    twilio.http.post(path, data={"FriendlyName": "new"}, auth=(ACCOUNT_SID, AUTH_TOKEN), timeout=10)

    assert (livekit.changed_for_others(), twilio.changed_for_others()) == ([made["sip_trunk_id"]], [number["sid"]])


def test_what_a_lost_response_has_left_is_found_by_its_random_number(sandbox: Sandbox) -> None:
    theirs = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": ["+15145550100"]}})
    livekit = LiveKitServer(*livekit_login(sandbox.base_url))
    livekit.foreign = livekit.objects()
    lost = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": [livekit.number()]}})["sip_trunk_id"]
    rule = {"trunk_ids": [livekit.trunk_id()], "rule": {"dispatch_rule_individual": {}}}
    lost_rule = made_by_hand(sandbox, "CreateSIPDispatchRule", {"dispatch_rule": rule})["sip_dispatch_rule_id"]
    later = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": ["+15145550101"]}})

    assert sorted(livekit.delete_lost()) == sorted([lost, lost_rule])
    assert set(livekit.objects()) == {theirs["sip_trunk_id"], later["sip_trunk_id"]}
