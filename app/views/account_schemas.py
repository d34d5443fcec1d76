"""Request and response bodies of carrier accounts and voice projects; a secret is in no response."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from marshmallow import ValidationError, fields, post_load, pre_dump, validate, validates_schema

from app import setting_values
from app.accounts.checks import CheckStatus, check_sip_host
from app.accounts.credentials import Credential
from app.accounts.service import OLD_CREDENTIAL_LIVES, Account
from app.db.models import CarrierAccount
from app.domain.texts import MAX_NAME
from app.domain.workspaces import SLUG, CredentialStatus
from app.settings import MOST_IN_FLIGHT, MOST_TRUNKS
from app.views.agent_schemas import OPERATION_ID, moment, text
from app.views.fields import VISIBLE_LINE, JsonInteger, Name, Schema, Strict, StrictBoolean, choice

ACCOUNT_SID = "AC0123456789abcdef0123456789abcdef"
API_KEY_SID = "SK0123456789abcdef0123456789abcdef"
SID_OF_ACCOUNT = r"^AC[0-9a-f]{32}$"
SID_OF_USER = r"^(AC|SK)[0-9a-f]{32}$"

SECRET = r"^[!-~]{1,256}$"  # noqa: S105  # a pattern
"""Printable ASCII without spaces: Twilio's are 32 characters, LiveKit's about 40."""

KEY = r"^[!-~]{1,128}$"
"""The same of a LiveKit API key."""

LONGEST_OVERLAP = timedelta(days=7)
"""The longest time for which an old credential is kept: who needs more has forgotten it."""

MOST_ENTRIES = 100
"""Addresses or presets of a project: more would not fit into a LiveKit trunk."""


def _checked_by(check: Callable[[str], object]) -> Callable[[str], None]:
    """Return a validator from a check of a setting's text."""

    def validator(value: str) -> None:
        try:
            check(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    return validator


def _name(**more: Any) -> Name:
    return Name(
        validate=validate.Length(1, MAX_NAME),
        metadata={"description": "What people call it.", "example": "Acme", "pattern": VISIBLE_LINE},
        **more,
    )


def _pattern(pattern: str, description: str, example: str, **more: Any) -> fields.String:
    known = {"description": description, "example": example, "pattern": pattern}
    return fields.String(validate=validate.Regexp(pattern.replace("$", r"\Z")), metadata=known, **more)


def _secret(description: str) -> fields.String:
    known = {"description": description, "pattern": SECRET, "format": "password", "writeOnly": True}
    return fields.String(
        required=True,
        load_only=True,
        validate=validate.Regexp(SECRET.replace("$", r"\Z"), error="must be 1 to 256 visible ASCII characters"),
        metadata=known,
    )


def _rate(**more: Any) -> fields.String:
    known = {
        "description": "Requests per second of all processes; `auto`: found from 429s; `off`: not limited.",
        "example": "auto",
    }
    return fields.String(validate=_checked_by(setting_values.provider_rate), metadata=known, **more)


def _in_flight(**more: Any) -> JsonInteger:
    return JsonInteger(
        data_key="inFlight",
        allow_none=True,
        validate=validate.Range(1, MOST_IN_FLIGHT),
        metadata={"description": "Concurrent requests of all processes; null: not limited.", "example": 20},
        **more,
    )


def _trunk_limit(**more: Any) -> JsonInteger:
    return JsonInteger(
        data_key="trunkLimit",
        validate=validate.Range(1, MOST_TRUNKS),
        metadata={"description": "Trunks that the account may have.", "example": 100},
        **more,
    )


def _address() -> fields.String:
    return fields.String(validate=_checked_by(setting_values.addresses), metadata={"example": "54.172.60.0/30"})


def _addresses(**more: Any) -> fields.List[str]:
    known = {"description": "CIDR blocks that may call its trunks; empty: all. `twilio` stands for Twilio's."}
    return fields.List(
        _address(), data_key="allowedAddresses", validate=validate.Length(max=MOST_ENTRIES), metadata=known, **more
    )


def _presets(**more: Any) -> fields.List[str]:
    known = {"description": "The room presets of the server; null: not known.", "example": ["support"]}
    one = Name(validate=validate.Length(1, MAX_NAME), metadata={"pattern": VISIBLE_LINE})
    return fields.List(
        one,
        data_key="roomPresets",
        allow_none=True,
        validate=validate.Length(max=MOST_ENTRIES),
        metadata=known,
        **more,
    )


class _NewAccount(Strict):
    """What every account has that is to be stored."""

    name = _name(required=True)
    secret = _secret("The auth token, or the secret of the API key; never shown again.")
    rate = _rate(load_default="auto")
    in_flight = _in_flight(load_default=None)
    workspace = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Regexp(rf"{SLUG.pattern}\Z"),
        metadata={
            "description": "Whose it is; by default that of the request.",
            "example": "acme",
            "pattern": f"^{SLUG.pattern}$",
        },
    )
    shared = StrictBoolean(
        load_default=False,
        metadata={
            "description": "The installation's: any workspace may have it as its default. For operators' keys only."
        },
    )

    def _packed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Separate the credential and the owner from the values of the row."""
        credential = Credential(given.pop("username"), given.pop("secret"))
        owner = {"workspace": given.pop("workspace"), "is_shared": given.pop("shared")}
        return {"values": given, "credential": credential, **owner}


class CarrierAccountIn(_NewAccount):
    """A Twilio account, or a subaccount, to store."""

    account_sid = _pattern(
        SID_OF_ACCOUNT, "The account's SID; never changed.", ACCOUNT_SID, data_key="accountSid", required=True
    )
    username = _pattern(
        SID_OF_USER, "The SID of an API key; by default the account's, whose secret is its auth token.", API_KEY_SID
    )
    base_url = fields.String(
        data_key="baseUrl",
        load_default=None,
        allow_none=True,
        validate=_checked_by(setting_values.base_url),
        metadata={
            "description": "Another server than `api.twilio.com`, such as that of a region.",
            "example": "https://api.dublin.ie1.twilio.com",
        },
    )
    trunk_limit = _trunk_limit(load_default=100)

    @validates_schema
    def _one_account(self, data: Mapping[str, Any], **_: object) -> None:
        username = data.get("username", "SK")
        if username != data["account_sid"] and not username.startswith("SK"):
            raise ValidationError("must be the account's own SID, or that of an API key", "username")

    @post_load
    def _pack(self, data: dict[str, Any], **_: object) -> dict[str, Any]:
        return self._packed({"username": data["account_sid"]} | data)


class VoiceProjectIn(_NewAccount):
    """A LiveKit project to store."""

    url = fields.String(
        required=True,
        validate=_checked_by(setting_values.livekit_url),
        metadata={"description": "The project's URL; never changed.", "example": "wss://acme-1a2b3c.livekit.cloud"},
    )
    username = _pattern(KEY, "The API key.", "APIxxxxxxxxxxxx", required=True)
    sip_uri = fields.String(
        data_key="sipUri",
        required=True,
        validate=_checked_by(setting_values.sip_uri),
        metadata={
            "description": "The project's SIP URI; never changed.",
            "example": "sip:4nd0vfrjcr1.sip.livekit.cloud",
        },
    )
    allowed_addresses = _addresses()
    room_presets = _presets(load_default=None)

    @validates_schema
    def _one_project(self, data: Mapping[str, Any], **_: object) -> None:
        outcome = check_sip_host(data["url"], setting_values.sip_uri(data["sip_uri"]).host)
        if outcome.status is CheckStatus.FAILED:
            raise ValidationError(f"{outcome.detail}. {outcome.fix}", "sipUri")

    @post_load
    def _pack(self, data: dict[str, Any], **_: object) -> dict[str, Any]:
        given = data.get("allowed_addresses")
        written = None if given is None else ",".join(given)
        found = {
            "sip_uri": str(setting_values.sip_uri(data["sip_uri"])),
            "allowed_addresses": list(setting_values.allowed_blocks(written, data["url"])),
        }
        return self._packed(data | found)


class CarrierAccountChangeIn(Strict):
    """What to change of a carrier account; what is left out stays."""

    name = _name()
    trunk_limit = _trunk_limit()
    rate = _rate()
    in_flight = _in_flight()


class VoiceProjectChangeIn(Strict):
    """What to change of a voice project; what is left out stays. Numbers that are connected keep what they have."""

    name = _name()
    allowed_addresses = _addresses()
    room_presets = _presets()
    rate = _rate()
    in_flight = _in_flight()

    @post_load
    def _pack(self, data: dict[str, Any], **_: object) -> dict[str, Any]:
        if (given := data.get("allowed_addresses")) is not None:
            data["allowed_addresses"] = list(setting_values.allowed_blocks(",".join(given), ""))
        return data


class RotateIn(Strict):
    """The credential to use from now on."""

    secret = _secret("The new auth token, or the secret of the new API key; never shown again.")
    username = _pattern(KEY, "The new API key, or its SID; by default the user name stays.", API_KEY_SID)
    old_valid_for_s = JsonInteger(
        data_key="oldValidForS",
        load_default=int(OLD_CREDENTIAL_LIVES.total_seconds()),
        validate=validate.Range(0, int(LONGEST_OVERLAP.total_seconds())),
        metadata={
            "description": "Seconds for which the old credential is kept, and used should the new one be refused. "
            "0: it is erased at once, for one that others have seen.",
        },
    )

    @post_load
    def _pack(self, data: dict[str, Any], **_: object) -> dict[str, Any]:
        return data | {"old_lives": timedelta(seconds=data.pop("old_valid_for_s"))}


class AccountCheckOut(Schema):
    """One named check of a credential."""

    name = text("What was checked.", "numbers")
    ok = fields.Boolean()
    detail = text("What was found.", "the account owns 12; 12 accept calls")
    fix = text("What to do about it; null where nothing is to be done.", allow_none=True)


class AccountErrorOut(Schema):
    """Why a credential is refused."""

    code = text("What, from the closed list of problems.", "twilio_bad_credentials")
    detail = text("One sentence for a person.", "Twilio refused ping: HTTP 401, code 20003.")


class _AccountOut(Schema):
    """What is shown of every account; of the installation's a workspace sees its name and status alone."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    name = text("What people call it.", "Acme")
    workspace = text("The slug of its workspace; null: the installation's.", "acme", allow_none=True)
    is_default = fields.Boolean(
        data_key="isDefault", metadata={"description": "Whether agents use it that name no other."}
    )
    status = choice(CredentialStatus, "`invalid`: its operations wait until it is rotated, or accepted again.")
    username = text("The user name of its credential.", API_KEY_SID, allow_none=True)
    old_valid_until = moment(
        "Until when the credential before the last rotation is kept.", data_key="oldValidUntil", allow_none=True
    )
    rate = _rate(allow_none=True)
    in_flight = _in_flight()
    checked_at = moment("When it was last checked.", data_key="checkedAt", allow_none=True)
    checks = fields.List(fields.Nested(AccountCheckOut), metadata={"description": "The checks of that time."})
    error = fields.Nested(AccountErrorOut, allow_none=True)
    created_at = moment("When it was stored.", data_key="createdAt")

    @pre_dump
    def _seen(self, account: Account, **_: object) -> dict[str, Any]:
        return account_json(account)


