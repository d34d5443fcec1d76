"""The outbox as a queue: attempts and their results, leases, and dead or slow receivers."""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select, update
from standardwebhooks import WebhookVerificationError

from app.accounts.stored_secrets import StoredSecrets, StoredSecretService
from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint, WebhookOldSecret
from app.domain.errors import RefusedError
from app.domain.events import MAX_ENDPOINTS, DeliveryStatus, DisabledReason, WebhookEvent
from app.sealing import Sealer, SealError, new_key, parse_keys
from app.webhooks.deliveries import (
    GIVE_UP_AFTER,
    JITTER,
    LEASE,
    MAX_PARALLEL,
    RETRIES,
    DeliveryService,
    claim_delivery,
    save_attempt,
)
from app.webhooks.endpoints import MAX_OLDER_SECRETS, WebhookService
from app.webhooks.sending import AddressRule, Sender, WebhookResponse
from tests.support.receiver import LOOPBACK, Receiver, receiver
from tests.support.saga import RecordingPublisher, Saga
from tests.support.scripted_server import Answer as Scripted
from tests.support.scripted_server import Hang
from tests.support.servers import nested_loops_only

KEYS = parse_keys(new_key())
SEALER = Sealer(KEYS)

TAKEN, BUSY, GONE, BROKEN = (
    WebhookResponse(204, "", None),
    WebhookResponse(429, "", 60.0),
    WebhookResponse(410, "", None),
    WebhookResponse(500, "no", None),
)


class Outbox:
    """The services over one database, an endpoint, and the receiver behind it."""

    def __init__(self, sessions: Sessions, target: Receiver) -> None:
        self.sessions, self.receiver, self.publisher = sessions, target, RecordingPublisher()
        sender = Sender(AddressRule((ip_network(LOOPBACK),)), timeout_s=2)
        self.webhooks = WebhookService(sessions, self.publisher, sender, SEALER)
        self.deliveries = DeliveryService(sessions, self.publisher, sender, SEALER)
        shown = self.webhooks.create(target.url, None, None)
        self.endpoint_id, target.secret = shown.endpoint.id, shown.secret

    @property
    def endpoint(self) -> WebhookEndpoint:
        return self.webhooks.get(self.endpoint_id)

    def row(self, delivery_id: uuid.UUID) -> WebhookDelivery:
        with self.sessions() as session:
            return session.get_one(WebhookDelivery, delivery_id)

    def ping(self) -> uuid.UUID:
        return self.webhooks.test(self.endpoint_id).id

    def change(self, delivery_id: uuid.UUID, **values: Any) -> None:
        with self.sessions.begin() as session:
            session.execute(update(WebhookDelivery).where(WebhookDelivery.id == delivery_id).values(**values))

    def let_time_pass(self) -> None:
        """Move every pause and lease into the past."""
        before = func.now() - timedelta(seconds=1)
        with self.sessions.begin() as session:
            session.execute(update(WebhookEndpoint).values(wake_at=before))
            pending = update(WebhookDelivery).where(WebhookDelivery.status == DeliveryStatus.PENDING)
            session.execute(pending.values(next_at=before, lease_until=before))

    def now(self) -> datetime:
        with self.sessions() as session:
            return session.scalars(select(func.clock_timestamp())).one()


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[Any]]:
    """Collect the log lines, whether or not an application was built in this process, which sends them elsewhere."""
    lines: list[Any] = []
    with caplog.at_level(logging.INFO), structlog.testing.capture_logs() as captured:
        yield lines
    lines += [*captured, *(record.msg for record in caplog.records if isinstance(record.msg, dict))]


@pytest.fixture
def outbox(saga: Saga) -> Iterator[Outbox]:
    with receiver() as target:
        yield Outbox(saga.sessions, target)


def test_a_message_arrives_signed_and_its_delivery_ends(outbox: Outbox) -> None:
    delivery_id = outbox.ping()
    assert outbox.publisher.webhooks == [outbox.endpoint_id]

    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1

    (message,) = outbox.receiver.messages()
    row = outbox.row(delivery_id)
    assert (message.id, message.type) == (row.message_id, WebhookEvent.PING)
    assert message.data == {"webhookId": str(outbox.endpoint_id)}
    assert (row.status, row.attempts, row.response_status, row.next_at) == (DeliveryStatus.DELIVERED, 1, 204, None)
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 0


