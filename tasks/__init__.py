"""The Celery application and its tasks; each task is one line over a service of `app`."""

from celery import Celery

from tasks import celery_patches

celery_patches.install_transport()

app = Celery("trunkline", config_source="celeryconfig")
celery_patches.install_worker_steps(app)
