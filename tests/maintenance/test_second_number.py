"""An agent that had a number before is treated like one that had none."""

from app.domain.events import Origin
from tests.support.sandbox_app import FOREIGN_NUMBER, SandboxApp


def test_the_second_number_of_an_agent_gets_its_routing_back(live: SandboxApp) -> None:
    def routing() -> object:
        numbers = live.sandbox.state()["numbers"]
        return next(one["trunk_sid"] for one in numbers if one["phone_number"] == FOREIGN_NUMBER)

    (inbound,) = (one for one in live.sandbox.state()["livekitTrunks"] if one["name"] == "theirs")
    live.wiring.platform.delete_trunk(inbound["sip_trunk_id"])
    theirs = routing()
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    live.wiring.provisioning.provision(live.agent_id, FOREIGN_NUMBER, takeover=True, origin=Origin())
    live.drive()
    assert routing() == live.agent.twilio_trunk_sid != theirs
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    assert routing() == theirs
