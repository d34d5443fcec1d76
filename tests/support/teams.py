"""Twilio accounts and LiveKit projects of the sandbox that a stack has rows for, as many teams have them."""

from dataclasses import dataclass, field
from typing import Any

from tests.support.sandbox import Sandbox
from tests.support.stack import Api

CARRIER, VOICE = "carrier-accounts", "voice-projects"


@dataclass(eq=False)
class Team:
    """One Twilio account and one LiveKit project: at the sandbox, and as rows of Trunkline's."""

    name: str
    sandbox: Sandbox
    admin: Api
    account_sid: str
    auth_token: str
    api_key: str
    api_secret: str
    carrier_id: str
    voice_id: str
    sip_uri: str = field(repr=False, default="")

    @property
    def ids(self) -> dict[str, str]:
        """What names them when an agent is created."""
        return {"carrierAccountId": self.carrier_id, "voiceProjectId": self.voice_id}

    def numbers(self, phone_numbers: list[str]) -> None:
        """Have the Twilio account own these numbers."""
        self.sandbox.seed([{"phoneNumber": each, "accountSid": self.account_sid} for each in phone_numbers])

    def throttle(self, requests_per_s: float | None) -> None:
        """Have Twilio answer 429 to more requests of the account than this; None: to none."""
        self.sandbox.change_account(self.account_sid, requestsPerS=requests_per_s)

    def set_rate(self, rate: str) -> None:
        """Have Trunkline keep to this rate with the account, from now on."""
        status, body = self.admin.call("PATCH", f"/api/{CARRIER}/{self.carrier_id}", {"rate": rate})
        assert status == 200, body

    def suspend(self) -> None:
        """Have Twilio refuse every credential of the account."""
        self.sandbox.change_account(self.account_sid, status="suspended")

    def restore(self) -> None:
        """Have Twilio accept them again."""
        self.sandbox.change_account(self.account_sid, status="active")

    def rotate_token(self, token: str, *, overlaps: bool = True) -> None:
        """Replace the auth token at Twilio and in Trunkline; with an overlap both are accepted meanwhile."""
        self.sandbox.change_account(self.account_sid, authTokens=[self.auth_token, token] if overlaps else [token])
        rotate(self.admin, CARRIER, self.carrier_id, token)
        self.sandbox.change_account(self.account_sid, authTokens=[token])
        self.auth_token = token

    def status(self, kind: str = CARRIER) -> str:
        """Return the status of a row: pending, verified, invalid."""
        return str(read(self.admin, kind, self.carrier_id if kind == CARRIER else self.voice_id)["status"])


def read(admin: Api, kind: str, account_id: str) -> dict[str, Any]:
    """Return an account as the API shows it."""
    status, body = admin.call("GET", f"/api/{kind}/{account_id}")
    assert status == 200, body
    return dict(body)


def rotate(admin: Api, kind: str, account_id: str, secret: str, **more: Any) -> dict[str, Any]:
    """Put a new secret in the place of an account's."""
    status, body = admin.call("POST", f"/api/{kind}/{account_id}/rotate", {"secret": secret, **more})
    assert status == 200, body
    return dict(body)


def add_team(
    admin: Api,
    sandbox: Sandbox,
    name: str,
    *,
    owner: str | None = None,
    auth_token: str | None = None,
    api_secret: str | None = None,
    rate: str = "off",
) -> Team:
    """Make an account, of `owner` a subaccount, and a project at the sandbox, and store both; they are verified then.

    `admin` has an operator's key; `rate` is what Trunkline keeps to.
    """
    given = {"ownerAccountSid": owner, "authTokens": auth_token and [auth_token]}
    account = sandbox.account(friendlyName=name, **{key: value for key, value in given.items() if value is not None})
    key = {"keys": {f"API{name.replace('-', '')}": api_secret}} if api_secret else {}
    project = sandbox.project(name, **key)
    (api_key, secret), *_ = project["keys"].items()
    sid, token = account["accountSid"], account["authTokens"][0]
    sip_uri = f"sip:{project['sipHost']};transport=tcp"
    carrier = {"name": name, "accountSid": sid, "secret": token, "baseUrl": sandbox.base_url, "rate": rate}
    voice = {"name": name, "url": sandbox.project_url(name), "username": api_key, "secret": secret, "sipUri": sip_uri}
    ids = []
    for kind, body in ((CARRIER, carrier), (VOICE, {**voice, "rate": rate})):
        status, made = admin.call("POST", f"/api/{kind}", body)
        assert (status, made.get("status")) == (201, "verified"), made
        ids.append(made["id"])
    return Team(name, sandbox, admin, sid, token, api_key, secret, *ids, sip_uri)
