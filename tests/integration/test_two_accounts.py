"""Two accounts beside the environment's: each agent's path is in its own, and one's refusals are not another's."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from app.accounts.clients import FALLBACK_S, KNOWN_FOR_S
from app.accounts.waiting import wake_waiting
from app.db.models import Agent, Audit, CarrierAccount, Operation, OperationStep, Trunk, VoiceProject, Workspace
from app.db.visibility import seeing
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.errors import ErrorCode, RefusedError
from app.domain.findings import AuditStatus, FindingCode
from app.domain.operations import (
    NUMBER,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
)
from app.domain.workspaces import ENVIRONMENT, AccountIds, AccountKind, CredentialStatus
from app.numbers.headroom import HeadroomService
from app.numbers.inventory import InventoryService, NumberUse
from app.path.marks import tag_of
from app.providers.errors import RejectedError, TransientError
from app.saga.runner import REFUSED_CAP_S
from app.saga.state import Verdict
from tests.support.providers import WorkerDiedError, World
from tests.support.saga import E164, ORIGIN, Saga
from tests.support.toolboxes import add_accounts, rotate

OTHER = "+15145551235"


@pytest.fixture
def acme(saga: Saga) -> tuple[AccountIds, World]:
    """An account and a project of their own, with a number."""
    ids, world = add_accounts(saga.sessions, saga.worlds, "acme")
    world.carrier.own_number(OTHER)
    return ids, world


def sid_of(saga: Saga, ids: AccountIds) -> str:
    with saga.sessions() as session:
        return session.get_one(CarrierAccount, ids.carrier_account_id).account_sid or ""


def status_of(saga: Saga, ids: AccountIds) -> CredentialStatus:
    with saga.sessions() as session:
        return session.get_one(CarrierAccount, ids.carrier_account_id).status


def set_status(saga: Saga, ids: AccountIds, status: CredentialStatus) -> None:
    with saga.sessions.begin() as session:
        for row, row_id in ((CarrierAccount, ids.carrier_account_id), (VoiceProject, ids.voice_project_id)):
            session.execute(update(row).where(row.id == row_id).values(status=status))


def revoke(saga: Saga, ids: AccountIds) -> None:
    saga.worlds.accepted[sid_of(saga, ids)].clear()


def accept(saga: Saga, ids: AccountIds) -> int:
    """Accept the credential, and do what the sweeper's check does then."""
    saga.worlds.accepted[sid_of(saga, ids)] = {"secret-1"}
    with saga.sessions.begin() as session:
        row = session.get_one(CarrierAccount, ids.carrier_account_id)
        row.status = CredentialStatus.VERIFIED
        return wake_waiting(session, AccountKind.CARRIER, ids.carrier_account_id)


def look_again(saga: Saga) -> None:
    """Let the time pass for which a row is believed."""
    saga.clock.now += KNOWN_FOR_S


def add_endpoint(saga: Saga) -> None:
    with saga.sessions.begin() as session:
        session.add(WebhookEndpoint(url="https://example.com", sealed_secret="secret"))


def announced(saga: Saga) -> list[str]:
    with saga.sessions() as session:
        return list(session.scalars(select(WebhookDelivery.payload)))


@pytest.mark.parametrize("mode", TrunkMode)
def test_each_path_is_in_its_agents_accounts(
    saga: Saga, acme: tuple[AccountIds, World], number_sid: str, mode: TrunkMode
) -> None:
    saga.trunk_mode, (ids, world) = mode, acme
    ours = saga.provisioned()
    theirs = saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    for one, there in ((ours, saga.world), (theirs, world)):
        assert saga.status_of(one) is PhoneStatus.PROVISIONED
        assert [len(each) for each in (there.carrier.trunks, there.carrier.urls, there.platform.rules)] == [1, 1, 1]
    (url,) = world.carrier.urls.values()
    assert "acme.sip.livekit.cloud" in str(url)
    for one in (ours, theirs):
        saga.drive(saga.deprovision(one))
    assert not world.platform.rules
    assert not world.platform.trunks


