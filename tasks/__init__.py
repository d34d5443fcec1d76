"""The Celery side: step tasks, the chain and its error callback, upkeep. Each task is one line over the application."""

from celery import Celery

app = Celery("trunkline", config_source="celeryconfig")