def test_every_attempt_has_the_same_id_and_body(outbox: Outbox) -> None:
    outbox.receiver.server.answer(Scripted(500), Scripted(503))
    outbox.ping()
    for _ in range(3):
        outbox.deliveries.deliver(outbox.endpoint_id)
        outbox.let_time_pass()

    first, *others = outbox.receiver.messages()
    assert others == [first, first]


def test_a_message_is_not_accepted_with_a_changed_body(outbox: Outbox) -> None:
    outbox.ping()
    outbox.deliveries.deliver(outbox.endpoint_id)
    (seen,) = outbox.receiver.server.seen
    seen.body = seen.body.replace(b"ping", b"pong")

    with pytest.raises(Exception, match="No matching signature"):
        outbox.receiver.messages()


def test_during_a_rotation_both_secrets_verify_and_afterwards_the_new_one(outbox: Outbox) -> None:
    old = outbox.receiver.secret
    new = outbox.webhooks.rotate_secret(outbox.endpoint_id).secret
    outbox.ping()
    outbox.deliveries.deliver(outbox.endpoint_id)
    for secret in (old, new):
        outbox.receiver.secret = secret
        assert len(outbox.receiver.messages()) == 1

    with outbox.sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(previous_secret_until=func.now() - timedelta(seconds=1)))
    outbox.receiver.server.seen.clear()
    outbox.ping()
    outbox.deliveries.deliver(outbox.endpoint_id)
    assert len(outbox.receiver.messages()) == 1
    outbox.receiver.secret = old
    with pytest.raises(Exception, match="No matching signature"):
        outbox.receiver.messages()


def signed_by(outbox: Outbox, *secrets: str) -> list[bool]:
    """Tell for each secret whether the next message is signed with it."""
    outbox.receiver.server.seen.clear()
    outbox.ping()
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1
    found = []
    for secret in secrets:
        outbox.receiver.secret = secret
        try:
            found.append(len(outbox.receiver.messages()) == 1)
        except WebhookVerificationError:
            found.append(False)
    return found


def test_a_second_rotation_within_a_day_drops_no_secret_before_its_end(outbox: Outbox) -> None:
    first = outbox.receiver.secret
    second, third = (outbox.webhooks.rotate_secret(outbox.endpoint_id).secret for _ in range(2))

    assert signed_by(outbox, first, second, third) == [True] * 3

    past = func.now() - timedelta(seconds=1)
    with outbox.sessions.begin() as session:
        session.execute(update(WebhookOldSecret).values(valid_until=past))
    assert signed_by(outbox, first, second, third) == [False, True, True]
    with outbox.sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(previous_secret_until=past))
    assert signed_by(outbox, first, second, third) == [False, False, True]


def test_old_secrets_are_erased_when_they_sign_nothing_any_more(outbox: Outbox) -> None:
    for _ in range(2):
        outbox.webhooks.rotate_secret(outbox.endpoint_id)
    assert outbox.webhooks.purge_secrets() == 0
    past = func.now() - timedelta(seconds=1)
    with outbox.sessions.begin() as session:
        session.execute(update(WebhookOldSecret).values(valid_until=past))
        session.execute(update(WebhookEndpoint).values(previous_secret_until=past))

    assert outbox.webhooks.purge_secrets() == 2

    endpoint = outbox.endpoint
    assert (endpoint.sealed_previous_secret, endpoint.previous_secret_until) == (None, None)
    with outbox.sessions() as session:
        assert session.scalars(select(WebhookOldSecret)).all() == []


def test_more_old_secrets_than_a_header_should_hold_are_refused(outbox: Outbox) -> None:
    for _ in range(MAX_OLDER_SECRETS + 1):
        outbox.webhooks.rotate_secret(outbox.endpoint_id)

    with pytest.raises(RefusedError, match="10 old secrets"):
        outbox.webhooks.rotate_secret(outbox.endpoint_id)
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 0


