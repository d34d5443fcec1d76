"""`webhooks listen` and `webhooks trigger`: a receiver for developers, and events on request."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from threading import Event, Thread

import pytest

from app.cli.webhook_receiver import Receiver, receiving
from app.domain.events import WebhookEvent
from app.web.context import WIRING
from app.webhooks.deliveries import DeliveryService
from app.webhooks.endpoints import WebhookService
from app.webhooks.sending import AddressRule, Sender
from tests.support.commands import RemoteShell, Shell
from tests.support.receiver import LOOPBACK, receiver
from tests.support.served_app import served
from tests.support.toolboxes import with_parts

HOOK = "https://hooks.example.com"

LOOPBACK_SENDER = Sender(AddressRule((ip_network(LOOPBACK),)))


@pytest.fixture
def remote(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteShell]:
    """A command line over HTTP, of a server that may send webhooks to loopback."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    wiring = shell.live.wiring
    service = WebhookService(wiring.sessions, wiring.publisher, LOOPBACK_SENDER, wiring.sealer)
    shell.application.extensions[WIRING] = with_parts(wiring, webhooks=service)
    with served(shell.application) as url:
        yield RemoteShell(shell.live, url)


@contextmanager
def sending(remote: RemoteShell, event: WebhookEvent) -> Iterator[None]:
    """Send an event as soon as there is an endpoint on loopback, as a worker does."""
    wiring, over = remote.live.wiring, Event()
    deliveries = DeliveryService(wiring.sessions, wiring.publisher, LOOPBACK_SENDER, wiring.sealer)

    def work() -> None:
        while not over.wait(0.02):
            for endpoint in wiring.webhooks.all():
                if "127.0.0.1" in endpoint.url:
                    wiring.webhooks.test(endpoint.id, event)
                    deliveries.deliver(endpoint.id)
                    return

    thread = Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        deliveries.close()


def endpoints_of(remote: RemoteShell) -> list[str]:
    return [one["url"] for one in remote.json("webhooks", "list")["items"]]


def test_events_are_shown_as_they_come_and_the_endpoint_is_deleted(remote: RemoteShell) -> None:
    with sending(remote, WebhookEvent.FAILED):
        result = remote.run("webhooks", "listen", "--limit", "1")

    assert result.exit_code == 0, result.output
    assert "phone.failed" in result.stdout
    assert "+15005550006 Test" in result.stdout
    assert result.stdout.rstrip().endswith("number_not_in_account")
    assert "Listening at http://127.0.0.1:" in result.stderr
    assert endpoints_of(remote) == []


def test_with_json_a_message_is_one_line_and_it_is_handed_on_as_it_came(remote: RemoteShell) -> None:
    with receiver() as behind, sending(remote, WebhookEvent.PING):
        result = remote.run("webhooks", "listen", "--limit", "1", "--json", "--forward", behind.url)

    (line,) = result.stdout.splitlines()
    message = json.loads(line)
    (seen,) = behind.server.seen
    assert (message["type"], message["status"]) == ("ping", 204)
    assert {"webhook-signature", "webhook-timestamp"} <= {name.lower() for name in seen.headers}
    assert json.loads(seen.body)["data"] == message["data"]


def test_a_wrong_signature_is_refused() -> None:
    taken = Receiver(None)
    taken.secret = "whsec_" + "A" * 44

    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}

    assert taken.take(headers, b"{}") == 401
    assert taken.messages.get().body is None
    assert Receiver(None).take(headers, b"{}") == 401


def test_a_port_that_is_taken_is_one_line(remote: RemoteShell) -> None:
    with receiving(Receiver(None), 0) as port:
        result = remote.run("webhooks", "listen", "--port", str(port))

    assert (result.exit_code, f"Port {port} cannot be listened on" in result.stderr) == (1, True)
    assert endpoints_of(remote) == []


def test_a_server_that_may_not_send_to_loopback_says_what_to_do(remote: RemoteShell) -> None:
    remote.application.extensions[WIRING] = remote.live.wiring
    with served(remote.application) as url:
        remote.given["TRUNKLINE_URL"] = url
        result = remote.run("webhooks", "listen", "--limit", "1")

    assert result.exit_code == 1
    assert "WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8" in result.stderr
    assert "--url" in result.stderr


def test_an_event_goes_to_the_endpoints_that_get_it(remote: RemoteShell) -> None:
    webhooks = remote.live.wiring.webhooks
    every, failures = (webhooks.create(HOOK + name, events, None).endpoint for name, events in EVERY_AND_FAILURES)
    nobody = webhooks.create(HOOK + "/off", None, None).endpoint
    webhooks.change(nobody.id, {"enabled": False})

    def told(*words: str) -> list[tuple[str, bool]]:
        sent = remote.json("webhooks", "trigger", *words)["items"]
        return [(one["event"], one["payload"]["data"].get("isTest", False)) for one in sent]

    assert told("phone.drifted") == [("phone.drifted", True)]
    assert told("phone.failed") == [("phone.failed", True)] * 2
    assert told("ping", str(failures.id)) == [("ping", False)]
    lines = remote.run("webhooks", "trigger", "ping").stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"ping is queued for {one.url}" for one in (every, failures)]
    assert remote.run("webhooks", "trigger", "ping", "https://nobody.example.com").exit_code == 1
    assert "(webhook_disabled)" in remote.run("webhooks", "trigger", "ping", str(nobody.id)).stderr
    assert remote.run("webhooks", "trigger", "nonsense").exit_code == 2


EVERY_AND_FAILURES = (("/all", None), ("/failures", ["phone.failed"]))
