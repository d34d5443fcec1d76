"""Fixtures of the unit tests."""

from tests.support.queue import celery_app

__all__ = ["celery_app"]
