"""`accounts` and `projects`: carrier accounts and voice projects; a secret is typed or piped, never an option."""

import sys
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from marshmallow import ValidationError
from rich.text import Text

from app.cli.context import EXIT_ATTENTION, MAX_IDS_SHOWN, json_option, origin, usage_error, user_command, wiring
from app.cli.output import (
    BAD,
    GOOD,
    WARNING,
    command_error,
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
from app.domain.errors import RefusedError, account_not_found
from app.domain.workspaces import AccountKind, CredentialStatus
from app.views.account_schemas import (
    CarrierAccountChangeIn,
    CarrierAccountIn,
    CarrierAccountList,
    CarrierAccountOut,
    RotateIn,
    VoiceProjectChangeIn,
    VoiceProjectIn,
    VoiceProjectList,
    VoiceProjectOut,
    account_json,
)
from app.views.fields import Schema

if TYPE_CHECKING:
    from app.accounts.service import Account

STATUS_COLOURS = {CredentialStatus.VERIFIED: GOOD, CredentialStatus.PENDING: WARNING, CredentialStatus.INVALID: BAD}


class Schemas(NamedTuple):
    """What the API takes and shows of one kind."""

    create: Schema
    change: Schema
    one: Schema
    all: Schema


SCHEMAS = {
    AccountKind.CARRIER: Schemas(
        CarrierAccountIn(), CarrierAccountChangeIn(), CarrierAccountOut(), CarrierAccountList()
    ),
    AccountKind.VOICE: Schemas(VoiceProjectIn(), VoiceProjectChangeIn(), VoiceProjectOut(), VoiceProjectList()),
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


def find_accounts(kind: AccountKind, text: str) -> "list[Account]":
    """Return the account with this id, or those with this name."""
    try:
        return [wiring().accounts.get(kind, uuid.UUID(text))]
    except ValueError:
        return [one for one in wiring().accounts.all(kind) if one.row.name == text]
    except RefusedError:
        return []


def find_account(kind: AccountKind, text: str) -> "Account":
    """Return the account with this id or name; a name that several have is refused."""
    found = find_accounts(kind, text)
    if not found:
        raise account_not_found(kind.label, text)
    if len(found) > 1:
        ids = ", ".join(str(one.row.id) for one in found[:MAX_IDS_SHOWN])
        raise command_error(f"There are several called {text!r}: give the id ({ids}).")
    return found[0]


def _load(schema: Schema, given: dict[str, Any]) -> dict[str, Any]:
    """Read options as the API reads a body; those that were not given are left out."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    try:
        return dict(schema.load({name: value for name, value in body.items() if value not in (None, [])}))
    except ValidationError as error:
        raise usage_error(error) from error


def _show(kind: AccountKind, account: "Account", *, is_json: bool) -> None:
    if is_json:
        print_json(account, SCHEMAS[kind].one)
        return
    shown = account_json(account)
    status = Text(account.row.status, STATUS_COLOURS[account.row.status])
    print_pairs(
        [
            ("id", str(shown["id"])),
            ("name", shown["name"]),
            ("workspace", shown["workspace"] or "the installation's"),
            ("status", status),
            ("account SID", shown.get("account_sid")),
            ("URL", shown.get("url") or shown.get("base_url")),
            ("user name", shown["username"]),
            ("checked", format_time(shown["checked_at"])),
            ("old until", format_time(shown["old_valid_until"])),
        ]
    )
    _print_checks(shown["checks"])


def _print_checks(checks: list[dict[str, Any]]) -> None:
    print_blocks(
        (
            Text("✓" if one["ok"] else "✗", GOOD if one["ok"] else BAD),
            (f"{one['name']}: {one['detail']}", one["fix"] or ""),
        )
        for one in checks
    )


def _end(account: "Account") -> None:
    """Exit with 3 unless the account is valid and every check has passed."""
    is_valid = account.row.status is not CredentialStatus.INVALID and all(one["ok"] for one in account.row.checks)
    if not is_valid:
        sys.exit(EXIT_ATTENTION)


def _list(kind: AccountKind, *, is_json: bool) -> None:
    found = wiring().accounts.all(kind)
    if is_json:
        print_json({"items": found}, SCHEMAS[kind].all)
        return
    rows = [
        (
            one.row.name,
            one.workspace or "-",
            Text(one.row.status, STATUS_COLOURS[one.row.status]),
            format_time(one.row.checked_at) or "never",
            short_id(one.row.id),
        )
        for one in found
    ]
    print_table(("name", "workspace", "status", "checked (UTC)", "id"), rows)


def _show_one(kind: AccountKind, account: str, *, is_json: bool) -> None:
    _show(kind, find_account(kind, account), is_json=is_json)


def _add(kind: AccountKind, *, is_json: bool, **given: Any) -> None:
    read = _load(SCHEMAS[kind].create, {**given, "secret": read_secret()})
    made = wiring().accounts.create(kind, **read, origin=origin())
    _show(kind, made, is_json=is_json)
    _end(made)


def _change(kind: AccountKind, account: str, *, is_json: bool, **given: Any) -> None:
    found, changes = find_account(kind, account), _load(SCHEMAS[kind].change, given)
    _show(kind, wiring().accounts.change(kind, found.row.id, changes, origin=origin()), is_json=is_json)


def _check(kind: AccountKind, account: str, *, is_json: bool) -> None:
    checked = wiring().accounts.check(kind, find_account(kind, account).row.id)
    _show(kind, checked, is_json=is_json)
    _end(checked)


def _rotate(kind: AccountKind, account: str, *, is_json: bool, **given: Any) -> None:
    found, read = find_account(kind, account), _load(RotateIn(), {**given, "secret": read_secret()})
    _show(kind, wiring().accounts.rotate(kind, found.row.id, **read, origin=origin()), is_json=is_json)


def _delete(kind: AccountKind, account: str, *, yes: bool, is_json: bool) -> None:
    found = find_account(kind, account).row
    if not yes:
        confirm(f"Delete {found.name} ({found.id})?")
    wiring().accounts.delete(kind, found.id, origin=origin())
    if is_json:
        print_json({"id": str(found.id), "deleted": True})
    else:
        print_line(f"Deleted {found.name} ({found.id}).")


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
