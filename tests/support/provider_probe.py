"""The first request to a server that stands for a provider, and the one sentence where it cannot be asked."""

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

import pytest
import requests

REPORT = pytest.StashKey[list[str]]()
"""What the servers hold when the tests have ended: a line for each."""


class UnusableError(Exception):
    """The server cannot be asked; the text says why in one line."""


def check_url(url: str, schemes: Collection[str]) -> None:
    """Raise UnusableError for what is no address of a server."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UnusableError(
            f"{url!r} is no URL of a server; it begins with {' or '.join(f'{one}://' for one in schemes)}"
        )


def first_response(url: str, send: Callable[[], requests.Response]) -> requests.Response:
    """Return the response to the first request, or raise UnusableError with the reason why there is none."""
    try:
        return send()
    except requests.exceptions.SSLError as error:
        raise UnusableError(f"{url}: no TLS connection: {_last_words(error)}") from None
    except requests.Timeout:
        raise UnusableError(f"{url}: no response in time") from None
    except (requests.RequestException, UnicodeError) as error:
        raise UnusableError(f"{url}: cannot be reached: {_last_words(error)}") from None


def _last_words(error: BaseException) -> str:
    """Return what the innermost exception says, such as `Connection refused`."""
    while inner := getattr(error, "reason", None) or error.__cause__ or error.__context__:
        if not isinstance(inner, BaseException):
            return str(inner)
        error = inner
    return getattr(error, "strerror", None) or str(error)
