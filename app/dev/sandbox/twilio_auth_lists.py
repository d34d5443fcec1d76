"""Twilio's credential lists and IP access control lists: those of the account, and the trunks that use them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.dev.sandbox.exchange import Exchange, Response, json_response
from app.dev.sandbox.state import Sandbox
from app.dev.sandbox.twilio_trunks import find_trunk
from app.dev.sandbox.twilio_wire import (
    TRUNKING,
    Record,
    bad_parameter,
    friendly_name,
    new_sid,
    not_found,
    now_2010,
    now_v1,
    page_2010,
    page_request,
    page_v1,
)

Handler = Callable[[Sandbox, Exchange], Response]

ALREADY_THERE = 21245
"""Twilio's code for a list that the trunk already uses."""


@dataclass(frozen=True)
class AuthLists:
    """One of the two kinds of lists, with the handlers of its routes. The members of a list are not kept."""

    noun: str
    """Singular, as in operations; with an `s` it is the key of a list's page."""
    path: str
    """Last part of both routes."""
    prefix: str
    parameter: str
    members: tuple[str, str]
    """Name and path of the sub-resource that is not served."""
    auth_type: str
    """The `auth_type` of a trunk that uses such a list."""
    invalid: int
    in_use: int
    """Twilio's codes for a name that is taken, and for a list that a trunk uses."""

    @property
    def key(self) -> str:
        """The key of a list's page."""
        return f"{self.noun}s"

    def routes(self) -> tuple[tuple[str, str, str, Handler], ...]:
        """Return method, path, operation and handler of each route."""
        account, trunk = f"/2010-04-01/Accounts/<account>/SIP/{self.path}", f"/v1/Trunks/<trunk>/{self.path}"
        noun, key = self.noun, self.key
        return (
            ("GET", f"{account}.json", f"list_{key}", self.list_all),
            ("POST", f"{account}.json", f"create_{noun}", self.create),
            ("GET", f"{account}/<list>.json", f"fetch_{noun}", self.fetch),
            ("POST", f"{account}/<list>.json", f"update_{noun}", self.update),
            ("DELETE", f"{account}/<list>.json", f"delete_{noun}", self.delete),
            ("GET", trunk, f"list_trunk_{key}", self.list_on_trunk),
            ("POST", trunk, f"attach_{noun}", self.attach),
            ("GET", f"{trunk}/<list>", f"fetch_trunk_{noun}", self.fetch_on_trunk),
            ("DELETE", f"{trunk}/<list>", f"detach_{noun}", self.detach),
        )

    def list_all(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """List the account's lists of this kind."""
        table = sandbox.store.auth_lists
        return page_2010(exchange, page_request(exchange), self.key, table.ordered(self._sids(sandbox)))

    def create(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Create a list; its name must be new among those of its kind."""
        name, sid, now = self._name(sandbox, exchange, None), new_sid(self.prefix), now_2010()
        account_sid = sandbox.account_sid
        uri = f"/2010-04-01/Accounts/{account_sid}/SIP/{self.path}/{sid}"
        member, path = self.members
        record = {
            "sid": sid,
            "account_sid": account_sid,
            "friendly_name": name,
            "date_created": now,
            "date_updated": now,
            "subresource_uris": {member: f"{uri}/{path}.json"},
            "uri": f"{uri}.json",
        }
        sandbox.store.put("auth_lists", sid, record)
        return json_response(201, record)

    def fetch(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Fetch one list."""
        return json_response(200, self._find(sandbox, exchange))

    def update(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Rename one list."""
        record = self._find(sandbox, exchange)
        name = self._name(sandbox, exchange, record)
        updated = record | {"friendly_name": name, "date_updated": now_2010()}
        sandbox.store.put("auth_lists", record["sid"], updated)
        return json_response(200, updated)

    def delete(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Delete a list that no trunk uses."""
        record = self._find(sandbox, exchange)
        if any(use["sid"] == record["sid"] for use in sandbox.store.trunk_auth_lists.rows.values()):
            raise bad_parameter(f"{record['sid']} is in use by a trunk", self.in_use)
        sandbox.store.delete("auth_lists", record["sid"])
        return Response(204)

    def list_on_trunk(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """List the lists that a trunk uses."""
        trunk, table = find_trunk(sandbox, exchange), sandbox.store.trunk_auth_lists
        rows = table.ordered(self._uses(sandbox, trunk))
        return page_v1(exchange, page_request(exchange), self.key, rows, lambda use: self._shown(sandbox, use))

    def attach(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Attach a list to a trunk."""
        trunk, sid = find_trunk(sandbox, exchange), exchange.form().get(self.parameter)
        if not sid:
            raise bad_parameter(f"Missing required parameter {self.parameter} in the post body")
        if sid not in self._sids(sandbox):
            raise not_found(sid)
        use_id, now = f"{trunk['sid']}/{sid}", now_v1()
        if use_id in sandbox.store.trunk_auth_lists.rows:
            raise bad_parameter(f"{sid} is already associated with trunk {trunk['sid']}", ALREADY_THERE)
        use = {
            "sid": sid,
            "account_sid": trunk["account_sid"],
            "trunk_sid": trunk["sid"],
            "date_created": now,
            "date_updated": now,
            "url": f"{TRUNKING}/v1/Trunks/{trunk['sid']}/{self.path}/{sid}",
        }
        sandbox.store.put("trunk_auth_lists", use_id, use)
        _set_auth_type(sandbox, trunk)
        return json_response(201, self._shown(sandbox, use))

    def fetch_on_trunk(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Fetch one list that a trunk uses."""
        return json_response(200, self._shown(sandbox, self._use(sandbox, exchange)))

    def detach(self, sandbox: Sandbox, exchange: Exchange) -> Response:
        """Detach a list from a trunk; the account keeps it."""
        use = self._use(sandbox, exchange)
        sandbox.store.delete("trunk_auth_lists", f"{use['trunk_sid']}/{use['sid']}")
        _set_auth_type(sandbox, find_trunk(sandbox, exchange))
        return Response(204)

    def _sids(self, sandbox: Sandbox) -> list[str]:
        return [sid for sid in sandbox.store.auth_lists.rows if sid.startswith(self.prefix)]

    def _uses(self, sandbox: Sandbox, trunk: Record) -> list[str]:
        uses = sandbox.store.trunk_auth_lists_by_trunk.ids(trunk["sid"])
        return [use_id for use_id in uses if use_id.rpartition("/")[2].startswith(self.prefix)]

    def _find(self, sandbox: Sandbox, exchange: Exchange) -> Record:
        sid = exchange.arguments["list"]
        if sid not in self._sids(sandbox):
            raise not_found(exchange.path)
        return sandbox.store.auth_lists.rows[sid]

    def _use(self, sandbox: Sandbox, exchange: Exchange) -> Record:
        trunk = find_trunk(sandbox, exchange)
        use_id = f"{trunk['sid']}/{exchange.arguments['list']}"
        if use_id not in self._uses(sandbox, trunk):
            raise not_found(exchange.path)
        return sandbox.store.trunk_auth_lists.rows[use_id]

    def _name(self, sandbox: Sandbox, exchange: Exchange, record: Record | None) -> str:
        name = exchange.form().get("FriendlyName")
        if not name:
            raise bad_parameter("Missing required parameter FriendlyName in the post body")
        rows = sandbox.store.auth_lists.rows
        if any(rows[sid]["friendly_name"] == name for sid in self._sids(sandbox) if rows[sid] is not record):
            raise bad_parameter(f"FriendlyName {name} is in use", self.invalid)
        return friendly_name("FriendlyName", name)

    def _shown(self, sandbox: Sandbox, use: Record) -> Record:
        return use | {"friendly_name": sandbox.store.auth_lists.rows[use["sid"]]["friendly_name"]}


def _set_auth_type(sandbox: Sandbox, trunk: Record) -> None:
    """Set a trunk's `auth_type` to the kinds of lists that it uses."""
    kinds = [kind.auth_type for kind in AUTH_LISTS if kind._uses(sandbox, trunk)]  # noqa: SLF001 - its own module
    changes: dict[str, Any] = {"auth_type": ",".join(kinds), "auth_type_set": kinds, "date_updated": now_v1()}
    sandbox.store.put("trunks", trunk["sid"], trunk | changes)


AUTH_LISTS = (
    AuthLists(
        noun="ip_access_control_list",
        path="IpAccessControlLists",
        prefix="AL",
        parameter="IpAccessControlListSid",
        members=("ip_addresses", "IpAddresses"),
        auth_type="IP_ACL",
        invalid=21235,
        in_use=21236,
    ),
    AuthLists(
        noun="credential_list",
        path="CredentialLists",
        prefix="CL",
        parameter="CredentialListSid",
        members=("credentials", "Credentials"),
        auth_type="CREDENTIAL_LIST",
        invalid=21240,
        in_use=21241,
    ),
)
