"""What the account's numbers are used for."""

import requests

from app import create_app
from app.access import KeyService, Scope
from app.numbers.inventory import NumberUse
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp
from tests.support.served_app import served


def test_every_number_of_the_account_is_listed_with_its_use(live: SandboxApp) -> None:
    live.sandbox.number("+15145550000")
    live.sandbox.number("+15145550001", voiceUrl="https://flows.example.com/v1/Flows/FW1")
    live.sandbox.number("+15145550002", voice=False)
    live.sandbox.number("+15145550003", voiceUrl="https://demo.twilio.com/welcome/voice/")
    found = {one.phone_number: one for one in live.wiring.inventory.of_account().numbers}
    assert found["+15145550000"].use is found["+15145550003"].use is NumberUse.FREE
    assert (found["+15145550001"].use, found["+15145550001"].voice_host) == (NumberUse.VOICE_URL, "flows.example.com")
    assert found["+15145550002"].use is NumberUse.NO_VOICE
    assert found[FOREIGN_NUMBER].use is NumberUse.TRUNK
    assert (found[NUMBER].use, found[NUMBER].agent_id) == (NumberUse.AGENT, live.agent_id)
    assert found[NUMBER].agent_name == "front desk"


def test_ten_thousand_numbers_are_ten_requests_whatever_is_shown_of_them(live: SandboxApp) -> None:
    numbers = sorted(f"+1438{n:07}" for n in range(9_990))
    live.sandbox.numbers(numbers)
    live.sandbox.forget_requests()
    with served(create_app(live.wiring)) as url, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KeyService(live.wiring.sessions).create('tests', [Scope.READ])[1]}"
        seen, query = [], {"limit": "200", "search": "+1438"}
        while True:
            found = session.get(f"{url}/api/numbers", params=query, timeout=60).json()
            seen += [one["phoneNumber"] for one in found["items"]]
            if found["nextCursor"] is None:
                break
            query["cursor"] = found["nextCursor"]
    assert seen == numbers
    # With the few that are there besides, ten pages of a thousand.
    assert live.sandbox.request_counts() == {"twilio.list_numbers": 10}
