"""Which carrier account and voice project new agents use: those that they name, or their workspace's."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import CarrierAccount, VoiceProject, Workspace
from app.db.visibility import home_workspace
from app.domain.errors import ErrorCode, RefusedError
from app.domain.workspaces import ENVIRONMENT, AccountIds


@dataclass(frozen=True)
class Choice:
    """What the new agents of one workspace may use; nobody deletes it before the transaction ends."""

    default: AccountIds
    carrier_accounts: frozenset[uuid.UUID]
    voice_projects: frozenset[uuid.UUID]

    def problems(self, carrier_account_id: uuid.UUID | None, voice_project_id: uuid.UUID | None) -> dict[str, str]:
        """Return field -> what is wrong with it; None stands for the default."""
        named = (
            ("carrierAccountId", carrier_account_id, self.carrier_accounts, "carrier account"),
            ("voiceProjectId", voice_project_id, self.voice_projects, "voice project"),
        )
        return {
            field: f"There is no such {what} for this workspace."
            for field, wanted, known, what in named
            if wanted is not None and wanted not in known
        }

    def of(self, carrier_account_id: uuid.UUID | None, voice_project_id: uuid.UUID | None) -> AccountIds:
        """Return what an agent uses that names these; 422 for one that is not its workspace's to use."""
        problems = {name: [message] for name, message in self.problems(carrier_account_id, voice_project_id).items()}
        if problems:
            detail = f"Not for this workspace: {', '.join(problems)}."
            raise RefusedError(ErrorCode.VALIDATION_FAILED, detail, errors=problems)
        return AccountIds(
            carrier_account_id or self.default.carrier_account_id, voice_project_id or self.default.voice_project_id
        )


def choice_for(
    session: Session, carrier_accounts: Collection[uuid.UUID] = (), voice_projects: Collection[uuid.UUID] = ()
) -> Choice:
    """Return what new agents may use of the accounts that they name, and what the others use.

    An account of the installation may be used where it is the workspace's default; one of a workspace, by that alone.
    """
    home = session.get_one(Workspace, home_workspace())
    default = AccountIds(home.carrier_account_id, home.voice_project_id)
    return Choice(
        default,
        _usable(session, CarrierAccount, {*carrier_accounts, default.carrier_account_id}, home, default),
        _usable(session, VoiceProject, {*voice_projects, default.voice_project_id}, home, default),
    )


def _usable(
    session: Session,
    model: type[CarrierAccount] | type[VoiceProject],
    named: set[uuid.UUID],
    home: Workspace,
    default: AccountIds,
) -> frozenset[uuid.UUID]:
    # The environment's are never deleted: no new agent of a single team locks a row.
    of_environment = named & set(default) & set(ENVIRONMENT)
    wanted = named - set(ENVIRONMENT)
    if not wanted:
        return frozenset(of_environment)
    is_theirs = (model.workspace_id == home.id) | model.id.in_(default)
    found = select(model.id).where(model.id.in_(wanted), model.deleted_at.is_(None), is_theirs)
    return frozenset({*of_environment, *session.scalars(found.order_by(model.id).with_for_update(read=True))})
