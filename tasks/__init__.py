"""The Celery side: step tasks, the chain and its error callback, upkeep. Each task is one line over the application."""

from celery import Celery

from tasks import transport

transport.install()

app = Celery("trunkline", config_source="celeryconfig")
