"""Each magic number of the sandbox ends as its row says, and what it is for can be seen and mended."""

import uuid

import pytest
from sqlalchemy import text

from app.db.models import Operation
from app.dev.localstack.processes import poll_until
from app.dev.sandbox import ACCOUNT_SID
from app.dev.sandbox.magic_numbers import ATTACH, CREATE_TRUNK, MAGIC_NUMBERS, MagicNumber
from app.domain.events import Origin
from app.domain.findings import FindingCode
from app.domain.operations import OperationStatus, PhoneStatus
from tests.support.saga import EXPIRE_LEASES
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import SandboxApp

ROUNDS = 12
"""Rounds of rests until an operation has to have ended."""

PATIENCE = 6
"""Rounds after which the operation's budget is spent: later than any that succeeds in the end."""

DRIFTS, STUCK, SILENT = "+15005550600", "+15005550500", "+15005550486"

COUNTED = {"+15005550400", "+15005550404", "+15005550429", "+15005550499"}
"""Those whose second time has to be set up: what happens is counted, or was done to the number."""

WAKE = "UPDATE operations SET wake_at = now() - interval '1 s' WHERE finished_at IS NULL"

SPEND_BUDGET = """
    UPDATE operations SET wake_at = now() - interval '1 s', started_at = now() - interval '1 h'
    WHERE finished_at IS NULL
"""

FINAL = {PhoneStatus.PROVISIONED, PhoneStatus.FAILED, PhoneStatus.NOT_PROVISIONED}


def _number(live: SandboxApp, phone_number: str) -> SandboxApp:
    """Return the same application with an agent for another number."""
    return SandboxApp(live.wiring, live.publisher, live.sandbox, number=phone_number)


def _let_rests_end(live: SandboxApp, *, spend_budget: bool = False) -> None:
    with live.wiring.sessions.begin() as session:
        session.execute(text(EXPIRE_LEASES))
        session.execute(text(SPEND_BUDGET if spend_budget else WAKE))
    live.wiring.sweeper.sweep()
    live.drive()


def _connect(one: SandboxApp) -> uuid.UUID:
    """Ask for the number and let all come to its end; return the operation's id."""
    operation = one.wiring.provisioning.provision(one.agent_id, one.number, takeover=False, origin=Origin())
    one.drive()
    for each in range(ROUNDS):
        if one.agent.phone_provisioning_status in FINAL or _is_stuck(one, operation.id):
            break
        _let_rests_end(one, spend_budget=each >= PATIENCE)
    return operation.id


def _operation(one: SandboxApp, operation_id: uuid.UUID) -> Operation:
    with one.wiring.sessions() as session:
        return session.get_one(Operation, operation_id)


def _is_stuck(one: SandboxApp, operation_id: uuid.UUID) -> bool:
    return _operation(one, operation_id).status is OperationStatus.NEEDS_ATTENTION


def _ends(one: SandboxApp, operation_id: uuid.UUID) -> tuple[str, str | None]:
    operation = _operation(one, operation_id)
    stuck = operation.status is OperationStatus.NEEDS_ATTENTION
    return (operation.status if stuck else one.agent.phone_provisioning_status).value, operation.error_code


def _hits(sandbox: Sandbox, magic: MagicNumber) -> set[int]:
    return {fault["hits"] for fault in sandbox.faults() if fault.get("number") == magic.phone_number}


def test_each_ends_as_its_row_says_and_does_so_again(live: SandboxApp, subtests: pytest.Subtests) -> None:
    for magic in MAGIC_NUMBERS:
        with subtests.test(number=magic.phone_number, happens=magic.happens):
            first = _number(live, magic.phone_number)
            assert _ends(first, _connect(first)) == (magic.status, magic.code)
            assert 0 not in _hits(live.sandbox, magic)
            if magic.phone_number in COUNTED:
                if magic.status == PhoneStatus.PROVISIONED.value:
                    first.wiring.provisioning.deprovision(first.agent_id, origin=Origin())
                    first.drive()
                again = _number(live, magic.phone_number)
                assert _ends(again, _connect(again)) == (magic.status, magic.code)
                assert 0 not in _hits(live.sandbox, magic)


def test_what_is_in_the_way_at_livekit_is_named(live: SandboxApp) -> None:
    one = _number(live, "+15005550409")
    error = _operation(one, _connect(one)).error_detail
    trunks = [each["sip_trunk_id"] for each in live.sandbox.state()["livekitTrunks"] if one.number in each["numbers"]]
    assert len(trunks) == 1
    assert trunks[0] in str(error)


def test_an_undo_that_is_stuck_ends_once_it_is_said_to_be_fixed(live: SandboxApp) -> None:
    one = _number(live, STUCK)
    operation_id = _connect(one)
    _let_rests_end(one)
    assert _is_stuck(one, operation_id)
    live.sandbox.clear_faults(STUCK)
    _let_rests_end(one)
    assert one.agent.phone_provisioning_status is PhoneStatus.FAILED
    assert not any(one.is_ours(each) for each in live.sandbox.state()["livekitTrunks"] if STUCK in each["numbers"])


def test_a_path_that_drifts_is_found_and_repaired(live: SandboxApp) -> None:
    live.sandbox.switch(driftAfterS=3)
    one = _number(live, DRIFTS)
    _connect(one)
    assert one.rings() == "front-desk"
    assert poll_until(lambda: one.rings() is None, 10)
    found = [each["code"] for each in one.audit().findings if each.get("agentId") == str(one.agent_id)]
    assert found == [FindingCode.RULE_PIN.value]
    one.audit(fix=True)
    assert one.rings() == "front-desk"


def test_calls_that_nobody_answers_reach_the_room_and_no_agent(live: SandboxApp) -> None:
    one = _number(live, SILENT)
    _connect(one)
    call = live.sandbox.call(SILENT)
    assert (call["reaches"], call["callEndedBy"], call["status"]) == (False, "livekit", 486)
    assert live.rings() == "front-desk"


def test_a_number_that_is_released_while_its_attachment_is_uncertain_is_let_go(live: SandboxApp) -> None:
    sid = live.sandbox.number("+15145550001")["sid"]
    live.sandbox.fault(ATTACH, "drop_before", number="+15145550001")
    one = _number(live, "+15145550001")
    operation = one.wiring.provisioning.provision(one.agent_id, one.number, takeover=False, origin=Origin())
    one.drive()
    live.console.twilio("DELETE", f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers/{sid}.json")
    for _ in range(ROUNDS):
        _let_rests_end(one)
    assert _ends(one, operation.id) == ("FAILED", "number_not_in_account")


def test_faults_of_one_number_leave_others_alone(live: SandboxApp) -> None:
    live.sandbox.fault(ATTACH, "reject", times=None, number="+15145550001")
    live.sandbox.fault(CREATE_TRUNK, "reject", times=None, number="+15145550001")
    live.sandbox.numbers(["+15145550001", "+15145550002"])
    refused, taken = (_number(live, number) for number in ("+15145550001", "+15145550002"))
    _connect(refused)
    _connect(taken)
    assert refused.agent.phone_provisioning_status is PhoneStatus.FAILED
    assert taken.rings() == "front-desk"