def test_concurrent_registrations_do_not_exceed_the_limit(outbox: Outbox) -> None:
    room = 3
    for _ in range(MAX_ENDPOINTS - 1 - room):
        outbox.webhooks.create(outbox.receiver.url, None, None)
    start, outcomes = threading.Barrier(room * 3), []

    def register() -> None:
        start.wait()
        try:
            outbox.webhooks.create(outbox.receiver.url, None, None)
            outcomes.append("made")
        except RefusedError as error:
            outcomes.append(error.code.value)

    threads = [threading.Thread(target=register) for _ in range(room * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["made"] * room + ["webhook_limit"] * room * 2
    assert len(outbox.webhooks.all()) == MAX_ENDPOINTS


def test_the_pauses_follow_the_schedule_and_then_it_is_given_up(outbox: Outbox) -> None:
    delivery_id, rests = outbox.ping(), []
    for _ in RETRIES:
        attempt = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
        assert attempt is not None
        save_attempt(outbox.sessions, attempt, BROKEN, None, spread=lambda low, _high: low)
        row = outbox.row(delivery_id)
        assert row.next_at is not None
        rests.append((row.next_at - outbox.now()) / JITTER[0])
        outbox.let_time_pass()
    last = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
    assert last is not None
    assert save_attempt(outbox.sessions, last, None, "connection_failed") is None

    row = outbox.row(delivery_id)
    assert [abs(rest - due) < timedelta(seconds=2) for rest, due in zip(rests, RETRIES, strict=True)] == [True] * 7
    assert (row.status, row.attempts, row.error, row.next_at) == (DeliveryStatus.FAILED, 8, "connection_failed", None)
    assert outbox.endpoint.disabled_at is None


def test_retry_after_is_respected(outbox: Outbox) -> None:
    delivery_id = outbox.ping()
    attempt = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
    assert attempt is not None
    save_attempt(outbox.sessions, attempt, BUSY, None)

    next_at = outbox.row(delivery_id).next_at
    assert next_at is not None
    assert timedelta(seconds=55) < next_at - outbox.now() <= timedelta(seconds=60)
    assert outbox.endpoint.wake_at >= next_at
    assert outbox.deliveries.sweep() == 0


def test_a_receiver_that_responds_410_gets_nothing_more(outbox: Outbox) -> None:
    first, second = outbox.ping(), outbox.ping()
    attempt = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
    assert attempt is not None
    assert save_attempt(outbox.sessions, attempt, GONE, None) is DisabledReason.GONE

    statuses = sorted(outbox.row(each).status for each in (first, second))
    assert statuses == [DeliveryStatus.FAILED, DeliveryStatus.PENDING]
    assert claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER) is None
    outbox.webhooks.change(outbox.endpoint_id, {"enabled": True})
    assert outbox.deliveries.sweep() == 1
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1


@pytest.mark.parametrize(
    ("failing_for", "disabled"),
    [(GIVE_UP_AFTER - timedelta(hours=1), None), (GIVE_UP_AFTER + timedelta(hours=1), DisabledReason.FAILING)],
)
def test_only_an_endpoint_that_fails_for_days_is_disabled(
    outbox: Outbox, failing_for: timedelta, disabled: DisabledReason | None
) -> None:
    delivery_id = outbox.ping()
    with outbox.sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(failing_since=func.now() - failing_for))
    # A single failure after a long pause disables nothing: the delivery must have been given up.
    for attempts, expected in ((0, None), (len(RETRIES), disabled)):
        outbox.change(delivery_id, attempts=attempts, next_at=func.now() - timedelta(seconds=1))
        attempt = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
        assert attempt is not None
        assert save_attempt(outbox.sessions, attempt, BROKEN, None) is expected
    assert outbox.endpoint.disabled_reason == disabled


def test_a_delivery_is_leased_to_one_worker(outbox: Outbox) -> None:
    delivery_id = outbox.ping()
    dead = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
    assert dead is not None
    assert claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER) is None
    lease_until = outbox.row(delivery_id).lease_until
    assert lease_until is not None
    assert lease_until - outbox.now() <= LEASE
    assert outbox.deliveries.sweep() == 0

    outbox.let_time_pass()
    assert outbox.deliveries.sweep() == 1
    alive = claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER)
    assert alive is not None
    save_attempt(outbox.sessions, dead, BROKEN, None)
    assert outbox.row(delivery_id).lease_token == alive.token
    save_attempt(outbox.sessions, alive, TAKEN, None)
    assert outbox.row(delivery_id).status is DeliveryStatus.DELIVERED


def test_an_endpoint_has_a_limited_number_of_concurrent_attempts(outbox: Outbox) -> None:
    for _ in range(MAX_PARALLEL + 1):
        outbox.ping()

    held = [claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER) for _ in range(MAX_PARALLEL + 1)]

    assert [each is not None for each in held] == [True] * MAX_PARALLEL + [False]


