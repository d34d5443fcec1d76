"""What every command shares: the wiring, JSON on request, and errors as one line on stderr, exit code 1."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click
from flask import current_app
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyRefusedError
from app.domain.errors import RefusedError
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


def wiring() -> Wiring:
    """Return what this process was built on."""
    found: Wiring = current_app.extensions["trunkline"]
    return found
