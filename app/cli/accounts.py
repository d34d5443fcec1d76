"""`accounts` and `projects`: carrier accounts and voice projects; a secret is typed or piped, never an option."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click
from rich.text import Text

from app.cli.client import client
from app.cli.context import EXIT_ATTENTION, Row, exactly_one, json_option, not_found, user_command
from app.cli.output import (
    BAD,
    GOOD,
    WARNING,
    confirm,
    format_time,
    print_blocks,
    print_json,
    print_line,
    print_pairs,
    print_table,
    read_secret,
    short_id,
)
from app.domain.errors import account_not_found
from app.domain.workspaces import AccountKind, CredentialStatus

STATUS_COLOURS = {
    CredentialStatus.VERIFIED.value: GOOD,
    CredentialStatus.PENDING.value: WARNING,
    CredentialStatus.INVALID.value: BAD,
}

PATHS: Mapping[AccountKind, str] = {
    AccountKind.CARRIER: "/api/carrier-accounts",
    AccountKind.VOICE: "/api/voice-projects",
}

_LIMITS = (
    click.option("--rate", help='Requests per second of all processes, "auto" or "off".'),
    click.option("--in-flight", "inFlight", type=int, help="Concurrent requests of all processes."),
)
_CARRIER_LIMITS = (click.option("--trunk-limit", "trunkLimit", type=int, help="Trunks that the account may have."),)
_PROJECT_LIMITS = (
    click.option("--allow", "allowedAddresses", multiple=True, help="CIDR block that may call, or twilio; repeatable."),
    click.option("--room-preset", "roomPresets", multiple=True, help="A room preset of the server; repeatable."),
)
_SHARED = click.option("--shared", is_flag=True, help="For every workspace that has it as its default.")
_CARRIER_OPTIONS = (
    click.option("--account-sid", "accountSid", required=True, help="The account's SID."),
    click.option("--username", help="The SID of an API key.  [default: the account's, for its auth token]"),
    click.option("--base-url", "baseUrl", help="Another server than Twilio's, such as that of a region."),
)
_PROJECT_OPTIONS = (
    click.option("--url", required=True, help="The project's URL."),
    click.option("--api-key", "username", required=True, help="The API key."),
    click.option("--sip-uri", "sipUri", required=True, help="The project's SIP URI."),
)


def find_account(kind: AccountKind, text: str) -> Row:
    """Return the account with this id or name; a name that several have is refused."""
    found = [one for one in client().get(PATHS[kind])["items"] if text in {one["id"], one["name"]}]
    return exactly_one(found, not_found(account_not_found(kind.label, text)), f"called {text!r}")


def _path(kind: AccountKind, account: str) -> str:
    return f"{PATHS[kind]}/{find_account(kind, account)['id']}"


def _body(given: dict[str, Any]) -> dict[str, Any]:
    """Return options as a body of the API; those that were not given are left out."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {name: value for name, value in body.items() if value not in (None, [])}


def _show(account: Row, *, is_json: bool) -> None:
    if is_json:
        print_json(account)
        return
    print_pairs(
        [
            ("id", account["id"]),
            ("name", account["name"]),
            ("workspace", account["workspace"] or "the installation's"),
            ("status", Text(account["status"], STATUS_COLOURS[account["status"]])),
            ("account SID", account.get("accountSid")),
            ("URL", account.get("url") or account.get("baseUrl")),
            ("user name", account["username"]),
            ("checked", format_time(account["checkedAt"])),
            ("old until", format_time(account["oldValidUntil"])),
        ]
    )
    print_blocks(
        (
            Text("✓" if one["ok"] else "✗", GOOD if one["ok"] else BAD),
            (f"{one['name']}: {one['detail']}", one["fix"] or ""),
        )
        for one in account["checks"]
    )


def _end(account: Row) -> None:
    """Exit with 3 unless the account is valid and every check has passed."""
    if account["status"] == CredentialStatus.INVALID or not all(one["ok"] for one in account["checks"]):
        sys.exit(EXIT_ATTENTION)