class CarrierAccountOut(_AccountOut):
    """A carrier account: a Twilio account or subaccount, with a credential that is never shown."""

    account_sid = text("The account's SID.", ACCOUNT_SID, data_key="accountSid", allow_none=True)
    base_url = text("The server, if it is not `api.twilio.com`.", data_key="baseUrl", allow_none=True)
    trunk_limit = fields.Integer(
        data_key="trunkLimit",
        allow_none=True,
        metadata={"description": "Trunks that the account may have.", "example": 100},
    )


class VoiceProjectOut(_AccountOut):
    """A voice project: a LiveKit project, with a credential that is never shown."""

    url = text("The project's URL.", "wss://acme-1a2b3c.livekit.cloud", allow_none=True)
    sip_uri = text("The project's SIP URI.", "sip:4nd0vfrjcr1.sip.livekit.cloud", data_key="sipUri", allow_none=True)
    allowed_addresses = fields.List(
        fields.String(metadata={"example": "54.172.60.0/30"}),
        data_key="allowedAddresses",
        metadata={"description": "CIDR blocks that may call its trunks; empty: all."},
    )
    room_presets = fields.List(
        fields.String(),
        data_key="roomPresets",
        allow_none=True,
        metadata={"description": "The room presets of the server; null: not known.", "example": ["support"]},
    )