def test_accounts_with_one_profile_share_no_trunk(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    saga.trunk_mode, (ids, world) = TrunkMode.SHARED, acme
    # The same voice project as the environment's, and so the same profile.
    mixed = AccountIds(ids.carrier_account_id, ENVIRONMENT.voice_project_id)
    saga.world.carrier.own_number(E164)
    ours = saga.provisioned()
    theirs = saga.provisioned(agent_id=saga.agent("theirs", accounts=mixed), e164=OTHER)
    with saga.sessions() as session:
        places = {one: session.get_one(Agent, one).trunk_id for one in (ours, theirs)}
        rows = {row.id: row for row in session.scalars(select(Trunk))}
    assert len(set(places.values())) == 2
    assert rows[places[ours]].profile_hash == rows[places[theirs]].profile_hash  # type: ignore[index]  # both have one
    assert rows[places[theirs]].carrier_account_id == ids.carrier_account_id  # type: ignore[index]  # it has one
    assert len(world.carrier.trunks) == len(saga.world.carrier.trunks) == 1
    assert len(saga.world.platform.trunks) == 2


@pytest.mark.usefixtures("number_sid")
def test_a_revoked_credential_rests_its_own_operations_and_no_others(
    saga: Saga, acme: tuple[AccountIds, World]
) -> None:
    ids, _ = acme
    add_endpoint(saga)
    theirs = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    outcome = saga.run(theirs, NUMBER)
    assert outcome.verdict is Verdict.RESTS
    row = saga.snapshot(theirs).rows[NUMBER]
    assert (row.state, row.error_code) == (StepState.PENDING, ErrorCode.CREDENTIALS_REFUSED)
    assert "acme" in (row.error_detail or "")
    assert status_of(saga, ids) is CredentialStatus.INVALID
    # The other branch goes on: LiveKit accepts its key.
    assert saga.status_of(saga.provisioned()) is PhoneStatus.PROVISIONED
    (payload,) = announced(saga)[:1]
    assert str(ids.carrier_account_id) in payload
    assert '"agentId": null' in payload
    assert '"kind": "carrier_account"' in payload
    # Known to be invalid, it is not asked again, and nothing is announced again.
    look_again(saga)
    before = len(saga.worlds.worlds[sid_of(saga, ids)].log.order)
    saga.expire_leases(theirs)
    assert saga.run(theirs, NUMBER).verdict is Verdict.RESTS
    assert len(saga.worlds.worlds[sid_of(saga, ids)].log.order) == before
    assert sum("needs_attention" in one for one in announced(saga)) == 1

    accept(saga, ids)
    look_again(saga)
    saga.drive(theirs)
    assert saga.status(theirs) is OperationStatus.SUCCEEDED


def test_waiting_for_a_credential_costs_neither_tries_nor_time(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    for _ in range(12):
        assert saga.run(operation_id, NUMBER).verdict is Verdict.RESTS
        # It comes back an hour late, every time: the budget is a quarter of one.
        saga.expire_leases(operation_id)
        with saga.sessions.begin() as session:
            session.execute(update(Operation).values(started_at=Operation.started_at - timedelta(hours=1)))
        look_again(saga)
    assert saga.snapshot(operation_id).rows[NUMBER].attempts == 1
    accept(saga, ids)
    look_again(saga)
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED


def test_a_failure_after_the_wait_counts_against_the_budget_again(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    saga.run(operation_id, NUMBER)
    accept(saga, ids)
    look_again(saga)
    world.log.plan("carrier.find_number", before=TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "down"), times=9)
    saga.expire_leases(operation_id)
    with saga.sessions.begin() as session:
        session.execute(update(Operation).values(started_at=Operation.started_at - timedelta(hours=9)))
    saga.advance(operation_id)
    world.log.heal()
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.FAILED


def test_the_pauses_grow_with_the_wait(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    pauses = []
    for _ in range(30):
        pauses.append(saga.run(operation_id, NUMBER).rest.total_seconds())
        saga.expire_leases(operation_id)
        look_again(saga)
    assert pauses == sorted(pauses)
    assert pauses[0] < 3 * 60
    assert pauses[-1] == 2 * REFUSED_CAP_S


def test_an_undo_waits_for_a_credential_and_asks_nobody(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    agent_id = saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    operation_id = saga.deprovision(agent_id)
    revoke(saga, ids)
    for _ in range(12):
        saga.expire_leases(operation_id)
        saga.advance(operation_id)
        look_again(saga)
    assert saga.status(operation_id) is OperationStatus.RUNNING
    accept(saga, ids)
    look_again(saga)
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert not world.carrier.trunks
    assert not world.platform.rules


@pytest.mark.parametrize("mode", TrunkMode)
def test_a_credential_that_is_revoked_at_any_call_leaves_nothing_behind(
    saga: Saga, acme: tuple[AccountIds, World], mode: TrunkMode
) -> None:
    """Revoked before each call in turn, and accepted again: there is one path in the end, and nothing twice."""
    saga.trunk_mode, (ids, world) = mode, acme
    agent_id = saga.agent("theirs", accounts=ids)
    saga.provisioned(agent_id=agent_id, e164=OTHER)
    calls = [one for one in world.log.order if one.startswith("carrier.")]
    saga.drive(saga.deprovision(agent_id))
    refusal = RejectedError(ErrorCode.TWILIO_BAD_CREDENTIALS, "The provider refused it: HTTP 401.")
    for call in dict.fromkeys(calls):
        world.log.plan(call, before=refusal)
        operation_id = saga.provision(agent_id=agent_id, e164=OTHER)
        for _ in range(20):
            if saga.status(operation_id).is_final:
                break
            accept(saga, ids)
            look_again(saga)
            saga.expire_leases(operation_id)
            saga.expire_trunk_leases()
            saga.advance(operation_id)
        assert saga.status(operation_id) is OperationStatus.SUCCEEDED, call
        assert len(world.platform.trunks) == len(world.platform.rules) == 1, call
        assert len(world.carrier.trunks) == 1, call
        saga.drive(saga.deprovision(agent_id))


def test_of_a_pending_account_a_refusal_is_final(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    set_status(saga, ids, CredentialStatus.PENDING)
    revoke(saga, ids)
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    saga.drive(operation_id)
    operation = saga.snapshot(operation_id).operation
    assert (operation.status, operation.error_code) == (OperationStatus.FAILED, ErrorCode.TWILIO_BAD_CREDENTIALS)
    assert status_of(saga, ids) is CredentialStatus.PENDING


def test_a_rotated_credential_is_used_without_a_word(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    add_endpoint(saga)
    agent_id = saga.agent("theirs", accounts=ids)
    saga.provisioned(agent_id=agent_id, e164=OTHER)
    operation_id = saga.deprovision(agent_id)
    rotate(saga.sessions, ids.carrier_account_id, "secret-2")
    saga.worlds.accepted[sid_of(saga, ids)] = {"secret-2"}
    # This process still has the old client: its refusal is about a credential that is in use no more.
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert status_of(saga, ids) is CredentialStatus.VERIFIED
    assert not any("needs_attention" in one for one in announced(saga))


def test_the_old_credential_is_used_while_the_new_one_is_refused(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    later = datetime.now(UTC) + timedelta(hours=1)
    rotate(saga.sessions, ids.carrier_account_id, "secret-2", old_until=later)
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    saga.drive(operation_id)  # the provider knows the old one only
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert status_of(saga, ids) is CredentialStatus.VERIFIED
    # Then the new one is tried again, and is right.
    saga.worlds.accepted[sid_of(saga, ids)] = {"secret-2"}
    saga.clock.now += FALLBACK_S
    assert saga.toolboxes.of(ids).carrier.list_numbers()


def test_without_a_valid_old_credential_the_account_is_invalid(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    rotate(saga.sessions, ids.carrier_account_id, "secret-2", old_until=datetime.now(UTC) - timedelta(seconds=1))
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    saga.run(operation_id, NUMBER)
    assert status_of(saga, ids) is CredentialStatus.INVALID


def test_what_cannot_be_opened_waits_and_sends_nothing(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    with saga.sessions.begin() as session:
        session.get_one(CarrierAccount, ids.carrier_account_id).sealed_secret = "sealed-1:00000000:AAAA:AAAA"
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    saga.run(operation_id, NUMBER)
    row = saga.snapshot(operation_id).rows[NUMBER]
    assert row.error_code == ErrorCode.CREDENTIALS_REFUSED
    assert "cannot be opened" in (row.error_detail or "")
    assert not world.log.order


def test_the_woken_step_goes_on_at_once_and_one_that_is_held_is_left(
    saga: Saga, acme: tuple[AccountIds, World]
) -> None:
    ids, _ = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    saga.run(operation_id, NUMBER)
    resting = saga.snapshot(operation_id)
    assert resting.rows[NUMBER].lease_until > resting.now
    assert accept(saga, ids) == 1
    woken = saga.snapshot(operation_id)
    assert woken.rows[NUMBER].lease_until <= woken.now
    assert woken.operation.wake_at <= woken.now
    look_again(saga)
    assert saga.run(operation_id, NUMBER).verdict is Verdict.DONE
    assert accept(saga, ids) == 0


def test_a_step_is_not_woken_before_what_it_asked_for_has_landed(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    saga.run(operation_id, NUMBER)
    lands = saga.snapshot(operation_id).now + timedelta(seconds=9)
    with saga.sessions.begin() as session:
        session.execute(update(OperationStep).where(OperationStep.name == NUMBER).values(unsettled_until=lands))
        session.execute(update(Operation).values(idle_kicks=Operation.idle_kicks))
    accept(saga, ids)
    assert saga.snapshot(operation_id).rows[NUMBER].lease_until == lands


def test_only_a_rest_counts_as_waiting_not_a_worker_that_died(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    operation_id = saga.provision(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    saga.run(operation_id, NUMBER)
    saga.expire_leases(operation_id)
    accept(saga, ids)
    look_again(saga)
    world.log.plan("carrier.find_number", before=WorkerDiedError())
    before = waited(saga, operation_id)
    saga.advance(operation_id)
    saga.expire_leases(operation_id)
    saga.advance(operation_id)
    # An hour late after the rest, and an hour after the death, of which the first is the account's.
    assert timedelta(minutes=59) < waited(saga, operation_id) - before < timedelta(minutes=61)


def waited(saga: Saga, operation_id: uuid.UUID) -> timedelta:
    loaded = saga.rows.read(operation_id)
    assert loaded is not None
    return loaded.saga.waited


def test_an_audit_judges_each_account_by_its_own_lists(
    saga: Saga, acme: tuple[AccountIds, World], number_sid: str
) -> None:
    ids, world = acme
    ours = saga.provisioned()
    theirs = saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    audit = audited(saga)
    assert (audit.status, audit.agents_checked, audit.findings) == (AuditStatus.DONE, 2, [])
    world.platform.rules.clear()
    saga.world.carrier.numbers[number_sid] = replace(
        saga.world.carrier.numbers[number_sid], routing=replace(saga.world.routing(number_sid), trunk_sid=None)
    )
    found = {(one["code"], one["agentId"]) for one in audited(saga).findings}
    assert found == {(FindingCode.RULE_GONE, str(theirs)), (FindingCode.NUMBER_DETACHED, str(ours))}


def test_an_audit_leaves_out_an_account_that_refuses(
    saga: Saga, acme: tuple[AccountIds, World], number_sid: str
) -> None:
    ids, _ = acme
    saga.provisioned()
    saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    revoke(saga, ids)
    look_again(saga)
    audit = audited(saga)
    assert (audit.status, audit.agents_checked, audit.findings) == (AuditStatus.DONE, 1, [])
    assert "acme" in (audit.error_detail or "")
    assert status_of(saga, ids) is CredentialStatus.INVALID


def test_orphans_are_deleted_in_the_account_that_they_are_in(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    theirs = saga.agent("theirs", accounts=ids)
    saga.provisioned(agent_id=theirs, e164=OTHER)
    orphan = world.carrier.own_trunk(tag_of("test", uuid.uuid4()))
    assert orphan
    fixed = [one for one in audited(saga, fix=True).findings if one["code"] == FindingCode.ORPHAN]
    assert [one["fixed"] for one in fixed] == ["deleted"]
    assert len(world.carrier.trunks) == 1


def test_an_audit_of_a_workspace_compares_its_agents_only(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, world = acme
    saga.world.carrier.own_number(E164)
    workspace_id = uuid.uuid4()
    with saga.sessions.begin() as session:
        session.add(Workspace(id=workspace_id, slug="acme", name="Acme"))
    ours = saga.provisioned()
    with seeing(workspace_id):
        agent_id = saga.agent("theirs", accounts=ids)
    saga.provisioned(agent_id=agent_id, e164=OTHER)
    world.platform.rules.clear()
    saga.world.platform.rules.clear()
    with seeing(workspace_id):
        audit_id = saga.sweeper.audits.request_audit(fix=False, origin=ORIGIN)
    audit = saga.sweeper.audits.run_audit(audit_id)
    assert audit is not None
    assert audit.agents_checked == 1
    assert {one["agentId"] for one in audit.findings} == {str(agent_id)}
    with saga.sessions() as session:
        assert session.get_one(Agent, ours).health_checked_at is not None


def audited(saga: Saga, *, fix: bool = False) -> Audit:
    audit = saga.sweeper.audits.run_audit(saga.sweeper.audits.request_audit(fix=fix, origin=ORIGIN))
    assert audit is not None
    return audit


def test_a_number_moves_within_its_accounts_only(saga: Saga, acme: tuple[AccountIds, World]) -> None:
    ids, _ = acme
    source = saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    maintenance = saga.sweeper.audits.maintenance
    for accounts in (ENVIRONMENT, AccountIds(ids.carrier_account_id, ENVIRONMENT.voice_project_id)):
        with pytest.raises(RefusedError) as refused:
            maintenance.move(source, saga.agent("other", accounts=accounts), origin=ORIGIN)
        assert refused.value.code is ErrorCode.ACCOUNTS_DIFFER
    target = saga.agent("target", accounts=ids)
    saga.drive(maintenance.move(source, target, origin=ORIGIN).id)
    assert saga.status_of(target) is PhoneStatus.PROVISIONED


def test_each_account_has_room_of_its_own(saga: Saga, number_sid: str) -> None:
    ids, world = add_accounts(saga.sessions, saga.worlds, "small", trunk_limit=1)
    world.carrier.own_number(OTHER)
    saga.provisioned(agent_id=saga.agent("theirs", accounts=ids), e164=OTHER)
    saga.provision()
    rooms = HeadroomService(saga.sessions, saga.toolboxes, 500, list_timeout_s=60.0, clock=saga.clock)
    theirs, ours = rooms.of(ids.carrier_account_id), rooms.of()
    assert theirs is not None
    assert ours is not None
    assert (theirs.trunk_limit, theirs.trunks_in_use, theirs.trunks_promised) == (1, 1, 0)
    assert (ours.trunk_limit, ours.trunks_in_use, ours.trunks_promised) == (100, 0, 1)


def test_an_inventory_is_of_one_account_and_without_the_numbers_of_others(
    saga: Saga, acme: tuple[AccountIds, World], number_sid: str
) -> None:
    ids, _ = acme
    saga.provisioned()
    inventory = InventoryService(saga.sessions, saga.toolboxes)
    (ours,) = inventory.of_account().numbers
    assert (ours.phone_number, ours.use, ours.agent_name) == (E164, NumberUse.AGENT, "support")
    (theirs,) = inventory.of_account(ids.carrier_account_id).numbers
    assert (theirs.phone_number, theirs.use) == (OTHER, NumberUse.FREE)
    workspace_id = uuid.uuid4()
    with saga.sessions.begin() as session:
        session.add(Workspace(id=workspace_id, slug="globex", name="Globex"))
    with seeing(workspace_id):
        assert inventory.of_account().numbers == inventory.of_account(ENVIRONMENT.carrier_account_id).numbers == []
        with pytest.raises(RefusedError) as refused:
            inventory.of_account(ids.carrier_account_id)
    assert refused.value.code is ErrorCode.ACCOUNT_NOT_FOUND
