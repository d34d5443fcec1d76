"""The control API under /sandbox/: adds numbers, sets faults and switches, reads objects. JSON, loopback only."""

import json
import math
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, Rule

from app.dev.sandbox import magic_numbers, owners
from app.dev.sandbox.call import DEFAULT_SOURCE, is_twilio_address, trace_call
from app.dev.sandbox.exchange import Exchange, Response, json_response
from app.dev.sandbox.faults import Fault, FaultError
from app.dev.sandbox.livekit_wire import plain
from app.dev.sandbox.sip_calls import SipCalls
from app.dev.sandbox.state import Latency, Sandbox, SettingError, settings_json, updated_settings
from app.dev.sandbox.twilio_wire import Record, number_record, number_type

DEMO_NUMBERS: tuple[dict[str, Any], ...] = (
    {"phoneNumber": "+15145551234", "voiceUrl": "https://demo.twilio.com/welcome/voice/"},
    {"phoneNumber": "+15145551235"},
    {"phoneNumber": "+14385550142"},
    {"phoneNumber": "+14165550187"},
    {"phoneNumber": "+442079460123"},
    {"phoneNumber": "+15145550199", "voice": False},
    {"phoneNumber": "+16045550110", "voiceApplicationSid": "AP" + "0" * 31 + "1"},
)
"""The first has a voice URL, four are free, one cannot take voice calls, one belongs to a voice application."""


SEED_FIELDS = frozenset(
    (
        "phoneNumber",
        "accountSid",
        "voice",
        "fax",
        "voiceReceiveMode",
        "voiceUrl",
        "voiceApplicationSid",
        "trunkSid",
        "emergencyStatus",
        "status",
        "type",
    )
)
"""Fields that the description of a number may have."""


def seed_number(sandbox: Sandbox, spec: dict[str, Any]) -> tuple[Record, bool]:
    """Add a number to an account as the control API describes it; return it, and whether it is new."""
    phone_number, account_sid = str(spec["phoneNumber"]), str(spec.get("accountSid", sandbox.account_sid))
    if account_sid not in sandbox.store.accounts.rows:
        raise ControlError(f"no account {account_sid}")
    store = sandbox.of_account(account_sid).store
    for sid in store.number_by_phone.ids(phone_number):
        return store.numbers.rows[sid], False
    if any(part.number_by_phone.ids(phone_number) for part in store.parts):
        raise ControlError(f"another account has {phone_number}")
    is_voice, is_fax = bool(spec.get("voice", True)), bool(spec.get("fax", False))
    record = number_record(
        account_sid,
        phone_number,
        capabilities={"voice": is_voice, "sms": True, "mms": True, "fax": is_fax},
        voice_receive_mode=spec.get("voiceReceiveMode", "voice"),
        voice_url=spec.get("voiceUrl"),
        voice_application_sid=spec.get("voiceApplicationSid") or "",
        trunk_sid=spec.get("trunkSid"),
        emergency_status=spec.get("emergencyStatus", "Inactive"),
        status=spec.get("status", "in-use"),
        type=spec.get("type") or number_type(phone_number),
    )
    store.put("numbers", record["sid"], record)
    return record, True


def seed_demo(sandbox: Sandbox) -> None:
    """Add the demonstration's numbers to an account without numbers."""
    with sandbox.store.transaction():
        if not sandbox.store.numbers.rows:
            for spec in DEMO_NUMBERS:
                seed_number(sandbox, spec)


class ControlError(ValueError):
    """The control request is invalid; the text says why."""


