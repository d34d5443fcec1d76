"""Whose an object is: Twilio's accounts and subaccounts, LiveKit's projects, and the credentials that open each.

An account: `sid`, `owner_sid` (its own, or its main account's), `friendly_name`, `status` (`active`, `suspended`),
`auth_tokens` (the primary one first; Twilio has a secondary one while a token is rotated), `api_keys` (secrets by sid),
`requests_per_s`. A project: `name`, `sip_host`, `keys` (secrets by API key), `requests_per_s`. Both are stored rows.
"""

import base64
import re
import secrets
from typing import Any

from app.dev.sandbox.exchange import Exchange
from app.dev.sandbox.state import Sandbox, SettingError
from app.dev.sandbox.store import Record
from app.dev.sandbox.twilio_wire import TwilioError, not_found

BASIC = "Basic "

ACCOUNT_SID = re.compile(r"AC[0-9a-f]{32}")
PROJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def _login(exchange: Exchange) -> tuple[str, str]:
    """Return user and password of a request; both empty when there are none."""
    header = exchange.authorization or ""
    try:
        pair = base64.b64decode(header.removeprefix(BASIC), validate=True).decode() if header.startswith(BASIC) else ""
    except ValueError:
        pair = ""
    username, _, password = pair.partition(":")
    return username, password


def named_account(sandbox: Sandbox, exchange: Exchange) -> str:
    """Return the sid of the account whose sid or API key the request names; empty when there is none."""
    return next(iter(sandbox.store.accounts_by_username.ids(_login(exchange)[0])), "")


def account_of(sandbox: Sandbox, exchange: Exchange) -> str:
    """Return the sid of the account that a request is about, or raise the 401 or 404.

    The credential's own account, or the one in the path. A main account's token, and no API key of it, also opens its
    subaccounts, and only in the 2010 API: every other host acts on the account of the credential. A subaccount's opens
    nothing but the subaccount (twilio.com/docs/iam/api/subaccounts, twilio.com/docs/api/errors/20003). A suspended
    account refuses every credential, and so do its subaccounts.
    """
    username, password = _login(exchange)
    own = _opened(sandbox, username, password)
    accounts, wanted = sandbox.store.accounts.rows, exchange.arguments.get("account", own["sid"])
    if wanted == own["sid"]:
        return wanted
    if wanted not in accounts:
        raise not_found(exchange.path)
    if username != own["sid"] or accounts[wanted]["owner_sid"] != own["sid"] or not _is_active(sandbox, wanted):
        raise _unauthenticated()
    return wanted


def _opened(sandbox: Sandbox, username: str, password: str) -> Record:
    for sid in sandbox.store.accounts_by_username.ids(username):
        account = sandbox.store.accounts.rows[sid]
        accepted = account["auth_tokens"] if username == sid else [account["api_keys"][username]]
        if password in accepted and _is_active(sandbox, sid):
            return account
    raise _unauthenticated()


def _is_active(sandbox: Sandbox, sid: str) -> bool:
    accounts = sandbox.store.accounts.rows
    account = accounts[sid]
    return bool(account["status"] == accounts[account["owner_sid"]]["status"] == ACTIVE)


def _unauthenticated() -> TwilioError:
    return TwilioError(401, 20003, "Authenticate")


def project_of(sandbox: Sandbox, exchange: Exchange) -> Record | None:
    """Return the project that a request's URL names; another one's keys are unknown there."""
    return sandbox.store.projects.rows.get(exchange.owner)


ACTIVE, SUSPENDED = "active", "suspended"

ACCOUNT_FIELDS = {
    "accountSid": "sid",
    "ownerAccountSid": "owner_sid",
    "friendlyName": "friendly_name",
    "status": "status",
    "authTokens": "auth_tokens",
    "apiKeys": "api_keys",
    "requestsPerS": "requests_per_s",
}
"""Names in the control API, and in the stored row."""

PROJECT_FIELDS = {"name": "name", "sipHost": "sip_host", "keys": "keys", "requestsPerS": "requests_per_s"}

SET_ONCE = {"accountSid", "ownerAccountSid", "name"}