def test_hanging_receivers_delay_no_other(outbox: Outbox) -> None:
    patient = replace(outbox.deliveries.sender, timeout_s=30)
    service = DeliveryService(outbox.sessions, outbox.publisher, patient, SEALER)
    with receiver() as hanging:
        hanging.server.default = Hang()
        slow = [outbox.webhooks.create(hanging.url, None, None).endpoint.id for _ in range(MAX_ENDPOINTS - 1)]
        for endpoint_id in slow:
            outbox.webhooks.test(endpoint_id)
        under_way = [service.start(endpoint_id) for endpoint_id in slow]
        outbox.ping()

        ours = service.start(outbox.endpoint_id)

        assert ours is not None
        assert ours.result(timeout=20) == 1
        assert not any(each is None or each.done() for each in under_way)
        hanging.server.over.set()
        assert [each.result() for each in under_way if each] == [0] * len(slow)


def test_a_process_makes_one_attempt_at_a_time_for_an_endpoint(outbox: Outbox) -> None:
    outbox.receiver.server.answer(Hang())
    for _ in range(2):
        outbox.ping()

    first = outbox.deliveries.start(outbox.endpoint_id)

    assert first is not None
    assert outbox.deliveries.start(outbox.endpoint_id) is None
    outbox.receiver.server.over.set()
    assert first.result() == 0
    again = outbox.deliveries.start(outbox.endpoint_id)
    assert again is not None
    assert again.result() == 1


