"""What rests because of a credential that its provider refuses: noting that, announcing it, and waking it."""

import json
import uuid

import structlog
from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions, read_sql
from app.db.models import CarrierAccount, VoiceProject
from app.domain.errors import ErrorCode
from app.domain.events import WebhookEvent
from app.domain.workspaces import AccountKind, CredentialStatus
from app.providers.errors import ProviderError
from app.webhooks.announcements import lines_of

log = structlog.get_logger(__name__)

_WAKE = read_sql(__file__, "wake_waiting.sql")
_ANNOUNCE = read_sql(__file__, "announce_account.sql")

_ROWS: dict[AccountKind, type[CarrierAccount] | type[VoiceProject]] = {
    AccountKind.CARRIER: CarrierAccount,
    AccountKind.VOICE: VoiceProject,
}


def keep_refusal(
    sessions: Sessions, kind: AccountKind, account_id: uuid.UUID, version: int, error: ProviderError
) -> bool:
    """Note that an account's credential is refused, and announce it: once, until it was accepted again.

    Return whether the account is invalid now: not where it was rotated since `version`, and nothing is written then.
    """
    row = _ROWS[kind]
    invalid = {
        "status": CredentialStatus.INVALID,
        "checked_at": func.now(),
        "error_code": error.code,
        "error_detail": error.detail,
    }
    is_news = (row.id == account_id, row.version == version, row.status == CredentialStatus.VERIFIED)
    with sessions.begin() as session:
        name = session.scalar(update(row).where(*is_news).values(invalid).returning(row.name))
        if name is not None:
            announce_refusal(session, kind, account_id, name, error.code, error.detail)
        is_invalid = (row.id == account_id, row.version == version, row.status == CredentialStatus.INVALID)
        is_kept = session.scalar(select(exists().where(*is_invalid)))
    if name is not None:
        log.error("account_invalid", kind=kind, account_id=str(account_id), code=error.code)
    return bool(is_kept)


def announce_refusal(
    session: Session, kind: AccountKind, account_id: uuid.UUID, name: str, code: str, detail: str
) -> None:
    """Queue one `phone.needs_attention` about an account, for the endpoints of all workspaces that use it."""
    data = {
        "agentId": None,
        "account": {"id": str(account_id), "kind": kind, "name": name},
        "error": {"code": code, "detail": detail},
    }
    values = {
        "account": account_id,
        "is_carrier": kind is AccountKind.CARRIER,
        "change": json.dumps({"announcements": lines_of([(WebhookEvent.NEEDS_ATTENTION, data)])}),
    }
    session.connection().exec_driver_sql(_ANNOUNCE, values)


def wake_waiting(session: Session, kind: AccountKind, account_id: uuid.UUID) -> int:
    """Let the steps that wait for an account's credential go on now; return how many operations have some.

    In the transaction that makes the account `verified`.
    """
    values = {
        "account": account_id,
        "is_carrier": kind is AccountKind.CARRIER,
        "code": ErrorCode.CREDENTIALS_REFUSED.value,
    }
    return len(session.connection().exec_driver_sql(_WAKE, values).all())
