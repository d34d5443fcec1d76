"""One client for all commands of a channel, and another after its connections were lost."""

from collections.abc import Callable

import redis
from celery import Celery

from tasks.transport import Transport

COMMANDS = 5


def test_a_channel_builds_one_client_for_each_pool(
    celery_app: Celery, broker_at: Callable[[str], None], redis_url: str
) -> None:
    broker_at(redis_url)
    built: list[redis.Redis] = []
    with celery_app.connection() as connection:
        assert isinstance(connection.transport, Transport)
        assert connection.as_uri().startswith("redis://")
        channel = connection.default_channel
        make = channel.Client

        def build(**options: object) -> redis.Redis:
            built.append(make(**options))
            return built[-1]

        channel.Client = build
        for round_number in (1, 2):
            for _ in range(COMMANDS):
                channel._put("queue", {"properties": {"priority": 0}})
            assert len(built) == round_number
            channel._disconnect_pools()
        assert channel._size("queue") == 2 * COMMANDS
