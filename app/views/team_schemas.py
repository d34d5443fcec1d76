"""Bodies of workspaces, API keys and activity; a key's text is only in the response that makes it."""

from types import SimpleNamespace
from typing import Any

from marshmallow import ValidationError, fields, pre_dump, validate

from app.access import MAX_NAME_LENGTH, Scope
from app.db.access import Activity, ApiKey
from app.domain.events import Action, Channel
from app.domain.texts import MAX_NAME
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT, MAX_SLUG, SLUG
from app.views.agent_schemas import AGENT_ID, OPERATION_ID, Query, moment, next_page, page_limit, text
from app.views.fields import VISIBLE_LINE, Id, Name, Schema, Strict, choice
from app.views.reader import ActivityCursorField, activity_cursor

KEY = "tl_Zr8mVJ4m2bq0e7nCk1wYx5uTg9sPd3hLfA6oEiBvRtQ"


def _slug(description: str, **more: Any) -> fields.String:
    known = {"description": description, "pattern": f"^{SLUG.pattern}$", "maxLength": MAX_SLUG, "example": "acme"}
    return fields.String(validate=_check_slug, metadata=known, **more)


def _check_slug(slug: str) -> None:
    if not SLUG.fullmatch(slug):
        raise ValidationError("must be 1 to 40 lower-case letters, digits and dashes, with no dash at either end")


def _name(description: str, limit: int, example: str, **more: Any) -> Name:
    known = {"description": description, "pattern": VISIBLE_LINE, "example": example}
    return Name(validate=validate.Length(1, limit), metadata=known, **more)


def _carrier_account(**more: Any) -> Id:
    known = {"description": "The carrier account of agents that name no other.", "example": str(ENVIRONMENT_ACCOUNT)}
    return Id(data_key="carrierAccountId", metadata=known, **more)


def _voice_project(**more: Any) -> Id:
    known = {"description": "The voice project of agents that name no other.", "example": str(ENVIRONMENT_PROJECT)}
    return Id(data_key="voiceProjectId", metadata=known, **more)


class WorkspaceIn(Strict):
    """A workspace to create."""

    slug = _slug("Its name in headers and commands; never changed.", required=True)
    name = _name("What people call it.", MAX_NAME, "Acme", required=True)
    carrier_account_id = _carrier_account(load_default=ENVIRONMENT_ACCOUNT)
    voice_project_id = _voice_project(load_default=ENVIRONMENT_PROJECT)


class WorkspaceChangeIn(Strict):
    """What to change of a workspace; what is left out stays."""

    name = _name("What people call it.", MAX_NAME, "Acme")
    carrier_account_id = _carrier_account()
    voice_project_id = _voice_project()


class WorkspaceOut(Schema):
    """A workspace."""

    id = fields.UUID(metadata={"example": AGENT_ID})
    slug = _slug("Its name in headers and commands.")
    name = text("What people call it.", "Acme")
    carrier_account_id = _carrier_account()
    voice_project_id = _voice_project()
    created_at = moment("When it was created.", data_key="createdAt")


class WorkspacePage(Schema):
    """One page of workspaces, the newest first."""

    items = fields.List(fields.Nested(WorkspaceOut))
    next_cursor = next_page()


class KeyIn(Strict):
    """An API key to make."""

    name = _name("Who or what it is for; it stands in every trail.", MAX_NAME_LENGTH, "ci", required=True)
    scopes = fields.List(
        choice(Scope, "Each includes the ones before it."),
        load_default=[Scope.READ, Scope.WRITE],
        validate=validate.Length(1, len(Scope)),
        metadata={"description": "What it may do."},
    )
    workspace = _slug(
        "The workspace that it sees; null: that of the request, and of an operator's request: an operator's key.",
        allow_none=True,
        load_default=None,
    )


def _of_workspace() -> fields.Function:
    known = {
        "type": ["string", "null"],
        "description": "Its workspace's slug; null: the installation's.",
        "example": "acme",
    }
    return fields.Function(workspace_slug, metadata=known)


def workspace_slug(row: ApiKey | Activity) -> str | None:
    """Return the slug of the workspace that a row belongs to; None for the installation's."""
    return row.workspace.slug if row.workspace else None


class KeyOut(Schema):
    """An API key, without its text."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    name = text("Who or what it is for.", "ci")
    scopes = fields.List(
        fields.String(metadata={"enum": [scope.value for scope in Scope]}),
        metadata={"description": "What it may do.", "example": ["read", "write"]},
    )
    workspace = _of_workspace()
    created_at = moment("When it was made.", data_key="createdAt")
    last_used_at = moment("The last request with it, to the minute.", data_key="lastUsedAt", allow_none=True)
    revoked_at = moment("Since when it is refused.", data_key="revokedAt", allow_none=True)


class KeySecretOut(KeyOut):
    """A new API key with its text, which is shown this once."""

    key = text("The key: store it now.", KEY)

    @pre_dump
    def _beside_its_text(self, made: tuple[ApiKey, str], **_: object) -> SimpleNamespace:
        row, key = made
        return SimpleNamespace(**{name: getattr(row, name) for name in KeyOut().fields}, key=key)


class SignInLinkOut(Schema):
    """A link that signs a browser in to the console."""

    url = text("Open it in a browser: it works once.", f"https://trunkline.example.com/sign-in#link={KEY[3:]}")
    expires_at = moment("Until when.", data_key="expiresAt")


class KeyPage(Schema):
    """One page of keys, revoked ones too, the newest first."""

    items = fields.List(fields.Nested(KeyOut))
    next_cursor = next_page()


class ActivityQuery(Query):
    """Which changes to list."""

    subject_id = Id(
        data_key="subjectId",
        metadata={
            "description": "Only changes to this agent, operation, bulk, webhook, key or workspace.",
            "example": AGENT_ID,
        },
    )
    key_id = Id(
        data_key="keyId", metadata={"description": "Only what was done with this key.", "example": OPERATION_ID}
    )
    limit = page_limit()
    before = ActivityCursorField(
        data_key="cursor",
        metadata={
            "type": "string",
            "description": "`nextCursor` of the page before.",
            "pattern": "^[A-Za-z0-9_=-]+$",
            "example": activity_cursor(4711),
        },
    )


class ActivityOut(Schema):
    """One change, sign-in or refused sign-in: who, what and from where."""

    at = moment("When.")
    action = fields.String(
        metadata={
            "description": "What was requested; the word before the dot is the kind of `subjectId`.",
            "enum": [action.value for action in Action],
        }
    )
    subject_id = fields.UUID(
        data_key="subjectId", allow_none=True, metadata={"description": "What was changed.", "example": AGENT_ID}
    )
    workspace = _of_workspace()
    channel = fields.String(
        metadata={
            "description": "Where the request came in.",
            "enum": [channel.value for channel in Channel if channel is not Channel.INTERNAL],
        }
    )
    actor = text("The key's name, or the command; null where no key was given.", "ci", allow_none=True)
    key_id = fields.UUID(
        data_key="keyId", allow_none=True, metadata={"description": "The key.", "example": OPERATION_ID}
    )
    address = text("The client's address.", "192.0.2.7", allow_none=True)
    request_id = text("Finds the log lines.", "b2d2c8a88c2e4a5c", data_key="requestId", allow_none=True)
    detail = fields.Dict(metadata={"description": "More about it.", "example": {"fields": ["name"]}})


class ActivityPage(Schema):
    """One page of changes, the newest first."""

    items = fields.List(fields.Nested(ActivityOut))
    next_cursor = next_page()