class CarrierAccountList(Schema):
    """Every carrier account that the key sees, the oldest first."""

    items = fields.List(fields.Nested(CarrierAccountOut))


class VoiceProjectList(Schema):
    """Every voice project that the key sees, the oldest first."""

    items = fields.List(fields.Nested(VoiceProjectOut))


_ALWAYS = ("id", "name", "status", "created_at")
_OWN = ("username", "old_valid_until", "rate", "in_flight", "checked_at", "checks")
_CARRIER = ("account_sid", "base_url", "trunk_limit")
_PROJECT = ("url", "sip_uri", "allowed_addresses", "room_presets")
_EMPTY: Mapping[str, object] = {"checks": [], "allowed_addresses": []}


def account_json(account: Account) -> dict[str, Any]:
    """Return what may be shown of an account: no secret, and of another owner's only its name and status."""
    row = account.row
    shown = {name: getattr(row, name) for name in _ALWAYS}
    shown |= {"workspace": account.workspace, "is_default": account.is_default, "error": None}
    own = _OWN + (_CARRIER if isinstance(row, CarrierAccount) else _PROJECT)
    if not account.is_changeable:
        return shown | {name: _EMPTY.get(name) for name in own}
    if row.error_code is not None:
        shown["error"] = {"code": row.error_code, "detail": row.error_detail}
    return shown | {name: getattr(row, name) for name in own}
