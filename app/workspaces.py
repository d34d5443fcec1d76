"""Workspaces: list, create, change, delete; and which of them a piece of work sees."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.access import ApiKey, record_activity
from app.db.engine import Sessions
from app.db.models import Agent, Bulk, CarrierAccount, VoiceProject, Workspace
from app.db.queries import Position, page_of
from app.db.visibility import seeing, seen_workspace
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import ErrorCode, RefusedError, workspace_not_found
from app.domain.events import INTERNAL, Action, Origin
from app.domain.operations import OPEN_BULKS
from app.domain.texts import excerpt
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT, SLUG

log = structlog.get_logger(__name__)

Account = type[CarrierAccount] | type[VoiceProject]

ACCOUNTS: Mapping[str, tuple[str, Account, str]] = {
    "carrier_account_id": ("carrierAccountId", CarrierAccount, "carrier account"),
    "voice_project_id": ("voiceProjectId", VoiceProject, "voice project"),
}
"""Column of a workspace -> its name in bodies, the rows it names, and what they are called."""


@dataclass(frozen=True)
class Defaults:
    """What may be a workspace's default: the installation's accounts and projects, and its own."""

    carrier_accounts: Sequence[CarrierAccount]
    voice_projects: Sequence[VoiceProject]


@dataclass(frozen=True)
class WorkspaceService:
    """What an operator may do with workspaces; whoever sees only one of them finds no other."""

    sessions: Sessions

    def page(self, *, limit: int, after: Position | None = None) -> Sequence[Workspace]:
        """Return up to `limit` workspaces that are seen, the newest first."""
        with self.sessions() as session:
            return session.scalars(page_of(_seen(), Workspace, after, limit)).all()

    def get(self, workspace_id: uuid.UUID) -> Workspace:
        """Return one workspace; 404 `workspace_not_found`."""
        with self.sessions() as session:
            return _get(session, Workspace.id == workspace_id, workspace_id)

    def named(self, slug: str) -> Workspace:
        """Return the workspace with this slug; 404 `workspace_not_found`."""
        with self.sessions() as session:
            return find_workspace(session, slug)

    def create(
        self,
        slug: str,
        name: str,
        carrier_account_id: uuid.UUID = ENVIRONMENT_ACCOUNT,
        voice_project_id: uuid.UUID = ENVIRONMENT_PROJECT,
        *,
        origin: Origin = INTERNAL,
    ) -> Workspace:
        """Create a workspace; 409 `workspace_exists`, 422 for an account that is another workspace's."""
        accounts = {"carrier_account_id": carrier_account_id, "voice_project_id": voice_project_id}
        with self.sessions.begin() as session:
            workspace_id = uuid.uuid4()
            _check_accounts(session, workspace_id, accounts)
            statement = insert(Workspace).values(id=workspace_id, slug=slug, name=name, **accounts)
            live = statement.on_conflict_do_nothing(index_elements=["slug"], index_where=text("deleted_at IS NULL"))
            made: Workspace | None = session.scalar(live.returning(Workspace))
            if made is None:
                raise RefusedError(ErrorCode.WORKSPACE_EXISTS, f"There is a workspace {slug} already.")
            record_activity(session, origin, Action.WORKSPACE_CREATE, made.id, made.id, slug=slug)
        log.info("workspace_created", workspace_id=str(made.id))
        return made

    def change(self, workspace_id: uuid.UUID, changes: Mapping[str, Any], *, origin: Origin = INTERNAL) -> Workspace:
        """Change `name`, `carrier_account_id` or `voice_project_id`; agents that exist keep their accounts."""
        with self.sessions.begin() as session:
            workspace = _get(session, Workspace.id == workspace_id, workspace_id, locks=True)
            _check_accounts(session, workspace_id, changes)
            for column, value in changes.items():
                setattr(workspace, column, value)
            record_activity(
                session, origin, Action.WORKSPACE_CHANGE, workspace_id, workspace_id, fields=sorted(changes)
            )
        return workspace

    def delete(self, workspace_id: uuid.UUID, *, origin: Origin = INTERNAL) -> None:
        """Delete a workspace that nothing is in any more; 409 `workspace_not_empty` says what is left.

        Its row stays, as those of its deleted agents do; its slug may be used again.
        """
        with self.sessions.begin() as session:
            workspace = _get(session, Workspace.id == workspace_id, workspace_id, locks=True)
            if workspace_id == DEFAULT_WORKSPACE:
                detail = "The workspace default cannot be deleted: what names no workspace is in it."
                raise RefusedError(ErrorCode.WORKSPACE_NOT_EMPTY, detail)
            left = [f"{count} {what}" for what, count in _contents(session, workspace_id).items() if count]
            if left:
                detail = f"The workspace {workspace.slug} is not empty. It has: {', '.join(left)}."
                raise RefusedError(ErrorCode.WORKSPACE_NOT_EMPTY, detail)
            workspace.deleted_at = session.scalar(select(func.now()))
            record_activity(session, origin, Action.WORKSPACE_DELETE, workspace_id, workspace_id, slug=workspace.slug)
        log.info("workspace_deleted", workspace_id=str(workspace_id))

    def defaults(self, workspace_id: uuid.UUID | None = None) -> Defaults:
        """Return what may be the default of a workspace, None: of a new one; by name."""
        with self.sessions() as session:
            accounts = select(CarrierAccount).where(_may_use(CarrierAccount, workspace_id))
            projects = select(VoiceProject).where(_may_use(VoiceProject, workspace_id))
            return Defaults(
                session.scalars(accounts.order_by(CarrierAccount.name, CarrierAccount.id)).all(),
                session.scalars(projects.order_by(VoiceProject.name, VoiceProject.id)).all(),
            )


