"""Holds every key to its rate of writing calls."""

from flask import Flask, g, request

from app.api.authentication import SAFE_METHODS
from app.api.context import door
from app.domain.errors import ErrorCode, RefusedError


def register_rate_limit(app: Flask) -> None:
    """Put the check behind the check of the key: a stranger uses up nobody's rate."""
    app.before_request(check_rate)


def check_rate() -> None:
    """Raise the 429 for a writing request beyond its key's rate."""
    limit, who = door().rate_limit, g.get("caller")
    if limit is None or who is None or request.method in SAFE_METHODS:
        return
    retry_after_s = limit.retry_after_s(str(who.key_id))
    if retry_after_s is not None:
        raise _too_fast(retry_after_s)


def charge_items(count: int) -> None:
    """Count a bulk as the calls that it stands for; its own request counts already. Raise the 429 as `check_rate`."""
    limit, who = door().rate_limit, g.get("caller")
    retry_after_s = limit.charge(str(who.key_id), count - 1) if limit and who else None
    if retry_after_s is not None:
        raise _too_fast(retry_after_s)


def _too_fast(retry_after_s: int) -> RefusedError:
    detail = f"This key writes too fast: come back in {retry_after_s} s."
    return RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=retry_after_s)
