"""Puts the console into the application: cookie, form protection, pages, errors."""

from apiflask import APIBlueprint, APIFlask
from flask_wtf import CSRFProtect
from jinja2 import StrictUndefined
from limits import parse

from app.access import ConsoleSessions
from app.api.context import DOOR, WIRING
from app.api.rates import RateLimit
from app.console.agent_pages import register_agents
from app.console.audit_pages import register_audits
from app.console.bulk_pages import register_bulks
from app.console.context import DESK, Desk
from app.console.cookies import configure_cookies
from app.console.errors import register_errors
from app.console.guard import register_guard
from app.console.number_pages import register_numbers
from app.console.operation_pages import register_operations
from app.console.pages import register_words
from app.console.reads import ConsoleReader
from app.console.sign_in import register_sign_in
from app.console.webhook_pages import register_webhooks

SIGN_INS = "20/minute"
"""Wrong keys from one address, and with one beginning: a person mistypes a few times."""


ROOMS = (
    register_sign_in,
    register_numbers,
    register_agents,
    register_operations,
    register_bulks,
    register_audits,
    register_webhooks,
)
"""What each module of views adds."""


def register_console(app: APIFlask) -> None:
    """Add the console to an application that has its wiring and its door."""
    settings = app.extensions[WIRING].settings
    configure_cookies(app, settings)
    # The API's bearer keys are sent by no browser on its own: only our forms need the token, and the guard asks for it.
    # It lives as long as the cookie. Behind a proxy the Referer that flask-wtf would compare names another host.
    app.config |= {"WTF_CSRF_CHECK_DEFAULT": False, "WTF_CSRF_TIME_LIMIT": None, "WTF_CSRF_SSL_STRICT": False}
    app.extensions[DESK] = Desk(
        reader=ConsoleReader(app.extensions[WIRING].sessions, app.extensions[DOOR].reader),
        csrf=CSRFProtect(app),
        sessions=ConsoleSessions(app.extensions[WIRING].sessions),
        sign_in_limit=RateLimit(parse(SIGN_INS), settings.redis_url),
    )
    # A misspelt name in a template is a defect that must show, not an empty place.
    app.jinja_env.undefined = StrictUndefined
    blueprint = APIBlueprint(
        "console",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/console/static",
        enable_openapi=False,
    )
    register_guard(blueprint)
    for register in ROOMS:
        register(blueprint)
    register_words(blueprint)
    register_errors(app, blueprint)
    app.register_blueprint(blueprint)