def create_account(sandbox: Sandbox, content: dict[str, Any]) -> dict[str, Any]:
    """Make an account, or a subaccount of `ownerAccountSid`, with a token of its own; return it as the API shows it."""
    sid = content.get("accountSid") or "AC" + secrets.token_hex(16)
    row: Record = {
        "sid": sid,
        "owner_sid": sid,
        "friendly_name": "Sandbox",
        "status": ACTIVE,
        "auth_tokens": [secrets.token_hex(16)],
        "api_keys": {},
        "requests_per_s": None,
    } | _fields(content, ACCOUNT_FIELDS)
    accounts = sandbox.store.accounts.rows
    if not ACCOUNT_SID.fullmatch(sid) or sid in accounts:
        raise SettingError("accountSid must be new: AC and 32 hex digits")
    owner = accounts.get(row["owner_sid"])
    if row["owner_sid"] != sid and (owner is None or owner["sid"] != owner["owner_sid"]):
        raise SettingError("ownerAccountSid must be that of a main account")
    return _put_account(sandbox, row)


def change_account(sandbox: Sandbox, sid: str, content: dict[str, Any]) -> dict[str, Any]:
    """Change an account: other tokens or keys open it from now on, and nothing while it is suspended."""
    if sid not in sandbox.store.accounts.rows:
        raise SettingError(f"no account {sid}")
    if given := SET_ONCE & content.keys():
        raise SettingError(f"{', '.join(given)} cannot be changed")
    return _put_account(sandbox, sandbox.store.accounts.rows[sid] | _fields(content, ACCOUNT_FIELDS))


def _put_account(sandbox: Sandbox, row: Record) -> dict[str, Any]:
    if row["status"] not in (ACTIVE, SUSPENDED):
        raise SettingError(f"status must be {ACTIVE} or {SUSPENDED}")
    if not all(isinstance(each, str) for each in [*row["auth_tokens"], *row["api_keys"].values()]):
        raise SettingError("tokens and secrets must be texts")
    others = sandbox.store.accounts_by_username
    if any(set(others.ids(key)) - {row["sid"]} for key in row["api_keys"]):
        raise SettingError("another account has this API key")
    sandbox.put_account(row)
    return _shown(row, ACCOUNT_FIELDS)


def create_project(sandbox: Sandbox, content: dict[str, Any]) -> dict[str, Any]:
    """Make a project with a key of its own; return it as the API shows it."""
    name = str(content.get("name", ""))
    if not PROJECT_NAME.fullmatch(name) or name in sandbox.store.projects.rows:
        raise SettingError("name must be new: small letters, digits and dashes")
    key = {"API" + secrets.token_hex(6): secrets.token_hex(24)}
    row = {"name": name, "sip_host": f"{name}.sip.livekit.cloud", "keys": key, "requests_per_s": None}
    return _put_project(sandbox, row | _fields(content, PROJECT_FIELDS))


def change_project(sandbox: Sandbox, name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Change a project: other keys open it from now on."""
    if name not in sandbox.store.projects.rows:
        raise SettingError(f"no project {name}")
    if "name" in content:
        raise SettingError("name cannot be changed")
    return _put_project(sandbox, sandbox.store.projects.rows[name] | _fields(content, PROJECT_FIELDS))


def _put_project(sandbox: Sandbox, row: Record) -> dict[str, Any]:
    if not all(isinstance(each, str) for each in row["keys"].values()):
        raise SettingError("secrets must be texts")
    sandbox.put_project(row)
    return _shown(row, PROJECT_FIELDS)


def shown_accounts(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return every account, credentials included."""
    return [_shown(row, ACCOUNT_FIELDS) for row in sandbox.store.accounts.rows.values()]


def shown_projects(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return every project, credentials included."""
    return [_shown(row, PROJECT_FIELDS) for row in sandbox.store.projects.rows.values()]


KINDS: dict[str, tuple[type, ...]] = {
    "authTokens": (list,),
    "apiKeys": (dict,),
    "keys": (dict,),
    "requestsPerS": (int, float, type(None)),
}
"""What a field of the control API may be; text where it is not named."""


def _fields(content: dict[str, Any], known: dict[str, str]) -> Record:
    """Return the columns that a description sets."""
    if unknown := content.keys() - known.keys():
        raise SettingError(f"there is no {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    for name, value in content.items():
        if not isinstance(value, KINDS.get(name, (str,))) or isinstance(value, bool):
            raise SettingError(f"{value!r} does not fit {name}")
    return {known[name]: value for name, value in content.items()}


def _shown(row: Record, known: dict[str, str]) -> dict[str, Any]:
    return {name: row[column] for name, column in known.items()}
