"""Several Twilio accounts and LiveKit projects in real processes: rotated under load, revoked, restored, throttled.

What happens to one account's credential or rate concerns that account's operations and no other's.
"""

import itertools
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select, update

from app.access import KeyService, Scope
from app.accounts.service import RECHECK_INTERVAL
from app.db.models import CarrierAccount, OperationStep, VoiceProject
from app.domain.errors import ErrorCode
from app.sealing import new_key
from tests.e2e.assignments import next_number
from tests.e2e.rows import statuses, wait_until_finished
from tests.support.receiver import LOOPBACK, receiver
from tests.support.sandbox import ControlledSandbox, Sandbox, running_sandbox
from tests.support.servers import running_valkey
from tests.support.stack import Api, Stack, Timings, eventually, running_stack, worker_command
from tests.support.teams import CARRIER, VOICE, Team, add_team

UNDER_LOAD = int(os.environ.get("ACCOUNT_OPERATIONS", "24"))
"""Operations on the account whose token is rotated twice. By hand more: `ACCOUNT_OPERATIONS=200`."""

LOAD_S = 300.0
"""Seconds until all of them have ended: 10 as a rule, alone on two cores."""

WORKER_THREADS = 16
"""Fewer than a throttled account has operations, so that they could take all of them."""

RESTING, THROTTLED, OTHERS = 6, WORKER_THREADS + 8, 12
"""Operations of an account: that wait for a credential, that wait for their turn, and that wait for nothing."""

_teams = itertools.count(1)


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[ControlledSandbox]:
    with running_sandbox() as server:
        yield server


@pytest.fixture(scope="module")
def stack(make_database: Callable[[], str], sandbox_server: ControlledSandbox) -> Iterator[Stack]:
    """A stack that can store credentials, with a worker of few threads."""
    with (
        running_valkey() as valkey,
        running_stack(make_database(), valkey.url, sandbox_server.control, Timings(2), start=False) as stack,
    ):
        stack.environ |= {"CREDENTIAL_KEYS": new_key(), "WEBHOOK_ALLOWED_NETWORKS": LOOPBACK}
        stack.worker.start(worker_command("accounts", "ops,rollback,provision,bulk", WORKER_THREADS), stack.environ)
        stack.start_web()
        stack.start_sweeper()
        yield stack


@pytest.fixture
def sandbox(sandbox_server: ControlledSandbox) -> Iterator[Sandbox]:
    """The sandbox with the accounts of all tests: emptied, it would have none of those that the rows name."""
    yield sandbox_server.control
    sandbox_server.control.latency()


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Api:
    """A client with an operator's key."""
    return Api(stack.api.base_url, KeyService(stack.sessions).create("operator", [Scope.ADMIN])[1])


@pytest.fixture
def new_team(admin: Api, sandbox: Sandbox) -> Callable[..., Team]:
    return lambda **given: add_team(admin, sandbox, f"team-{next(_teams)}", **given)


def begin(stack: Stack, team: Team, count: int) -> dict[str, str]:
    """Request a number for each of `count` new agents of a team; return number -> operation."""
    wanted = [next_number() for _ in range(count)]
    team.numbers(wanted)
    return {
        number: stack.api.provision(stack.api.agent(f"{team.name} {number[-4:]}", **team.ids), number)
        for number in wanted
    }


def counts(stack: Stack, operations: dict[str, str]) -> Counter[str]:
    return Counter(str(status) for status in statuses(stack.sessions, list(operations.values())).values())


def await_ended(stack: Stack, operations: dict[str, str], count: int) -> None:
    """Wait until so many of these have succeeded."""
    eventually(lambda: counts(stack, operations)["succeeded"] >= count, f"{count} have ended", LOAD_S)


def assert_all_ring(stack: Stack, sandbox: Sandbox, operations: dict[str, str]) -> None:
    assert counts(stack, operations) == {"succeeded": len(operations)}
    assert [number for number in operations if not sandbox.call(number)["reaches"]] == []


def waiting(stack: Stack, operations: dict[str, str]) -> set[str]:
    """Return the operations of which a step waits for a credential."""
    keys = [uuid.UUID(each) for each in operations.values()]
    query = select(OperationStep.operation_id).where(
        OperationStep.operation_id.in_(keys), OperationStep.error_code == ErrorCode.CREDENTIALS_REFUSED
    )
    with stack.sessions() as session:
        return {str(each) for each in session.scalars(query)}


def refused_statuses(sandbox: Sandbox, since: int, owner: str) -> list[int]:
    seen = sandbox.requests(since)
    return [each["status"] for each in seen if each["owner"] == owner and each["status"] in (401, 429)]


def last_request(sandbox: Sandbox) -> int:
    return max((each["seq"] for each in sandbox.requests()), default=0)


