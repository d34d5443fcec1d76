"""Celery's settings, each with its unit and reason; `reference` facts were measured with kombu 5.7 on Redis.

Nothing here makes a message safe: Celery on Redis loses and doubles them whatever is set. The rows and the sweeper do.
"""

import sys

from kombu.entity import Queue

from app.domain.queues import QueueName
from app.settings import SettingsError, load_settings

try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(str(error))

broker_url = _settings.broker_url
# Said in full: by itself kombu checks no certificate of a rediss:// broker, and sends it the password.
broker_use_ssl = _settings.broker_tls or False

imports = ("tasks.steps", "tasks.upkeep", "tasks.webhooks")

# No results: a result backend stands in front of the error callback when Redis is down, and the rows have them anyway.
result_backend = None
task_ignore_result = True
task_store_errors_even_if_ignored = False

# Acknowledged after the run: a worker that stops hands its message back sooner than the sweeper would notice.
task_acks_late = True
# A task whose process died is not put back: it could kill the next worker too. Its lease ends, the sweeper comes.
task_reject_on_worker_lost = False
task_acks_on_failure_or_timeout = True

# One message in hand per thread: fewer to lose with a kill.
worker_prefetch_multiplier = 1
# The API call in flight at a warm shutdown may need two provider timeouts, seconds.
worker_soft_shutdown_timeout = 25
# A connection blip must not stop a provider call half-way.
worker_cancel_long_running_tasks_on_connection_loss = False
# Events are what Flower shows; those of 0.2 s share a message (tasks/celery_patches.py).
worker_send_task_events = True
task_send_sent_event = False
# The application configures logging itself (app/observability/logs.py).
worker_hijack_root_logger = False

# Redis may be away for any time; a worker waits for it.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True
# Connections for publishing, opened only when needed. A task that publishes the two branches holds one while it takes
# a second, without a time limit: fewer than two per thread of the largest worker (64), and all wait for each other.
broker_pool_limit = 256
# Seconds an unacknowledged message stays hidden: above every countdown (60) and task; the sweeper is the fast path.
visibility_timeout = 900
broker_transport_options = {
    "visibility_timeout": visibility_timeout,
    # Seconds between looks for messages to restore, and look each time: 10 s, not the default's 100 s.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # Seconds: the default waits for ever on a Redis that hangs. The consumer's own poll takes 1 s.
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    # A publisher that meets no broker says so at once: kombu would try a cold connection again for 6 s (measured).
    "max_retries": 0,
    # A worker takes from the first queue of its -Q that has a message, not from each in turn: kombu gives BRPOP the
    # queues in this order, and never turns them (kombu utils/scheduling.py priority_cycle).
    "queue_order_strategy": "priority",
    "socket_keepalive": True,
    "health_check_interval": 15,
}
# Between two steps: three quick tries, then the sweeper.
task_publish_retry = True
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.5, "interval_max": 1}

# Clean-up has its own queue: a flood of creates cannot starve it; nor can a bulk, which has one too, a single create.
# Plain names only, since a flush takes bindings.
task_default_queue = "provision"
task_create_missing_queues = False
task_queues = [Queue(name.value) for name in QueueName]
task_routes = {
    "provision.*": {"queue": "provision"},
    "repair.*": {"queue": "provision"},
    "move.*": {"queue": "provision"},
    "rollback.*": {"queue": "rollback"},
    "deprovision.*": {"queue": "rollback"},
    "upkeep.*": {"queue": "ops"},
    "webhooks.*": {"queue": "ops"},
}

task_serializer = "json"
accept_content = ["json"]
enable_utc = True
timezone = "UTC"