def _list(kind: AccountKind, *, is_json: bool) -> None:
    found = client().get(PATHS[kind])
    if is_json:
        print_json(found)
        return
    rows = [
        (
            one["name"],
            one["workspace"] or "-",
            Text(one["status"], STATUS_COLOURS[one["status"]]),
            format_time(one["checkedAt"]) or "never",
            short_id(one["id"]),
        )
        for one in found["items"]
    ]
    print_table(("name", "workspace", "status", "checked (UTC)", "id"), rows)


def _show_one(kind: AccountKind, account: str, *, is_json: bool) -> None:
    _show(find_account(kind, account), is_json=is_json)


def _add(kind: AccountKind, *, is_json: bool, **given: Any) -> None:
    made = client().post(PATHS[kind], _body({**given, "secret": read_secret()}))
    _show(made, is_json=is_json)
    _end(made)


def _change(kind: AccountKind, account: str, *, is_json: bool, **given: Any) -> None:
    changed = client().request("PATCH", _path(kind, account), body=_body(given))
    _show(changed.body, is_json=is_json)


def _check(kind: AccountKind, account: str, *, is_json: bool) -> None:
    checked = client().post(f"{_path(kind, account)}/check")
    _show(checked, is_json=is_json)
    _end(checked)


def _rotate(kind: AccountKind, account: str, *, is_json: bool, **given: Any) -> None:
    path = _path(kind, account)
    _show(client().post(f"{path}/rotate", _body({**given, "secret": read_secret()})), is_json=is_json)


def _delete(kind: AccountKind, account: str, *, yes: bool, is_json: bool) -> None:
    found = find_account(kind, account)
    if not yes:
        confirm(f"Delete {found['name']} ({found['id']})?")
    client().request("DELETE", f"{PATHS[kind]}/{found['id']}")
    if is_json:
        print_json({"id": found["id"], "deleted": True})
    else:
        print_line(f"Deleted {found['name']} ({found['id']}).")


Option = Callable[[Any], Any]
"""A decorator that adds an option or argument."""

_ACCOUNT = click.argument("account", metavar="ACCOUNT")
_ROTATION = (
    click.option("--username", help="The new API key, or its SID.  [default: the present one]"),
    click.option("--old-valid-for", "oldValidForS", type=int, help="Seconds for which the old one is kept."),
)


def _group(kind: AccountKind, name: str, what: str, options: Sequence[Option], limits: Sequence[Option]) -> click.Group:
    """Build the commands of one kind."""
    group = click.Group(name, help=f"{what}: list, show, add, change, check, rotate, delete.")
    new_name, its_name = click.argument("name"), click.option("--name", help="What people call it.")
    yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
    commands: Sequence[tuple[str, Callable[..., None], Sequence[Option], str]] = (
        ("list", _list, (), "List them, oldest first; never a secret."),
        ("show", _show_one, (_ACCOUNT,), "Show one, with its last checks."),
        (
            "add",
            _add,
            (new_name, *options, *limits, *_LIMITS, _SHARED),
            "Store one called NAME, and check it. Its secret is asked for, or the first line of standard input.",
        ),
        ("change", _change, (_ACCOUNT, its_name, *limits, *_LIMITS), "Change its name, limits or rates."),
        ("check", _check, (_ACCOUNT,), "Check its credential now. Exit code 3 where a check fails."),
        (
            "rotate",
            _rotate,
            (_ACCOUNT, *_ROTATION),
            "Replace its credential, once the provider accepts the new one. The secret is read as for add.",
        ),
        ("delete", _delete, (_ACCOUNT, yes), "Delete one that nothing uses."),
    )
    for verb, run, parameters, help_text in commands:
        command: Callable[..., Any] = user_command(partial(run, kind))
        for parameter in (json_option, *reversed(parameters)):
            command = parameter(command)
        group.command(verb, help=help_text)(command)
    return group


accounts = _group(AccountKind.CARRIER, "accounts", "Carrier accounts (Twilio)", _CARRIER_OPTIONS, _CARRIER_LIMITS)
projects = _group(AccountKind.VOICE, "projects", "Voice projects (LiveKit)", _PROJECT_OPTIONS, _PROJECT_LIMITS)