def test_operations_end_well_while_their_accounts_token_is_rotated_twice(
    stack: Stack, sandbox: Sandbox, new_team: Callable[..., Team]
) -> None:
    """Once with an overlap, as Twilio's secondary token allows it, and once with none: the old one is refused first."""
    team = new_team()
    sandbox.latency(twilio_ms=40, livekit_ms=20)
    operations = begin(stack, team, UNDER_LOAD // 2)
    before = last_request(sandbox)
    await_ended(stack, operations, UNDER_LOAD // 10)
    team.rotate_token("rotated-with-an-overlap")
    # The last of these has hardly begun when the token is refused, however quick the workers are.
    operations |= begin(stack, team, UNDER_LOAD - UNDER_LOAD // 2)
    assert counts(stack, operations)["succeeded"] < UNDER_LOAD
    sandbox.change_account(team.account_sid, authTokens=["rotated-without-one"])
    eventually(lambda: 401 in refused_statuses(sandbox, before, team.account_sid), "the old token is refused")
    team.rotate_token("rotated-without-one", overlaps=False)
    wait_until_finished(stack, list(operations.values()), LOAD_S)
    assert_all_ring(stack, sandbox, operations)
    assert team.status() == "verified"


def test_operations_rest_while_a_credential_is_revoked_others_go_on_and_all_end_well_once_it_is_restored(
    stack: Stack, sandbox: Sandbox, admin: Api, new_team: Callable[..., Team]
) -> None:
    no_twilio, no_livekit, other = new_team(), new_team(), new_team()
    project_keys = {no_livekit.api_key: no_livekit.api_secret}
    with receiver() as hooks:
        status, made = admin.call("POST", "/api/webhooks", {"url": hooks.url, "events": ["phone.needs_attention"]})
        assert status == 201, made
        hooks.secret = made["secret"]
        no_twilio.suspend()
        sandbox.change_project(no_livekit.name, keys={})
        resting = {**begin(stack, no_twilio, RESTING), **begin(stack, no_livekit, RESTING)}
        going_on = begin(stack, other, RESTING)
        wait_until_finished(stack, list(going_on.values()))
        assert_all_ring(stack, sandbox, going_on)
        eventually(lambda: len(waiting(stack, resting)) == len(resting), "all of the others wait")
        assert set(counts(stack, resting)) <= {"queued", "running"}
        assert (no_twilio.status(CARRIER), no_twilio.status(VOICE)) == ("invalid", "verified")
        assert (no_livekit.status(CARRIER), no_livekit.status(VOICE)) == ("verified", "invalid")

        no_twilio.restore()
        sandbox.change_project(no_livekit.name, keys=project_keys)
        let_a_minute_pass(stack)
        wait_until_finished(stack, list(resting.values()))
        assert_all_ring(stack, sandbox, resting)
        assert (no_twilio.status(CARRIER), no_livekit.status(VOICE)) == ("verified", "verified")
        told = [message.data for message in hooks.messages()]
    accounts = Counter(each["account"]["id"] for each in told if each["agentId"] is None)
    assert accounts == {no_twilio.carrier_id: 1, no_livekit.voice_id: 1}
    assert len(told) == len(accounts)
    assert max(tries_of(stack, resting)) <= 2
    assert admin.call("DELETE", f"/api/webhooks/{made['id']}")[0] == 204


def let_a_minute_pass(stack: Stack) -> None:
    """Have the sweeper try the accounts again at its next look, and not a minute after the last: within 10 s."""
    with stack.sessions.begin() as session:
        for model in (CarrierAccount, VoiceProject):
            session.execute(update(model).values(checked_at=model.checked_at - RECHECK_INTERVAL))


def tries_of(stack: Stack, operations: dict[str, str]) -> set[int]:
    """Return how many tries were counted for the steps of these operations: a wait for a credential counts none."""
    keys = [uuid.UUID(each) for each in operations.values()]
    with stack.sessions() as session:
        return set(session.scalars(select(OperationStep.attempts).where(OperationStep.operation_id.in_(keys))))


def test_an_account_that_twilio_throttles_holds_up_its_own_operations_alone(
    stack: Stack, sandbox: Sandbox, new_team: Callable[..., Team]
) -> None:
    """It has more of them than the worker has threads; how long the others take is measured by ./run.py bench accounts.

    At the end it is told that the limit is gone: by itself it would find that out slowly.
    """
    slow, other = new_team(rate="auto"), new_team()
    slow.throttle(1)
    before = last_request(sandbox)
    held_up = begin(stack, slow, THROTTLED)
    quick = begin(stack, other, OTHERS)
    wait_until_finished(stack, list(quick.values()))
    assert_all_ring(stack, sandbox, quick)
    assert refused_statuses(sandbox, before, other.account_sid) == []
    left = counts(stack, held_up)
    assert left["succeeded"] < len(held_up) // 2
    assert left["failed"] == left["cancelled"] == 0
    slow.throttle(None)
    slow.set_rate("off")
    wait_until_finished(stack, list(held_up.values()), LOAD_S)
    assert_all_ring(stack, sandbox, held_up)


def test_a_subaccount_has_its_own_numbers_and_trunks(
    stack: Stack, sandbox: Sandbox, new_team: Callable[..., Team]
) -> None:
    main = new_team()
    sub = new_team(owner=main.account_sid)
    operations = {**begin(stack, main, 1), **begin(stack, sub, 1)}
    wait_until_finished(stack, list(operations.values()))
    assert_all_ring(stack, sandbox, operations)
    for team in (main, sub):
        state = sandbox.state(account=team.account_sid, project=team.name)
        assert (len(state["numbers"]), len(state["trunks"]), len(state["livekitRules"])) == (1, 1, 1)


def test_no_message_of_a_stack_names_an_accounts_secret(stack: Stack) -> None:
    """What the tests above wrote to the logs; tests/e2e/test_secrets.py looks everywhere."""
    for name in ("web", "worker", "sweeper"):
        assert "rotated-with" not in stack.log(name)