def find_workspace(session: Session, slug: str) -> Workspace:
    """Return the workspace with this slug; 404 `workspace_not_found` also where another one is seen."""
    if not SLUG.fullmatch(slug):
        raise workspace_not_found(excerpt(slug))
    return _get(session, Workspace.slug == slug, slug)


def owner_of_new_key(session: Session, slug: str | None) -> Workspace | None:
    """Return the workspace with this slug, without one the workspace that is seen; None where all are."""
    if slug is not None:
        return find_workspace(session, slug)
    seen = seen_workspace()
    return None if seen is None else _get(session, Workspace.id == seen, seen)


def _seen() -> Select[Workspace]:
    """Select the workspaces that are seen."""
    seen = seen_workspace()
    found = select(Workspace).where(Workspace.deleted_at.is_(None))
    return found if seen is None else found.where(Workspace.id == seen)


def _get(session: Session, wanted: ColumnElement[bool], given: object, *, locks: bool = False) -> Workspace:
    query = _seen().where(wanted)
    found = session.scalar(query.with_for_update() if locks else query)
    if found is None:
        raise workspace_not_found(given)
    return found


def _may_use(rows: Account, workspace_id: uuid.UUID | None) -> ColumnElement[bool]:
    return rows.deleted_at.is_(None) & (rows.workspace_id.is_(None) | (rows.workspace_id == workspace_id))


def _check_accounts(session: Session, workspace_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
    """Raise 422 for an account that there is not, or that is another workspace's."""
    wrong = {
        field: [f"There is no such {what} for this workspace."]
        for column, (field, rows, what) in ACCOUNTS.items()
        if column in changes
        and session.scalar(select(rows.id).where(rows.id == changes[column], _may_use(rows, workspace_id))) is None
    }
    if wrong:
        detail = f"Not for this workspace: {', '.join(wrong)}."
        raise RefusedError(ErrorCode.VALIDATION_FAILED, detail, errors=wrong)


def _contents(session: Session, workspace_id: uuid.UUID) -> dict[str, int]:
    """Count what is in a workspace; what is deleted, revoked or over does not count."""
    with seeing(None):
        return {
            what: session.scalar(select(func.count()).select_from(rows).where(rows.workspace_id == workspace_id, *more))
            or 0
            for what, rows, *more in (
                ("agents", Agent, Agent.deleted_at.is_(None)),
                ("open bulks", Bulk, Bulk.status.in_(OPEN_BULKS)),
                ("webhooks", WebhookEndpoint),
                ("valid keys", ApiKey, ApiKey.revoked_at.is_(None)),
                ("carrier accounts", CarrierAccount, CarrierAccount.deleted_at.is_(None)),
                ("voice projects", VoiceProject, VoiceProject.deleted_at.is_(None)),
            )
        }
