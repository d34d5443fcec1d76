"""The Celery application in tests: settings that point nowhere, and a broker that can be changed."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import pools
from kombu.transport.redis import Channel

NOWHERE = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "sandbox",
    "LIVEKIT_URL": "http://127.0.0.1:1",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "secret",
    "LIVEKIT_SIP_URI": "sip:abc.sip.livekit.cloud",
}


@pytest.fixture(scope="session")
def celery_app() -> Iterator[Celery]:
    """The application with all its tasks; it reads its settings once, at first use."""
    before = {name: os.environ.get(name) for name in NOWHERE}
    os.environ.update(NOWHERE)
    from tasks import app, steps, upkeep, webhooks  # noqa: F401, PLC0415  # only now are there settings to read

    app.finalize()
    app.conf.broker_url  # noqa: B018  # reads the settings
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    yield app
    _forget_connections(app)


@pytest.fixture
def broker_at(celery_app: Celery) -> Iterator[Callable[[str], None]]:
    """Point the application at another broker, without connections to the previous one."""

    def use_broker(url: str) -> None:
        _forget_connections(celery_app)
        celery_app.conf.broker_url = url

    yield use_broker
    use_broker(NOWHERE["REDIS_URL"])


def _forget_connections(app: Celery) -> None:
    pools.reset()
    app._after_fork()


def keys_of(queue: str) -> list[str]:
    """Return the Redis lists of a queue, in the order in which workers read them."""
    return [queue, *(f"{queue}{Channel.sep}{priority}" for priority in Channel.priority_steps[1:])]


def messages(url: str, queue: str) -> list[dict[str, Any]]:
    """Return the messages in a queue, the next first: task, args, the rest of the chain, error callbacks."""
    with redis.Redis.from_url(url) as client:
        waiting = [json.loads(each) for key in keys_of(queue) for each in reversed(client.lrange(key, 0, -1))]
    return [_message(each) for each in waiting]


def _message(raw: dict[str, Any]) -> dict[str, Any]:
    args, _, embed = json.loads(base64.b64decode(raw["body"]))
    rest = [each["task"] for each in reversed(embed["chain"] or [])]
    errbacks = [each["task"] for each in embed["errbacks"] or []]
    return {"task": raw["headers"]["task"], "args": args, "rest": rest, "errbacks": errbacks}
