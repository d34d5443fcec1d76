"""Fixtures of the unit tests."""

from tests.support.broker import celery_app

__all__ = ["celery_app"]
