"""Fixtures of the integration tests."""

from tests.support.broker import broker_at, celery_app
from tests.support.saga import number_sid, plain_logs, saga, saga_sessions

__all__ = ["broker_at", "celery_app", "number_sid", "plain_logs", "saga", "saga_sessions"]
