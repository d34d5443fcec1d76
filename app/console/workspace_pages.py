"""Pages of workspaces, for operators: the list with its form, and one workspace with its default accounts."""

import uuid

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.console.forms import read_cursor, read_workspace_change, read_workspace_form
from app.console.pages import origin, page, redirect_with_message
from app.console.presentation import error_notice
from app.console.reader import PAGE_ROWS
from app.domain.errors import RefusedError
from app.domain.workspaces import DEFAULT_WORKSPACE
from app.views.reader import cut
from app.web.context import wiring
from app.web.problems import status_of


def register_workspaces(blueprint: Blueprint) -> None:
    """Register the list, and the pages and actions of one workspace."""
    blueprint.get("/workspaces", endpoint="workspaces")(workspaces)
    blueprint.post("/workspaces", endpoint="create_workspace")(create_workspace)
    blueprint.get("/workspaces/<workspace_id>", endpoint="workspace")(workspace)
    blueprint.post("/workspaces/<workspace_id>", endpoint="change_workspace")(change_workspace)
    blueprint.get("/workspaces/<workspace_id>/delete", endpoint="workspace_delete")(delete_form)
    blueprint.post("/workspaces/<workspace_id>/delete", endpoint="delete_workspace")(delete_workspace)


def workspaces() -> ResponseReturnValue:
    """Show every workspace."""
    return workspaces_page()


def create_workspace() -> ResponseReturnValue:
    """Create a workspace."""
    made = wiring().workspaces.create(**read_workspace_form(request.form), origin=origin())
    return redirect_with_message(f"{made.name} was created.", "console.workspace", workspace_id=made.id)


def workspace(workspace_id: uuid.UUID) -> ResponseReturnValue:
    """Show one workspace."""
    return workspace_page(workspace_id)


def change_workspace(workspace_id: uuid.UUID) -> ResponseReturnValue:
    """Change the name and the default accounts."""
    wiring().workspaces.change(workspace_id, read_workspace_change(request.form), origin=origin())
    return redirect_with_message("The workspace is changed.", "console.workspace", workspace_id=workspace_id)


def delete_form(workspace_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("workspace_delete.html", workspace=wiring().workspaces.get(workspace_id))


def delete_workspace(workspace_id: uuid.UUID) -> ResponseReturnValue:
    """Delete the workspace."""
    wiring().workspaces.delete(workspace_id, origin=origin())
    return redirect_with_message("The workspace is deleted.", "console.workspaces")


def workspaces_page(refusal: RefusedError | None = None) -> Response:
    """Render the list with the form for a new workspace."""
    # After a refusal the address is that of the form: there is no cursor in it.
    after = None if refusal else read_cursor(request.args)
    return page(
        "workspaces.html",
        status_of(refusal),
        found=cut(wiring().workspaces.page(limit=PAGE_ROWS + 1, after=after), PAGE_ROWS),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def workspace_page(workspace_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one workspace."""
    return page(
        "workspace.html",
        status_of(refusal),
        workspace=wiring().workspaces.get(workspace_id),
        defaults=wiring().workspaces.defaults(workspace_id),
        is_default=workspace_id == DEFAULT_WORKSPACE,
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )
