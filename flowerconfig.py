"""Flower's settings, read from the folder it is started in: a look at the queue, and no hand on the workers.

Flower has no switch for either: whoever had its password could stop every worker with one call, and its /metrics asked
for none.
"""

from flower import urls
from flower.api import control
from flower.views.monitor import Metrics
from tornado.routing import URLSpec
from tornado.web import authenticated


def _is_control(handler: URLSpec | tuple[str, type]) -> bool:
    """Say whether a route leads to the workers: shutdown, pools, queues, limits, revocation."""
    leads_to = handler.handler_class if isinstance(handler, URLSpec) else handler[1]
    return bool(leads_to.__module__ == control.__name__)


# In place: Flower has taken the list itself.
urls.handlers[:] = [handler for handler in urls.handlers if not _is_control(handler)]
Metrics.get = authenticated(Metrics.get)
