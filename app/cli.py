"""The `flask` commands: keys, sweep, operations, audit. Errors are one line on stderr, exit code 1."""

import functools
import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyRefusedError, KeyService, Scope
from app.audit_report import as_text, exit_code, show
from app.db.access import ApiKey
from app.domain.errors import RefusedError
from app.provisioning.transitions import Origin
from app.wiring import Wiring

P = ParamSpec("P")
R = TypeVar("R")

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


def plain_errors(command: Callable[P, R]) -> Callable[P, R]:
    """End a command that cannot be carried out with one line, not a traceback."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyRefusedError as error:
            raise click.ClickException(str(error)) from error
        except RefusedError as error:
            raise click.ClickException(f"{error.detail} ({error.code})") from error
        except (DBAPIError, PoolTimeoutError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise click.ClickException(f"The database refused: {reason}") from error

    return wrapper


def _wiring() -> Wiring:
    found: Wiring = current_app.extensions["trunkline"]
    return found


keys = AppGroup("keys", help="API keys: make, list, revoke.")


@keys.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=[Scope.READ.value, Scope.WRITE.value],
    show_default=True,
    help="What the key may do; may be given more than once. admin includes write, write includes read.",
)
@as_json
@plain_errors
def create_key(name: str, scopes: tuple[str, ...], is_json: bool) -> None:
    """Make a key called NAME and print it, this once."""
    row, text = KeyService(_wiring().sessions).create(name, [Scope(scope) for scope in scopes])
    if is_json:
        click.echo(json.dumps({"id": str(row.id), "name": row.name, "scopes": row.scopes, "key": text}))
        return
    click.echo(text)
    click.echo("Keep it now: it is stored only as a hash and cannot be shown again.", err=True)


@keys.command("list")
@as_json
@plain_errors
def list_keys(is_json: bool) -> None:
    """List every key, revoked ones too; never their text."""
    rows = KeyService(_wiring().sessions).all()
    if is_json:
        click.echo(json.dumps([_key_as_json(row) for row in rows]))
        return
    for row in rows:
        state = f"revoked {_moment(row.revoked_at)}" if row.revoked_at else f"used {_moment(row.last_used_at)}"
        click.echo(f"{row.id}  {row.name}  {','.join(row.scopes)}  made {_moment(row.created_at)}  {state}")
    if not rows:
        click.echo("There are no keys yet: flask --app app keys create NAME", err=True)


@keys.command("revoke")
@click.argument("id_or_name")
@plain_errors
def revoke_key(id_or_name: str) -> None:
    """End the key with this id or name at once."""
    row = KeyService(_wiring().sessions).revoke(id_or_name)
    click.echo(f"Revoked {row.name} ({row.id}).")


operations = AppGroup("operations", help="Operations: retry.")


@operations.command("retry")
@click.argument("operation_id", type=click.UUID)
@plain_errors
def retry_operation(operation_id: uuid.UUID) -> None:
    """Queue an open operation again; start a failed or cancelled provisioning afresh."""
    operation = _wiring().provisioning.retry(operation_id, origin=Origin(requested_by="flask operations retry"))
    click.echo(f"Operation {operation.id} is {operation.status}.")


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete what is ours and no row knows.")
@as_json
@with_appcontext
@plain_errors
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers, here and now.

    Exit code 0: in sync, or everything found was fixed or queued for repair; 3: drift that is left; 1: not audited.
    """
    wiring = _wiring()
    audit_id = wiring.audits.ask(fix=fix, requested_by="flask audit")
    report = wiring.audits.run(audit_id)
    if report is None:
        raise click.ClickException("A worker took this audit over: see GET /api/audit.")
    if is_json:
        click.echo(as_text(report))
    else:
        show(report)
    sys.exit(exit_code(report))


@click.command("sweep")
@with_appcontext
@plain_errors
def sweep() -> None:
    """Publish operations whose message was lost, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _wiring().sweeper.run(stop)
    _wiring().close()


def _key_as_json(row: ApiKey) -> dict[str, Any]:
    times = {"createdAt": row.created_at, "lastUsedAt": row.last_used_at, "revokedAt": row.revoked_at}
    iso = {name: moment.isoformat() if moment else None for name, moment in times.items()}
    return {"id": str(row.id), "name": row.name, "scopes": row.scopes, **iso}


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never"


COMMANDS = (keys, operations, sweep, audit)
