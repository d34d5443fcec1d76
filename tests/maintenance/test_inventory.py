"""What the account's numbers are used for."""

from app.numbers.inventory import NumberUse
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp


def test_every_number_of_the_account_is_listed_with_its_use(live: SandboxApp) -> None:
    live.sandbox.number("+15145550000")
    live.sandbox.number("+15145550001", voiceUrl="https://flows.example.com/v1/Flows/FW1")
    live.sandbox.number("+15145550002", voice=False)
    live.sandbox.number("+15145550003", voiceUrl="https://demo.twilio.com/welcome/voice/")
    found = {one.phone_number: one for one in live.wiring.inventory.numbers()}
    assert found["+15145550000"].use is found["+15145550003"].use is NumberUse.FREE
    assert (found["+15145550001"].use, found["+15145550001"].voice_host) == (NumberUse.VOICE_URL, "flows.example.com")
    assert found["+15145550002"].use is NumberUse.NO_VOICE
    assert found[FOREIGN_NUMBER].use is NumberUse.TRUNK
    assert (found[NUMBER].use, found[NUMBER].agent_id) == (NumberUse.AGENT, live.agent_id)
    assert found[NUMBER].agent_name == "front desk"