class Control:
    """Handlers of the control API."""

    def __init__(self, sandbox: Sandbox, sip_calls: SipCalls) -> None:
        self._sandbox = sandbox
        self._sip_calls = sip_calls
        routes: tuple[tuple[str, str, Callable[..., Response]], ...] = (
            ("GET", "/sandbox/health", self._health),
            ("POST", "/sandbox/reset", self._reset),
            ("POST", "/sandbox/numbers", self._add_numbers),
            ("GET", "/sandbox/state", self._state),
            ("GET", "/sandbox/accounts", self._list_accounts),
            ("POST", "/sandbox/accounts", self._add_account),
            ("PATCH", "/sandbox/accounts/<sid>", self._change_account),
            ("GET", "/sandbox/projects", self._list_projects),
            ("POST", "/sandbox/projects", self._add_project),
            ("PATCH", "/sandbox/projects/<name>", self._change_project),
            ("GET", "/sandbox/faults", self._list_faults),
            ("POST", "/sandbox/faults", self._add_fault),
            ("DELETE", "/sandbox/faults", self._clear_faults),
            ("DELETE", "/sandbox/faults/<fault_id>", self._delete_fault),
            ("POST", "/sandbox/faults/<fault_id>/release", self._release_fault),
            ("GET", "/sandbox/magic-numbers", self._list_magic_numbers),
            ("GET", "/sandbox/latency", self._show_latency),
            ("PUT", "/sandbox/latency", self._set_latency),
            ("GET", "/sandbox/switches", self._show_switches),
            ("PUT", "/sandbox/switches", self._set_switches),
            ("GET", "/sandbox/requests", self._list_requests),
            ("DELETE", "/sandbox/requests", self._clear_requests),
            ("GET", "/sandbox/requests/counts", self._count_requests),
            ("GET", "/sandbox/call", self._call),
            ("GET", "/sandbox/sip", self._show_sip),
            ("PUT", "/sandbox/sip", self._set_sip),
        )
        self._handlers = {f"{method} {path}": handler for method, path, handler in routes}
        rules = [Rule(path, methods=[method], endpoint=f"{method} {path}") for method, path, _ in routes]
        self._adapter = Map(rules).bind("sandbox")

    def response(self, exchange: Exchange, remote_address: str) -> Response:
        """Run a control request of a client on this machine."""
        if not remote_address or not ip_address(remote_address).is_loopback:
            return json_response(403, {"error": "the control API serves loopback clients only"})
        try:
            endpoint, arguments = self._adapter.match(exchange.path, exchange.method)
            return self._handlers[str(endpoint)](exchange, **arguments)
        except MethodNotAllowed:
            return json_response(405, {"error": f"{exchange.method} is not served here"})
        except HTTPException:
            return json_response(404, {"error": f"no such control call: {exchange.path}"})
        except (ControlError, FaultError, SettingError) as error:
            return json_response(400, {"error": str(error)})

    def _health(self, _exchange: Exchange) -> Response:
        return json_response(200, {"status": "ok"})

    def _reset(self, _exchange: Exchange) -> Response:
        self._sandbox.reset()
        self._sip_calls.apply()
        return json_response(200, {"status": "ok"})

    def _add_numbers(self, exchange: Exchange) -> Response:
        content = _content(exchange)
        specs = content.get("numbers", [content])
        if not isinstance(specs, list) or not all(isinstance(spec, dict) for spec in specs):
            raise ControlError("numbers must be a list of objects")
        if not all(isinstance(spec.get("phoneNumber"), str) for spec in specs):
            raise ControlError("phoneNumber is missing")
        if unknown := {name for spec in specs for name in spec} - SEED_FIELDS:
            raise ControlError(f"a number has no {', '.join(sorted(unknown))}")
        with self._sandbox.store.transaction():
            seeded = [seed_number(self._sandbox, spec) for spec in specs]
        records = [record for record, _ in seeded]
        status = 201 if any(is_new for _, is_new in seeded) else 200
        return json_response(status, {"numbers": records} if "numbers" in content else records[0])

    def _state(self, exchange: Exchange) -> Response:
        """Return the objects of all accounts and projects, or of the `account` and `project` that are named."""
        named, store = exchange.parameters(), self._sandbox.store
        if unknown := {*named.values()} - store.accounts.rows.keys() - store.projects.rows.keys():
            raise ControlError(f"no account or project {', '.join(unknown)}")
        with store.lock:
            twilio = [self._sandbox.of_account(named["account"]).store] if "account" in named else store.parts
            livekit = [self._sandbox.of_project(named["project"]).store] if "project" in named else store.parts
            numbers = [row for part in twilio for row in part.numbers.rows.values()]
            trunks = [row for part in twilio for row in part.trunks.rows.values()]
            urls = [row for part in twilio for row in part.origination_urls.rows.values()]
            livekit_trunks = [row for part in livekit for row in part.livekit_trunks.rows.values()]
            livekit_outbound_trunks = [row for part in livekit for row in part.livekit_outbound_trunks.rows.values()]
            livekit_rules = [row for part in livekit for row in part.livekit_rules.rows.values()]
        return json_response(
            200,
            {
                "numbers": numbers,
                "trunks": trunks,
                "originationUrls": urls,
                "livekitTrunks": [plain(trunk) for trunk in livekit_trunks],
                "livekitOutboundTrunks": [plain(trunk) for trunk in livekit_outbound_trunks],
                "livekitRules": [plain(rule) for rule in livekit_rules],
            },
        )

    def _list_accounts(self, _exchange: Exchange) -> Response:
        return json_response(200, {"accounts": owners.shown_accounts(self._sandbox)})

    def _add_account(self, exchange: Exchange) -> Response:
        with self._sandbox.store.transaction():
            return json_response(201, owners.create_account(self._sandbox, _content(exchange)))

    def _change_account(self, exchange: Exchange, sid: str) -> Response:
        with self._sandbox.store.transaction():
            return json_response(200, owners.change_account(self._sandbox, sid, _content(exchange)))

    def _list_projects(self, _exchange: Exchange) -> Response:
        return json_response(200, {"projects": owners.shown_projects(self._sandbox)})

    def _add_project(self, exchange: Exchange) -> Response:
        with self._sandbox.store.transaction():
            return json_response(201, owners.create_project(self._sandbox, _content(exchange)))

    def _change_project(self, exchange: Exchange, name: str) -> Response:
        with self._sandbox.store.transaction():
            return json_response(200, owners.change_project(self._sandbox, name, _content(exchange)))

    def _list_faults(self, _exchange: Exchange) -> Response:
        return json_response(200, {"faults": self._sandbox.faults.as_json()})

    def _add_fault(self, exchange: Exchange) -> Response:
        return json_response(201, self._sandbox.faults.add(_content(exchange)).as_json())

    def _clear_faults(self, exchange: Exchange) -> Response:
        self._sandbox.faults.clear(exchange.parameters().get("number"))
        return self._list_faults(exchange)

    def _list_magic_numbers(self, _exchange: Exchange) -> Response:
        return json_response(200, {"magicNumbers": magic_numbers.shown()})

    def _delete_fault(self, _exchange: Exchange, fault_id: str) -> Response:
        return _fault_response(self._sandbox.faults.delete(fault_id), fault_id)

    def _release_fault(self, _exchange: Exchange, fault_id: str) -> Response:
        return _fault_response(self._sandbox.faults.release(fault_id), fault_id)

    def _show_latency(self, _exchange: Exchange) -> Response:
        return json_response(200, settings_json(self._sandbox.latency))

    def _set_latency(self, exchange: Exchange) -> Response:
        latency: Latency = updated_settings(self._sandbox.latency, _content(exchange))
        if latency.jitter > 1:
            raise ControlError("jitter is a share from 0 to 1")
        self._sandbox.latency = latency
        return json_response(200, settings_json(latency))

    def _show_switches(self, _exchange: Exchange) -> Response:
        return json_response(200, settings_json(self._sandbox.switches))

    def _set_switches(self, exchange: Exchange) -> Response:
        self._sandbox.set_switches(updated_settings(self._sandbox.switches, _content(exchange)))
        return json_response(200, settings_json(self._sandbox.switches))

    def _list_requests(self, exchange: Exchange) -> Response:
        since = exchange.parameters().get("since", "0")
        if not since.isdigit():
            raise ControlError("since must be a sequence number")
        return json_response(200, self._sandbox.requests.since(int(since)))

    def _count_requests(self, _exchange: Exchange) -> Response:
        return json_response(200, self._sandbox.requests.counts())

    def _clear_requests(self, _exchange: Exchange) -> Response:
        self._sandbox.requests.clear()
        return json_response(200, {"status": "ok"})

    def _call(self, exchange: Exchange) -> Response:
        """Follow a call `to` a number; `number` and `caller` are former names of `to` and `from`.

        With `pin` the caller dials it when asked for one.
        """
        parameters = exchange.parameters()
        called = parameters.get("to") or parameters.get("number")
        caller = parameters.get("from") or parameters.get("caller")
        source, roll = parameters.get("source", DEFAULT_SOURCE), _roll(parameters.get("roll", "0"))
        if not called:
            raise ControlError("to is missing: the number that is called")
        if not is_twilio_address(source):
            raise ControlError("source must be an address of one of Twilio's signalling ranges")
        with self._sandbox.store.lock:
            pin = parameters.get("pin")
            return json_response(200, trace_call(self._sandbox, called, caller, source=source, roll=roll, pin=pin))

    def _show_sip(self, _exchange: Exchange) -> Response:
        """Show where SIP is answered, how, and the calls since the last reset."""
        address = self._sandbox.sip_address
        shown = {"address": address, "uri": f"sip:{address};transport=tcp", "calls": self._sip_calls.shown()}
        return json_response(200, settings_json(self._sandbox.sip) | shown)

    def _set_sip(self, exchange: Exchange) -> Response:
        self._sandbox.sip = updated_settings(self._sandbox.sip, _content(exchange))
        self._sip_calls.apply()
        return json_response(200, settings_json(self._sandbox.sip))


def _roll(text: str) -> float:
    try:
        roll = float(text)
    except ValueError:
        roll = math.nan
    if not 0 <= roll < 1:
        raise ControlError("roll must be a number from 0 up to, but not including, 1")
    return roll


def _content(exchange: Exchange) -> dict[str, Any]:
    try:
        content = json.loads(exchange.body or b"{}")
    except ValueError as error:
        raise ControlError(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ControlError("the body must be a JSON object")
    return content


def _fault_response(fault: Fault | None, fault_id: str) -> Response:
    return json_response(200, fault.as_json()) if fault else json_response(404, {"error": f"no fault {fault_id}"})