def test_a_thread_that_raises_is_logged_and_the_endpoint_goes_on(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.ping()

    def broken(_host: str, _port: int) -> list[str]:
        raise RuntimeError("a defect")

    sender = replace(outbox.deliveries.sender, resolve=broken)
    service = DeliveryService(outbox.sessions, outbox.publisher, sender, SEALER)
    with logged(caplog) as lines:
        for _ in range(2):
            begun = service.start(outbox.endpoint_id)
            assert begun is not None
            assert begun.result() == 0
            outbox.let_time_pass()
    assert [line["event"] for line in lines] == ["webhook_thread_broke"] * 2


def test_a_process_that_stops_finishes_its_attempt_and_starts_no_other(outbox: Outbox) -> None:
    for _ in range(2):
        outbox.ping()
    service = DeliveryService(outbox.sessions, outbox.publisher, outbox.deliveries.sender, SEALER)
    outbox.receiver.server.answer(Hang())
    begun = service.start(outbox.endpoint_id)
    assert begun is not None
    while not outbox.receiver.server.seen:
        assert not begun.done()
    threading.Timer(0.05, outbox.receiver.server.over.set).start()

    service.close()

    assert begun.result() == 0
    assert service.start(outbox.endpoint_id) is None
    assert len(outbox.receiver.server.seen) == 1


def test_a_worker_stops_after_a_failure(outbox: Outbox) -> None:
    outbox.receiver.server.answer(Scripted(500))
    for _ in range(3):
        outbox.ping()

    assert outbox.deliveries.deliver(outbox.endpoint_id) == 0
    assert len(outbox.receiver.server.seen) == 1
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 2


def test_the_sweep_publishes_once_and_then_after_growing_pauses(outbox: Outbox) -> None:
    outbox.ping()
    outbox.publisher.webhooks.clear()
    pauses = []
    for _ in range(8):
        assert outbox.deliveries.sweep() == 1
        assert outbox.deliveries.sweep() == 0
        pauses.append(round((outbox.endpoint.wake_at - outbox.now()).total_seconds()))
        with outbox.sessions.begin() as session:
            session.execute(update(WebhookEndpoint).values(wake_at=func.now()))

    assert outbox.publisher.webhooks == [outbox.endpoint_id] * 8
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1
    assert outbox.endpoint.idle_kicks == 0


def test_one_pass_publishes_a_batch_of_endpoints(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        outbox.webhooks.test(outbox.webhooks.create(outbox.receiver.url, None, None).endpoint.id)
    outbox.let_time_pass()
    outbox.publisher.webhooks.clear()
    monkeypatch.setattr("app.webhooks.deliveries.BATCH", 3)
    with nested_loops_only(outbox.sessions):
        assert outbox.deliveries.sweep() == 3
    assert len(set(outbox.publisher.webhooks)) == 3


def test_ended_deliveries_are_deleted_after_a_month(outbox: Outbox) -> None:
    old, young, pending = outbox.ping(), outbox.ping(), outbox.ping()
    for delivery_id, days in ((old, 31), (young, 29)):
        over = {"status": DeliveryStatus.DELIVERED, "finished_at": func.now() - timedelta(days=days)}
        outbox.change(delivery_id, created_at=func.now() - timedelta(days=days), **over)
    outbox.change(pending, created_at=func.now() - timedelta(days=400))

    outbox.deliveries.sweep()

    with outbox.sessions() as session:
        assert set(session.scalars(select(WebhookDelivery.id))) == {young, pending}


def test_no_log_line_contains_a_secret_a_url_or_a_number(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    number = "+15145551234"
    outbox.receiver.server.answer(Scripted(500, number.encode(), "text/plain"))
    with logged(caplog) as lines:
        first = outbox.ping()
        outbox.change(first, payload=outbox.row(first).payload.replace("ping", number))
        outbox.deliveries.deliver(outbox.endpoint_id)
        outbox.let_time_pass()
        outbox.deliveries.deliver(outbox.endpoint_id)
        outbox.webhooks.rotate_secret(outbox.endpoint_id)
    assert {line["event"] for line in lines} >= {"webhook_failed", "webhook_delivered", "webhook_secret_rotated"}
    for secret in (outbox.receiver.secret, outbox.endpoint.sealed_secret, outbox.receiver.server.url, number):
        assert secret not in str(lines)


def test_deleting_an_endpoint_during_an_attempt_is_safe(outbox: Outbox) -> None:
    outbox.receiver.server.answer(Hang())
    outbox.ping()
    worker = threading.Thread(target=outbox.deliveries.deliver, args=(outbox.endpoint_id,))
    worker.start()
    while not outbox.receiver.server.seen:
        worker.join(0.01)
    outbox.webhooks.delete(outbox.endpoint_id)
    outbox.receiver.server.over.set()
    worker.join()

    assert claim_delivery(outbox.sessions, outbox.endpoint_id, SEALER) is None


def test_the_signature_has_the_time_of_the_attempt(outbox: Outbox) -> None:
    outbox.change(outbox.ping(), created_at=datetime(2020, 1, 1, tzinfo=UTC))
    outbox.deliveries.deliver(outbox.endpoint_id)

    assert len(outbox.receiver.messages()) == 1


def test_a_secret_whose_key_is_missing_holds_its_deliveries_back_and_nothing_is_given_up(outbox: Outbox) -> None:
    delivery_id = outbox.ping()
    without = DeliveryService(outbox.sessions, outbox.publisher, outbox.deliveries.sender, Sealer())
    assert without.deliver(outbox.endpoint_id) == 0
    assert (outbox.row(delivery_id).attempts, outbox.endpoint.failing_since) == (0, None)
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1


def test_rewrapping_seals_by_the_newest_key_and_every_secret_still_signs(outbox: Outbox) -> None:
    outbox.webhooks.rotate_secret(outbox.endpoint_id)
    outbox.webhooks.rotate_secret(outbox.endpoint_id)
    stored = StoredSecretService(outbox.sessions, outbox.webhooks.sealer)
    assert stored.count() == StoredSecrets(3, in_clear=0, outdated=0, unreadable=0)
    newer = parse_keys(new_key())
    again = replace(stored, sealer=Sealer((*newer, *KEYS)))
    assert again.count() == StoredSecrets(3, in_clear=0, outdated=3, unreadable=0)
    assert again.rewrap() == 3
    assert again.rewrap() == 0

    only_new = DeliveryService(outbox.sessions, outbox.publisher, outbox.deliveries.sender, Sealer(newer))
    outbox.ping()
    assert only_new.deliver(outbox.endpoint_id) == 1  # the receiver still has the oldest of the three
    assert stored.count() == StoredSecrets(3, in_clear=0, outdated=0, unreadable=3)
    with pytest.raises(SealError):
        stored.rewrap()


def test_what_was_stored_in_clear_is_counted_and_sealed(outbox: Outbox) -> None:
    with outbox.sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(sealed_secret=outbox.receiver.secret))
    stored = StoredSecretService(outbox.sessions, outbox.webhooks.sealer)
    assert stored.count() == StoredSecrets(1, in_clear=1, outdated=0, unreadable=0)
    assert stored.rewrap() == 1
    assert outbox.receiver.secret not in outbox.endpoint.sealed_secret
    outbox.ping()
    assert outbox.deliveries.deliver(outbox.endpoint_id) == 1
