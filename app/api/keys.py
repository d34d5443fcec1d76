"""/api/keys, /api/sign-in-links and /api/activity: who may call, who may look, and who has called."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import request
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.domain.errors import ErrorCode
from app.views.agent_schemas import PageQuery
from app.views.reader import cut
from app.views.team_schemas import ActivityPage, ActivityQuery, KeyIn, KeyPage, KeySecretOut, SignInLinkOut
from app.web.context import origin, web_services
from app.web.documented import responds_with

blueprint = APIBlueprint("keys", __name__, url_prefix="/api/keys", tag="Keys")


@blueprint.post("")
@blueprint.input(KeyIn)
@blueprint.output(KeySecretOut, 201, description="The key, with its text.")
@responds_with(ErrorCode.WORKSPACE_NOT_FOUND)
def create_key(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Make a key."""
    # No Idempotency-Key: the stored response would contain the key.
    return web_services().keys.create(**json_data, origin=origin()), 201  # type: ignore[return-value]  # APIFlask packs the row


@blueprint.get("")
@blueprint.input(PageQuery, location="query", unknown=RAISE)
@blueprint.output(KeyPage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_keys(query_data: dict[str, Any]) -> object:
    """List keys, revoked ones too, the newest first."""
    limit = query_data["limit"]
    return cut(web_services().keys.page(limit=limit + 1, after=query_data.get("cursor")), limit)


@blueprint.delete("/<key_id>")
@blueprint.output({}, 204, description="Revoked: within a second nobody accepts it, and its browsers are signed out.")
@responds_with(ErrorCode.KEY_NOT_FOUND)
def revoke_key(key_id: uuid.UUID) -> ResponseReturnValue:
    """Revoke a key."""
    web_services().keys.revoke(key_id, origin=origin())
    return "", 204


links_blueprint = APIBlueprint("sign-in-links", __name__, url_prefix="/api/sign-in-links", tag="Sign-in links")


@links_blueprint.post("")
@links_blueprint.output(SignInLinkOut, 201, description="The link.")
@responds_with()
def create_sign_in_link() -> ResponseReturnValue:
    """Make a link that signs a browser in to the console with this request's key: once, within ten minutes."""
    # No Idempotency-Key: the stored response would contain the token, which is in no log either, behind the #.
    token, expires_at = web_services().keys.offer_link(origin=origin())
    return {"url": f"{request.host_url}sign-in#link={token}", "expires_at": expires_at}, 201


activity_blueprint = APIBlueprint("activity", __name__, url_prefix="/api/activity", tag="Activity")


@activity_blueprint.get("")
@activity_blueprint.input(ActivityQuery, location="query", unknown=RAISE)
@activity_blueprint.output(ActivityPage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_activity(query_data: dict[str, Any]) -> object:
    """List changes, sign-ins and refusals, and who made them, the newest first."""
    return web_services().reader.activity(**query_data)
