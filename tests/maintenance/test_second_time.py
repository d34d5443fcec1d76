"""An agent that has had a number before is treated like one that has not."""

from app.domain.events import Origin
from tests.support.stage import FOREIGN_NUMBER, Stage


def test_the_second_number_of_an_agent_goes_back_to_where_it_was(stage: Stage) -> None:
    def routing() -> object:
        numbers = stage.sandbox.state()["numbers"]
        return next(one["trunk_sid"] for one in numbers if one["phone_number"] == FOREIGN_NUMBER)

    (inbound,) = (one for one in stage.sandbox.state()["livekitTrunks"] if one["name"] == "theirs")
    stage.wiring.platform.delete_trunk(inbound["sip_trunk_id"])
    theirs = routing()
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    stage.wiring.provisioning.provision(stage.agent_id, FOREIGN_NUMBER, takeover=True, origin=Origin())
    stage.drive()
    assert routing() == stage.agent.twilio_trunk_sid != theirs
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    assert routing() == theirs
