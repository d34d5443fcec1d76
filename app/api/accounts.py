"""/api/carrier-accounts and /api/voice-projects: where agents' numbers and calls are, and with which credentials."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask.typing import ResponseReturnValue

from app.domain.errors import ErrorCode
from app.domain.workspaces import AccountKind
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
)
from app.web.context import origin, wiring
from app.web.documented import responds_with

ROTATION_CODES = (ErrorCode.CREDENTIALS_REFUSED, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_BUSY)
"""How a rotation ends that changes nothing."""

carriers_blueprint = APIBlueprint(
    "carrier-accounts", __name__, url_prefix="/api/carrier-accounts", tag="Carrier accounts"
)


@carriers_blueprint.post("")
@carriers_blueprint.input(CarrierAccountIn)
@carriers_blueprint.output(CarrierAccountOut, 201, description="The account, with its first checks.")
@responds_with(ErrorCode.CREDENTIAL_KEYS_MISSING, ErrorCode.WORKSPACE_NOT_FOUND, headers={201: ["Location"]})
def create_carrier_account(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Store a Twilio account or subaccount, and check it."""
    # No Idempotency-Key: the hash of a request that is kept would be one of a secret.
    made = wiring().accounts.create(AccountKind.CARRIER, **json_data, origin=origin())
    return made, 201, {"Location": f"/api/carrier-accounts/{made.row.id}"}  # type: ignore[return-value]  # APIFlask packs it


@carriers_blueprint.get("/<account_id>")
@carriers_blueprint.output(CarrierAccountOut, description="The account.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def get_carrier_account(account_id: uuid.UUID) -> object:
    """Get one carrier account."""
    return wiring().accounts.get(AccountKind.CARRIER, account_id)


@carriers_blueprint.get("")
@carriers_blueprint.output(CarrierAccountList, description="All of them.")
@responds_with()
def list_carrier_accounts() -> object:
    """List the workspace's carrier accounts, and its default."""
    return {"items": wiring().accounts.all(AccountKind.CARRIER)}


@carriers_blueprint.patch("/<account_id>")
@carriers_blueprint.input(CarrierAccountChangeIn)
@carriers_blueprint.output(CarrierAccountOut, description="The changed account.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def change_carrier_account(account_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Change a carrier account's name, limit or rates."""
    return wiring().accounts.change(AccountKind.CARRIER, account_id, json_data, origin=origin())


@carriers_blueprint.post("/<account_id>/check")
@carriers_blueprint.output(CarrierAccountOut, description="The account, with what was found.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def check_carrier_account(account_id: uuid.UUID) -> object:
    """Check a carrier account's credential now."""
    return wiring().accounts.check(AccountKind.CARRIER, account_id)


@carriers_blueprint.post("/<account_id>/rotate")
@carriers_blueprint.input(RotateIn)
@carriers_blueprint.output(CarrierAccountOut, description="The account, with its new credential in use.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.CREDENTIAL_KEYS_MISSING, *ROTATION_CODES)
def rotate_carrier_account(account_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Replace a carrier account's credential by one that Twilio accepts."""
    return wiring().accounts.rotate(AccountKind.CARRIER, account_id, **json_data, origin=origin())


@carriers_blueprint.delete("/<account_id>")
@carriers_blueprint.output({}, 204, description="Deleted, and its credential erased.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.ACCOUNT_IN_USE)
def delete_carrier_account(account_id: uuid.UUID) -> ResponseReturnValue:
    """Delete a carrier account that nothing uses."""
    wiring().accounts.delete(AccountKind.CARRIER, account_id, origin=origin())
    return "", 204


projects_blueprint = APIBlueprint("voice-projects", __name__, url_prefix="/api/voice-projects", tag="Voice projects")


@projects_blueprint.post("")
@projects_blueprint.input(VoiceProjectIn)
@projects_blueprint.output(VoiceProjectOut, 201, description="The project, with its first checks.")
@responds_with(ErrorCode.CREDENTIAL_KEYS_MISSING, ErrorCode.WORKSPACE_NOT_FOUND, headers={201: ["Location"]})
def create_voice_project(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Store a LiveKit project, and check it."""
    made = wiring().accounts.create(AccountKind.VOICE, **json_data, origin=origin())
    return made, 201, {"Location": f"/api/voice-projects/{made.row.id}"}  # type: ignore[return-value]  # APIFlask packs it


@projects_blueprint.get("/<project_id>")
@projects_blueprint.output(VoiceProjectOut, description="The project.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def get_voice_project(project_id: uuid.UUID) -> object:
    """Get one voice project."""
    return wiring().accounts.get(AccountKind.VOICE, project_id)


@projects_blueprint.get("")
@projects_blueprint.output(VoiceProjectList, description="All of them.")
@responds_with()
def list_voice_projects() -> object:
    """List the workspace's voice projects, and its default."""
    return {"items": wiring().accounts.all(AccountKind.VOICE)}


@projects_blueprint.patch("/<project_id>")
@projects_blueprint.input(VoiceProjectChangeIn)
@projects_blueprint.output(VoiceProjectOut, description="The changed project.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def change_voice_project(project_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Change a voice project's name, addresses, presets or rates."""
    return wiring().accounts.change(AccountKind.VOICE, project_id, json_data, origin=origin())


@projects_blueprint.post("/<project_id>/check")
@projects_blueprint.output(VoiceProjectOut, description="The project, with what was found.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND)
def check_voice_project(project_id: uuid.UUID) -> object:
    """Check a voice project's credential now."""
    return wiring().accounts.check(AccountKind.VOICE, project_id)


@projects_blueprint.post("/<project_id>/rotate")
@projects_blueprint.input(RotateIn)
@projects_blueprint.output(VoiceProjectOut, description="The project, with its new credential in use.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.CREDENTIAL_KEYS_MISSING, *ROTATION_CODES)
def rotate_voice_project(project_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Replace a voice project's credential by one that LiveKit accepts."""
    return wiring().accounts.rotate(AccountKind.VOICE, project_id, **json_data, origin=origin())


@projects_blueprint.delete("/<project_id>")
@projects_blueprint.output({}, 204, description="Deleted, and its credential erased.")
@responds_with(ErrorCode.ACCOUNT_NOT_FOUND, ErrorCode.ACCOUNT_IN_USE)
def delete_voice_project(project_id: uuid.UUID) -> ResponseReturnValue:
    """Delete a voice project that nothing uses."""
    wiring().accounts.delete(AccountKind.VOICE, project_id, origin=origin())
    return "", 204
