"""A number that leaves the account and comes back, under another SID, after it was looked up for a provisioning."""

import uuid
from dataclasses import replace

import pytest

from app.bulk.items import read_items
from app.bulk.service import BulkService
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import NUMBER, NUMBER_ATTACHMENT, OperationStatus, PhoneStatus
from app.path.observed import NumberRouting
from app.views.option_schemas import read_options
from tests.support.providers import WorkerDiedError
from tests.support.saga import E164, ORIGIN, Saga

SOMEBODY_ELSES = "TK" + "f" * 32


def buy_again(saga: Saga, sid: str, e164: str = E164, routing: NumberRouting | None = None) -> str:
    """Release a number and buy it again; return its new SID."""
    del saga.world.carrier.numbers[sid]
    new = saga.world.carrier.own_number(e164)
    if routing is not None:
        saga.world.carrier.numbers[new] = replace(saga.world.carrier.numbers[new], routing=routing)
    return new


def open_item(saga: Saga, e164: str = E164) -> uuid.UUID:
    """Open the operation of a bulk of one number; return its id."""
    service = BulkService(saga.sessions, saga.rows)
    items = read_items([{"agent": f"desk {e164}", "phoneNumber": e164}], read_options)
    bulk_id = service.accept(items, origin=ORIGIN).id
    saga.sweeper.dispatcher.advance()
    (operation_id,) = [item.operation_id for item in service.items(bulk_id)]
    assert operation_id is not None
    return operation_id


def agent_of(saga: Saga, operation_id: uuid.UUID) -> uuid.UUID:
    return saga.snapshot(operation_id).agent.id


def test_in_a_bulk_whose_list_has_the_old_one_it_is_connected_under_the_new(saga: Saga, number_sid: str) -> None:
    saga.world.carrier.own_number("+15145550177")
    saga.drive(open_item(saga, "+15145550177"))  # lists the account's numbers
    new = buy_again(saga, number_sid)
    operation_id = open_item(saga)
    saga.drive(operation_id)
    saga.assert_provisioned(agent_of(saga, operation_id), new)
    assert saga.snapshot(operation_id).rows[NUMBER].resource_id == new


def test_after_the_look_up_of_a_single_request_too(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.run(operation_id, NUMBER)
    new = buy_again(saga, number_sid)
    saga.drive(operation_id)
    saga.assert_provisioned(agent_of(saga, operation_id), new)


def test_what_it_did_under_the_new_one_is_what_is_restored(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.run(operation_id, NUMBER)
    new = buy_again(saga, number_sid, routing=NumberRouting(None, None, "https://new.example.com/voice"))
    saga.drive(operation_id)
    saga.drive(saga.deprovision(agent_of(saga, operation_id)))
    assert saga.world.routing(new).voice_url == "https://new.example.com/voice"


def test_a_worker_that_dies_while_it_attaches_the_new_one_leaves_nothing(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.run(operation_id, NUMBER)
    new = buy_again(saga, number_sid)
    saga.world.log.plan("carrier.attach_number", after=WorkerDiedError())
    saga.drive_to(operation_id, lambda: saga.world.routing(new).trunk_sid is not None)
    saga.drive(saga.deprovision(agent_of(saga, operation_id)))
    saga.assert_clean(agent_of(saga, operation_id), PhoneStatus.NOT_PROVISIONED)
    assert saga.world.routing(new).trunk_sid is None


@pytest.mark.parametrize(
    ("is_voice", "routing", "code"),
    [
        (True, NumberRouting(SOMEBODY_ELSES, None, ""), ErrorCode.NUMBER_ALREADY_ROUTED),
        (False, None, ErrorCode.NUMBER_NOT_VOICE),
    ],
)
def test_what_can_not_be_connected_under_the_new_one_is_left_alone(
    saga: Saga, number_sid: str, is_voice: bool, routing: NumberRouting | None, code: ErrorCode
) -> None:
    operation_id = saga.provision()
    saga.run(operation_id, NUMBER)
    new = buy_again(saga, number_sid, routing=routing)
    numbers = saga.world.carrier.numbers
    numbers[new] = replace(numbers[new], has_voice=is_voice)
    before = numbers[new]
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.error_code == code
    assert numbers[new] == before


def test_one_that_does_not_come_back_is_not_in_the_account(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.run(operation_id, NUMBER)
    del saga.world.carrier.numbers[number_sid]
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.FAILED
    assert saga.snapshot(operation_id).operation.error_code == ErrorCode.NUMBER_NOT_IN_ACCOUNT
    assert saga.snapshot(operation_id).event_details(EventName.STEP_FAILED, NUMBER_ATTACHMENT)
