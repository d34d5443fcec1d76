"""`webhooks`: the endpoints that receive events; a receiver for developers, and events on request."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import click
from rich.text import Text

from app.cli.client import ProblemError, client
from app.cli.context import Row, WholeNumber, command_line, json_option, user_command
from app.cli.output import command_error, format_time, print_json, print_line, print_result, print_table, short_id
from app.cli.webhook_receiver import ADDRESS, Message, Receiver, receiving
from app.domain.events import PHONE_EVENTS, WebhookEvent

DESCRIPTION = "trunkline webhooks listen"
"""Of the endpoint that `listen` makes, so that one that was left over is recognised."""

webhooks = click.Group("webhooks", help="Webhooks: list, listen, trigger.")


@webhooks.command("list")
@json_option
@user_command
def list_webhooks(is_json: bool) -> None:
    """List every endpoint, oldest first; never a secret."""
    found = client().get("/api/webhooks")
    if is_json:
        print_json(found)
        return
    if not found["items"]:
        print_line("No webhooks: create one with POST /api/webhooks (docs/webhooks.md).", err=True)
        return
    rows = [
        (
            one["url"],
            ", ".join(one["events"] or ("all",)),
            Text("enabled", "green") if one["enabled"] else Text("disabled", "red"),
            short_id(one["id"]),
        )
        for one in found["items"]
    ]
    print_table(("url", "events", "state", "id"), rows)


@webhooks.command("trigger")
@click.argument("event", metavar="EVENT", type=click.Choice([event.value for event in WebhookEvent]))
@click.argument("webhook", required=False)
@json_option
@user_command
def trigger(event: str, webhook: str | None, is_json: bool) -> None:
    """Send an example of EVENT to WEBHOOK, an id or a URL; without it, to every endpoint that gets such events.

    It is about nobody's agent, and its data has `isTest`; `ping` is always sent.
    """
    wanted = [one for one in client().get("/api/webhooks")["items"] if _gets(one, event, webhook)]
    if not wanted:
        which = f"There is no webhook {webhook!r}" if webhook else f"No webhook that is enabled gets {event}"
        raise command_error(f"{which}; see `webhooks list`.")
    sent = [client().post(f"/api/webhooks/{one['id']}/test", event=event) for one in wanted]
    if is_json:
        print_json({"items": sent})
        return
    for one, delivery in zip(wanted, sent, strict=True):
        print_line(f"{event} is queued for {one['url']} ({delivery['webhookId']}).")


def _gets(endpoint: Row, event: str, webhook: str | None) -> bool:
    if webhook is not None:
        return webhook in {endpoint["id"], endpoint["url"]}
    gets_all = endpoint["events"] is None or event == WebhookEvent.PING
    return bool(endpoint["enabled"] and (gets_all or event in endpoint["events"]))


@webhooks.command("listen")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice([event.value for event in PHONE_EVENTS]),
    help="Only these events; repeatable.  [default: all]",
)
@click.option("--forward", metavar="URL", help="Hand each message on to this URL, as it came; its answer counts.")
@click.option(
    "--url", metavar="URL", help="Where the server reaches this receiver, as by a tunnel.  [default: on loopback]"
)
@click.option("--port", type=WholeNumber(0, 65535), default=0, help="The port to listen on.  [default: a free one]")
@click.option("--limit", type=WholeNumber(1), help="End after this many messages.")
@json_option
@user_command
def listen(
    events: tuple[str, ...], forward: str | None, url: str | None, port: int, limit: int | None, is_json: bool
) -> None:
    """Receive events on this machine while developing, and print them as they come, until Ctrl-C.

    Registers an endpoint for that time, and deletes it at the end. With --json each message is one line. Needs a key
    with the scope admin.
    """
    receiver = Receiver(forward)
    with receiving(receiver, port) as taken:
        address = url or f"http://{ADDRESS}:{taken}/"
        with _registered(address, events, taken) as endpoint:
            receiver.secret = endpoint["secret"]
            print_line(f"Listening at {address} as the webhook {endpoint['id']}. Ctrl-C ends it.", err=True)
            trying = command_line(f"webhooks trigger ping {endpoint['id']}")
            print_line(f"Try it: {trying}", err=True)
            _print_messages(receiver, limit, is_json=is_json)


@contextmanager
def _registered(url: str, events: tuple[str, ...], port: int) -> Iterator[Row]:
    """Register an endpoint, and delete it when this process ends, by SIGTERM too."""
    body = {"url": url, "events": list(events) or None, "description": DESCRIPTION}
    try:
        endpoint = client().post("/api/webhooks", body)
    except ProblemError as error:
        if "url" not in error.errors:
            raise
        raise command_error(
            f"The server may not send to {url}: the URL {' '.join(error.errors['url'])}. If it runs on this machine, "
            f"set WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8 there; else give with --url the https address of a tunnel that "
            f"leads to port {port} here (choose it with --port)."
        ) from error
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield dict(endpoint)
    finally:
        signal.signal(signal.SIGTERM, before)
        # A second Ctrl-C, as impatient people and process groups send it, would leave the endpoint behind.
        interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            client().request("DELETE", f"/api/webhooks/{endpoint['id']}", accepted=(HTTPStatus.NOT_FOUND,))
        finally:
            signal.signal(signal.SIGINT, interrupted)


def _print_messages(receiver: Receiver, limit: int | None, *, is_json: bool) -> None:
    """Print messages as they come, until there were `limit` or a person ends it."""
    count = 0
    try:
        while limit is None or count < limit:
            _print_message(receiver.messages.get(), is_json=is_json)
            count += 1
    except KeyboardInterrupt:
        print_line(f"{count} messages. The webhook is deleted.", err=True)


def _print_message(message: Message, *, is_json: bool) -> None:
    if message.body is None:
        print_line(f"Refused: a message with a wrong signature ({message.id or 'no webhook-id'}).", err=True)
        return
    if is_json:
        print_json({"webhookId": message.id, "status": message.status, **message.body})
        return
    data = message.body["data"]
    about = " ".join(str(data[name]) for name in ("phoneNumber", "agentName", "agentId") if data.get(name))
    why = f" {data['error']['code']}" if data.get("error") else ""
    print_result(f"{format_time(message.body['timestamp'])}  {message.body['type']:<22}  {about}{why}")
    if message.note:
        print_line(message.note, err=True)
