"""A number provisioned and deprovisioned on the real stack, with every provider call counted."""

from collections import Counter

from app.domain.operations import PhoneStatus, TrunkMode
from app.path.marks import POOL_PREFIX
from tests.e2e.assignments import new_assignment
from tests.e2e.invariants import CREATES, Assignment, ForeignObjects, check
from tests.e2e.rows import wait_until_finished
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack

VERIFICATION = ("twilio.list_origination_urls", "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")

LIVEKIT_CALLS = (
    "livekit.create_inbound_trunk",
    "livekit.create_dispatch_rule",
    "livekit.list_inbound_trunks",
    "livekit.list_dispatch_rules",
)


def test_a_number_is_connected_and_disconnected_without_a_needless_call(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    assignment = new_assignment(stack, sandbox, TrunkMode.DEDICATED)
    calls = calls_of_connection(stack, sandbox, assignment)
    once = ("twilio.list_numbers", *CREATES, "twilio.attach_number", *VERIFICATION)
    # What the look-up has seen a moment ago is believed by the attachment, and read back by verification.
    assert calls == Counter((*once, "twilio.fetch_number"))
    phone = stack.api.phone(assignment.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (True, "PROVISIONED")
    disconnect(stack, sandbox, assignment)


def test_on_a_standing_shared_trunk_a_number_takes_three_calls_of_twilio_and_four_of_livekit(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    first, second = new_assignment(stack, sandbox), new_assignment(stack, sandbox)
    calls = calls_of_connection(stack, sandbox, first)
    once = ("twilio.list_numbers", *CREATES, "twilio.attach_number", "twilio.fetch_number")
    assert calls == Counter((*once, *LIVEKIT_CALLS[2:]))
    calls = calls_of_connection(stack, sandbox, second)
    assert calls == Counter(("twilio.list_numbers", "twilio.attach_number", "twilio.fetch_number", *LIVEKIT_CALLS))
    disconnect(stack, sandbox, first)
    check(stack.sessions, sandbox, second, PhoneStatus.PROVISIONED)
    disconnect(stack, sandbox, second)
    pool = [trunk for trunk in sandbox.state()["trunks"] if trunk["friendly_name"].startswith(POOL_PREFIX)]
    assert len(pool) == 1, "a shared trunk stays without its numbers"


def calls_of_connection(stack: Stack, sandbox: Sandbox, assignment: Assignment) -> Counter[str]:
    """Provision the number; return the provider calls."""
    seen = sandbox.requests()[-1]["seq"]
    wait_until_finished(stack, [stack.api.provision(assignment.agent_id, assignment.number)])
    calls = Counter(request["operation"] for request in sandbox.requests(seen))
    check(stack.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
    return calls


def disconnect(stack: Stack, sandbox: Sandbox, assignment: Assignment) -> None:
    """Deprovision the number, and check that nothing of it is left."""
    wait_until_finished(stack, [stack.api.deprovision(assignment.agent_id)])
    check(stack.sessions, sandbox, assignment, PhoneStatus.NOT_PROVISIONED)
    phone = stack.api.phone(assignment.agent_id)
    assert (phone["hasPhone"], phone["phoneProvisioningStatus"]) == (False, "NOT_PROVISIONED")
