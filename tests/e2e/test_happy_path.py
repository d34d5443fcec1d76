"""A number provisioned and deprovisioned on the real stack, with every provider call counted."""

from collections import Counter

from app.domain.operations import PhoneStatus
from tests.e2e.invariants import CREATES, Assignment, ForeignObjects, check
from tests.e2e.rows import wait_until_finished
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack

VERIFICATION = ("twilio.list_origination_urls", "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")


def test_a_number_is_connected_and_disconnected_without_a_needless_call(
    stack: Stack, sandbox: Sandbox, assignment: Assignment, foreign_objects: ForeignObjects
) -> None:
    seen = sandbox.requests()[-1]["seq"]
    wait_until_finished(stack, [stack.api.provision(assignment.agent_id, assignment.number)])
    calls = Counter(request["operation"] for request in sandbox.requests(seen))
    check(stack.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
    once = ("twilio.list_numbers", *CREATES, "twilio.attach_number", *VERIFICATION)
    # The number is read directly before it is attached, and again by verification.
    assert calls == Counter((*once, "twilio.fetch_number", "twilio.fetch_number"))
    phone = stack.api.phone(assignment.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (True, "PROVISIONED")

    wait_until_finished(stack, [stack.api.deprovision(assignment.agent_id)])
    check(stack.sessions, sandbox, assignment, PhoneStatus.NOT_PROVISIONED)
    phone = stack.api.phone(assignment.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (False, "NOT_PROVISIONED")
