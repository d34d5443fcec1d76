"""/api/workspaces: the teams of the installation, and which accounts their agents use by default."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.domain.errors import ErrorCode
from app.views.agent_schemas import PageQuery
from app.views.reader import cut
from app.views.team_schemas import WorkspaceChangeIn, WorkspaceIn, WorkspaceOut, WorkspacePage
from app.web.context import origin, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("workspaces", __name__, url_prefix="/api/workspaces", tag="Workspaces")


@blueprint.post("")
@blueprint.input(WorkspaceIn)
@blueprint.output(WorkspaceOut, 201, description="The workspace.")
@responds_with(ErrorCode.WORKSPACE_EXISTS, headers={201: ["Location"]})
def create_workspace(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Create a workspace; needs an operator's key with the scope `admin`."""
    made = wiring().workspaces.create(**json_data, origin=origin())
    return made, 201, {"Location": f"/api/workspaces/{made.id}"}  # type: ignore[return-value]  # APIFlask packs the row


@blueprint.get("/<workspace_id>")
@blueprint.output(WorkspaceOut, description="The workspace.")
@responds_with(ErrorCode.WORKSPACE_NOT_FOUND)
def get_workspace(workspace_id: uuid.UUID) -> object:
    """Get one workspace."""
    return wiring().workspaces.get(workspace_id)


@blueprint.get("")
@blueprint.input(PageQuery, location="query", unknown=RAISE)
@blueprint.output(WorkspacePage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_workspaces(query_data: dict[str, Any]) -> object:
    """List workspaces, the newest first; a workspace's key sees its own."""
    limit = query_data["limit"]
    return cut(wiring().workspaces.page(limit=limit + 1, after=query_data.get("cursor")), limit)


@blueprint.patch("/<workspace_id>")
@blueprint.input(WorkspaceChangeIn)
@blueprint.output(WorkspaceOut, description="The changed workspace.")
@responds_with(ErrorCode.WORKSPACE_NOT_FOUND)
def change_workspace(workspace_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Change the name, or the accounts of agents to come; needs an operator's key with the scope `admin`."""
    return wiring().workspaces.change(workspace_id, json_data, origin=origin())


@blueprint.delete("/<workspace_id>")
@blueprint.output({}, 204, description="Deleted.")
@responds_with(ErrorCode.WORKSPACE_NOT_FOUND, ErrorCode.WORKSPACE_NOT_EMPTY)
def delete_workspace(workspace_id: uuid.UUID) -> ResponseReturnValue:
    """Delete a workspace that nothing is in any more; needs an operator's key with the scope `admin`."""
    wiring().workspaces.delete(workspace_id, origin=origin())
    return "", 204
