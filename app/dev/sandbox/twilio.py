"""Twilio's side of the sandbox: authentication, and the operation of each host and path."""

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

from app.dev.sandbox import owners, twilio_numbers, twilio_trunks
from app.dev.sandbox.exchange import TWILIO, Exchange, Response, json_response
from app.dev.sandbox.state import Sandbox
from app.dev.sandbox.twilio_auth_lists import AUTH_LISTS, Handler
from app.dev.sandbox.twilio_wire import TwilioError, account_record, not_found

API_HOST = "api.twilio.com"
TRUNKING_HOST = "trunking.twilio.com"
API_PREFIX = "/2010-04-01"
TRUNKING_PREFIX = "/v1/Trunks"

UNKNOWN = f"{TWILIO}.unknown"
"""Operation of a request that matches no route."""

ACCOUNT = "/2010-04-01/Accounts/<account>"
NUMBERS = f"{ACCOUNT}/IncomingPhoneNumbers"
NUMBERS_OF_A_KIND = f"{NUMBERS}/<any(Local, Mobile, TollFree):kind>"
TRUNK = "/v1/Trunks/<trunk>"


def fetch_account(sandbox: Sandbox, _exchange: Exchange) -> Response:
    """Fetch the account."""
    return json_response(200, account_record(sandbox.store.accounts.rows[sandbox.account_sid]))


HANDLERS_BY_ROUTE: tuple[tuple[str, str, Handler], ...] = (
    ("GET", f"{ACCOUNT}.json", fetch_account),
    ("GET", f"{NUMBERS_OF_A_KIND}.json", twilio_numbers.list_numbers),
    ("POST", f"{NUMBERS_OF_A_KIND}.json", twilio_numbers.buy_number),
    ("GET", f"{NUMBERS}.json", twilio_numbers.list_numbers),
    ("POST", f"{NUMBERS}.json", twilio_numbers.buy_number),
    ("GET", f"{NUMBERS}/<number>.json", twilio_numbers.fetch_number),
    ("POST", f"{NUMBERS}/<number>.json", twilio_numbers.update_number),
    ("DELETE", f"{NUMBERS}/<number>.json", twilio_numbers.release_number),
    ("GET", "/v1/Trunks", twilio_trunks.list_trunks),
    ("POST", "/v1/Trunks", twilio_trunks.create_trunk),
    ("GET", TRUNK, twilio_trunks.fetch_trunk),
    ("POST", TRUNK, twilio_trunks.update_trunk),
    ("DELETE", TRUNK, twilio_trunks.delete_trunk),
    ("GET", f"{TRUNK}/Recording", twilio_trunks.fetch_recording),
    ("POST", f"{TRUNK}/Recording", twilio_trunks.update_recording),
    ("GET", f"{TRUNK}/OriginationUrls", twilio_trunks.list_origination_urls),
    ("POST", f"{TRUNK}/OriginationUrls", twilio_trunks.create_origination_url),
    ("GET", f"{TRUNK}/OriginationUrls/<url>", twilio_trunks.fetch_origination_url),
    ("POST", f"{TRUNK}/OriginationUrls/<url>", twilio_trunks.update_origination_url),
    ("DELETE", f"{TRUNK}/OriginationUrls/<url>", twilio_trunks.delete_origination_url),
    ("GET", f"{TRUNK}/PhoneNumbers", twilio_trunks.list_trunk_numbers),
    ("POST", f"{TRUNK}/PhoneNumbers", twilio_trunks.attach_number),
    ("GET", f"{TRUNK}/PhoneNumbers/<number>", twilio_trunks.fetch_trunk_number),
    ("DELETE", f"{TRUNK}/PhoneNumbers/<number>", twilio_trunks.detach_number),
)

ROUTES = (
    *((method, path, handler.__name__, handler) for method, path, handler in HANDLERS_BY_ROUTE),
    *(route for kind in AUTH_LISTS for route in kind.routes()),
)
"""Method, path, operation and handler."""

HANDLERS = {f"{TWILIO}.{name}": handler for _, _, name, handler in ROUTES}


def _map(prefix: str) -> MapAdapter:
    rules = [
        Rule(path, methods=[method], endpoint=f"{TWILIO}.{name}")
        for method, path, name, _ in ROUTES
        if path.startswith(prefix)
    ]
    return Map(rules, merge_slashes=False).bind("sandbox")


ADAPTERS = {API_PREFIX: _map(API_PREFIX), TRUNKING_PREFIX: _map(TRUNKING_PREFIX)}


def match_route(exchange: Exchange) -> bool:
    """Set provider, operation and arguments if the request is for Twilio; say whether it is."""
    host = exchange.host.partition(":")[0]
    if host == API_HOST or (host != TRUNKING_HOST and exchange.path.startswith(API_PREFIX)):
        adapter = ADAPTERS[API_PREFIX]
    elif host == TRUNKING_HOST or exchange.path.startswith(TRUNKING_PREFIX):
        adapter = ADAPTERS[TRUNKING_PREFIX]
    else:
        return False
    exchange.provider, exchange.operation = TWILIO, UNKNOWN
    try:
        operation, arguments = adapter.match(exchange.path, exchange.method)
    except HTTPException:
        return True
    exchange.operation, exchange.arguments = str(operation), arguments
    return True


class Twilio:
    """Twilio's behaviour over the sandbox's objects."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def owner(self, exchange: Exchange) -> str:
        """Return the sid of the account that the request's credential names; empty when there is none."""
        return owners.named_account(self._sandbox, exchange)

    def response(self, exchange: Exchange) -> Response:
        """Apply a request and return the response; runs inside a transaction."""
        try:
            return self._handle(exchange)
        except TwilioError as error:
            return error.response()

    def _handle(self, exchange: Exchange) -> Response:
        account_sid = owners.account_of(self._sandbox, exchange)
        handler = HANDLERS.get(exchange.operation)
        if handler is None or self._is_hidden(exchange):
            raise not_found(exchange.path)
        return handler(self._sandbox.of_account(account_sid), exchange)

    def _is_hidden(self, exchange: Exchange) -> bool:
        """Say whether a fault hides the object that the path names; a list leaves hidden objects out of its page."""
        if exchange.hidden is None or exchange.verb == "list":
            return False
        named = exchange.parent or exchange.path.rpartition("/")[2].removesuffix(".json")
        return exchange.hides(named)
