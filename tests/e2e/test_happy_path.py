"""A number up and down again over the real stack, with every provider call counted."""

from collections import Counter

from app.domain.statuses import PhoneStatus
from tests.e2e.invariants import CREATES, Foreigners, Subject, check
from tests.e2e.rows import finished
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack

VERIFICATION = ("twilio.list_origination_urls", "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")


def test_a_number_is_connected_and_disconnected_with_not_one_call_too_many(
    stack: Stack, sandbox: Sandbox, subject: Subject, foreigners: Foreigners
) -> None:
    seen = sandbox.requests()[-1]["seq"]
    finished(stack, [stack.api.provision(subject.agent_id, subject.number)])
    calls = Counter(request["operation"] for request in sandbox.requests(seen))
    check(stack.sessions, sandbox, subject, PhoneStatus.PROVISIONED)
    once = ("twilio.list_numbers", *CREATES, "twilio.attach_number", *VERIFICATION)
    # The number is looked at directly before it is attached, and with the rest of the path.
    assert calls == Counter((*once, "twilio.fetch_number", "twilio.fetch_number"))
    phone = stack.api.phone(subject.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (True, "PROVISIONED")

    finished(stack, [stack.api.deprovision(subject.agent_id)])
    check(stack.sessions, sandbox, subject, PhoneStatus.NOT_PROVISIONED)
    phone = stack.api.phone(subject.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (False, "NOT_PROVISIONED")
